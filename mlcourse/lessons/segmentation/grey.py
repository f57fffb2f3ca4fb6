"""Scenes of one ink in notebook 13: what `data/make_segmentation.py` measured there, level by level."""

from mlcourse import files, places

STORED = "segmentation.json"  # in data/results
LEARNERS = {
    "colour-groups": "stored network",
    "every-character": "every character",
    "template-matching": "template",
    "untrained-prototypes": "untrained prototypes",
}
FOREGROUND = "foreground, per image"


def stored() -> str:
    """The IoU of the target in scenes of one ink, a line for each number of characters, with 95 % intervals."""
    rows = files.read_json(places.data() / "results" / STORED)["recipes"]["grey"]
    lines = ["characters  scenes  " + "".join(f"{words:22}" for words in LEARNERS.values()).rstrip()]
    for level, row in rows.items():
        pairs = [row["learners"][name]["IoU"][FOREGROUND] for name in LEARNERS]
        told = "".join(f"{f'{value:.3f} ± {half:.3f}':22}" for value, half in pairs).rstrip()
        lines.append(f"{level:>10}  {row['scenes']:>6}  {told}")
    return "\n".join(lines)
