"""Make the README's picture of the tasks of vision, each solved from one support, on the embedded data.

    python docs/make_vision_picture.py

It writes `docs/vision-light.png` and `docs/vision-dark.png`, and the README's lines between the marks `vision`, with an
alternative text that is made of the same answers. Each task is one function below that returns a `Panel`; TASKS lists
them. The networks are those of `data/checkpoints`; seeds and places are fixed. They are single answers, and no result:
with a drawing in another font the detector misses in this very scene. How often it does stands in `data/results`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torchvision.ops import box_iou

import mlcourse
from mlcourse import datasets, files, learners, places
from mlcourse.datasets import faces as drawn_faces
from mlcourse.lessons.segmentation import exam, pictures
from mlcourse.teaching import pad
from mlcourse.teaching.pad.samples import sample_sets
from mlcourse.teaching.pad.strokes import rasterise
from mlcourse.vision import detection as detecting
from mlcourse.vision import faces
from mlcourse.vision.segmentation import SceneTasks, intersection_over_union

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKS = "<!-- vision: begin (python docs/make_vision_picture.py) -->", "<!-- vision: end -->"
THEMES = {"light": ("#FFFFFF", "#1F2328"), "dark": ("#0D1117", "#E6EDF3")}  # GitHub's paper and ink
PANEL, DPI = (2.9, 4.6), 110  # inches of a task, and pixels per inch
GAP = 4  # pixels between tiles
PLACES = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True)
class Panel:
    """One task. support, answer: pictures [H, W, 3] in [0, 1]. asked, said: what stands under each of them.

    words: the task and its answer in one sentence, for the alternative text.
    """

    task: str
    support: np.ndarray
    asked: str
    answer: np.ndarray
    said: str
    words: str


# ------------------------------------------------------------------ the tasks


def classification() -> Panel:
    """Which of five characters is it? One drawing of each; the network of the drawing pad."""
    chosen = sample_sets()[0]
    recogniser = pad.Recogniser(learners.load(places.data() / "checkpoints" / "pad").eval())
    query = chosen["queries"][0]
    probabilities = recogniser(chosen["support"], query["drawing"])
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    said = PLACES[best]
    right = "right" if best == query["is"] else f"wrong: it is the {PLACES[query['is']]}"
    tiles = [1 - pictures.coloured(rasterise(one)) for one in chosen["support"]]
    framed = [_framed(one, "#0072B2" if index == best else "#FFFFFF") for index, one in enumerate(tiles)]
    share = f"{100 * probabilities[best]:.0f} %"
    return Panel(
        "Classification",
        _rows([framed[:3], framed[3:]]),
        "five characters, one drawing each",
        _framed(1 - pictures.coloured(rasterise(query["drawing"])), "#0072B2"),
        f"“the {said}”, {share} sure, and it is {right}",
        f"Classification: taught by one drawing each of five characters, a network says of another drawing that it is "
        f"the {said} of them, {share} sure, and it is {right}",
    )


def segmentation() -> Panel:
    """Which pixels are the character of the drawing? Sixteen characters in a scene; the stored `ColourGroups`."""
    source = SceneTasks(datasets.load("glyphs", "test"), characters_per_scene=16, same_picture=False)
    batch = source.sample(1, torch.Generator().manual_seed(0))
    learner = learners.load(places.data() / "checkpoints" / "segmentation").eval()
    found, target = exam.ask(learner, batch), batch.query_y[:, 0]
    score = f"{float(intersection_over_union(found, target)):.2f}"
    return Panel(
        "Segmentation",
        _framed(pictures.painted(batch.support_x[0, 0], batch.support_y[0, 0]), pictures.MASK),
        "one drawing, its mask",
        pictures.overlay(batch.query_x[0, 0], found[0], target[0]),
        f"its pixels, IoU {score}",
        f"Segmentation: taught by one drawing and its mask, a network marks the pixels of the same character in "
        f"another font and colour, in a scene of 16 characters, with an intersection over union of {score}",
    )


def detection() -> Panel:
    """Where is the character of the drawing, if it is there? `MatchedBoxes` with the stored embedding."""
    source = detecting.DetectionTasks(datasets.load("glyphs", "test"), absent=0.0)  # as its figures are measured
    batch = source.sample(1, torch.Generator().manual_seed(0))
    start = learners.load(places.data() / "checkpoints" / "segmentation")
    (found,) = detecting.build("matched-boxes", start=start).detect(batch)
    score = f"{float(box_iou(found.boxes[:1], batch.query_y[0, 0])):.2f}"
    truth = [end + side for end, side in zip(batch.query_y[0, 0, 0].tolist(), (-1, -1, 1, 1))]  # around the other box
    scene = batch.query_x[0, 0].movedim(0, 2).numpy()
    return Panel(
        "Detection",
        _framed(batch.support_x[0, 0].movedim(0, 2).numpy(), pictures.MASK),
        "one drawing",
        _boxed(_boxed(_framed(scene, pictures.MASK), truth, "#FFFFFF"), found.boxes[0].tolist(), pictures.MASK),
        f"the best box of 17, IoU {score}",
        f"Detection: taught by one drawing, the best box of a detector in a scene of 17 characters has an intersection "
        f"over union of {score} with the box of the same character, which is turned and in another colour",
    )


def recognition() -> Panel:
    """Who of five enrolled people is it? Drawn people; fisherfaces, learned from other drawn people."""
    encoder = faces.fisherfaces(drawn_faces.load("train"), components=40, shrinkage=0.03, mirrored=False)
    test = drawn_faces.load("test")
    firsts = test.first[:5]
    gallery, probe = faces.embed(encoder, test.images[firsts]), faces.embed(encoder, test.images[firsts[2:3] + 1])
    alike = (gallery.double() @ probe.double().T).flatten()
    best = int(alike.argmax())
    right = "right" if best == 2 else f"wrong: it is the {PLACES[2]}"
    tiles = [
        _framed(_face(test.images[first]), "#0072B2" if k == best else "#FFFFFF") for k, first in enumerate(firsts)
    ]
    said = f"the {PLACES[best]}, cosine {float(alike[best]):.2f}, and it is {right}"
    return Panel(
        "Recognition",
        _rows([tiles[:3], tiles[3:]]),
        "five drawn people, one picture each",
        _framed(_face(test.images[firsts[2] + 1]), "#0072B2"),
        f"“{said.split(', and')[0]}”, and it is {right}",
        f"Recognition: taught by one picture each of five drawn people, an encoder that learned from others says of "
        f"another picture that it is {said}",
    )


def _face(picture: torch.Tensor) -> np.ndarray:
    return (picture[0].float() / 255).numpy()[..., None].repeat(3, 2)


def _boxed(picture: np.ndarray, box: list[float], colour: str) -> np.ndarray:
    """A framed picture with a box, given in its pixels before it was enlarged."""
    x0, y0, x1, y1 = (min(max(GAP + round(4 * end), 0), len(picture)) for end in box)
    made, ink = picture.copy(), [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    for rows, columns in ((slice(y0, y0 + 4), slice(x0, x1)), (slice(y1 - 4, y1), slice(x0, x1))):
        made[rows, columns] = ink
    for rows, columns in ((slice(y0, y1), slice(x0, x0 + 4)), (slice(y0, y1), slice(x1 - 4, x1))):
        made[rows, columns] = ink
    return made


TASKS: Sequence[Callable[[], Panel]] = (classification, segmentation, detection, recognition)

# ------------------------------------------------------------------ the picture


def _framed(picture: np.ndarray, colour: str) -> np.ndarray:
    """The picture in a frame of GAP pixels, after it was enlarged four times."""
    large = picture.repeat(4, 0).repeat(4, 1)
    inside = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    made = np.broadcast_to(inside, (large.shape[0] + 2 * GAP, large.shape[1] + 2 * GAP, 3)).copy()
    made[GAP:-GAP, GAP:-GAP] = large
    return made


def _rows(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Tiles of one size in rows, white where a row is shorter."""
    high, wide = rows[0][0].shape[:2]
    made = np.ones((high * len(rows), wide * max(map(len, rows)), 3))
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            made[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = tile
    return made


def figure(panels: Sequence[Panel], theme: str) -> Figure:
    """A column for each task: above what it is taught by, below what it answers."""
    paper, ink = THEMES[theme]
    fig = Figure(figsize=(PANEL[0] * len(panels), PANEL[1]), facecolor=paper, layout="constrained")
    axes = fig.subplots(2, len(panels), squeeze=False, height_ratios=(1, 1.55))
    for (above, below), panel in zip(axes.T, panels, strict=True):
        above.set_title(panel.task, loc="center", color=ink, fontsize=13, fontweight="bold")
        for ax, picture, words in ((above, panel.support, panel.asked), (below, panel.answer, panel.said)):
            ax.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
            ax.set_xlabel(words, color=ink, fontsize=9.5)
            ax.set(xticks=[], yticks=[], facecolor=paper)
            ax.spines[:].set_visible(False)
    return fig


def block(panels: Sequence[Panel]) -> str:
    """The README's lines: both pictures, and their alternative text."""
    words = f"Tasks of vision, each solved from one support. {'. '.join(one.words for one in panels)}."
    return (
        f"{MARKS[0]}\n"
        "<picture>\n"
        '  <source media="(prefers-color-scheme: dark)" srcset="docs/vision-dark.png">\n'
        f'  <img alt="{words}" src="docs/vision-light.png">\n'
        "</picture>\n"
        f"{MARKS[1]}"
    )


def with_block(readme: str, made: str) -> str:
    """The README with the lines between the marks written anew. Raises ValueError where the marks are missing."""
    begin, end = map(re.escape, MARKS)
    changed, count = re.subn(f"{begin}.*?{end}", lambda _: made, readme, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{README} has the marks {MARKS[0]} … {MARKS[1]} {count} times; put them there once")
    return changed


def main() -> None:
    """Write both pictures, and the README's lines."""
    panels = [task() for task in TASKS]
    readme = with_block(README.read_text(encoding="utf-8"), block(panels))
    for theme in THEMES:
        with files.replacing(HERE / f"vision-{theme}.png") as new:
            figure(panels, theme).savefig(
                new, format="png", dpi=DPI, facecolor=THEMES[theme][0], metadata={"Software": None}
            )
    with files.replacing(README) as new:
        new.write_text(readme, encoding="utf-8")
    print(
        f"{len(panels)} tasks, mlcourse {mlcourse.__version__}: docs/vision-light.png, docs/vision-dark.png, README.md"
    )


if __name__ == "__main__":
    main()
