"""`mlcourse data`: which data sets there are, fetching one, and a look at one before a training."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcourse import files, places
from mlcourse.errors import CourseError, printable

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from PIL.Image import Image

    from mlcourse.datasets import ClassImages

SPLITS = ("train", "val", "test")
ROWS, COLUMNS, GAP, SIDE = 12, 10, 2, 56  # of a contact sheet: classes, pictures of each, pixels between, least side


@dataclass(frozen=True)
class About:
    """What is said of a data set. download: its size ("": embedded). pictures: where they lie in its folder."""

    what: str
    download: str
    licence: str
    source: str
    pictures: str


ABOUT = {
    "glyphs": About(
        "letters of 42 scripts, grey, 28 × 28",
        "",
        "CC BY 4.0, drawn from the Noto fonts (OFL 1.1)",
        "data/glyphs/README.md",
        "*.png",
    ),
    "omniglot": About(
        "1,623 characters of 50 alphabets, each drawn by 20 people",
        "about 16 MB",
        "MIT, (c) 2015 Brenden Lake",
        "https://github.com/brendenlake/omniglot",
        "images_*/*/*/*.png",
    ),
    "caltech101": About(
        "photos of 101 kinds of objects, in colour",
        "about 150 MB",
        "as its page says",
        "https://data.caltech.edu/records/mzrjq-6wc02",
        "101_ObjectCategories/*/*.jpg",
    ),
}
# Of the copy that data/results/omniglot.json was measured on.
MEASURED_ON = {"omniglot": "8745d3284205c70953ebeacd9061b7dfdadc5961afab7b71a1553c9aa5bcb1af"}

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="folder of local copies (default: MLCOURSE_DATA, else the cache)")
]
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def group() -> None:
    """List the data sets, fetch one, or look at one: its splits, its checksum, a contact sheet."""


@app.command("list")
def list_them(data_root: DataRoot = None) -> None:
    """Say of each data set whether it is here, where, and under which licence."""
    for name, about in ABOUT.items():
        print(f"{name}: {about.what}")
        print(f"  {_state(name, data_root)}")
        print(f"  licence: {about.licence}; source: {about.source}")
    print("your own: a folder with one folder of pictures per class; look at it with mlcourse data show FOLDER")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="omniglot or caltech101")],
    data_root: DataRoot = None,
) -> None:
    """Fetch a data set once, from where its authors put it; the archive's checksum is compared."""
    from mlcourse import datasets
    from mlcourse.datasets import local

    if name not in ABOUT:
        known = " or ".join(one for one, about in ABOUT.items() if about.download)
        raise CourseError(f"{name!r} is no data set that can be fetched: choose {known}")
    place = _place(name, data_root)
    if ABOUT[name].download and not place.is_dir():
        print(f"Fetching {name} ({ABOUT[name].download}) into {place.parent} ...", flush=True)
        datasets.upright(name, "val", root=data_root, download=True)
    print(f"{name}: {_here(name, data_root)}")
    if ABOUT[name].download and place.parent != local.default_root():
        print(f"Notebooks find it there when MLCOURSE_DATA is {place.parent}")


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(help="a name out of mlcourse data list, or a folder of class folders")],
    data_root: DataRoot = None,
    out: Annotated[Path | None, typer.Option(help="the contact sheet, a PNG file (default: one in runs/data)")] = None,
) -> None:
    """Look at a data set as a training sees it. Every picture is read, so a damaged one is named now."""
    from mlcourse import datasets

    if out is not None and out.exists():
        raise CourseError(f"--out {out} is there already and is not overwritten: name another file")
    counts = {split: datasets.counts(dataset, split, root=data_root) for split in SPLITS}
    images, _ = datasets.upright(dataset, "all", root=data_root)
    print(f"{printable(images.name)}: {images.classes:,} classes, {len(images.images):,} pictures")
    for split, classes in counts.items():
        print(f"  {split}: {_sizes(classes)}")
    if dataset in ABOUT:
        print(f"  licence: {ABOUT[dataset].licence}; source: {ABOUT[dataset].source}")
    print(f"  {_checksum_line(dataset, data_root)}")
    rows = chosen(counts)
    target = out or Path("runs") / "data" / f"{_sheet_name(dataset, images.name)}.png"
    where = {name: index for index, name in enumerate(images.names)}
    sheet = contact_sheet(images, [where[name] for _, name in rows])
    with files.replacing(target) as temporary:
        sheet.save(temporary, format="PNG")
    print(f"Contact sheet: {target}, the first {COLUMNS} pictures of")
    for number, (split, name) in enumerate(rows, start=1):
        print(f"  row {number}: {printable(name)} ({split})")


def _sheet_name(dataset: str, name: str) -> str:
    """What a contact sheet is called; that of a folder has a digest of its path, since folders may share a name."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:40]
    if dataset in ABOUT:
        return kept
    return f"{kept}-{hashlib.sha256(os.fsencode(places.whole(dataset).resolve())).hexdigest()[:8]}"


# ------------------------------------------------------------------ what is there


def _place(name: str, root: Path | None) -> Path:
    """The folder of a data set, whether it is there or not."""
    from mlcourse.datasets import caltech101, glyphs, local, omniglot

    if name == "glyphs":
        return glyphs.folder()
    folder = {"omniglot": omniglot.FOLDER, "caltech101": caltech101.FOLDER}[name]
    return (places.whole(root) if root else local.default_root()) / folder


def _here(name: str, root: Path | None) -> str:
    """How much of a data set is here, and where. Raises CourseError for a copy that is not whole."""
    from mlcourse import datasets

    counts = datasets.counts(name, "all", root=root)
    embedded = "" if ABOUT[name].download else ", embedded in the course"
    return f"here{embedded}: {len(counts):,} classes, {sum(counts.values()):,} pictures in {_place(name, root)}"


def _state(name: str, root: Path | None) -> str:
    """Whether a data set is here, in words."""
    place = _place(name, root)
    if ABOUT[name].download and not place.exists():
        return f"not here: mlcourse data fetch {name} puts it ({ABOUT[name].download}) into {place.parent}"
    try:
        return _here(name, root)
    except CourseError as error:
        return f"not usable: {error}"


def _sizes(classes: dict[str, int]) -> str:
    """How many classes, and how many pictures each has."""
    if not classes:
        return "no classes"
    least, most = min(classes.values()), max(classes.values())
    return f"{len(classes):,} classes of {least if least == most else f'{least} to {most}'} pictures"


def _checksum_line(dataset: str, root: Path | None) -> str:
    """The checksum of a data set, and whether results of the course are of the same files."""
    from mlcourse.datasets import class_folders, mnist

    if dataset in ABOUT:
        place = _place(dataset, root)
        names = [path.relative_to(place).as_posix() for path in place.glob(ABOUT[dataset].pictures)]
    elif dataset == "mnist":  # two files of test digits; `data list` has it not, since no lesson can train on it
        place = mnist.folder(root)
        names = [path.name for path in place.glob("t10k-*")]
    else:
        place = places.whole(dataset)
        names = [file for one in class_folders.classes_of(place, "all") for file in one.files]
    found = checksum(place, names)
    measured = MEASURED_ON.get(dataset)
    if measured is None:
        return f"SHA-256 of its pictures: {found}"
    same = "the pictures" if found == measured else "other pictures than those"
    return f"SHA-256 of its pictures: {found} ({same} behind data/results)"


def checksum(place: Path, names: list[str]) -> str:
    """The SHA-256 of what `sha256sum` prints of these files of `place`, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(names):
        content = hashlib.sha256((place / name).read_bytes()).hexdigest()
        digest.update(f"{content}  {name}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# ------------------------------------------------------------------ the contact sheet


def chosen(counts: dict[str, dict[str, int]]) -> list[tuple[str, str]]:
    """The (split, class) of each row: as many from each split, spread over its classes."""
    splits = {split: list(classes) for split, classes in counts.items() if classes}
    rows = []
    for split, names in splits.items():
        each = min(len(names), ROWS // len(splits))
        rows += [(split, names[index * len(names) // each]) for index in range(each)]
    return rows


def contact_sheet(images: ClassImages, rows: list[int]) -> Image:
    """One row per class (an index in `images`), with its first pictures side by side."""
    import torch
    from PIL import Image

    _, height, width = images.shape
    size = (3, GAP + len(rows) * (height + GAP), GAP + COLUMNS * (width + GAP))
    sheet = torch.full(size, 128, dtype=torch.uint8)
    for row, index in enumerate(rows):
        for column, picture in enumerate(images.of_class(index)[:COLUMNS]):
            top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
            sheet[:, top : top + height, left : left + width] = picture  # grey becomes three equal channels
    made = Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())
    times = max(1, SIDE // max(height, width))
    return made.resize((times * made.width, times * made.height), Image.Resampling.NEAREST)
