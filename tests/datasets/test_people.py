"""Photos of people: ORL's layout and splits, folders of one's own, and what is wrong with them in one line."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from mlcourse.datasets import people
from mlcourse.errors import CourseError, CourseWarning

HERE = Path(os.environ.get("MLCOURSE_DATA", "nowhere")) / people.FOLDER
needs_orl = pytest.mark.skipif(not HERE.is_dir(), reason="needs orl_faces in the folder that MLCOURSE_DATA names")


def save(path, seed=0, mode="L", **options):
    """A photo of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (60, 50) if mode == "L" else (60, 50, 3)
    pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def fill(place, mode="L", start=10, **photos):
    """Folders of people with so many photos."""
    for k, (name, count) in enumerate(photos.items()):
        for i in range(count):
            save(place / name / f"{i}.png", start + 100 * k + i, mode)
    return place


def quietly(*arguments, **options):
    """What `load` gives where it must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return people.load(*arguments, **options)


# ORL


def test_the_five_splits_are_twenty_people_each_and_differ():
    everyone = {f"s{number:02d}" for number in range(1, 41)}
    assert len(set(people.SPLITS)) == 5
    for test in people.SPLITS:
        assert len(test) == len(set(test)) == 20
        assert set(test) < everyone
    times = [sum(name in test for test in people.SPLITS) for name in everyone]
    assert set(times) == {2, 3}


@needs_orl
def test_orl_is_forty_people_and_a_split_keeps_them_apart():
    data = people.orl()
    assert (data.classes, data.shape, set(data.counts.tolist())) == (40, (1, 48, 40), {10})
    first = np.asarray(Image.open(HERE / "s01" / "01.png").convert("L"), float)
    assert abs(data.images[0].float().mean().item() - first.mean()) < 3
    learn, test = people.orl_split(2)
    assert test.names == people.SPLITS[2]
    assert not set(learn.names) & set(test.names)
    assert torch.equal(test.of_class(0), data.of_class(7))


def test_the_layout_of_the_archive_is_read_too(tmp_path):
    for number in range(1, 41):
        for photo in range(1, 11):
            save(tmp_path / "orl_faces" / f"s{number}" / f"{photo}.pgm", 10 * number + photo)
    data = people.orl(root=tmp_path, size=(60, 50))
    assert data.names[:3] == ("s01", "s02", "s03")
    assert data.classes == 40


def test_a_copy_of_orl_that_is_missing_or_cut_says_so(tmp_path):
    with pytest.raises(CourseError, match=r"no folder .*orl_faces.*MLCOURSE_DATA"):
        people.orl(root=tmp_path)
    fill(tmp_path / "orl_faces", s01=10, s02=9)
    with pytest.raises(CourseError, match="s02 has 9 photos in place of 10: unpack"):
        people.orl(root=tmp_path)
    with pytest.raises(CourseError, match="split 5 of ORL does not exist: give 0 to 4"):
        people.orl_split(5, root=tmp_path)


# a folder of people


def test_two_folders_of_one_person_of_orl_are_refused(tmp_path):
    fill(tmp_path / "orl_faces", **{f"s{number:02d}": 10 for number in range(1, 41)}, s1=10)
    with pytest.raises(CourseError, match=r"orl_faces has two folders of the person s01, one of them 's1': keep one"):
        people.orl(root=tmp_path)


def test_people_are_read_by_name_in_grey(tmp_path):
    photo = save(tmp_path / "Ada" / "1.png", 1)
    save(tmp_path / "Ada" / "2.png", 2)
    fill(tmp_path, Ben=3, start=50)
    data = quietly(tmp_path, size=(60, 50))
    assert data.names == ("Ada", "Ben")
    assert data.counts.tolist() == [2, 3]
    assert np.array_equal(data.images[0, 0].numpy(), photo)


def test_a_person_with_one_photo_can_enrol_and_is_named(tmp_path):
    fill(tmp_path, Ada=2, Ben=1)
    with pytest.warns(CourseWarning, match="one photo only of Ben: they can be enrolled, but not tested; add a second"):
        data = people.load(tmp_path)
    assert data.counts.tolist() == [2, 1]
    assert people.testable(data).names == ("Ada",)


def test_a_photo_that_is_turned_by_exif_is_upright(tmp_path):
    pixels = save(tmp_path / "Ada" / "1.png", 1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "Ada" / "2.png", exif=exif)
    data = quietly(tmp_path, size=(60, 50))
    assert torch.equal(data.images[0], data.images[1])


def test_grey_among_colour_is_one_form_and_in_colours_told(tmp_path):
    fill(tmp_path, "RGB", Ada=2)
    grey = save(tmp_path / "Ben" / "1.png", 7)
    save(tmp_path / "Ben" / "2.png", 8, "RGB")
    data = quietly(tmp_path, size=(60, 50))
    assert data.shape == (1, 60, 50)
    assert np.array_equal(data.images[2, 0].numpy(), grey)
    with pytest.warns(CourseWarning, match=r"grey photos among coloured ones: Ben/1.png; .*channels=1"):
        assert people.load(tmp_path, channels=3).shape == (3, 48, 40)


def test_a_damaged_photo_is_named_and_can_be_left_out(tmp_path):
    fill(tmp_path, Ada=3, Ben=2)
    whole = (tmp_path / "Ada" / "1.png").read_bytes()
    (tmp_path / "Ada" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CourseError, match=r"Ada/1.png is no readable picture .*: replace or remove the file"):
        people.load(tmp_path)
    with pytest.warns(CourseWarning, match=r"1 of 5 photos are left out: .*Ada/1.png is no readable picture"):
        data = people.load(tmp_path, skip_damaged=True)
    assert data.counts.tolist() == [2, 2]


def test_a_person_of_whom_nothing_is_left_is_left_out(tmp_path):
    fill(tmp_path, Ada=2)
    (tmp_path / "Ben").mkdir()
    for i in range(2):
        (tmp_path / "Ben" / f"{i}.png").write_bytes(b"no picture %d" % i)
    with pytest.warns(CourseWarning, match="2 of 4 photos are left out"):
        assert people.load(tmp_path, skip_damaged=True).names == ("Ada",)
    for i in range(2):
        (tmp_path / "Ada" / f"{i}.png").write_bytes(b"no picture either %d" % i)
    with pytest.raises(CourseError, match="none of the 4 photos"):
        people.load(tmp_path, skip_damaged=True)


@pytest.mark.parametrize("name", ["Ada & Ben", "Ada+Ben", "ada and ben", "Ada_und_Ben"])
def test_a_folder_that_names_two_people_is_refused(tmp_path, name):
    fill(tmp_path, **{name: 2})
    with pytest.raises(CourseError, match="names two people: give each a folder of their own"):
        people.load(tmp_path)


@pytest.mark.parametrize("name", ["Anders Andersen", "Roland", "Mandy", "Und", "Müller, Anna"])
def test_a_name_that_only_looks_so_passes(tmp_path, name):
    fill(tmp_path, **{name: 2})
    assert quietly(tmp_path).names == (name,)


def test_two_folders_with_one_name_are_refused(tmp_path):
    fill(tmp_path, Anna=2, anna=2)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this disk takes both names for one")
    with pytest.raises(CourseError, match="'Anna' and 'anna', whose names differ in capitals"):
        people.load(tmp_path)


def test_one_picture_under_two_names_is_refused_and_twice_under_one_told(tmp_path):
    fill(tmp_path, Ada=2, Ben=2)
    (tmp_path / "Ada" / "copy.png").write_bytes((tmp_path / "Ada" / "0.png").read_bytes())
    with pytest.warns(CourseWarning, match=r"there twice under one name: Ada/copy.png"):
        people.load(tmp_path)
    (tmp_path / "Ben" / "copy.png").write_bytes((tmp_path / "Ada" / "0.png").read_bytes())
    with pytest.raises(CourseError, match=r"Ben/copy.png is the same picture as .*Ada/0"):
        people.load(tmp_path)


def test_what_is_no_folder_of_people_is_told(tmp_path):
    with pytest.raises(CourseError, match=r"no folder .*nowhere"):
        people.load(tmp_path / "nowhere")
    with pytest.raises(CourseError, match="holds no folder with photos"):
        people.load(tmp_path)
    fill(tmp_path, Ada=2)
    with pytest.raises(CourseError, match="channels is 2"):
        people.load(tmp_path, channels=2)
    with pytest.raises(CourseError, match="size is 48"):
        people.load(tmp_path, size=48)
