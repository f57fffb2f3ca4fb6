"""Protocols: the files that there are, the episodes that they give, and files that are no protocol."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core_helpers import squares
from programs import program
from protocol_helpers import damaged, small

from mlcourse import datasets, protocols
from mlcourse.episodes import WithinGroups
from mlcourse.errors import CourseError

DATA = os.environ.get("MLCOURSE_DATA", "nowhere")
COPIES = {"omniglot": "omniglot-py", "caltech101": "caltech101", "mnist": "mnist_t10k", "glyphs": None}
COUNTED = ("classes", "pictures", "data_digest", "content_digest", "index_digest", "digest")


@pytest.fixture(scope="module")
def glyphs_protocol():
    """A small protocol that fits its data."""
    return small()


MAKER = program("data/make_protocols.py")
SPECIFIED = {one.name: one for one in MAKER.specifications()}


def needs(name):
    """Skip where the data of a protocol are not there."""
    copy = COPIES[SPECIFIED[name].dataset]
    if copy and not (Path(DATA) / copy).is_dir():
        pytest.skip(f"needs {copy} in the folder that MLCOURSE_DATA names")


def test_the_files_are_those_that_the_script_makes():
    assert protocols.names() == sorted(SPECIFIED)
    for name, one in SPECIFIED.items():
        kept = protocols.read(name)
        assert replace(kept, **{field: getattr(one, field) for field in COUNTED}) == one
        assert len(kept.digest) == len(kept.index_digest) == len(kept.data_digest) == 16
        assert kept.episodes == 1000


@pytest.mark.parametrize("name", sorted(SPECIFIED))
def test_the_data_give_the_digests_that_are_stored(name):
    needs(name)
    assert SPECIFIED[name].completed() == protocols.read(name)


@pytest.mark.parametrize("name", sorted(name for name, one in SPECIFIED.items() if one.tasks == "classes"))
def test_the_episodes_follow_from_the_numbers_alone(name):
    """Whoever has not the data can check the digest all the same, where all classes have as many pictures."""
    kept = protocols.read(name)
    if kept.pictures % kept.classes or kept.dataset == "mnist":
        pytest.skip("classes of several sizes")
    names = tuple(map(str, range(kept.classes)))
    counts = torch.full((kept.classes,), kept.pictures // kept.classes)
    empty = datasets.ClassImages(
        torch.zeros(kept.pictures, 1, 1, 1, dtype=torch.uint8), counts, names, names, kept.dataset, kept.split
    )
    if name.startswith("caltech101"):
        pytest.skip("classes of several sizes")
    assert kept.digest_on(empty) == kept.index_digest


def test_scripts_that_both_have_are_left_out_on_both_sides():
    shared, one, back = MAKER.SHARED, SPECIFIED["glyphs-to-omniglot"], SPECIFIED["omniglot-to-glyphs"]
    assert set(one.left_out) == set(shared)
    assert set(shared.values()) < set(back.left_out)
    scripts = set(back.images().groups)
    assert not scripts & set(shared.values())
    assert len(scripts) == 20
    assert f"{len(shared)} are left out" in one.what


# ------------------------------------------------------------------ episodes


def alphabets(groups=3, classes=6, samples=8):
    images = squares(groups * classes, samples)
    return replace(images, groups=tuple(f"alphabet{i // classes}" for i in range(groups * classes)))


def test_tasks_within_a_group_are_of_one_alphabet_and_of_other_drawers():
    data = alphabets()
    episode = WithinGroups(data, 5, 2, 3).sample(300, torch.Generator().manual_seed(0))
    groups = torch.tensor([int(name[-1]) for name in data.groups])[episode.classes]
    assert (groups == groups[:, :1]).all()
    assert all(len(set(row)) == 5 for row in episode.classes.tolist())
    first = data.first[episode.classes]
    support = episode.support_index.view(300, 5, 2) - first.unsqueeze(-1)
    query = episode.query_index.view(300, 5, 3) - first.unsqueeze(-1)
    for drawers in (support, query):
        assert (drawers == drawers[:, :1]).all()  # the same hands for all classes
    for s, q in zip(support[:, 0].tolist(), query[:, 0].tolist()):
        assert len({*s, *q}) == 5
    assert min(Counter(groups[:, 0].tolist()).values()) > 70
    assert len(Counter(support.flatten().tolist())) == 8


def test_a_group_that_is_too_small_is_never_drawn_and_none_is_an_error():
    data = alphabets()
    data = data.select(range(6 * 3 - 2))  # the last alphabet has four characters
    episode = WithinGroups(data, 5, 1, 1).sample(100, torch.Generator().manual_seed(0))
    assert int(episode.classes.max()) < 12
    with pytest.raises(CourseError, match="no group of squares has 7 classes; 'alphabet0' has most, 6"):
        WithinGroups(data, 7, 1, 1)


def test_drawers_that_some_classes_lack_are_an_error():
    data = alphabets()
    counts = data.counts.clone()
    counts[-1] -= 1
    with pytest.raises(CourseError, match="have 7 to 8 pictures"):
        WithinGroups(replace(data, images=data.images[:-1], counts=counts), 5, 1, 1)


def test_only_the_first_pictures_of_a_class_are_taken(glyphs_protocol):
    few = replace(glyphs_protocol, at_most=7).images()
    every = glyphs_protocol.images()
    assert few.counts.unique().tolist() == [7]
    assert torch.equal(few.of_class(5), every.of_class(5)[:7])


# ------------------------------------------------------------------ files that are no protocol


def changed(path, protocol, **changes):
    path.write_text(json.dumps(protocol.as_json() | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"episodes": 1}, "episodes is 1, and one has no interval"),
        ({"episodes": "many"}, "episodes is 'many'"),
        ({"way": 0}, "way is 0"),
        ({"shot": -1}, "shot is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"tasks": "pairs"}, "tasks is 'pairs'"),
        ({"name": "../up"}, "name is '../up'"),
        ({"name": ""}, "name is ''"),
        ({"name": ".."}, "name is '..'"),
        ({"name": "a\0b"}, r"name is 'a\x00b'"),
        ({"what": "two\nlines"}, "what is 'two"),
        ({"at_most": 0}, "at_most is 0"),
        ({"calibrate_on": {}}, "calibrate_on names"),
        ({"calibrate_on": None}, "calibrate_on is None, and has to be an object"),
        ({"calibrate_on": {"dataset": "glyphs", "lists": None, "split": None}}, "calibrate_on names"),
        ({"left_out": None}, "left_out is None, and has to be a list, each text"),
        ({"left_out": [3]}, "left_out is [3]"),
        ({"way": 1}, "way is 1, and with one class"),
        ({"way": 5.0}, "way is 5.0, and has to be a whole number"),
        ({"rotations": "no"}, "rotations is 'no', and has to be true or false"),
        ({"one_by_one": 0}, "one_by_one is 0, and has to be true or false"),
        ({"clusters": " "}, "clusters is empty"),
        ({"classes": 0}, "classes is 0"),
        ({"pictures": -3}, "pictures is -3"),
        ({"rows": ["pixels", "telepathy"]}, "rows has 'telepathy', which is no method"),
        ({"rows": ["pixels", "pixels"]}, "rows has 'pixels' twice"),
        ({"name": "omniglot-5way-1shot"}, "which is another protocol of the course"),
        ({"colour": "red"}, "'colour' is missing or unknown"),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line(changes, named, glyphs_protocol, tmp_path):
    with pytest.raises(CourseError) as error:
        protocols.read(changed(tmp_path / "mine.json", glyphs_protocol, **changes))
    assert named in str(error.value)


FIGURES = {
    "one_by_one": True, "calibrate_on": {"dataset": "omniglot", "lists": None, "split": "val"}, "clusters": "people",
    "seed": 1, "episodes": 41, "way": 6, "shot": 2, "query": 4, "tasks": "within groups", "dataset": "omniglot",
    "lists": "lake", "split": "val", "rotations": True, "at_most": 19, "left_out": ["Greek"], "classes": 397,
    "pictures": 7959, "data_digest": "0" * 16, "content_digest": "0" * 16, "index_digest": "0" * 16, "digest": "0" * 16,
}  # fmt: skip


@pytest.mark.parametrize("field", FIGURES)
def test_a_file_whose_fields_were_changed_is_refused_without_its_data(field, glyphs_protocol, tmp_path):
    path = changed(tmp_path / "mine.json", glyphs_protocol, **{field: FIGURES[field]})
    with pytest.raises(CourseError, match=r"mine\.json: protocol small was changed: its fields have the digest"):
        protocols.read(path)


def test_whatever_is_damaged_in_a_file_is_one_line_or_changes_no_figure(glyphs_protocol, tmp_path):
    tried = 0
    for do, (field, *inside), copy in damaged(json.loads(json.dumps(glyphs_protocol.as_json()))):
        (tmp_path / "mine.json").write_text(json.dumps(copy))
        tried += 1
        try:
            found = protocols.read(tmp_path / "mine.json")
        except CourseError as error:
            text = error.args[0]
            assert "mine.json" in text, (do, field)
            assert "\n" not in text, (do, field)
            continue
        assert field in ("name", "what", "rows"), (do, field, inside)
        assert replace(found, **{field: getattr(glyphs_protocol, field)}) == glyphs_protocol
    assert tried > 200


def test_every_field_that_a_figure_depends_on_is_in_the_digest(glyphs_protocol, tmp_path):
    free = {"name": "other", "what": "as before", "rows": ["pixels"]}
    assert FIGURES.keys() | free.keys() == glyphs_protocol.as_json().keys()
    assert protocols.read(changed(tmp_path / "other.json", glyphs_protocol, **free)).digest == glyphs_protocol.digest


def test_a_comparison_of_ones_own_is_completed(glyphs_protocol, tmp_path):
    own = replace(glyphs_protocol, name="own", shot=2, one_by_one=True).completed()
    assert protocols.read(changed(tmp_path / "own.json", own)) == own
    assert own.digest != glyphs_protocol.digest
    own.check(own.images())


def test_what_a_file_says_of_its_data_is_held_against_them(glyphs_protocol):
    for changes in ({"classes": 397}, {"pictures": 7959}):
        other = replace(glyphs_protocol, **changes)
        other = replace(other, digest=other.field_digest)
        with pytest.raises(CourseError, match=r"is of other data: of \d+ classes with \d+ pictures"):
            other.check(other.images())


def test_unknown_names_and_damaged_files(tmp_path):
    with pytest.raises(CourseError, match="there is no protocol 'glyph': name a file, or one of caltech101"):
        protocols.read("glyph")
    with pytest.raises(CourseError, match="there is no file"):
        protocols.read(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"name": ')
    with pytest.raises(CourseError, match="is damaged"):
        protocols.read(tmp_path / "cut.json")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "gives other episodes than its index_digest says"),
        ({"index_digest": "0" * 16}, "gives other episodes than its index_digest says"),
        ({"episodes": 41}, "gives other episodes than its index_digest says"),
        ({"way": 6}, "gives other episodes than its index_digest says"),
        ({"digest": "0" * 16}, "was changed"),
        ({"one_by_one": True}, "was changed"),
        ({"shot": 10, "query": 11}, "shot 10 + query 11 = 21 samples per class"),
        ({"split": "val"}, "is of other data"),
        ({"at_most": 19}, "is of other data"),
        ({"left_out": ("Greek",)}, "is of other data"),
        ({"left_out": ("Klingon",)}, "leaves out 'Klingon', which glyphs has not"),
        ({"content_digest": "0" * 16}, "is of other pictures"),
    ],
)
def test_other_data_and_a_changed_file_are_found_before_any_work(changes, named, glyphs_protocol):
    other = replace(glyphs_protocol, **changes)
    with pytest.raises(CourseError) as error:
        other.check(other.images())
    assert named in str(error.value)


def test_the_protocol_that_fits_passes(glyphs_protocol):
    glyphs_protocol.check(glyphs_protocol.images())
