"""Meta-learning that sees more than one label for each image.

TASKS is the table of what there is. A task of vision is a file of this room (`segmentation.py`) and a file of the same
name in `mlcourse/commands`, whose functions `train` and `evaluate` are its commands: `mlcourse train segmentation …`,
and `mlcourse evaluate` of a folder that such a training left (its `config.json` names the task) or of a baseline's
name. This file imports nothing, so that `mlcourse --help` waits for nothing.
"""

# name -> what it asks, and the names by which `mlcourse evaluate` knows its baselines
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "segmentation": (
        "which pixels belong to what a drawing shows?",
        ("every-character", "template-matching", "untrained-unet", "untrained-prototypes", "untrained-colour-groups"),
    ),
    "detection": (
        "where is what a drawing shows, if it is there at all?",
        (
            "matched-boxes",
            "pixel-boxes",
            "every-box",
            "template-boxes",
            "untrained-matched-boxes",
            "untrained-correlation",
        ),
    ),
    "faces": ("is it the same person?", ("face-pixels", "fisherfaces")),
}
