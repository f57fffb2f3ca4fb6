"""The stored figures of a frozen network, near and far from its photos: `python data/make_backbone.py` makes them."""

import pytest
import torch
from programs import program

from mlcourse import files, places
from mlcourse.datasets import ClassImages, caltech101

STORED = files.read_json(places.data() / "results" / "backbone.json")
PLACES = STORED["places"]
ALL, TEST, CELLS, CHARACTERS = PLACES
HEAD = STORED["head"]["chosen"]


@pytest.fixture(scope="module")
def maker():
    return program("data/make_backbone.py")


def made_up(maker, share, spread=0.0, seed=0):
    """Answers to 200 tasks of 10 queries each, of 20 classes; spread: how far the shares of two classes may lie."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(20, (200, 10), generator=generator)
    shares = share + spread * torch.linspace(-1, 1, 20, dtype=torch.float64)
    right = torch.rand(200, 10, generator=generator, dtype=torch.float64) < shares[picture]
    return maker.Answers(right.double(), picture, "the same tasks")


def place(maker, classes=4, samples=5):
    """Pictures whose one pixel and whose feature say which they are."""
    total = classes * samples
    images = torch.arange(total, dtype=torch.uint8).view(-1, 1, 1, 1)
    names = tuple("abcdefgh"[:classes])
    data = ClassImages(images, torch.full((classes,), samples), names, names, "made up", "all")
    return maker.Place(data, images.flatten(1).float(), torch.arange(total))


# ------------------------------------------------------------------ how it is measured, on made-up answers


def test_the_sentence_names_the_winner_whichever_side_it_is_on(maker):
    high, low = made_up(maker, 0.8), made_up(maker, 0.5, seed=1)
    low = maker.Answers(low.right, high.picture, low.digest)
    where = maker.Place(place(maker).data, torch.zeros(20, 1), torch.arange(20))
    for first, second in ((high, low), (low, high)):
        told = maker.sentence("here", "frozen", "own", maker.compared(first, second, where))
        winner, loser = ("frozen", "own") if first is high else ("own", "frozen")
        assert told.startswith(f"here: {winner} wins against {loser}; the paired difference is 29.8 points")
        assert "-" not in told, "a winner's interval is above 0"


@pytest.mark.parametrize(
    "pair",
    [
        {"difference": 0.02, "over episodes": [0.01, 0.03], "over the data": [-0.01, 0.05]},
        {"difference": -0.02, "over episodes": [-0.05, 0.01], "over the data": [-0.03, -0.01]},
        {"difference": 0.0, "over episodes": [-0.01, 0.01], "over the data": [-0.02, 0.02]},
    ],
)
def test_where_one_interval_contains_0_there_is_no_winner(maker, pair):
    told = maker.sentence("here", "frozen", "own", pair)
    assert told.startswith("here: no winner between frozen and own; ")
    assert " wins " not in told


def test_classes_that_differ_widen_the_interval_over_the_data_only(maker):
    where = maker.Place(place(maker).data, torch.zeros(20, 1), torch.arange(20))
    widths = {}
    for spread in (0.0, 0.4):
        row = maker.row_of(made_up(maker, 0.5, spread), where)
        low, high = row["interval over the data"]
        widths[spread] = (2 * row["ci95 over episodes"], high - low)
        assert low < row["accuracy"] < high
    assert widths[0.4][1] > 3 * widths[0.0][1]
    assert widths[0.4][0] < 1.3 * widths[0.0][0]


def test_pictures_that_are_taken_out_are_out_and_the_others_stay_what_they_were(maker):
    whole = place(maker)
    kept = torch.ones(20, dtype=torch.bool)
    kept[[0, 6, 7, 19]] = False
    left = whole.some(kept)
    assert left.data.counts.tolist() == [4, 3, 5, 4]
    assert left.data.images.flatten().tolist() == left.features.flatten().int().tolist() == left.clusters.tolist()
    assert not {0, 6, 7, 19} & set(left.clusters.tolist())
    some = whole.of_classes([3, 1])
    assert some.data.names == ("b", "d")
    assert some.clusters.tolist() == [*range(5, 10), *range(15, 20)]


def test_each_class_keeps_as_many_pictures_as_a_task_takes(maker, monkeypatch):
    monkeypatch.setattr(maker, "COPIES", 7)
    data = place(maker, classes=3, samples=20).data
    kept = maker.without(data, torch.arange(60, 0, -1))  # all of the first class come first
    assert kept.view(3, 20).sum(1).tolist() == [16, 17, 20]
    assert not kept[:4].any()
    assert not kept[20:23].any()
    odd = torch.zeros(60)
    odd[[5, 25, 45]] = 1.0
    assert not maker.without(data, odd)[[5, 25, 45]].any()


def test_a_cut_is_a_square_around_the_box_and_never_leaves_the_photo(maker):
    photo = torch.arange(60, dtype=torch.uint8).repeat(3, 40, 1)  # a pixel's value is its column
    middle = maker.cut(photo, torch.tensor([20.0, 10.0, 30.0, 14.0]))
    assert middle.shape == (3, maker.OWN_SIZE, maker.OWN_SIZE)
    assert (int(middle.min()), int(middle.max())) == (20, 29)
    corner = maker.cut(photo, torch.tensor([55.0, 0.0, 60.0, 30.0]))
    assert (int(corner.min()), int(corner.max())) == (30, 59)
    assert maker.cut(photo, torch.tensor([0.0, 0.0, 60.0, 40.0])).shape == middle.shape


# ------------------------------------------------------------------ which classes were seen


def test_each_class_has_one_answer_and_each_label_is_imagenets():
    from torchvision.models._meta import _IMAGENET_CATEGORIES as labels  # the list has no public name

    names = {name for part in caltech101.SPLITS.values() for name in part}
    assert len(names) == 101
    for table in (caltech101.IN_IMAGENET, caltech101.NEAR_IMAGENET):
        assert set(table) <= names
        assert set(table.values()) <= set(labels)
    assert not set(caltech101.IN_IMAGENET) & set(caltech101.NEAR_IMAGENET)


def test_no_label_of_the_same_name_was_overlooked():
    from torchvision.models._meta import _IMAGENET_CATEGORIES as labels

    there = {label.lower() for label in labels}
    names = {name for part in caltech101.SPLITS.values() for name in part}
    same = {name for name in names if name.lower().replace("_", " ") in there}
    assert same <= set(caltech101.IN_IMAGENET)
    assert len(same) == 25


def test_the_groups_are_those_of_the_table(maker):
    classes, groups = STORED["seen"]["classes"], STORED["seen"]["groups"]
    assert set(classes) == {name for part in caltech101.SPLITS.values() for name in part}
    for name, told in classes.items():
        assert told["in ImageNet"] == caltech101.IN_IMAGENET.get(name)
        assert told["near in ImageNet"] == caltech101.NEAR_IMAGENET.get(name)
    members = maker.groups_of(list(classes))
    assert set(members) == set(groups)
    for name, told in groups.items():
        each = [list(classes.values())[k]["accuracy"] for k in members[name]]
        mean = sum(each) / len(each)
        assert told["classes"] == len(each)
        assert told["accuracy in tasks of all classes, mean over classes"] == pytest.approx(mean, abs=1e-4)
        low, high = told["interval over classes"]
        assert low < mean < high
    assert groups["seen"]["classes"] + groups["not seen"]["classes"] == 101


# ------------------------------------------------------------------ what is stored


@pytest.mark.parametrize("where", PLACES)
def test_the_stored_sentences_are_those_of_the_stored_pairs(where, maker):
    told = PLACES[where]
    rivals = [name for name in told["methods"] if name not in maker.HEADS]
    assert set(told["pairs"]) == {f"{HEAD} minus {rival}" for rival in rivals}
    for rival, said in zip(rivals, told["sentences"], strict=True):
        pair = told["pairs"][f"{HEAD} minus {rival}"]
        first, second = (told["methods"][name]["accuracy"] for name in (HEAD, rival))
        assert pair["difference"] == pytest.approx(first - second, abs=3e-5)
        name = "the in-context learner on it" if rival == "incontext on features" else rival
        assert said == maker.sentence(where, f"the frozen network ({HEAD})", name, pair)
        for ends in ("over episodes", "over the data"):
            assert pair[ends][0] < pair["difference"] < pair[ends][1]


def test_the_head_is_the_best_on_validation_classes(maker):
    tried = STORED["head"]["accuracy on Caltech-101's validation classes"]
    assert set(tried) == set(maker.HEADS)
    assert tried[HEAD] == max(tried.values())
    ink = STORED["ink"]["accuracy on validation scripts"]
    assert ink[STORED["ink"]["chosen"]] == max(ink.values())
    assert (STORED["episodes"], STORED["seeds"], STORED["query"]) == (maker.EPISODES, list(maker.SEEDS), maker.QUERIES)


def test_photos_reach_the_bar_with_the_copies_counted_and_without_any_92():
    row = PLACES[ALL]["methods"][HEAD]
    assert STORED["backbone"]["pixels"] <= 128
    assert row["interval over the data"][0] > 0.85
    assert STORED["copies"]["pictures"] == 92
    for name in ("without the surest", "without the answered best"):
        told = STORED["copies"][name]
        assert told["accuracy"] - told["ci95 over episodes"] > 0.85, name
        assert told["accuracy"] < row["accuracy"] + row["ci95 over episodes"]


def test_far_from_photos_the_lead_is_smaller_and_on_characters_it_is_lost():
    leads = {where: PLACES[where]["pairs"][f"{HEAD} minus prototypical"] for where in (TEST, CELLS, CHARACTERS)}
    assert leads[CELLS]["over episodes"][1] < leads[TEST]["over episodes"][0]
    assert all(high < 0 for _, high in (leads[CHARACTERS]["over episodes"], leads[CHARACTERS]["over the data"]))
