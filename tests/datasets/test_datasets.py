"""Loaders: what they return, that splits share nothing, that no order depends on the disk, and what bad data says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mlcourse import datasets, files
from mlcourse.datasets import ClassImages, cache, caltech101, class_folders, local, omniglot, pictures
from mlcourse.errors import CourseError, CourseWarning

REAL = os.environ.get("MLCOURSE_DATA")
SPLITS = ("train", "val", "test")


def real(folder):
    there = bool(REAL) and (Path(REAL) / folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"needs {folder} in the folder that MLCOURSE_DATA names")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory):
    """One cache for the tests on real data: Omniglot is decoded once."""
    return tmp_path_factory.mktemp("real-cache")


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 10, 3), 90, np.uint8) if pixels is None else pixels
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Three classes, named so that all three splits have one."""
    place = tmp_path / "photos"
    for name, value in (("apple", 10), ("lemon", 20), ("melon", 30)):
        for i in range(3):
            save(place / name / f"{i}.png", np.full((30, 40, 3), value + i, np.uint8))
    return place


# ClassImages


def small():
    images = torch.arange(6 * 9, dtype=torch.uint8).view(6, 1, 3, 3)
    return ClassImages(images, torch.tensor([1, 3, 2]), ("a", "b", "c"), ("x", "x", "y"), "small", "all")


def test_class_images():
    data = small()
    assert data.classes == 3
    assert data.shape == (1, 3, 3)
    assert data.first.tolist() == [0, 1, 4]
    assert torch.equal(data.of_class(1), data.images[1:4])
    assert torch.equal(data.of_class(-1), data.images[4:])
    assert "3 classes in 2 groups, 6 images of 1×3×3" in repr(data)


def test_select_keeps_the_order_asked_for():
    part = small().select([2, 0])
    assert part.names == ("c", "a")
    assert part.groups == ("y", "x")
    assert part.counts.tolist() == [2, 1]
    assert torch.equal(part.images, small().images[[4, 5, 0]])
    assert small().select(torch.tensor([False, True, False])).names == ("b",)


def test_rotations_are_exact_and_only_for_the_mask():
    data = small()
    turned = data.with_rotations(torch.tensor([True, False, True]))
    turns = ("000", "090", "180", "270")
    assert turned.names == (*(f"a/rot{turn}" for turn in turns), "b", *(f"c/rot{turn}" for turn in turns))
    assert turned.counts.tolist() == [1] * 4 + [3] + [2] * 4
    for quarter in range(4):
        # numpy's rot90 on rows and columns turns counter-clockwise, as Pillow's rotate does
        expected = np.rot90(data.of_class(2).numpy(), quarter, axes=(2, 3))
        assert np.array_equal(turned.of_class(5 + quarter).numpy(), expected)
        picture = Image.fromarray(data.of_class(2)[1, 0].numpy()).rotate(90 * quarter)
        assert np.array_equal(turned.of_class(5 + quarter)[1, 0].numpy(), np.asarray(picture))
    assert data.with_rotations().classes == 12


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda d: d.of_class(3), "class 3 does not exist: small all has 3 classes"),
        (lambda d: d.select([3]), r"cannot select classes \[3\]: give indices in 0..2"),
        (lambda d: d.select([]), "at least one"),
        (lambda d: d.with_rotations(torch.ones(2)), r"rotation mask has shape \(2,\)"),
        (lambda d: ClassImages(d.images.float(), d.counts, d.names, d.groups, "", ""), "must be uint8"),
        (lambda d: ClassImages(d.images[1:], d.counts, d.names, d.groups, "", ""), "counts add up to 6"),
        (lambda d: ClassImages(d.images, d.counts, d.names[1:], d.groups, "", ""), "3 counts, 2 names, 3 groups"),
        (
            lambda d: ClassImages(d.images[:, :, 1:], d.counts, d.names, d.groups, "", "").with_rotations(),
            "pictures of 2×3 cannot turn",
        ),
    ],
)
def test_class_images_errors(action, message):
    with pytest.raises(CourseError, match=message):
        action(small())


# Folders of class folders


def test_folder(folder):
    data = datasets.load(folder, "all")
    assert data.names == data.groups == ("apple", "lemon", "melon")
    assert data.shape == (3, 84, 84)
    assert data.images.dtype == torch.uint8
    assert data.counts.tolist() == [3, 3, 3]
    assert data.name == "photos"
    assert data.split == "all"
    assert data.of_class(1)[:, 0, 40, 40].tolist() == [20, 21, 22]
    assert datasets.load(str(folder), "all", size=32).shape == (3, 32, 32)
    assert datasets.load(folder, "all", size=8, rotations=True).classes == 12


def test_folder_order_is_by_name_and_hidden_files_stay_out(folder, monkeypatch):
    for hidden in (".DS_Store", "apple/._1.png", "apple/.hidden.png"):
        (folder / hidden).write_bytes(b"no picture")
    (folder / ".cache").mkdir()
    (folder / "notes.txt").write_text("beside the classes")
    (folder / "apple" / "notes.txt").write_text("not a picture")
    expected = datasets.load(folder, "all")
    scandir = os.scandir

    class Backwards:
        def __init__(self, place):
            with scandir(place) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setenv("MLCOURSE_CACHE", str(folder.parent / "other-cache"))
    again = datasets.load(folder, "all")
    assert again.names == expected.names
    assert torch.equal(again.images, expected.images)
    assert expected.counts.tolist() == [3, 3, 3]


def test_folder_split_by_name_is_fixed(folder):
    # Written down: a change of the hash would move classes between splits of everybody's folders.
    names = [f"class {i}" for i in range(12)]
    assert [class_folders.split_of(name) for name in names] == [
        *(["train"] * 7),
        "val",
        "train",
        "train",
        "val",
        "test",
    ]
    everything = [name for split in SPLITS for name in datasets.counts(folder, split)]
    assert sorted(everything) == ["apple", "lemon", "melon"]
    shares = [class_folders.split_of(f"name {i}") for i in range(3000)]
    assert [round(shares.count(split) / 3000, 1) for split in SPLITS] == [0.6, 0.2, 0.2]
    trainval, test = (list(datasets.counts(folder, split)) for split in ("trainval", "test"))
    assert sorted(trainval + test) == ["apple", "lemon", "melon"]


def test_folder_with_its_own_splits(tmp_path):
    for part, name in (("train", "oak"), ("train", "ash"), ("test", "elm")):
        for i in range(2):
            save(tmp_path / part / name / f"{i}.png")
    assert datasets.load(tmp_path, "train").names == ("ash", "oak")
    assert datasets.load(tmp_path, "test").names == ("elm",)
    assert datasets.load(tmp_path, "all").names == ("ash", "oak", "elm")
    with pytest.raises(CourseError, match="no class folders for split 'val'"):
        datasets.load(tmp_path, "val")


def test_crop_is_the_centre_of_the_shorter_side(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    for i in range(2):
        save(tmp_path / "d" / "wide" / f"{i}.png", wide)
    assert datasets.load(tmp_path / "d", "all", size=20).images.eq(200).all()


def test_exif_rotation(tmp_path):
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me by 90 degrees clockwise to see me upright"
    for i in range(2):
        save(tmp_path / "d" / "turned" / f"{i}.jpg", picture, exif=exif, quality=95)
    upright = datasets.load(tmp_path / "d", "all", size=40).of_class(0)[0, 0].float()
    assert upright[:, 25:].mean() > 200  # bright at the right
    assert upright[:, :15].mean() < 50


def test_every_kind_of_picture(tmp_path):
    place = tmp_path / "d" / "kinds"
    grey = np.full((9, 9), 100, np.uint8)
    save(place / "a_grey.png", grey)
    save(place / "b_sixteen.png", (grey.astype(np.uint16) * 257))
    save(place / "c_bit.png", np.ones((9, 9), bool))
    clear = np.zeros((9, 9, 4), np.uint8)
    save(place / "d_clear.png", clear)
    Image.fromarray(grey).convert("P").save(place / "e_palette.gif")
    Image.new("CMYK", (9, 9), (0, 0, 0, 0)).save(place / "f_print.jpg")
    Image.fromarray(grey).save(place / "g.bmp")
    Image.fromarray(grey).save(place / "h.WEBP", lossless=True)
    Image.fromarray(grey).save(place / "i.tiff")
    values = datasets.load(tmp_path / "d", "all", size=4).images[:, :, 2, 2]
    assert torch.equal(values[:, 0], values[:, 2])
    assert values[:, 0].tolist() == [100, 100, 255, 255, 100, 255, 100, 100, 100]


def test_a_jpeg_is_not_coarser_for_being_decoded_small(tmp_path):
    generator = np.random.default_rng(0)
    rough = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    big = np.asarray(Image.fromarray(rough).resize((960, 960), Image.Resampling.BICUBIC))
    for i in range(2):
        save(tmp_path / "d" / "a" / f"{i}.jpg", big, quality=95)
        save(tmp_path / "d" / "b" / f"{i}.png", big)
    data = datasets.load(tmp_path / "d", "all")
    assert (data.of_class(0).float() - data.of_class(1).float()).abs().mean() < 3


# What bad data says


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", ["png", "jpg", "text", "empty"])
def test_a_damaged_picture_is_named(folder, kind):
    bad = folder / "lemon" / f"bad.{'jpg' if kind == 'jpg' else 'png'}"
    if kind in ("png", "jpg"):
        save(bad, np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
        damage(bad)
    else:
        bad.write_text("I am text" if kind == "text" else "")
    with pytest.raises(
        CourseError, match=r"bad\.\w+ is no readable picture \(.+\): replace or remove the file"
    ) as error:
        datasets.load(folder, "all")
    assert "\n" not in str(error.value)
    assert not list(cache.folder().glob("*"))


def test_a_picture_with_far_too_many_pixels_is_named(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CourseError, match=r"apple/0\.png is no readable picture".replace("/", r"[/\\]")):
        datasets.load(folder, "all")


def test_floating_point_pictures_are_refused(tmp_path):
    for i in range(2):
        save(tmp_path / "d" / "a" / f"{i}.tiff", np.ones((5, 5), np.float32))
    with pytest.raises(CourseError, match="floating-point pixels have no agreed range"):
        datasets.load(tmp_path / "d", "all")


def test_a_class_with_one_picture_is_left_out_and_named(folder):
    save(folder / "lonely" / "1.png")
    (folder / "empty").mkdir()
    (folder / "lonely" / "IMG_2.xyz").write_bytes(b"a camera's own format")
    with pytest.warns(CourseWarning) as said:
        data = datasets.load(folder, "all")
    assert data.names == ("apple", "lemon", "melon")
    other, small = (str(one.message) for one in said)
    assert "no picture: 1 .xyz, such as lonely/IMG_2.xyz; convert to JPEG" in other
    assert "2 of 5 classes have fewer than 2 pictures and are left out: 'empty' (0), 'lonely' (1); add" in small


def test_a_folder_without_classes(tmp_path):
    with pytest.raises(
        CourseError, match="has no class folders for split 'train': put one folder of pictures per class"
    ):
        datasets.load(tmp_path)


def test_a_split_without_classes(tmp_path):
    train_only = next(f"c{i}" for i in range(99) if class_folders.split_of(f"c{i}") == "train")
    save(tmp_path / train_only / "1.png")
    save(tmp_path / train_only / "2.png")
    with pytest.raises(
        CourseError, match=r"none of the 1 classes of .* falls into split 'test' \(1 train, 0 val, 0 test; at least 4"
    ):
        datasets.load(tmp_path, "test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name_or_folder": "omniglto"}, "unknown data set 'omniglto': did you mean 'omniglot'"),
        ({"name_or_folder": "no/such/folder"}, "unknown data set 'no/such/folder'"),
        ({"name_or_folder": "glyphs", "split": "tset"}, "unknown split 'tset': choose train, val, test"),
        ({"name_or_folder": "omniglot", "protocol": "lakes"}, "unknown protocol 'lakes' for omniglot"),
        ({"name_or_folder": "glyphs", "protocol": "lake"}, "protocol 'lake' is for omniglot only"),
        ({"name_or_folder": "glyphs", "size": 0}, "size 0 is not a number of pixels"),
        ({"name_or_folder": "glyphs", "size": 32}, "size 32 is not there: glyphs are stored at 28×28"),
    ],
)
def test_bad_requests(arguments, message):
    with pytest.raises(CourseError, match=message) as error:
        datasets.load(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["omniglot", "caltech101"])
def test_a_missing_copy_says_how_to_get_one(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_DATA", str(tmp_path))
    with pytest.raises(CourseError, match=r"--data-root \(root=\) or MLCOURSE_DATA, or fetch it once with --download"):
        datasets.load(name)
    assert not list(tmp_path.glob("*"))


def test_root_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_DATA", "elsewhere")
    with pytest.raises(CourseError, match=f"no folder {tmp_path / 'omniglot-py'}".replace("\\", r"\\")):
        datasets.load("omniglot", root=tmp_path)
    with pytest.raises(CourseError, match=r"no folder .*[/\\]elsewhere[/\\]omniglot-py"):  # absolute: one sees where
        datasets.load("omniglot")


# Downloads


def test_a_download_lands_whole(tmp_path):
    def fetch(folder):
        (folder / "set").mkdir()
        (folder / "set" / "file").write_text("x")

    assert local.find("set", tmp_path, fetch) == tmp_path / "set"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert local.find("set", tmp_path, None) == tmp_path / "set"


def test_a_broken_download_leaves_nothing(tmp_path):
    def fetch(folder):
        (folder / "set").mkdir()
        (folder / "set" / "half").write_text("x")
        raise RuntimeError("File not found or corrupted.")

    with pytest.raises(CourseError, match=r"cannot download to .*set \(File not found or corrupted"):
        local.find("set", tmp_path, fetch)
    assert not list(tmp_path.iterdir())


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "_download", lambda folder: pytest.fail("downloaded"))
    with pytest.raises(CourseError, match="no folder"):
        datasets.load("omniglot", root=tmp_path)


# The cache


def count_decodes(monkeypatch):
    calls = []
    decode = pictures.read_photos
    monkeypatch.setattr(pictures, "read_photos", lambda *a: calls.append(1) or decode(*a))
    return calls


def test_the_second_load_decodes_nothing(folder, monkeypatch):
    calls = count_decodes(monkeypatch)
    first, second = datasets.load(folder, "all"), datasets.load(folder, "all")
    assert len(calls) == 1
    assert torch.equal(first.images, second.images)
    datasets.load(folder, "all", size=20)
    assert len(calls) == 2


def test_a_changed_folder_is_decoded_anew(folder, monkeypatch):
    calls = count_decodes(monkeypatch)
    datasets.load(folder, "all")
    save(folder / "melon" / "0.png", np.full((30, 40, 3), 200, np.uint8))
    os.utime(folder / "melon" / "0.png", (1, 1))
    assert datasets.load(folder, "all").of_class(2)[0].eq(200).all()
    save(folder / "melon" / "9.png")
    assert datasets.load(folder, "all").counts.tolist() == [3, 3, 4]
    (folder / "melon" / "9.png").unlink()
    assert datasets.load(folder, "all").counts.tolist() == [3, 3, 3]
    assert len(calls) == 4
    assert len(list(cache.folder().iterdir())) == 1  # one entry for one folder, not one for each of its states


def test_entries_that_nobody_can_read_are_forgotten_and_nothing_else(folder, tmp_path, monkeypatch):
    gone, kept = tmp_path / "gone", tmp_path / "kept"
    for copy in (gone, kept):
        shutil.copytree(folder, copy)
        datasets.load(copy, "all")
    cache.remember_content("of-content", {"digest": "1"}, lambda: {"one": torch.ones(1)})
    with monkeypatch.context() as earlier:
        earlier.setattr(cache, "FORMAT", cache.FORMAT - 1)
        datasets.load(folder, "all", size=11)
    others = [
        cache.folder() / name for name in ("notes.txt", "learner.safetensors", "learner-0123456789abcdef.safetensors")
    ]
    others[0].write_text("mine")
    for other in others[1:]:
        files.save_tensors(other, {"weight": torch.ones(2)}, {"mine": True})
    (cache.folder() / "half-00123456789abcde.safetensors").write_bytes(b"half a file")
    entries = {path.name for path in cache.folder().iterdir()}
    this = json.dumps({"format": cache.FORMAT})
    strange = [
        "null",
        "3",
        '"x"',
        "[]",
        "[" * 100_000,
        '{"key": 1}',
        '{"key": "[]"}',
        json.dumps({"key": '{"format": "1"}'}),
    ]
    strange += [json.dumps({"key": this, "root": root}) for root in ([1], 10**30, None)]
    for number, told in enumerate(strange):
        save_file({"one": torch.ones(1)}, cache.folder() / f"strange-{number:016x}.safetensors", {"json": told})
    entries = {path.name for path in cache.folder().iterdir()}
    shutil.rmtree(gone)
    (old,) = cache.folder().glob("gone-*")
    os.utime(old, (1, 1))  # a folder that has just gone may come back: its disk is plugged in again
    shutil.copytree(folder, tmp_path / "elsewhere")
    datasets.load(tmp_path / "elsewhere", "all")
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    datasets.load(folder, "all")
    (tmp_path / "away").rename(tmp_path / "elsewhere")
    after = {path.name for path in cache.folder().iterdir()}
    assert {name.partition("-")[0] for name in entries - after} == {
        "gone",
        folder.name,
    }  # the second: of an older format
    assert len(entries - after) == 2
    assert {name.partition("-")[0] for name in after - entries} == {folder.name, "elsewhere"}
    calls = count_decodes(monkeypatch)
    datasets.load(kept, "all")
    datasets.load(tmp_path / "elsewhere", "all")
    assert calls == []


def test_a_full_disk_is_rid_of_what_nobody_reads(folder, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(cache, "FORMAT", cache.FORMAT - 1)
        datasets.load(folder, "all", size=11)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_tensors", full)
    with pytest.warns(CourseWarning, match="cannot keep decoded pictures"):
        datasets.load(folder, "all")
    assert list(cache.folder().iterdir()) == []


def test_processes_that_forget_at_once_disturb_nobody(folder, tmp_path, monkeypatch):
    """Each of three processes finds the old entries of the others, and somebody else removes them meanwhile."""
    with monkeypatch.context() as earlier:
        earlier.setattr(cache, "FORMAT", cache.FORMAT - 1)
        for size in range(8, 48):
            datasets.load(folder, "all", size=size)
    program = (
        "import sys; from mlcourse import datasets; [datasets.load(sys.argv[1], 'all', size=n) for n in range(50, 60)]"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, folder], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert len(list(cache.folder().iterdir())) == 10


@pytest.mark.parametrize("harm", ["truncated", "flipped", "text", "empty", "folder"])
def test_a_damaged_cache_is_rebuilt(folder, monkeypatch, harm):
    calls = count_decodes(monkeypatch)
    expected = datasets.load(folder, "all").images
    (entry,) = cache.folder().iterdir()
    content = entry.read_bytes()
    if harm == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        flipped = content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]
        entry.write_bytes({"truncated": content[:-50], "flipped": flipped, "text": b"hello", "empty": b""}[harm])
    if harm == "folder":
        with pytest.warns(UserWarning, match="cannot keep decoded pictures"):
            assert torch.equal(datasets.load(folder, "all").images, expected)
        return
    assert torch.equal(datasets.load(folder, "all").images, expected)
    assert len(calls) == 2
    datasets.load(folder, "all")
    assert len(calls) == 2


def test_without_a_place_for_the_cache_loading_goes_on(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="set MLCOURSE_CACHE"):
        assert datasets.load(folder, "all").classes == 3


# Omniglot


@pytest.fixture
def tiny_omniglot(tmp_path, monkeypatch):
    """The layout of Omniglot with few characters."""
    characters = {
        "images_background": ["Latin/character01", "Hebrew/character01", "Greek/character01", "Greek/character02"],
        "images_evaluation": ["Tibetan/character01", "Gurmukhi/character41", "Gurmukhi/character42"],
    }
    number = 0
    for half, names in characters.items():
        for name in names:
            number += 1
            for drawer in range(1, 21):
                ink = np.ones((105, 105), bool)
                ink[30:60, 5 * number : 5 * number + 10] = False  # ink = 0
                save(tmp_path / "omniglot-py" / half / name / f"{number:04d}_{drawer:02d}.png", ink)
    monkeypatch.setattr(omniglot, "CHARACTERS", {half: len(names) for half, names in characters.items()})
    return tmp_path


def test_omniglot_layout(tiny_omniglot):
    data = datasets.load("omniglot", "train", root=tiny_omniglot)
    assert data.names[:2] == ("Greek/character01/rot000", "Greek/character01/rot090")
    assert data.groups[0] == "Greek"
    assert data.shape == (1, 28, 28)
    assert data.counts.tolist() == [20] * data.classes
    plain = datasets.load("omniglot", "train", root=tiny_omniglot, rotations=False)
    assert plain.names == ("Greek/character01", "Greek/character02", "Gurmukhi/character41", "Latin/character01")
    assert torch.equal(plain.of_class(1), data.of_class(4))
    assert plain.images.min() == 0
    assert plain.images.max() > 240  # ink, not paper, is bright
    assert plain.images.float().mean() < 40


def test_omniglot_protocols(tiny_omniglot):
    names = lambda **options: datasets.load("omniglot", root=tiny_omniglot, rotations=False, **options).names  # noqa: E731
    assert names(split="val") == names(split="val", protocol="lake") == ("Hebrew/character01",)
    assert names(split="test") == ("Gurmukhi/character42", "Tibetan/character01")
    assert names(split="test", protocol="lake")[0] == "Gurmukhi/character41"
    assert names(split="train", protocol="lake") == ("Greek/character01", "Greek/character02", "Latin/character01")
    assert len(names(split="all")) == 7
    assert set(names(split="trainval")) | set(names(split="test")) == set(names(split="all"))
    assert datasets.load("omniglot", protocol="lake", root=tiny_omniglot).classes == 3  # no rotations by default


def test_upright_pictures_and_which_of_them_turn(tiny_omniglot, folder):
    asked = [("omniglot", {"root": tiny_omniglot}), ("omniglot", {"root": tiny_omniglot, "protocol": "lake"})]
    for name, options in [*asked, (folder, {"split": "all"}), ("glyphs", {}), ("glyphs", {"split": "val"})]:
        images, turns = datasets.upright(name, **options)
        assert images.names == datasets.load(name, rotations=False, **options).names
        loaded = datasets.load(name, **options)
        assert images.with_rotations(turns).names == loaded.names
        assert torch.equal(images.with_rotations(turns).images, loaded.images)
    with pytest.raises(CourseError, match="unknown data set 'omnniglot'"):
        datasets.upright("omnniglot")


def test_omniglot_incomplete(tiny_omniglot):
    character = tiny_omniglot / "omniglot-py" / "images_background" / "Latin" / "character01"
    next(iter(sorted(character.iterdir()))).unlink()
    with pytest.raises(CourseError, match=r"has 19 drawings instead of 20: unpack images_background\.zip anew"):
        datasets.load("omniglot", root=tiny_omniglot)
    for file in character.iterdir():
        file.unlink()
    character.rmdir()
    with pytest.raises(CourseError, match="images_background has 3 characters instead of 4"):
        datasets.load("omniglot", root=tiny_omniglot)


def test_omniglot_without_a_half(tiny_omniglot):
    (tiny_omniglot / "omniglot-py" / "images_evaluation").rename(tiny_omniglot / "gone")
    with pytest.raises(CourseError, match="images_evaluation: the copy is incomplete"):
        datasets.load("omniglot", root=tiny_omniglot)


def test_omniglot_damaged_drawing(tiny_omniglot):
    bad = tiny_omniglot / "omniglot-py" / "images_background" / "Latin" / "character01" / "0001_07.png"
    damage(bad)
    with pytest.raises(CourseError, match=r"0001_07\.png is no readable picture"):
        datasets.load("omniglot", root=tiny_omniglot)


@real("omniglot-py")
def test_omniglot_is_the_vinyals_lists(real_cache, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(real_cache))
    for split in (*SPLITS, "trainval"):
        data = datasets.load("omniglot", split)
        listed = (Path(REAL) / "omniglot-py" / "splits" / "vinyals" / f"{split}.txt").read_text().split()
        assert len(data.names) == len(set(data.names)) == len(listed)
        assert set(data.names) == set(listed)


@real("omniglot-py")
def test_omniglot_lake(real_cache, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(real_cache))
    parts = {split: datasets.load("omniglot", split, protocol="lake") for split in SPLITS}
    assert [part.classes for part in parts.values()] == [792, 172, 659]
    alphabets = [set(part.groups) for part in parts.values()]
    assert [len(some) for some in alphabets] == [25, 5, 20]
    assert len(set.union(*alphabets)) == 50
    assert alphabets[2] == set(local.folders(Path(REAL) / "omniglot-py" / "images_evaluation"))


@real("omniglot-py")
def test_omniglot_pictures_and_the_second_load(real_cache, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(real_cache))
    data = datasets.load("omniglot", "all", rotations=False)
    assert len(data.images) == 32_460
    original = Path(REAL) / "omniglot-py" / "images_background" / "Greek" / "character03"
    first = np.asarray(Image.open(sorted(original.iterdir())[0]))
    ink = torch.from_numpy(~first).float()[None, None] * 255
    small = torch.nn.functional.interpolate(ink, (28, 28), mode="bilinear", antialias=True)[0, 0]
    stored = data.of_class(data.names.index("Greek/character03"))[0, 0].float()
    assert (stored - small).abs().max() <= 1
    monkeypatch.setattr(Image, "open", None)  # decoding takes seconds: the second load reads what the first has kept
    again = datasets.load("omniglot", "all", rotations=False)
    assert torch.equal(again.images, data.images)


# Caltech-101


def test_caltech_splits():
    names = [name for split in SPLITS for name in caltech101.SPLITS[split]]
    assert [len(caltech101.SPLITS[split]) for split in SPLITS] == [61, 20, 20]
    assert len(set(names)) == 101
    assert "BACKGROUND_Google" not in names
    side = {name: split for split in SPLITS for name in caltech101.SPLITS[split]}
    for same in (
        ("Faces", "Faces_easy"),
        ("crocodile", "crocodile_head"),
        ("cougar_body", "cougar_face", "wild_cat", "Leopards"),
        ("flamingo", "flamingo_head"),
        ("ketch", "schooner"),
        ("crab", "crayfish", "lobster"),
        ("electric_guitar", "mandolin"),
        ("lotus", "water_lilly"),
    ):
        assert len({side[name] for name in same}) == 1, same


def test_caltech_layout(tmp_path):
    place = tmp_path / "caltech101" / "101_ObjectCategories"
    for name in (*(name for split in SPLITS for name in caltech101.SPLITS[split]), "BACKGROUND_Google"):
        for i in (1, 2):
            save(place / name / f"image_{i:04d}.jpg")
    sets = [datasets.load("caltech101", split, root=tmp_path, size=8) for split in SPLITS]
    assert [data.classes for data in sets] == [61, 20, 20]
    assert sets[0].shape == (3, 8, 8)
    assert datasets.load("caltech101", "all", root=tmp_path, size=8).classes == 101
    for file in (place / "ant").iterdir():
        file.unlink()
    (place / "ant").rmdir()
    with pytest.raises(CourseError, match="lacks 1 of 61 classes, such as 'ant'"):
        datasets.load("caltech101", "train", root=tmp_path, size=8)


@real("caltech101")
def test_caltech_real(real_cache, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(real_cache))
    assert sorted(local.folders(Path(REAL) / "caltech101" / "101_ObjectCategories")) == sorted(
        name for split in SPLITS for name in caltech101.SPLITS[split]
    )
    data = datasets.load("caltech101", "test")
    assert data.shape == (3, 84, 84)
    assert int(data.counts.min()) >= 31
    assert data.names[0] == "barrel"


def test_no_loader_unpickles():
    # The formats are pictures, JSON and safetensors; a pickle could run code of whoever made the file.
    for source in Path(datasets.__file__).parent.glob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert not any(word in text for word in ("pickle", "torch.load", "allow_pickle=True", "eval("))
