"""Photos with label maps: squares, void, folds that share no class, and what each kind of faulty file says."""

import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcourse.datasets import label_maps
from mlcourse.datasets.label_maps import FOLDS, IN_IMAGENET, MSRC, VOC, VOC_CLASSES, VOID, LabelMaps
from mlcourse.errors import CourseError, CourseWarning

REAL = os.environ.get("MLCOURSE_DATA")
NAMES = {"0": "void", "1": "cow", "2": "sheep", "3": "sky"}
WIDTH, HEIGHT = 12, 8


def real(folder):
    there = bool(REAL) and (Path(REAL) / folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"needs {folder} in the folder that MLCOURSE_DATA names")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "cache"))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def labelled(left=1, right=3, void_row=True):
    """Left half one class, right half another, the lowest row void."""
    labels = np.full((HEIGHT, WIDTH), left, np.uint8)
    labels[:, WIDTH // 2 :] = right
    if void_row:
        labels[-1] = 0
    return labels


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "meadow"
    for index, left in enumerate((1, 2, 1, 2)):
        photo = np.full((HEIGHT, WIDTH, 3), 40 * left, np.uint8)
        photo[:, WIDTH // 2 :] = 200
        save(place / "images" / f"{index}.png", photo)
        save(place / "labels" / f"{index}.png", labelled(left))
    (place / "classes.json").write_text(json.dumps(NAMES))
    return place


# ------------------------------------------------------------------ what is read


def test_photos_lie_on_the_middle_of_a_square_and_what_they_do_not_cover_is_void(folder):
    maps = label_maps.load(folder, size=WIDTH)
    assert (maps.images.shape, maps.labels.shape) == ((4, 3, WIDTH, WIDTH), (4, WIDTH, WIDTH))
    assert (maps.classes, maps.name, maps.left_out) == ((1, 2, 3), "meadow", ())
    edge = (WIDTH - HEIGHT) // 2
    inside = maps.labels[0, edge : edge + HEIGHT]
    assert (inside[-1] == VOID).all()
    assert (maps.labels[0, :edge] == VOID).all()
    assert (maps.labels[0, edge + HEIGHT :] == VOID).all()
    assert np.array_equal(inside[:-1], labelled()[:-1])
    assert (maps.images[0, :, edge, 0] == 40).all()
    assert torch.allclose(maps.shares, torch.tensor([[0.5, 0, 0.5], [0, 0.5, 0.5]] * 2))


def test_a_tall_photo_is_scaled_at_its_height(folder):
    for kind, pixels in (("images", np.zeros((24, 12, 3), np.uint8)), ("labels", np.ones((24, 12), np.uint8))):
        save(folder / kind / "tall.png", pixels)
    maps = label_maps.load(folder, size=12)
    found = maps.labels[maps.files.index("images/tall.png")]
    assert (found[:, 3:9] == 1).all()
    assert (found[:, :3] == VOID).all()
    assert (found[:, 9:] == VOID).all()


def test_in_training_the_pixels_of_unseen_classes_are_void_and_in_the_test_all_others_are_background(folder):
    whole = label_maps.load(folder)
    train, test = (label_maps.load(folder, ("cow",), part) for part in ("train", "test"))
    assert (dict(train.names), dict(test.names)) == ({2: "sheep", 3: "sky"}, {1: "cow"})
    cow = whole.labels == 1
    assert cow.any()
    assert (train.labels[cow] == VOID).all()
    assert torch.equal(train.labels[~cow], whole.labels[~cow])
    assert torch.equal(test.labels, whole.labels)
    assert len({whole.content, train.content, test.content}) == 3


def test_the_second_load_decodes_nothing_and_one_changed_file_is_seen(folder, monkeypatch):
    first = label_maps.load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(label_maps, "_decoded", lambda *_: pytest.fail("decoded again"))
        assert torch.equal(label_maps.load(folder).images, first.images)
    assert torch.equal(label_maps.load(folder).images, first.images)
    save(folder / "labels" / "0.png", labelled(2))
    assert (label_maps.load(folder).labels[0] == 2).any()


def test_pascal_in_torchvisions_layout(tmp_path):
    place = tmp_path / "VOCdevkit" / "VOC2012"
    for stem, number in (("a", 1), ("b", 2), ("c", 1)):
        labels = np.zeros((6, 6), np.uint8)
        labels[:3], labels[3] = number, VOID
        map_ = Image.fromarray(labels, "P")
        map_.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 750 + [1, 2, 3])
        (place / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        map_.save(place / "SegmentationClass" / f"{stem}.png")
        save(place / "JPEGImages" / f"{stem}.jpg", np.full((6, 6, 3), 99, np.uint8))
    lists = place / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    whole = label_maps.load("voc2012", root=tmp_path, size=6)
    assert [Path(file).stem for file in whole.files] == ["a", "b", "c"]
    assert whole.names[1] == "aeroplane"
    assert whole.labels[0, :, 0].tolist() == [1, 1, 1, VOID, 0, 0]  # 0 is background there, no void
    train = label_maps.load("voc2012", 0, "train", root=tmp_path, size=6)
    assert len(train.files) == 2
    assert (train.labels[0, :4] == VOID).all()
    assert set(train.names.values()) == set(VOC_CLASSES[5:])
    test = label_maps.load("voc2012", 0, "test", root=tmp_path, size=6)
    assert (test.files, set(test.names.values())) == (("JPEGImages/c.jpg",), set(VOC_CLASSES[:5]))
    (lists / "val.txt").write_text("../c\n")
    with pytest.raises(CourseError, match=r"val\.txt names '\.\./c', which leads out of the data set"):
        label_maps.load("voc2012", root=tmp_path)
    (lists / "val.txt").write_text("c\na\n")
    with pytest.raises(CourseError, match=r"the lists of .*VOC2012 name 'a' twice: unpack the archive anew"):
        label_maps.load("voc2012", root=tmp_path)
    (lists / "val.txt").write_text("gone\n")
    with pytest.raises(CourseError, match=r"gone\.jpg is missing: unpack the archive anew"):
        label_maps.load("voc2012", root=tmp_path)


@pytest.mark.parametrize("name", [MSRC, VOC])
def test_folds_are_fixed_lists_that_share_no_class(name):
    folds = FOLDS[name]
    classes = [one for fold in folds for one in fold]
    assert len(folds) == 4
    assert len(set(classes)) == len(classes) == {MSRC: 21, VOC: 20}[name]
    assert FOLDS[VOC][3] == ("pottedplant", "sheep", "sofa", "train", "tvmonitor")  # as PASCAL-5i has it


def test_what_is_said_to_be_in_imagenet_is_there():
    from torchvision.models import ResNet18_Weights

    labels = set(ResNet18_Weights.DEFAULT.meta["categories"])
    assert len(labels) >= 990  # two pairs share a name
    assert [ours for ours, theirs in IN_IMAGENET.items() if theirs not in labels] == []
    assert set(IN_IMAGENET) <= {one for folds in FOLDS.values() for fold in folds for one in fold}


# ------------------------------------------------------------------ what is wrong


def damage_photo(place):
    path = place / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def damage_map(place):
    path = place / "labels" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def other_size(place):
    save(place / "labels" / "1.png", np.ones((HEIGHT, WIDTH + 1), np.uint8))


def unknown_label(place):
    save(place / "labels" / "1.png", labelled(left=9))


def colours(place):
    save(place / "labels" / "1.png", np.ones((HEIGHT, WIDTH, 3), np.uint8))


def no_map(place):
    (place / "labels" / "1.png").unlink()


def no_photo(place):
    (place / "images" / "1.png").unlink()


def grey(place):
    save(place / "images" / "1.png", np.full((HEIGHT, WIDTH), 7, np.uint8))


def turned(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(place / "images" / "1.png", np.full((HEIGHT, WIDTH, 3), 7, np.uint8), exif=exif)


def two_photos(place):
    save(place / "images" / "1.jpg", np.full((HEIGHT, WIDTH, 3), 7, np.uint8))


def two_maps(place):
    save(place / "labels" / "1.tif", np.ones((HEIGHT, WIDTH), np.uint8))


FAULTS = [
    (two_photos, r"images/1\.jpg and 1\.png have one name without the ending: keep one, or rename it"),
    (two_maps, r"labels/1\.png and 1\.tif have one name without the ending: keep one, or rename it"),
    (damage_photo, r"images/1\.png is no readable picture \(.*\): replace or remove it"),
    (damage_map, r"labels/1\.png is no readable picture \(.*\): replace or remove it"),
    (other_size, r"labels/1\.png has 13×8 pixels, but its photo has 12×8: save both in one size"),
    (unknown_label, r"labels/1\.png has the unknown label 9: name it among the classes, or paint"),
    (colours, r"labels/1\.png is no label map, but a picture of the kind RGB: save one number of 8 bits"),
    (no_map, r"images/1\.png has no label map: add labels/1\.png"),
    (no_photo, r"labels/1\.png has no photo: add it to images"),
    (grey, r"images/1\.png is grey among photos in colour: save it as RGB, or remove it"),
    (turned, r"images/1\.png is turned by its EXIF tag, .*: save it upright without the tag"),
]


@pytest.mark.parametrize(("harm", "says"), FAULTS, ids=[harm.__name__ for harm, _ in FAULTS])
def test_a_faulty_file_is_named_with_its_remedy_or_left_out_and_listed(folder, harm, says):
    harm(folder)
    with pytest.raises(CourseError, match=says + ".*, or leave such photos out with skip_damaged=True"):
        label_maps.load(folder)
    for _ in range(2):  # not from the cache the second time
        with pytest.warns(CourseWarning, match="meadow: left out 1: "):
            maps = label_maps.load(folder, skip_damaged=True)
        assert [Path(file).stem for file in maps.files] == ["0", "2", "3"]
        assert len(maps.left_out) == 1
        assert re.search(says, maps.left_out[0])


def test_several_faults_are_counted(folder):
    damage_photo(folder)
    save(folder / "labels" / "2.png", labelled(left=9))
    with pytest.raises(CourseError, match=r"images/1\.png is no .* \(and 1 more faults in meadow\)"):
        label_maps.load(folder)
    with pytest.warns(CourseWarning):
        assert len(label_maps.load(folder, skip_damaged=True).left_out) == 2


def test_whole_photos_warn_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_maps.load(folder, skip_damaged=True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is damaged"),
        ('{"0": "void"}', "names no classes, or one twice"),
        ('{"1": "cow", "2": "cow"}', "names no classes, or one twice"),
        ('{"cow": 1}', r"has 'cow': 1; write"),
        ('{"1": "cow", "01": "sheep"}', r"has the class 1 twice, as 'cow' and 'sheep': keep one"),
        ('{"1": "cow", "1": "sheep"}', r"has '1' twice in one object, so one of them would be lost: keep one"),
        ('{"' + "9" * 5000 + '": "cow"}', r"has '9{20}': 'cow'; write .* with numbers below 255"),
        ('{"300": "cow"}', r"has '300': 'cow'; write .* with numbers below 255"),
    ],
)
def test_a_faulty_list_of_classes_is_named(folder, content, says):
    (folder / "classes.json").write_text(content)
    with pytest.raises(CourseError, match=rf"classes\.json {says}"):
        label_maps.load(folder)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"part": "val"}, "unknown part 'val': choose train, test, all"),
        ({"part": "test"}, "part 'test' needs a fold"),
        ({"fold": ("cow",)}, "says which classes are unseen in training: choose part='train' or 'test'"),
        ({"fold": 0, "part": "test"}, "fold 0 does not exist: .* has no fixed folds: name the unseen classes"),
        ({"fold": ("dog",), "part": "test"}, r"cannot take the classes 'dog'; name some of cow, sheep, sky"),
        ({"fold": ("cow", "cow"), "part": "test"}, "once"),
        ({"size": 0}, "size 0 is not a number of pixels"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(folder, request_, says):
    with pytest.raises(CourseError, match=says):
        label_maps.load(folder, **request_)


def test_a_missing_copy_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(CourseError, match=r"no folder .*msrc_v2: name a local copy"):
        label_maps.load("msrc_v2", root=tmp_path)
    with pytest.raises(CourseError, match=r"no folder .*VOCdevkit: name a local copy"):
        label_maps.load("voc2012", root=tmp_path)
    with pytest.raises(CourseError, match=r"there is no folder .*nowhere: choose msrc_v2, voc2012 or a folder"):
        label_maps.load(tmp_path / "nowhere")


def test_shapes_that_do_not_fit_are_refused():
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8)
    LabelMaps(images, labels, {1: "cow"}, ("a", "b"), "mine")
    for wrong in ((images.float(), labels, {1: "cow"}), (images, labels[:1], {1: "cow"}), (images, labels, {255: "x"})):
        with pytest.raises(CourseError, match="give"):
            LabelMaps(*wrong, ("a", "b"), "mine")


# ------------------------------------------------------------------ real data


@real("msrc_v2")
def test_msrc_v2():
    maps = label_maps.load("msrc_v2", root=REAL, size=64)
    assert (len(maps.files), len(maps.names), maps.left_out) == (591, 21, ())
    assert {one for fold in FOLDS[MSRC] for one in fold} == set(maps.names.values())
    assert len(maps.seen_in_imagenet()) == 14
    assert int((maps.shares >= 0.01).sum(0).min()) >= 15  # photos of the rarest class
    for fold in range(4):
        train, test = (label_maps.load("msrc_v2", fold, part, root=REAL, size=64) for part in ("train", "test"))
        assert not set(train.names) & set(test.names)
        assert not torch.isin(train.labels, torch.tensor(test.classes, dtype=torch.uint8)).any()
        assert len(train.names) + len(test.names) == 21
