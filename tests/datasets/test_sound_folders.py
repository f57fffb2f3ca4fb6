"""A folder with damaged pictures: the rest is what it would be without them, and each of them is listed."""

import pytest
import torch
from PIL import Image

from mlcourse import datasets
from mlcourse.datasets import sound_folders
from mlcourse.errors import CourseError


def folder(place, classes=6, pictures=4, size=12):
    """Class folders of pictures of one shade each, unlike all others."""
    for index in range(classes):
        (place / f"class{index}").mkdir(parents=True)
        for number in range(pictures):
            shade = (40 * index, 50 * number, 90)
            Image.new("RGB", (size, size), shade).save(place / f"class{index}" / f"{number}.png")
    return place


def cut(file):
    """The file ends early."""
    file.write_bytes(file.read_bytes()[:40])


DAMAGE = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "no picture": lambda file: file.write_text("a letter"),
    "nearly black": lambda file: Image.new("I;16", (12, 12), 900).save(file),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_a_sound_folder_is_what_load_gives(tmp_path, split):
    place = folder(tmp_path / "mine")
    images, left_out = sound_folders.load(place, split, size=16)
    wanted = datasets.load(place, split, size=16)
    assert left_out == []
    assert torch.equal(images.images, wanted.images)
    assert (images.names, images.name, images.split) == (wanted.names, wanted.name, wanted.split)
    assert sound_folders.counts(place, split) == datasets.counts(place, split)


@pytest.mark.parametrize("how", DAMAGE)
def test_the_rest_is_as_if_the_damaged_pictures_were_not_there(tmp_path, how):
    place = folder(tmp_path / "mine")
    damaged = [place / "class1" / "2.png", place / "class4" / "0.png"]
    for file in damaged:
        DAMAGE[how](file)
    with pytest.raises(CourseError, match=r"2\.png is no readable picture .*nor are 1 more"):
        datasets.load(place, "all")
    images, left_out = sound_folders.load(place, "all")
    assert [any(str(file) in line for line in left_out) for file in damaged] == [True, True]
    assert len(left_out) == 2
    assert sound_folders.counts(place, "all") == dict(zip(images.names, images.counts.tolist(), strict=True))
    for file in damaged:
        file.unlink()
    wanted = datasets.load(place, "all")
    assert torch.equal(images.images, wanted.images)
    assert torch.equal(images.counts, wanted.counts)
    assert (images.names, images.name, images.split) == (wanted.names, wanted.name, wanted.split)


def test_a_class_that_loses_too_many_is_left_out_and_named(tmp_path):
    place = folder(tmp_path / "mine")
    for number in range(3):
        cut(place / "class2" / f"{number}.png")
    images, left_out = sound_folders.load(place, "all")
    assert "class2" not in images.names
    assert images.counts.tolist() == [4] * 5
    assert len(images.images) == 20
    assert left_out[-1] == "class 'class2': of its pictures 1 can be read, and a class needs 2"
    assert len(left_out) == 4


def test_a_class_stays_in_its_split(tmp_path):
    place = folder(tmp_path / "mine", classes=12)
    before = {split: datasets.load(place, split).names for split in ("train", "val", "test")}
    cut(place / before["test"][0] / "1.png")
    cut(place / before["train"][0] / "3.png")
    assert {split: sound_folders.load(place, split)[0].names for split in before} == before


def test_where_nothing_is_left_the_first_fault_is_named(tmp_path):
    place = folder(tmp_path / "mine")
    for file in place.rglob("*.png"):
        cut(file)
    with pytest.raises(CourseError, match=r"0\.png is no readable .* faults\): no all class of mine has 2 pictures"):
        sound_folders.load(place, "all")


def test_what_is_no_damage_is_an_error_as_ever(tmp_path):
    place = folder(tmp_path / "mine")
    with pytest.raises(CourseError, match=r"none of the 6 classes of .* falls into split .val."):
        sound_folders.load(place, "val")
    (place / "class0" / "one.heic").write_bytes(b"camera")
    with pytest.raises(CourseError, match="in a format that is not read here"):
        sound_folders.load(place, "all")


def test_copies_among_damaged_pictures_are_no_copies(tmp_path, recwarn):
    place = folder(tmp_path / "mine")
    for number in (1, 2):
        (place / "class0" / f"{number}.png").write_text("a letter")
    _, left_out = sound_folders.load(place, "all")
    assert len(left_out) == 2
    assert [str(one.message) for one in recwarn if "copies" in str(one.message)] == []
