"""`mlcourse data`: what is there is said as it is, a look at a folder shows what a training would take of it."""

import hashlib
import os
import shutil
import struct
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from mlcourse import datasets, places
from mlcourse.commands import app, data_sets


def command(*words):
    return CliRunner().invoke(app, ["data", *map(str, words)])


@pytest.fixture
def photos(tmp_path):
    """Six classes with 2 to 7 pictures, each class in a shade of its own."""
    for number in range(6):
        folder = tmp_path / "photos" / f"kind {number}"
        folder.mkdir(parents=True)
        for sample in range(2 + number):
            Image.new("RGB", (20, 20), (40 * number, 200 - 40 * number, 10 * sample)).save(folder / f"{sample}.png")
    return tmp_path / "photos"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """No local copies."""
    monkeypatch.setenv("MLCOURSE_DATA", str(tmp_path / "sets"))
    return tmp_path / "sets"


# -------------------------------------------------------------------------------- list, fetch


def test_help_imports_no_torch():
    code = "import sys; from mlcourse.commands import data_sets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    for words in ([], ["--help"], ["show", "--help"]):
        assert "list" in command(*words).output or "contact sheet" in command(*words).output


def test_list_says_what_is_here_and_how_to_get_the_rest(empty):
    answer = command("list")
    assert answer.exit_code == 0, answer.output
    counts = datasets.counts("glyphs", "all")
    assert f"here, embedded in the course: {len(counts):,} classes, {sum(counts.values()):,} pictures" in answer.output
    for name in ("omniglot", "caltech101"):
        assert f"not here: mlcourse data fetch {name} puts it" in answer.output
    assert str(empty) in answer.output
    assert answer.output.count("licence: ") == len(datasets.NAMES) == len(data_sets.ABOUT)


def test_every_data_set_is_listed():
    assert set(data_sets.ABOUT) == set(datasets.NAMES)


def test_a_copy_that_is_not_whole_is_said_and_not_fetched_over(empty):
    (empty / "omniglot-py" / "images_background").mkdir(parents=True)
    answer = command("list")
    assert answer.exit_code == 0, answer.output
    assert "  not usable: " in answer.output
    answer = command("fetch", "omniglot")
    assert answer.exit_code == 2
    assert "unpack" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_fetch_asks_for_a_download_only_where_nothing_is(empty, monkeypatch):
    asked = []

    def upright(name, split, *, root, download):
        asked.append((name, download))
        (empty / "omniglot-py").mkdir(parents=True)

    monkeypatch.setattr(datasets, "upright", upright)
    monkeypatch.setattr(datasets, "counts", lambda *_, **__: {"a": 20, "b": 20})
    for _ in range(2):
        answer = command("fetch", "omniglot")
        assert answer.exit_code == 0, answer.output
        assert f"omniglot: here: 2 classes, 40 pictures in {empty / 'omniglot-py'}" in answer.output
    assert asked == [("omniglot", True)]
    assert "embedded in the course" in command("fetch", "glyphs").output
    assert asked == [("omniglot", True)]


@pytest.mark.parametrize("name", ["mnist", "", "photos", "../omniglot"])
def test_what_cannot_be_fetched_is_one_line(empty, name):
    answer = command("fetch", name)
    assert answer.exit_code == 2
    assert ("choose omniglot or caltech101" if name else "an argument is empty") in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not empty.exists()


@pytest.mark.skipif(not os.environ.get("MLCOURSE_DATA"), reason="needs a local copy of Omniglot")
def test_the_local_omniglot_is_the_one_that_the_results_are_of():
    place = places.whole(os.environ["MLCOURSE_DATA"]) / "omniglot-py"
    if not place.is_dir():
        pytest.skip("needs a local copy of Omniglot")
    names = [path.relative_to(place).as_posix() for path in place.glob(data_sets.ABOUT["omniglot"].pictures)]
    assert data_sets.checksum(place, names) == data_sets.MEASURED_ON["omniglot"]


# -------------------------------------------------------------------------------- show


def test_show_says_splits_and_checksum_and_draws_a_sheet(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = command("show", "photos")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith("photos: 6 classes, 27 pictures\n")
    for split in ("train", "val", "test"):
        counts = datasets.counts(photos, split)
        said = next(line for line in answer.stdout.splitlines() if line.startswith(f"  {split}: "))
        assert said.startswith(f"  {split}: {len(counts) or 'no'} classes")
    [made] = (tmp_path / "runs" / "data").glob("photos-????????.png")
    sheet = Image.open(made).convert("RGB")
    rows = [line for line in answer.stdout.splitlines() if line.startswith("  row ")]
    assert len(rows) == 6
    for number, line in enumerate(rows):  # each row shows the class that it is said to be
        kind = int(line.split("kind ")[1].split()[0])
        x, y = data_sets.GAP + 40, data_sets.GAP + number * (84 + data_sets.GAP) + 40
        assert sheet.getpixel((x, y)) == (40 * kind, 200 - 40 * kind, 0)
        beyond = data_sets.GAP + (2 + kind) * (84 + data_sets.GAP) + 40
        assert sheet.getpixel((beyond, y)) == (128, 128, 128)  # no picture that is not there


def test_the_checksum_is_that_of_the_shells_own_tool(photos):
    names = sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*.png"))
    before = data_sets.checksum(photos, names)
    assert before == data_sets.checksum(photos, names[::-1])
    if shutil.which("sha256sum"):
        said = subprocess.run(["sha256sum", *names], cwd=photos, capture_output=True, check=True).stdout
        assert before == hashlib.sha256(said).hexdigest()
    (photos / names[0]).write_bytes((photos / names[0]).read_bytes() + b"\0")
    changed = data_sets.checksum(photos, names)
    (photos / names[0]).rename(photos / "kind 0" / "other.png")
    renamed = data_sets.checksum(photos, [name.replace(names[0], "kind 0/other.png") for name in names])
    assert len({before, changed, renamed}) == 3


def test_digits_that_lie_in_two_files_are_shown(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    labels, pictures = bytes(range(10)) * 2, bytes(28 * 28 * 20)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 20) + labels)
    (raw / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 20, 28, 28) + pictures)
    answer = command("show", "mnist", "--data-root", tmp_path, "--out", tmp_path / "sheet.png")
    assert answer.exit_code == 0, answer.output
    assert "test: 10 classes of 2 pictures" in answer.output
    assert f"SHA-256 of its pictures: {data_sets.checksum(raw, sorted(os.listdir(raw)))}" in answer.output


def test_grey_pictures_are_shown_larger(tmp_path):
    answer = command("show", "glyphs", "--out", tmp_path / "sheet.png")
    assert answer.exit_code == 0, answer.output
    assert "licence: CC BY 4.0" in answer.output
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width == 2 * (data_sets.GAP + data_sets.COLUMNS * (28 + data_sets.GAP))
    assert [line.split("(")[-1] for line in answer.output.splitlines() if "row " in line] == (
        ["train)"] * 4 + ["val)"] * 4 + ["test)"] * 4
    )


def test_nothing_is_overwritten_and_a_damaged_picture_is_named(photos, tmp_path):
    (tmp_path / "mine.png").write_text("a picture of somebody")
    answer = command("show", photos, "--out", tmp_path / "mine.png")
    assert answer.exit_code == 2
    assert "is there already and is not overwritten" in answer.stderr
    assert (tmp_path / "mine.png").read_text() == "a picture of somebody"
    (photos / "kind 3" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n half of it")
    answer = command("show", photos, "--out", tmp_path / "sheet.png")
    assert answer.exit_code == 2
    assert "0.png" in answer.stderr
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize("name", ["omnniglot", "", "gone/folder"])
def test_what_cannot_be_shown_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = command("show", name)
    assert answer.exit_code == 2
    assert len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_rows_are_shared_by_the_splits():
    counts = {"train": {f"a{n}": 3 for n in range(40)}, "val": {}, "test": {"b": 2, "c": 2}}
    rows = data_sets.chosen(counts)
    assert [split for split, _ in rows] == ["train"] * 6 + ["test"] * 2
    assert len(set(rows)) == len(rows) <= data_sets.ROWS
    assert rows[0] == ("train", "a0")
    assert ("train", "a33") in rows  # spread, not the first six


def test_sheets_of_two_folders_of_one_name_are_two_files(photos, tmp_path, monkeypatch):
    shutil.copytree(photos, tmp_path / "other" / "photos")
    monkeypatch.chdir(tmp_path)
    for place in (photos, tmp_path / "other" / "photos"):
        assert command("show", place).exit_code == 0
    assert len(list((tmp_path / "runs" / "data").glob("photos-*.png"))) == 2
