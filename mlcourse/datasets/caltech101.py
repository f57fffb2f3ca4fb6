"""Caltech-101: photos of 101 kinds of objects, 31 to 800 each.

L. Fei-Fei, R. Fergus, P. Perona: Learning generative visual models from few training examples, CVPR Workshop, 2004.
https://data.caltech.edu/records/mzrjq-6wc02. The clutter class BACKGROUND_Google is not an object and stays out.

There is no agreed few-shot split, so the course fixes one: 61 classes to train, 20 to validate, 20 to test. Classes
that show nearly the same thing lie on one side: `Faces` and `Faces_easy` (the same pictures), `crocodile` and
`crocodile_head`, `cougar_body`, `cougar_face`, `wild_cat` and `Leopards`, `flamingo` and `flamingo_head`, `ketch` and
`schooner`, `crab`, `crayfish` and `lobster`, `electric_guitar` and `mandolin`, `lotus` and `water_lilly`.
"""

from __future__ import annotations

from pathlib import Path

from mlcourse.datasets import class_folders, local
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

FOLDER = "caltech101"
PICTURES = "101_ObjectCategories"

# Three lists of names, written as text.
SPLITS = {
    part: tuple(names.split())
    for part, names in {
        "train": """
            Faces Faces_easy Leopards Motorbikes airplanes ant beaver brontosaurus cannon ceiling_fan cellphone
            chandelier cougar_body cougar_face crocodile crocodile_head cup dollar_bill dolphin electric_guitar emu
            ewer flamingo flamingo_head garfield gerenuk gramophone hawksbill helicopter ibis joshua_tree ketch
            laptop llama lotus mandolin mayfly metronome nautilus okapi pagoda panda pigeon platypus revolver
            rooster saxophone schooner scorpion sea_horse snoopy soccer_ball stapler stegosaurus strawberry tick
            trilobite water_lilly wheelchair wild_cat wrench
        """,
        "val": """
            accordion anchor bass binocular bonsai butterfly camera chair dalmatian euphonium ferry hedgehog
            inline_skate lamp menorah pizza pyramid rhino starfish stop_sign
        """,
        "test": """
            barrel brain buddha car_side crab crayfish dragonfly elephant grand_piano headphone kangaroo lobster
            minaret octopus scissors sunflower umbrella watch windsor_chair yin_yang
        """,
    }.items()
}

# Which classes a network has met that was pre-trained on ImageNet with labels: for each of ours a label of its 1,000,
# as torchvision writes it, that names the thing, a kind of it, or the whole that it is a part of. Where there are
# several, one is named. In doubt a class counts as met. (By hand; a class may stand in the background of any photo.)
IN_IMAGENET = {
    "accordion": "accordion", "airplanes": "airliner", "ant": "ant", "barrel": "barrel", "beaver": "beaver",
    "binocular": "binoculars", "butterfly": "monarch", "camera": "reflex camera", "cannon": "cannon",
    "car_side": "sports car", "ceiling_fan": "electric fan", "cellphone": "cellular telephone",
    "chair": "folding chair", "cougar_body": "cougar", "cougar_face": "cougar", "crab": "rock crab",
    "crayfish": "crayfish", "crocodile": "African crocodile", "crocodile_head": "African crocodile", "cup": "cup",
    "dalmatian": "dalmatian", "dolphin": "killer whale", "dragonfly": "dragonfly",
    "electric_guitar": "electric guitar", "elephant": "Indian elephant", "ewer": "pitcher", "flamingo": "flamingo",
    "flamingo_head": "flamingo", "grand_piano": "grand piano", "hedgehog": "porcupine", "kangaroo": "wallaby",
    "ketch": "yawl", "lamp": "table lamp", "laptop": "laptop", "Leopards": "leopard", "llama": "llama",
    "lobster": "American lobster", "minaret": "mosque", "Motorbikes": "moped", "nautilus": "chambered nautilus",
    "panda": "giant panda", "pizza": "pizza", "platypus": "platypus", "revolver": "revolver", "rooster": "cock",
    "saxophone": "sax", "schooner": "schooner", "scorpion": "scorpion", "soccer_ball": "soccer ball",
    "starfish": "starfish", "stop_sign": "street sign", "strawberry": "strawberry", "tick": "tick",
    "trilobite": "trilobite", "umbrella": "umbrella", "watch": "digital watch", "wild_cat": "lynx",
    "windsor_chair": "rocking chair",
}  # fmt: skip
# Classes that none of the 1,000 names, but of which one is a near relative.
NEAR_IMAGENET = {
    "emu": "ostrich", "euphonium": "French horn", "ferry": "liner", "garfield": "comic book", "gerenuk": "gazelle",
    "hawksbill": "loggerhead", "ibis": "spoonbill", "mandolin": "banjo", "mayfly": "lacewing", "menorah": "candle",
    "pagoda": "stupa", "snoopy": "comic book", "stegosaurus": "triceratops", "brontosaurus": "triceratops",
    "sunflower": "daisy",
}  # fmt: skip


def load(split: str, *, root: str | Path | None, size: int | None, download: bool) -> ClassImages:
    """One split; see `mlcourse.datasets.load`."""
    place, classes = _classes(split, root=root, download=download)
    return class_folders.read(place, classes, name=FOLDER, split=split, size=size)


def counts(split: str, *, root: str | Path | None) -> dict[str, int]:
    """Class name -> number of its photos, without decoding any; see `mlcourse.datasets.counts`."""
    return {one.name: len(one.files) for one in _classes(split, root=root, download=False)[1]}


def _classes(split: str, *, root: str | Path | None, download: bool) -> tuple[Path, list[class_folders.Class]]:
    """Where the classes of one split lie, and their files."""
    place = local.find(FOLDER, root, _download if download else None) / PICTURES
    classes = [one for part in local.parts_of(split) for one in SPLITS[part]]
    missing = sorted(set(classes) - set(local.folders(place)))
    if missing:
        raise CourseError(
            f"{place} lacks {len(missing)} of {len(classes)} classes, such as {missing[0]!r}: unpack the archive anew, "
            f"or remove {place.parent} and load with download"
        )
    return place, class_folders.in_folders(place, tuple(classes))


def _download(folder: Path) -> None:
    """Fill an empty folder with `caltech101`. torchvision knows the address and checks the sum of what it gets."""
    # Not imported at the top: it takes a second, and only a download needs it.
    from torchvision.datasets import Caltech101

    Caltech101(folder, download=True)
