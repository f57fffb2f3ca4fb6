"""Drawings as pen strokes: from points to the 28 x 28 picture that a learner sees, and back.

A *drawing* is a list of strokes. A *stroke* is a list of points ``[x, y]`` with x to the right and y down. The unit of
length does not matter, because every drawing is cropped, centred and scaled; the drawing pad uses 1 = its own width.

The same pipeline serves the drawing pad, the pictures that its checkpoint is trained on, and the test on Omniglot:
whatever a person draws goes through `rasterise`, and so does everything that the learner has seen before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

Point = Sequence[float]
Stroke = Sequence[Point]
Drawing = Sequence[Stroke]

SIZE = 28  # pixels of a side of the picture
BOX = 20.0  # the longer side of a drawing, in pixels: a margin of four pixels stays on each side
PEN = 1.4  # width of the pen, in pixels; Omniglot's pen has about this width when its drawings shrink to 28 x 28
DOT = 0.03  # a drawing smaller than this (in pad widths) is a dot and is not blown up to full size
INK = 0.4  # grey above this is ink when a picture is traced; at one half, thin strokes of small pictures break
FINE = 112  # pixels of a side, at least, of a picture that is thinned
EVERY = 3  # a traced line keeps each third point: pixels are closer than the bends of a hand
_PICTURES = 256  # pictures traced at a time
_CHUNK = 512  # segments measured at a time: bounds the memory of one call to a few MB


def rasterise(drawing: Drawing, *, pen: float = PEN) -> Tensor:
    """Turn a drawing into the picture that a learner sees.

    The drawing is cropped to its own box, scaled so that the longer side has 20 pixels, centred, and drawn with a round
    pen of constant width. Place, size, order and direction of the strokes therefore do not matter.

    Args:
        drawing: strokes, each a list of points [x, y], y down. Empty strokes are left out.
        pen: width of the pen in pixels of the picture.

    Returns:
        float32 [1, 28, 28], paper = 0, ink = 1. A drawing without points gives empty paper.

    Raises:
        CourseError: a point is not a pair of finite numbers, or the pen has no width.

    """
    if not pen > 0:
        raise CourseError(f"the pen is {pen!r} pixels wide: give a width above 0, such as {PEN}")
    segments = _segments(drawing)
    if not len(segments):
        return torch.zeros(1, SIZE, SIZE)
    low, high = segments.min((0, 1)), segments.max((0, 1))
    longer = max(float((high - low).max()), DOT)
    in_pixels = (segments - (low + high) / 2) * (BOX / longer) + SIZE / 2
    return _ink(in_pixels, pen)


def rasterise_all(drawings: Sequence[Drawing], *, pen: float = PEN) -> Tensor:
    """Rasterise several drawings: float32 [drawings, 1, 28, 28]. See `rasterise`."""
    if not len(drawings):
        return torch.zeros(0, 1, SIZE, SIZE)
    return torch.stack([rasterise(drawing, pen=pen) for drawing in drawings])


def _segments(drawing: Drawing) -> np.ndarray:
    """All straight pieces of a drawing, float64 [pieces, 2 ends, 2]; a stroke of one point is a piece of length 0."""
    pieces = []
    for number, stroke in enumerate(drawing, start=1):
        if not len(stroke):
            continue
        try:
            points = np.asarray(stroke, dtype=np.float64)
        except (TypeError, ValueError):
            points = np.zeros(0)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise CourseError(f"stroke {number} is not a list of points [x, y]: give pairs of finite numbers")
        if len(points) == 1:
            points = points.repeat(2, axis=0)
        pieces.append(np.stack([points[:-1], points[1:]], axis=1))
    return np.concatenate(pieces) if pieces else np.zeros((0, 2, 2))


def _ink(segments: np.ndarray, pen: float) -> Tensor:
    """Ink of a round pen that goes along the segments, [1, SIZE, SIZE].

    The ink of a pixel is the part of it that a straight line at the same distance covers. This needs only the distance
    of the pixel's centre to the nearest segment, so edges are smooth without drawing a larger picture first.
    """
    ticks = np.arange(SIZE) + 0.5
    x, y = np.tile(ticks, SIZE)[:, None], ticks.repeat(SIZE)[:, None]  # [pixels, 1]
    nearest = np.full(SIZE * SIZE, np.inf)
    for begin in range(0, len(segments), _CHUNK):
        (ax, ay), (bx, by) = segments[begin : begin + _CHUNK].transpose(1, 2, 0)
        dx, dy = bx - ax, by - ay
        along = ((x - ax) * dx + (y - ay) * dy) / np.maximum(dx**2 + dy**2, 1e-12)
        along = along.clip(0, 1)  # where on the segment the nearest point lies: 0 at its start, 1 at its end
        distance2 = (x - ax - along * dx) ** 2 + (y - ay - along * dy) ** 2
        nearest = np.minimum(nearest, distance2.min(1))
    distance, radius = np.sqrt(nearest), pen / 2
    covered = np.minimum(distance + 0.5, radius) - np.maximum(distance - 0.5, -radius)
    return torch.from_numpy(covered.clip(0, 1)).float().reshape(1, SIZE, SIZE)


# --- From pictures back to strokes ------------------------------------------------------------------------------------


def redraw(images: Tensor, *, pen: float = PEN) -> Tensor:
    """Send pictures of drawings through the pad's own pipeline: trace the strokes, then crop, centre and rasterise.

    Args:
        images: [n, 1, H, W] or [n, H, W]; uint8 (ink = 255) or float (ink = 1).
        pen: as in `rasterise`.

    Returns:
        float32 [n, 1, 28, 28].

    """
    return rasterise_all(trace(images), pen=pen)


def as_drawings(data: ClassImages, *, hands: int = 0, seed: int = 0) -> ClassImages:
    """A data set as the drawing pad would see it: each picture is traced and goes through `rasterise`.

    Args:
        data: pictures of characters, grey.
        hands: 0 keeps each drawing as it is. Otherwise each picture comes `hands` times, each time by `another_hand`.
        seed: of the other hands.

    Returns:
        The same classes; 28 x 28, `max(hands, 1)` times as many samples of each.

    """
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for part in data.images.cpu().split(_PICTURES):
        for drawing in trace(part):
            variants = [another_hand(drawing, generator) for _ in range(hands)] or [drawing]
            pictures += [(rasterise(variant) * 255).round().to(torch.uint8) for variant in variants]
    counts = data.counts * max(hands, 1)
    return replace(data, images=torch.stack(pictures), counts=counts, name=f"{data.name} (drawn)")


def trace(images: Tensor) -> list[list[list[list[float]]]]:
    """Find strokes that draw the given pictures.

    The ink is thinned to lines of one pixel (Guo and Hall, "Parallel thinning with two-subiteration algorithms",
    1989, https://doi.org/10.1145/62065.62074). The lines are then followed from end to end and from crossing to
    crossing, and smoothed a little. What cannot be recovered from a picture is the order and direction of the strokes,
    and which pieces at a crossing belong together. `rasterise` uses none of these.

    Args:
        images: as in `redraw`. Small pictures are enlarged first, so that the lines keep their shape.

    Returns:
        One drawing per image, in units of the image's width.

    Raises:
        CourseError: the images have another shape.

    """
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise CourseError(f"images of shape {list(images.shape)}: give [n, 1, H, W] or [n, H, W]")
    grey = images.float() / (1.0 if images.dtype.is_floating_point else 255.0)
    factor = math.ceil(FINE / max(grey.shape[-2:])) if max(grey.shape[-2:]) < 0.9 * FINE else 1
    if factor > 1 and len(grey):
        grey = F.interpolate(grey[:, None], scale_factor=factor, mode="bicubic", align_corners=False)[:, 0]
    unit = 1.0 / grey.shape[-1]
    return [_follow(line.nonzero().tolist(), unit) for line in thin(grey > INK)]


def thin(ink: Tensor) -> Tensor:
    """Thin ink to lines that are one pixel wide: bool [n, H, W] -> bool [n, H, W].

    In each round, the edges of the ink are taken off from two opposite sides, wherever that neither shortens a line nor
    cuts it in two (Guo and Hall, 1989). Unlike older rules, these keep diagonal lines that are two pixels wide.
    """
    paper = np.pad(ink.cpu().numpy(), ((0, 0), (1, 1), (1, 1)))  # a border, so that every pixel has eight neighbours
    width = paper.shape[2]
    around = [-width, -width + 1, 1, width + 1, width, width - 1, -1, -width - 1]  # clockwise from north, in flat steps
    flat = paper.reshape(-1).astype(np.uint8)
    left = flat.nonzero()[0]  # the pixels that are still ink
    before = None
    while before != len(left):
        before = len(left)
        for removable in _REMOVABLE:
            neighbours = sum(flat[left + step] << bit for bit, step in enumerate(around))
            gone = removable[neighbours]
            flat[left[gone]] = 0
            left = left[~gone]
    return torch.from_numpy(flat.reshape(paper.shape)[:, 1:-1, 1:-1].astype(bool))


def _removable(first: bool) -> np.ndarray:
    """Guo and Hall's conditions, bool [256]: for each pattern of neighbours (bit 0 north, then clockwise)."""
    ring = (np.arange(256)[:, None] >> np.arange(8)) & 1 == 1
    north, northeast, east, southeast, south, southwest, west, northwest = ring.T
    # How many separate pieces of ink touch the pixel: with one piece, taking the pixel off cuts nothing in two.
    pieces = np.sum(
        [
            ~north & (northeast | east),
            ~east & (southeast | south),
            ~south & (southwest | west),
            ~west & (northwest | north),
        ],
        axis=0,
    )
    pairs = np.sum([northwest | north, northeast | east, southeast | south, southwest | west], axis=0)
    shifted = np.sum([north | northeast, east | southeast, south | southwest, west | northwest], axis=0)
    neighbours = np.minimum(pairs, shifted)  # 1 at the end of a line, 4 inside of the ink
    kept_side = (south | southwest | ~northwest) & west if first else (north | northeast | ~southeast) & east
    return (pieces == 1) & (neighbours >= 2) & (neighbours <= 3) & ~kept_side


_REMOVABLE = (_removable(True), _removable(False))


def _follow(pixels: list[list[int]], unit: float) -> list[list[list[float]]]:
    """Join the pixels [row, column] of thin lines into strokes; lengths are multiplied by `unit`."""
    links = _links({(row, column) for row, column in pixels})
    strokes = [[pixel] for pixel, next_ones in links.items() if not next_ones]
    # First the lines that begin at an end or a crossing, then what is left: closed loops.
    begins = [pixel for pixel, next_ones in links.items() if next_ones and len(next_ones) != 2]
    used: set[frozenset] = set()
    for begin in [*begins, *links]:
        for second in sorted(links[begin]):
            if frozenset((begin, second)) not in used:
                strokes.append(_walk(links, used, begin, second))
    return [_smooth(stroke, unit) for stroke in strokes]


def _links(pixels: set[tuple[int, int]]) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Neighbours of each pixel. A diagonal step is left out where two straight steps lead to the same pixel."""
    links: dict = {pixel: set() for pixel in sorted(pixels)}
    for row, column in pixels:
        for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
            other = (row + down, column + right)
            corner = down and right and ((row + down, column) in pixels or (row, column + right) in pixels)
            if other in pixels and not corner:
                links[row, column].add(other)
                links[other].add((row, column))
    return links


def _walk(links: dict, used: set, begin: tuple, second: tuple) -> list[tuple]:
    """Follow a line from `begin` over `second` until it ends, crosses another line, or closes."""
    line, here = [begin], second
    used.add(frozenset((begin, second)))
    while True:
        line.append(here)
        onward = [pixel for pixel in sorted(links[here]) if frozenset((here, pixel)) not in used]
        if len(links[here]) != 2 or not onward:
            return line
        used.add(frozenset((here, onward[0])))
        here = onward[0]


def _smooth(line: list[tuple[int, int]], unit: float) -> list[list[float]]:
    """Pixels [row, column] -> points [x, y]; two rounds of weights 1, 2, 1 take out the staircase, the ends stay."""
    points = np.array(line, dtype=np.float64)[:, ::-1] + 0.5
    for _ in range(2):
        if len(points) > 2:
            middle = (points[:-2] + 2 * points[1:-1] + points[2:]) / 4
            points = np.concatenate([points[:1], middle, points[-1:]])
    kept = [*range(0, len(points) - 1, EVERY), len(points) - 1]
    return (points[kept] * unit).tolist()


# --- The same drawing by another hand ---------------------------------------------------------------------------------


def another_hand(drawing: Drawing, generator: torch.Generator, *, amount: float = 1.0) -> list[list[list[float]]]:
    """Draw the same strokes again as another person might: slanted, stretched, turned and bent a little.

    Args:
        drawing: strokes as in `rasterise`.
        generator: the source of all randomness (on the CPU).
        amount: 0 gives the same drawing; 1 is as different as two people's drawings of one character often are.

    Returns:
        A drawing with the same number of strokes and points.

    """
    strokes = [torch.as_tensor(stroke, dtype=torch.float64) for stroke in drawing if len(stroke)]
    if not strokes:
        return []
    every = torch.cat(strokes)
    centre, longer = (every.amin(0) + every.amax(0)) / 2, float((every.amax(0) - every.amin(0)).max()) or 1.0
    matrix = _hand_matrix(generator, amount)
    bend = _bend(generator, amount)
    result = []
    for stroke in strokes:
        slip = 0.03 * amount * torch.randn(2, generator=generator, dtype=torch.float64)
        local = (stroke - centre) / longer
        local = (local + bend(local) + slip) @ matrix.T
        result.append((local * longer + centre).tolist())
    return result


def _hand_matrix(generator: torch.Generator, amount: float) -> Tensor:
    """A random turn (about 8 degrees), slant and stretch, [2, 2]."""
    turn, slant, stretch = (amount * torch.randn(3, generator=generator, dtype=torch.float64)).tolist()
    angle, slant, stretch = 0.13 * turn, 0.15 * slant, math.exp(0.13 * stretch)
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shape = torch.tensor([[stretch, slant], [0.0, 1 / stretch]])
    return (rotation @ shape).double()


def _bend(generator: torch.Generator, amount: float):
    """A smooth random field of shifts: three waves across the drawing; returns points [n, 2] -> shifts [n, 2]."""
    waves = 3.0 * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(3, generator=generator, dtype=torch.float64)
    size = 0.03 * amount * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    return lambda points: torch.sin(points @ waves.T + phase) @ size
