"""A folder of one's own pictures: splits that share no class, files that are no pictures, odd paths, odd pixels."""

import os
import re
import shutil
import struct
import threading
import unicodedata
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcourse import datasets, files, places
from mlcourse.commands import app, data
from mlcourse.datasets import cache, class_folders, local, pictures
from mlcourse.errors import CourseError, CourseWarning, printable

SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "cache"))


def save(path, value=90, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 10, 3), value, np.uint8) if isinstance(value, int) else value
    Image.fromarray(pixels).save(path, **options)


def fill(place, *names, pictures=2, start=0):
    """Class folders with pictures that differ."""
    for k, name in enumerate(names):
        for i in range(pictures):
            save(place / name / f"{i}.png", start + 10 * k + i)
    return place


# Splits


def test_the_layout_of_a_classifier_is_joined_and_split_by_name(tmp_path):
    """The same people in train, val and test are not unseen classes."""
    people = [f"person {i}" for i in range(10)]
    for start, part in ((0, "train"), (100, "val"), (200, "test")):
        fill(tmp_path / "faces" / part, *people, pictures=2, start=start // 2)
    with pytest.warns(CourseWarning, match="train and val share 10 class names, such as 'person 0'"):
        parts = {split: datasets.load(tmp_path / "faces", split, size=8) for split in SPLITS}
    names = [set(part.names) for part in parts.values()]
    assert set.union(*names) == set(people)
    assert sum(len(some) for some in names) == 10
    everything = datasets.load(tmp_path / "faces", "all", size=8)
    assert everything.names == tuple(sorted(people))  # each once
    assert everything.counts.tolist() == [6] * 10
    assert everything.of_class(0)[:, 0, 0, 0].tolist() == [0, 1, 50, 51, 100, 101]


def test_joined_classes_hold_no_picture_twice(tmp_path):
    """A val folder is often a copy of a part of train: a picture must not be support and query at once."""
    fill(tmp_path / "d" / "train", "ann", "bob", "cat", "dan", pictures=3)
    fill(tmp_path / "d" / "val", "ann", "bob", "cat", "dan", pictures=2)
    with pytest.warns(CourseWarning, match="joined"):
        assert datasets.counts(tmp_path / "d") == {"ann": 3, "bob": 3, "cat": 3, "dan": 3}


def test_one_name_on_two_sides_is_an_error_where_the_rest_differs(tmp_path):
    fill(tmp_path / "d" / "train", "oak", "ash", "elm")
    fill(tmp_path / "d" / "test", "fir", "yew", "elm")
    with pytest.raises(CourseError, match="train and test share 1 of their 3 and 3 class names, such as 'elm'"):
        datasets.load(tmp_path / "d", "test")


def test_a_name_written_in_two_ways_is_one_name(tmp_path):
    """macOS writes é as e and an accent, Linux as one sign."""
    composed, apart = (unicodedata.normalize(form, "Andr\u00e9") for form in ("NFC", "NFD"))
    fill(tmp_path / "d" / "train", composed, "bob", "cat", "dan")
    fill(tmp_path / "d" / "test", apart, "eve", "fay", "gus")
    with pytest.raises(CourseError, match="share 1 of their 4 and 4 class names"):
        datasets.load(tmp_path / "d", "test")
    assert class_folders.split_of(composed) == class_folders.split_of(apart)
    if len(os.listdir(fill(tmp_path / "flat", composed, apart, "bob"))) == 3:  # not where the disk joins them
        with pytest.raises(CourseError, match="two class folders 'Andr\u00e9', written in two ways"):
            datasets.counts(tmp_path / "flat")


@pytest.mark.parametrize("called", ["train", "val", "test"])
def test_a_class_may_be_called_like_a_split(tmp_path, called):
    """CIFAR-100 has a class "train"."""
    fill(tmp_path / "cifar", called, "apple", "pear", "plum")
    assert datasets.counts(tmp_path / "cifar") == dict.fromkeys(sorted([called, "apple", "pear", "plum"]), 2)
    for part, name in (("train", "oak"), ("train", called), ("test", "elm")):
        fill(tmp_path / "parts" / part, name)
    assert list(datasets.counts(tmp_path / "parts", "train")) == sorted(["oak", called])


def test_all_three_may_be_classes(tmp_path):
    fill(tmp_path / "d", *SPLITS)
    assert list(datasets.counts(tmp_path / "d")) == sorted(SPLITS)


@pytest.mark.parametrize("beside", ["oak", "valid/oak", "test"])
def test_a_class_folder_beside_splits_is_not_lost(tmp_path, beside):
    """`valid` is how some call it; here it would be a validation set that nobody reads."""
    fill(tmp_path / "d" / "train", "ash", "elm")
    fill(tmp_path / "d", beside)
    with pytest.raises(CourseError, match=f"'train' as a split, .* and '{beside.split('/')[0]}' beside it: put every"):
        datasets.load(tmp_path / "d", "train")


def test_what_holds_no_picture_may_lie_beside_splits(tmp_path):
    fill(tmp_path / "d" / "train", "ash", "elm")
    (tmp_path / "d" / "labels").mkdir()
    (tmp_path / "d" / "labels" / "list.csv").write_text("a,b")
    (tmp_path / "d" / "__MACOSX" / "train").mkdir(parents=True)
    (tmp_path / "d" / "val").mkdir()
    assert list(datasets.counts(tmp_path / "d", "train")) == ["ash", "elm"]


@pytest.mark.parametrize("classes", [*range(4, 13), 20])
def test_few_classes_are_shared_out(tmp_path, classes):
    """Enough to train and to test, whatever the names are; the splits are the same each time and share nothing."""
    fill(tmp_path / "d", *(f"kind {i}" for i in range(classes)))
    parts = {split: list(datasets.counts(tmp_path / "d", split)) for split in SPLITS}
    assert sorted(name for names in parts.values() for name in names) == sorted(f"kind {i}" for i in range(classes))
    assert len(parts["train"]) >= 2
    assert len(parts["test"]) >= 2
    assert len(parts["val"]) >= 2 or classes < 8
    assert len(parts["val"]) != 1 or classes < 8


def test_six_classes_are_shared_out_with_a_word(tmp_path):
    place = fill(tmp_path / "mine", *"abcdef", pictures=8)
    with pytest.warns(CourseWarning, match="mine: its 6 classes are too few .* shared out: 4 train, 0 val, 2 test"):
        assert datasets.load(place, "train", size=8).classes == 4
    with pytest.raises(CourseError, match=r"falls into split 'val' \(4 train, 0 val, 2 test; .* 8 to validate"):
        datasets.load(place, "val")
    assert datasets.counts(place, "val") == {}
    assert datasets.counts(place, "test") == dict.fromkeys(datasets.load(place, "test", size=8).names, 8)


def test_counts_of_each_data_set_are_those_that_load_gives():
    for split in SPLITS:
        loaded = datasets.load("glyphs", split, rotations=False)
        assert datasets.counts("glyphs", split) == dict(zip(loaded.names, loaded.counts.tolist()))


# What is no picture


def test_pictures_in_a_format_that_is_not_read_are_counted_and_named(tmp_path):
    place = fill(tmp_path / "pets", "cats", "dogs")
    for i in range(38):
        (place / "cats" / f"IMG_{i:02d}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(
        CourseError,
        match=r"has 38 pictures in a format .* \(38 \.heic, such as cats/IMG_00\.HEIC\), besides 4 that are: ",
    ):
        datasets.load(place, "all")


@pytest.mark.parametrize("name", ["a.heic.jpg", "b.jpg"])
def test_a_foreign_picture_under_a_known_ending_is_named(tmp_path, name):
    place = fill(tmp_path / "pets", "cats", "dogs")
    (place / "cats" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(CourseError, match=rf"cats/{name} is no readable picture \(cannot identify image file the file"):
        datasets.load(place, "all")


def test_all_unreadable_pictures_are_counted_at_once(tmp_path):
    place = fill(tmp_path / "pets", "cats", "dogs")
    for i in range(38):
        (place / "cats" / f"IMG_{i:02d}.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(
        CourseError, match=r"IMG_00\.jpg is no .*\), nor are 37 more of 42: replace or remove the files"
    ):
        datasets.load(place, "all")
    assert not cache.folder().exists()


def test_files_that_are_no_pictures_are_left_out_and_named(tmp_path):
    place = fill(tmp_path / "pets", "cats", "dogs")
    for name in ("1.txt", "2.txt", "labels.json", "IMG_0001", "Thumbs.db", "desktop.ini", ".hidden.xyz"):
        (place / "cats" / name).write_text("x")
    fill(place / "cats", "more")
    with pytest.warns(
        CourseWarning, match=r"2 \.txt, 1 without an ending, 1 \.json, 1 inner folder, such as cats/1\.txt"
    ):
        assert datasets.counts(place) == {"cats": 2, "dogs": 2}


def test_pictures_beside_the_class_folders_are_named(tmp_path):
    place = fill(tmp_path / "pets", "cats", "dogs")
    save(place / "stray.png")
    with pytest.warns(
        CourseWarning, match="1 pictures lie beside the class folders and belong to no class, such as stray"
    ):
        datasets.counts(place)


def test_a_folder_that_lies_one_deeper_says_so(tmp_path):
    fill(tmp_path / "outer" / "pets", "cats", "dogs")
    with pytest.warns(CourseWarning), pytest.raises(CourseError, match=r"'pets' with too few .* one folder deeper"):
        datasets.load(tmp_path / "outer", "all")
    for i in range(3):
        save(tmp_path / "plain" / f"{i}.png")
    with pytest.raises(CourseError, match="no class folders for split 'all', but 3 files: put one folder of"):
        datasets.load(tmp_path / "plain", "all")


# Pixels


def sixteen(value):
    return np.full((9, 9), value, np.uint16)


@pytest.mark.parametrize(
    ("pixels", "ending", "reason"),
    [
        (np.full((9, 9), 200, np.int32), "tiff", "32-bit or signed integer pixels have no agreed range"),
        (np.full((9, 9), 2**30, np.int32), "tiff", "32-bit or signed"),
        (np.full((9, 9), 0.5, np.float32), "tiff", "floating-point pixels have no agreed range"),
        (sixteen(200), "png", "its 16-bit pixels reach less than 1/16 of their range, which is nearly black; save it"),
        (sixteen(4095), "tiff", "its 16-bit pixels reach less than"),
    ],
)
def test_pixels_that_would_become_black_are_refused(tmp_path, pixels, ending, reason):
    place = fill(tmp_path / "d", "a", "b")
    save(place / "a" / f"deep.{ending}", pixels)
    with pytest.raises(CourseError, match=rf"deep\.{ending} is no readable picture \({reason}"):
        datasets.load(place, "all")


def test_sixteen_bits_are_scaled(tmp_path):
    for name, value in (("a", 257 * 20), ("b", 257 * 100), ("c", 65535)):
        save(tmp_path / f"{name}.png", sixteen(value))
        save(tmp_path / f"{name}.tiff", sixteen(value))
        twelve = np.full((9, 9), round(value * 4095 / 65535), ">u2")  # here the file says how many bits it has
        (tmp_path / f"{name}.pgm").write_bytes(b"P5 9 9 4095\n" + twelve.tobytes())
        Image.fromarray(sixteen(value)).save(tmp_path / f"{name}.jp2", irreversible=False)
    for ending in ("png", "tiff", "pgm", "jp2"):
        found = pictures.read_photos(tmp_path, [f"{name}.{ending}" for name in "abc"], 4)
        assert found[:, :, 2, 2].tolist() == [[20] * 3, [100] * 3, [255] * 3], ending


def write_tiff(path, values, *, photometric, samples=1, order=">"):
    """A 2×2 TIFF of 16 bits, such as Pillow does not write."""
    kinds = [(256, 3, 2), (257, 3, 2), (258, 3, 16), (259, 3, 1), (262, 3, photometric), (273, 4, 200)]
    kinds += [(277, 3, samples), (278, 3, 2), (279, 4, 8 * samples)]
    body = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "IH", 8, len(kinds))
    for tag, kind, value in kinds:
        if tag == 258 and samples == 3:  # three numbers, which lie elsewhere
            body += struct.pack(order + "HHII", tag, kind, 3, 180)
        else:
            content = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
            body += struct.pack(order + "HHI", tag, kind, 1) + content
    body = (body + bytes(4)).ljust(180, b"\0") + struct.pack(order + "HHH", 16, 16, 16)
    path.write_bytes(body.ljust(200, b"\0") + np.full(4 * samples, values, order + "u2").tobytes())


@pytest.mark.parametrize(("photometric", "order", "grey"), [(1, ">", 100), (1, "<", 100), (0, "<", 155)])
def test_tiff_of_sixteen_bits_is_scaled_whatever_its_zero_means(tmp_path, photometric, order, grey):
    write_tiff(tmp_path / "a.tiff", 25700, photometric=photometric, order=order)
    assert pictures.read_photos(tmp_path, ["a.tiff"], 1).flatten().tolist() == [grey] * 3


def test_deep_colours(tmp_path):
    write_tiff(tmp_path / "a.tiff", 25700, photometric=2, samples=3)
    assert pictures.read_photos(tmp_path, ["a.tiff"], 1).flatten().tolist() == [100] * 3
    for value in (200, 4095):  # 8 or 12 bits of 16 are used
        write_tiff(tmp_path / "b.tiff", value, photometric=2, samples=3)
        with pytest.raises(
            CourseError, match=r"b\.tiff is no readable picture \(its 16-bit pixels reach less than 1/16"
        ):
            pictures.read_photos(tmp_path, ["b.tiff"], 1)


# EXIF. The kinds of a tag's value, by number: 1 byte, 2 text, 3 short, 4 long, 5 rational, 6 to 12 signed ones, floats,
# 7 undefined, 13 IFD; 0 and 99 do not exist.
KINDS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 0: 1, 99: 1}
TAGS = (0x010E, 0x010F, 0x0110, 0x011A, 0x0128, 0x0131, 0x0132, 0x013B, 0x0213, 0x02BC, 0x8298, 0x8769, 0x8825)
TAGS += (0x829A, 0x8827, 0x9003, 0x9286, 0x927C, 0xA005, 0xA40B, 0xC4A5)


def exif(tag, kind, count, order="<"):
    """EXIF with orientation 6, and one other tag of a kind that need not be its own."""
    value = bytes(range(1, 1 + KINDS[kind] * count))
    entries = {0x0112: (3, 1, struct.pack(order + "HH", 6, 0)), tag: (kind, count, value)}
    outside = 8 + 2 + 12 * len(entries) + 4
    body = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for number, (its_kind, its_count, its_value) in sorted(entries.items()):
        content = its_value.ljust(4, b"\0") if len(its_value) <= 4 else struct.pack(order + "I", outside)
        body += struct.pack(order + "HHI", number, its_kind, its_count) + content
    return b"Exif\0\0" + body + bytes(4) + (value if len(value) > 4 else b"")


def half_bright():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tag", TAGS, ids=hex)
def test_a_sound_jpeg_is_read_whatever_its_other_tags_are(tmp_path, tag, order):
    names = []
    for kind in KINDS:
        for count in (1, 2, 9):
            names.append(f"{kind}-{count}.jpg")
            half_bright().save(tmp_path / names[-1], exif=exif(tag, kind, count, order), quality=95)
    found = pictures.read_photos(tmp_path, names, 40)[:, 0].float()
    assert (found[:, :, 25:].mean((1, 2)) > 200).all()  # bright at the right: it was turned
    assert (found[:, :, :15].mean((1, 2)) < 50).all()


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_in_every_format(tmp_path, orientation, ending):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20, :20] = 255
    pixels[:20, 20:] = 120
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=tags, quality=95)
    corners = pictures.read_photos(tmp_path, [f"a.{ending}"], 40)[0, 0, 5::30, 5::30].float()
    a, b = 255.0, 120.0  # the first row is a b, the second black; as EXIF 2.3 draws the eight
    wanted = {2: [b, a, 0, 0], 3: [0, 0, b, a], 4: [0, 0, a, b], 5: [a, 0, b, 0], 6: [0, a, 0, b], 7: [0, b, 0, a]}
    wanted |= {8: [b, 0, a, 0]}
    assert (corners.flatten() - torch.tensor(wanted.get(orientation, [a, b, 0, 0]))).abs().max() < 12


@pytest.mark.parametrize("tags", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0rubbish", bytes(40)])
def test_damaged_tags_leave_the_picture_as_it_is_stored(tmp_path, tags):
    half_bright().save(tmp_path / "a.jpg", exif=tags)
    assert pictures.read_photos(tmp_path, ["a.jpg"], 40)[0, 0, :15].float().mean() > 240


def test_a_sixteen_bit_picture_turns_too(tmp_path):
    pixels = np.zeros((40, 40), np.uint16)
    pixels[:20] = 65535
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=tags)
    assert pictures.read_photos(tmp_path, ["a.png"], 40)[0, 0, :, 25:].eq(255).all()


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "tiff", "bmp", "ppm", "ico", "tga", "jp2", "avif"])
def test_a_file_with_random_faults_is_read_or_named(tmp_path, ending):
    """Whatever a decoder raises, it becomes a line that names the file."""
    if f".{ending}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow does not know .{ending}")
    generator = np.random.default_rng(0)
    content = BytesIO()
    noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, format=Image.registered_extensions()[f".{ending}"])
    for _ in range(60):
        damaged = bytearray(content.getvalue())
        for place in generator.integers(0, min(len(damaged), 400), 6):
            damaged[place] = generator.integers(256)
        (tmp_path / f"a.{ending}").write_bytes(damaged[: generator.integers(len(damaged) // 2, len(damaged) + 1)])
        try:
            assert pictures.read_photos(tmp_path, [f"a.{ending}"], 8).shape == (1, 3, 8, 8)
        except CourseError as error:
            assert f"a.{ending} is no readable picture" in str(error)  # noqa: PT017 (either is right)


# The cache


@pytest.mark.parametrize("how", ["replace", "overwrite", "swap", "link"])
def test_a_picture_of_equal_size_and_time_is_not_read_from_the_cache(tmp_path, how):
    place = tmp_path / "d"
    for i in range(2):
        save(place / "a" / f"{i}.bmp", 50 + 100 * i)  # of one size, whatever they show
    first, second, other = place / "a" / "0.bmp", place / "a" / "1.bmp", tmp_path / "other.bmp"
    save(other, 220)
    for path in (first, second, other):
        os.utime(path, ns=(10**18, 10**18))
    if how == "link":
        save(tmp_path / "target.bmp", 50)
        os.utime(tmp_path / "target.bmp", ns=(10**18, 10**18))
        first.unlink()
        first.symlink_to(tmp_path / "target.bmp")
    assert datasets.load(place, "all", size=4).images[:, 0, 0, 0].tolist() == [50, 150]
    if how == "replace":
        os.replace(other, first)
    elif how == "overwrite":
        first.write_bytes(other.read_bytes())
        os.utime(first, ns=(10**18, 10**18))
    elif how == "swap":
        os.replace(first, tmp_path / "held")
        os.replace(second, first)
        os.replace(tmp_path / "held", second)
    else:
        first.unlink()
        first.symlink_to(other)
    assert about(first) == about(second)
    wanted = [150, 50] if how == "swap" else [220, 150]
    assert datasets.load(place, "all", size=4).images[:, 0, 0, 0].tolist() == wanted


def about(path):
    return path.stat().st_size, path.stat().st_mtime_ns


def test_a_cache_folder_that_may_not_be_entered_costs_time_only(tmp_path, monkeypatch):
    """As when another user owns it. Tests may run as root, who may enter every folder."""
    place = fill(tmp_path / "d", "a", "b")
    stat, mkdir = os.stat, Path.mkdir

    def guarded(path, *args, **options):
        if "cache" in Path(os.fsdecode(path)).parts if not isinstance(path, int) else False:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **options)

    def no_folder(self, *args, **options):
        if "cache" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return mkdir(self, *args, **options)

    monkeypatch.setattr(os, "stat", guarded)
    monkeypatch.setattr(Path, "mkdir", no_folder)
    with pytest.warns(
        CourseWarning, match=r"cannot keep decoded pictures in .*cache .*Permission denied.*: set MLCOURSE_C"
    ):
        assert datasets.load(place, "all", size=4).classes == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may enter every folder")
@pytest.mark.parametrize("rights", [0o000, 0o500])
def test_a_closed_cache_folder_costs_time_only(tmp_path, rights):
    place = fill(tmp_path / "d", "a", "b")
    cache.folder().mkdir()
    cache.folder().chmod(rights)
    try:
        with pytest.warns(CourseWarning, match="set MLCOURSE_CACHE"):
            assert datasets.load(place, "all", size=4).classes == 2
    finally:
        cache.folder().chmod(0o700)


# Paths

ODD = [
    "a%20b",
    "{x}",
    "{",
    "%s %(y)d",
    "a b\u00fc",
    "#1?&=",
    "'\"",
    "n" * 240,
    "\u00fc" * 120,
    "-x",
    "~",
    "$HOME",
    "glyphs ",
]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("where", ["folder", "class", "file"])
def test_odd_names(tmp_path, monkeypatch, name, where):
    place, kind, file = tmp_path / "d", "kind", "0.png"
    if where == "folder":
        place = tmp_path / name
    elif where == "class":
        kind = name
    else:
        file = f"{name}.png"
    fill(place, kind, "other")
    (place / kind / "0.png").rename(place / kind / file)
    monkeypatch.chdir(tmp_path)
    loaded = datasets.load(place, "all", size=4)
    assert set(loaded.names) == {kind, "other"}
    assert datasets.load(f"./{place.name}", "all", size=4).names == loaded.names
    assert len(list(cache.folder().iterdir())) == 1  # kept, and found again
    repr(loaded)


@pytest.mark.skipif(os.name == "nt", reason="Windows' names are text")
@pytest.mark.parametrize("raw", [b"caf\xe9", b"a\nb", b"\x1b[31mred", b"\xff\xfe", b"\xed\xa0\x80"])
@pytest.mark.parametrize("where", ["folder", "class", "file"])
def test_names_that_are_no_text(tmp_path, raw, where):
    name = os.fsdecode(raw)
    place, kind, file = tmp_path / "d", "kind", "0.png"
    if where == "folder":
        place = tmp_path / name
    elif where == "class":
        kind = name
    else:
        file = f"{name}.png"
    fill(place, "kind", "other")
    (place / "kind").rename(place / kind)
    (place / kind / "0.png").rename(place / kind / file)
    loaded = datasets.load(place, "all", size=4)
    for text in (repr(loaded), loaded.name, *loaded.names):
        assert text.encode().decode().isprintable()
    assert datasets.load(os.fsencode(place), "all", size=4).counts.tolist() == [2, 2]
    assert datasets.counts(place).keys() == set(loaded.names)
    (place / kind / file).write_bytes(b"damaged")
    with pytest.raises(CourseError) as error:
        datasets.load(place, "all", size=4)
    assert str(error.value).isprintable()
    files.write_json(tmp_path / "config.json", {"dataset": data.lasting_name(str(place))})
    assert files.read_json(tmp_path / "config.json") == {"dataset": str(place)}


def test_what_is_no_text_is_written_as_its_byte():
    assert printable(os.fsdecode(b"caf\xe9\n.png")) == "caf\\xe9\\n.png" or os.name == "nt"
    assert printable("caf\u00e9 \ud800") == "caf\u00e9 \\ud800"
    assert printable("one\u2028two\u2029three\x85") == "one\\u2028two\\u2029three\\x85"  # `splitlines` breaks there


@pytest.mark.parametrize("length", [255, 250, 241])
def test_a_file_may_have_a_name_as_long_as_the_disk_takes(tmp_path, length):
    for name in ("n" * length, "\u00fc" * (length // 2)):
        files.write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("target", ["itself", "nowhere", "pipe"])
@pytest.mark.parametrize("where", ["class", "picture", "hidden"])
def test_links_that_lead_nowhere_are_named(tmp_path, target, where):
    place = fill(tmp_path / "d", "a", "b")
    link = place / {"class": "c", "picture": "a/9.png", "hidden": "a/.#9.png"}[where]
    if target == "pipe":
        os.mkfifo(link)
    else:
        link.symlink_to(link if target == "itself" else tmp_path / "gone")
    if where == "hidden":
        assert datasets.counts(place) == {"a": 2, "b": 2}
        return
    with pytest.raises(
        CourseError, match=f"{link.name} is neither a file nor a folder, such as a link that leads nowh"
    ):
        datasets.load(place, "all")


def test_a_data_set_that_is_a_link_to_itself(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CourseError, match="loop is no folder that can be entered"):
        datasets.load(tmp_path / "loop")
    (tmp_path / "omniglot-py").symlink_to(tmp_path / "loop")
    with pytest.raises(CourseError, match=r"omniglot-py is no folder .*link that leads nowhere"):
        datasets.load("omniglot", root=tmp_path)
    with pytest.raises(CourseError, match="omniglot-py is no folder"):
        datasets.load("omniglot", root=tmp_path, download=True)


def test_links_that_lead_somewhere_are_followed(tmp_path):
    place = fill(tmp_path / "d", "a", "b")
    (tmp_path / "link").symlink_to(place)
    (place / "c").symlink_to(place / "a")
    assert datasets.load(tmp_path / "link", "all", size=4).names == ("a", "b", "c")


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    place = fill(tmp_path / "d", "a", "b")
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(CourseError, match=r"the folder .*b cannot be read \(Permission denied\)"):
        datasets.load(place, "all")


@pytest.mark.parametrize("name", ["", " ", b"", None, 3, ["glyphs"]])
def test_a_name_that_names_nothing_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(fill(tmp_path / "d", "a", "b"))
    with pytest.raises(CourseError, match=r"(name is empty|is no name and no path): choose glyphs, omniglot"):
        datasets.load(name, "all")
    assert datasets.load(".", "all", size=4).name == "d"  # said on purpose


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "n" * 300, "a/" * 3000, "a\0b", "\ud800"])
def test_paths_that_cannot_be_are_unknown_data_sets(name):
    with pytest.raises(CourseError, match="unknown data set"):
        datasets.load(name)
    with pytest.raises(CourseError, match=r"no folder|unknown data set"):
        datasets.load("omniglot", root=name)


def test_a_size_that_is_a_truth_value_is_refused():
    with pytest.raises(CourseError, match="size True is not a number of pixels"):
        datasets.load("glyphs", size=True)


def test_the_loser_of_a_download_race_takes_the_winners_copy(tmp_path):
    """Both find nothing, both fetch, both are whole: the second rename meets the first's folder."""
    both, found = threading.Barrier(2), []

    def fetch(folder):
        (folder / "set").mkdir()
        (folder / "set" / "file").write_text("x")
        both.wait(20)

    threads = [threading.Thread(target=lambda: found.append(local.find("set", tmp_path, fetch))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "set"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_file_in_the_place_of_a_download_is_an_error(tmp_path):
    def fetch(folder):
        (folder / "set").mkdir()
        (tmp_path / "set").write_text("came in between")

    with pytest.raises(CourseError, match="cannot download to"):
        local.find("set", tmp_path, fetch)


@pytest.mark.parametrize("error", local.BROKEN_DOWNLOAD)
def test_a_download_that_breaks_off_is_one_line(tmp_path, error):
    def fetch(folder):
        raise error("broken\nand more")

    with pytest.raises(CourseError, match=r"cannot download to .*set \(broken\): check network and disk"):
        local.find("set", tmp_path, fetch)
    assert not list(tmp_path.iterdir())


def test_relative_folders_of_the_environment_mean_the_folder_of_the_command(tmp_path, monkeypatch):
    """A notebook's kernel works in the notebook's folder."""
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLCOURSE_DATA", "copies/a%20b")
    monkeypatch.setenv("MLCOURSE_CACHE", "~/c")
    monkeypatch.setenv("MLCOURSE_WORK", "")
    assert local.default_root() == tmp_path / "copies" / "a%20b"
    CliRunner().invoke(app, ["tidy", "no-such-notebook"])
    assert os.environ["MLCOURSE_DATA"] == str(tmp_path / "copies" / "a%20b")
    assert os.environ["MLCOURSE_CACHE"] == str(Path.home() / "c")
    assert os.environ["MLCOURSE_WORK"] == ""
    places.settle()
    assert os.environ["MLCOURSE_DATA"] == str(tmp_path / "copies" / "a%20b")


# What commands need


def test_lasting_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data.lasting_name("glyphs") == "glyphs"
    assert data.lasting_name("a%20b/") == str(tmp_path / "a%20b")
    with pytest.raises(CourseError, match="--dataset is empty"):
        data.lasting_name("")


def test_pictures_in_another_shape(tmp_path):
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[...] = (200, 100, 50)
    for i in range(2):
        save(tmp_path / "d" / "a" / f"{i}.png", colours)
    loaded = data.load(str(tmp_path / "d"), "all", shape=(1, 28, 28))
    assert loaded.shape == (1, 28, 28)
    luma = Image.fromarray(colours).convert("L").getpixel((0, 0))
    assert loaded.images.unique().tolist() == [luma]
    glyphs = datasets.load("glyphs", "val", rotations=False).select([0])
    large = glyphs.in_shape((3, 84, 84))
    assert large.shape == (3, 84, 84)
    assert large.images.dtype == torch.uint8
    back = large.in_shape((1, 28, 28)).images.float() - glyphs.images.float()
    assert back.abs().mean() < 12
    assert data.load("glyphs", "val", shape=(3, 20, 20)).shape == (3, 20, 20)
    assert glyphs.in_shape((1, 28, 28)) is glyphs
    for shape in ((2, 28, 28), (1, 0, 28), (28, 28)):
        with pytest.raises(CourseError, match=r"give \(1 or 3, H, W\)"):
            glyphs.in_shape(shape)


def test_classes_with_enough_pictures(tmp_path):
    place = fill(tmp_path / "d", "a", "b")
    fill(place, "c", pictures=5)
    loaded = datasets.load(place, "all", size=4)
    kept, left_out = loaded.with_at_least(3)
    assert (kept.names, left_out) == (("c",), ("a", "b"))
    assert loaded.with_at_least(2) == (loaded, ())
    with pytest.raises(CourseError, match="no class of d all has 6 samples; 'c' has most, 5"):
        loaded.with_at_least(6)


def test_help_says_how_a_folder_is_split():
    for words in ("train, val and test folders", "60 % train, 20 % val, 20 % test", "at least 4 classes", "left out"):
        assert words in data.DATASET_HELP
    assert f"at least {class_folders.LEAST_CLASSES} classes" in data.DATASET_HELP


# ------------------------------------------------------------------ one class under two names, one picture twice


@pytest.mark.parametrize(
    ("one", "other"),
    [("Anna", "anna"), ("STRASSE", "straße"), ("ＡＢＣ", "abc"), ("Andr\u00e9", "ANDRE\u0301"), ("ﬁsh", "FISH")],
)
def test_names_that_differ_in_capitals_only_are_said(tmp_path, one, other):
    fill(tmp_path / "d" / "train", one, "bob", "cat")
    fill(tmp_path / "d" / "test", other, "eve")
    with pytest.warns(CourseWarning, match="differ in capitals or in the form of a sign only: 1, such as") as told:
        assert len(datasets.counts(tmp_path / "d")) == 5
    assert any("a class that is trained on is not new" in str(one.message) for one in told)
    assert all("\n" not in str(one.message) for one in told)


def test_names_that_differ_are_not_alike(tmp_path):
    fill(tmp_path / "d" / "train", "Anna", "Hannah", "o")
    fill(tmp_path / "d" / "test", "Ana", "ö", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.counts(tmp_path / "d")


def test_letters_of_one_folder_are_said_too(tmp_path):
    fill(tmp_path / "d", "A", "B", "b", "c")
    if len(os.listdir(tmp_path / "d")) == 4:  # not where the disk takes B and b for one
        with pytest.warns(CourseWarning, match="sign only: 1, such as 'B' and 'b'"):
            datasets.counts(tmp_path / "d")


def test_copies_of_a_picture_in_its_class_are_counted(tmp_path):
    fill(tmp_path / "d" / "train", "ann", "bob", "cat", pictures=4)
    fill(tmp_path / "d" / "test", "eve", "fay", pictures=3, start=100)
    train = tmp_path / "d" / "train"
    shutil.copy(train / "bob" / os.listdir(train / "bob")[0], train / "bob" / "again.png")
    shutil.copy(train / "bob" / "again.png", train / "bob" / "once more.png")
    shutil.copy(train / "cat" / os.listdir(train / "cat")[0], train / "cat" / "again.png")
    shutil.copy(train / "ann" / os.listdir(train / "ann")[0], tmp_path / "d" / "test" / "eve" / "other class.png")
    with pytest.warns(CourseWarning, match="d: byte copies of other pictures in their class: 3, such as in 'bob'"):
        datasets.load(tmp_path / "d", "train", size=8)


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_a_picture_that_lies_in_two_classes_is_told_whichever_split_is_asked_for(tmp_path, split):
    fill(tmp_path / "d" / "train", "ann", "bob", "cat", pictures=4)
    fill(tmp_path / "d" / "val", "dan", "eli", pictures=4, start=50)
    fill(tmp_path / "d" / "test", "eve", "fay", pictures=3, start=100)
    train, test = tmp_path / "d" / "train", tmp_path / "d" / "test"
    one = sorted(os.listdir(train / "ann"))[0]
    shutil.copy(train / "ann" / one, test / "eve" / "other class.png")
    shutil.copy(train / "ann" / one, test / "fay" / "and another.png")
    found = re.escape("another class: 1, such as 'train/ann/0.png' (train) and 'test/eve/other class.png' (test)")
    with pytest.warns(CourseWarning, match=found) as told:
        datasets.load(tmp_path / "d", split, size=8)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.load(tmp_path / "d", "val", size=8)


def test_pictures_of_one_size_and_one_end_are_no_copies(tmp_path):
    where = {"a": "train", "b": "train", "c": "test", "d": "test"}
    for k, (name, part) in enumerate(where.items()):
        folder = tmp_path / "d" / part / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("L", (100, 100), 10 * k + number).save(folder / f"{number}.bmp")
            with open(folder / f"{number}.bmp", "ab") as file:
                file.write(bytes(2 * class_folders.END))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        datasets.load(tmp_path / "d", "all", size=8)
    shutil.copy(tmp_path / "d" / "train" / "a" / "0.bmp", tmp_path / "d" / "test" / "d" / "copy.bmp")
    with pytest.warns(CourseWarning, match="another class: 1, such as 'train/a/0.bmp' "):
        datasets.load(tmp_path / "d", "all", size=8)
