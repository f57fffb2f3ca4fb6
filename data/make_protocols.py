"""Make the protocols: files that fix the episodes of a comparison, with digests of what they are drawn from.

    MLCOURSE_DATA=FOLDER python data/make_protocols.py            # say which files would change
    MLCOURSE_DATA=FOLDER python data/make_protocols.py --write    # write them

FOLDER holds local copies of Omniglot, Caltech-101 and MNIST's test digits. A protocol whose digest changes is another
one: results of before are refused. data/protocols/README.md says what the fields mean.
"""

from __future__ import annotations

import json
import sys

from mlcourse import files
from mlcourse.protocols import Protocol, protocol

EPISODES = 1000
BASELINES = ("pixels", "untrained-prototypical", "fine-tune")
METHODS = (
    "prototypical", "cosine-prototypical", "matching", "relation", "r2d2", "maml", "fomaml", "anil", "meta-sgd",
    "maml++", "reptile", "imaml", "metanet", "hypernet", "film", "incontext",
)  # fmt: skip
# The most accurate six on Omniglot, 20-way 1-shot, as data/results/omniglot.json has them.
SIX = ("relation", "prototypical", "cosine-prototypical", "matching", "r2d2", "incontext")
ALL, SOME = (*BASELINES, *METHODS), ("pixels", "untrained-prototypical", *SIX)

# Omniglot's alphabets whose script `glyphs` has, too -> that script. Both sides are left out where one data set tests
# what was learnt on the other: the same letter, typed or drawn, is no new class.
SHARED = {
    "Armenian": "Armenian",
    "Asomtavruli_(Georgian)": "Georgian",
    "Balinese": "Balinese",
    "Bengali": "Bengali",
    "Blackfoot_(Canadian_Aboriginal_Syllabics)": "Canadian_Aboriginal",
    "Burmese_(Myanmar)": "Myanmar",
    "Cyrillic": "Cyrillic",
    "Ge_ez": "Ethiopic",
    "Greek": "Greek",
    "Gujarati": "Gujarati",
    "Gurmukhi": "Gurmukhi",
    "Hebrew": "Hebrew",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)": "Canadian_Aboriginal",
    "Kannada": "Kannada",
    "Latin": "Latin",
    "Malay_(Jawi_-_Arabic)": "Arabic",
    "Malayalam": "Malayalam",
    "Manipuri": "Meetei_Mayek",
    "Mkhedruli_(Georgian)": "Georgian",
    "Ojibwe_(Canadian_Aboriginal_Syllabics)": "Canadian_Aboriginal",
    "Old_Church_Slavonic_(Cyrillic)": "Cyrillic",
    "Oriya": "Oriya",
    "Sanskrit": "Devanagari",
    "Tibetan": "Tibetan",
}
ALIKE = ("Coptic", "Lisu")  # scripts of glyphs that take most of their shapes from Greek and Latin

COMMON = {"lists": None, "rotations": False, "at_most": None, "left_out": (), "tasks": "classes", "one_by_one": False}
COMMON |= {"seed": 0, "episodes": EPISODES, "query": 15, "rows": SOME, "classes": 0, "pictures": 0}
VINYALS = {"dataset": "omniglot", "lists": "vinyals", "split": "test", "rotations": True, "clusters": "alphabets"}
VINYALS |= {"calibrate_on": {"dataset": "omniglot", "lists": "vinyals", "split": "val"}}
GLYPHS_VAL = {"dataset": "glyphs", "lists": None, "split": "val"}
GLYPHS = {"dataset": "glyphs", "split": "test", "clusters": "scripts", "calibrate_on": GLYPHS_VAL}
CALTECH = {"dataset": "caltech101", "split": "test", "at_most": 60, "clusters": "classes"}
CALTECH |= {"calibrate_on": {"dataset": "caltech101", "lists": None, "split": "val"}}


def specifications() -> list[Protocol]:
    """All protocols, without what is counted and digested."""
    found = []
    for way in (5, 20):
        for shot in (1, 5):
            what = f"Omniglot, Vinyals split with rotations, {way}-way {shot}-shot"
            rows = ALL if (way, shot) == (5, 1) else SOME
            found.append(made(f"omniglot-{way}way-{shot}shot", what, VINYALS, way=way, shot=shot, rows=rows))
    found.append(
        made(
            "omniglot-within-alphabet",
            "Omniglot, the 20 evaluation alphabets of Lake et al.: 20 characters of one alphabet, 1-shot, one drawer "
            "for the support set and another for the queries, each query asked alone; train with --protocol lake",
            VINYALS,
            lists="lake",
            rotations=False,
            tasks="within groups",
            one_by_one=True,
            way=20,
            shot=1,
            query=1,
            calibrate_on={"dataset": "omniglot", "lists": "lake", "split": "val"},
        )
    )
    for shot in (1, 5):
        what = f"glyphs, the 13 test scripts, 5-way {shot}-shot"
        rows = ALL if shot == 1 else SOME
        found.append(made(f"glyphs-5way-{shot}shot", what, GLYPHS, way=5, shot=shot, rows=rows))
    for shot in (1, 5):
        what = f"Caltech-101, 84×84, the 20 test classes, the first 60 pictures of each, 5-way {shot}-shot"
        found.append(made(f"caltech101-5way-{shot}shot", what, CALTECH, way=5, shot=shot))
    found.append(
        made(
            "characters-to-digits",
            "learners trained on characters (glyphs or Omniglot) tell MNIST's ten test digits apart, 5-way 1-shot",
            {"dataset": "mnist", "split": "test", "clusters": "digits", "calibrate_on": GLYPHS_VAL},
            way=5,
            shot=1,
        )
    )
    found.append(
        made(
            "glyphs-to-omniglot",
            f"learners trained on glyphs answer Omniglot, 5-way 1-shot, upright; of its 50 alphabets {len(SHARED)} are "
            "left out, whose script glyphs has, too",
            VINYALS,
            split="all",
            rotations=False,
            left_out=tuple(sorted(SHARED)),
            way=5,
            shot=1,
            calibrate_on=GLYPHS_VAL,
        )
    )
    scripts = tuple(sorted({*SHARED.values(), *ALIKE}))
    found.append(
        made(
            "omniglot-to-glyphs",
            f"learners trained on Omniglot answer glyphs, 5-way 1-shot, upright; of its 42 scripts {len(scripts)} are "
            f"left out, {len(scripts) - len(ALIKE)} that Omniglot has, too, and {' and '.join(ALIKE)}, whose letters "
            "look like Greek and Latin ones",
            GLYPHS,
            split="all",
            left_out=scripts,
            way=5,
            shot=1,
            calibrate_on=VINYALS["calibrate_on"],
        )
    )
    return found


def made(name: str, what: str, data: dict, **more) -> Protocol:
    """One protocol, still without counts and digests."""
    return Protocol(**COMMON | data | {"name": name, "what": what} | more)


if __name__ == "__main__":
    for specification in specifications():
        whole, path = specification.completed(), protocol.folder() / f"{specification.name}.json"
        told = files.read_json(path) if path.is_file() else None
        same = told == json.loads(json.dumps(whole.as_json()))
        print(f"{whole.name}: {whole.digest}{'' if same else ' (new)' if told is None else ' (changed)'}")
        if "--write" in sys.argv and not same:
            files.write_json(path, whole.as_json())
