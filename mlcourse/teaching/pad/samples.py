"""Characters that the drawing pad can draw by itself, for people without a mouse and for runs without a screen.

They were drawn for the course. Each character is a list of strokes, each stroke a few points on a paper of 100 x 100,
and every set has five characters. "curved" sets are smoothed, "straight" sets keep their corners.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mlcourse.teaching.pad.strokes import another_hand

# fmt: off
SETS: dict[str, dict] = {
    "Signs": {"curved": True, "characters": [
        # a spiral, a fish, a key, a snail's wave with two dots, a flower on a stem
        [[(52, 52), (60, 48), (58, 38), (46, 36), (36, 48), (42, 64), (62, 68), (76, 54), (72, 30), (48, 18), (24, 28),
          (16, 54), (28, 80)]],
        [[(86, 28), (66, 44), (44, 66), (22, 62), (12, 50), (22, 38), (44, 34), (66, 56), (86, 74)],
         [(28, 46), (29, 47)]],
        [[(40, 30), (28, 18), (16, 30), (26, 44), (40, 32), (60, 54), (84, 80)],
         [(66, 60), (58, 70)], [(76, 72), (68, 82)]],
        [[(10, 60), (22, 34), (38, 44), (48, 66), (64, 64), (74, 40), (90, 34)],
         [(36, 20), (37, 21)], [(62, 84), (63, 85)]],
        [[(50, 90), (48, 70), (50, 46), (34, 42), (30, 24), (42, 16), (50, 26), (60, 14), (72, 26), (64, 42), (50, 46)],
         [(49, 72), (66, 62), (76, 66)]],
    ]},
    "Runes": {"curved": False, "characters": [
        [[(34, 10), (34, 90)], [(34, 36), (70, 12)], [(34, 60), (70, 36)]],
        [[(26, 90), (26, 10), (74, 46)], [(74, 90), (74, 10), (26, 46)]],
        [[(24, 90), (72, 36), (50, 10), (28, 36), (76, 90)]],
        [[(50, 10), (50, 90)], [(24, 34), (50, 10), (76, 34)]],
        [[(36, 90), (36, 10), (66, 28), (36, 48), (68, 90)]],
    ]},
    "Hard": {"curved": True, "characters": [
        # one shape, mirrored and turned: b, d, p, q, and an a
        [[(30, 10), (30, 50), (30, 88)], [(30, 60), (46, 46), (66, 54), (68, 74), (52, 88), (30, 80)]],
        [[(70, 10), (70, 50), (70, 88)], [(70, 60), (54, 46), (34, 54), (32, 74), (48, 88), (70, 80)]],
        [[(30, 90), (30, 50), (30, 12)], [(30, 40), (46, 54), (66, 46), (68, 26), (52, 12), (30, 20)]],
        [[(70, 90), (70, 50), (70, 12)], [(70, 40), (54, 54), (34, 46), (32, 26), (48, 12), (70, 20)]],
        [[(70, 34), (70, 60), (72, 84), (82, 88)], [(70, 46), (52, 32), (32, 44), (30, 70), (48, 86), (70, 72)]],
    ]},
}
# fmt: on

QUERIES = 10  # query drawings of each set: two of each character


def sample_sets(hands: int = QUERIES) -> list[dict]:
    """All sets, ready for the pad.

    Returns:
        One dict per set: "name"; "support", five drawings, one of each character; "queries", a list of
        {"drawing", "is"}: the same characters by other hands, in mixed order; "is" is the index of the character.

    """
    return [_sample_set(name, one, hands) for name, one in SETS.items()]


def _sample_set(name: str, one: dict, hands: int) -> dict:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    characters = [[_line(stroke, one["curved"]) for stroke in character] for character in one["characters"]]
    order = [int(i) for _ in range(hands) for i in torch.randperm(len(characters), generator=generator)][:hands]
    return {
        "name": name,
        "support": [_tidy(another_hand(character, generator, amount=0.4)) for character in characters],
        "queries": [{"drawing": _tidy(another_hand(characters[i], generator)), "is": i} for i in order],
    }


def _line(stroke: list[tuple[float, float]], curved: bool) -> list[list[float]]:
    """Points of a line through the given points (a Catmull-Rom curve, or straight), on a paper of width 1."""
    points = torch.tensor(stroke, dtype=torch.float64) / 100
    padded = torch.cat([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    pieces = [
        _curve(*padded[i : i + 4]) if curved else _straight(*padded[i + 1 : i + 3]) for i in range(len(points) - 1)
    ]
    return torch.cat([*pieces, points[-1:]]).tolist()


def _curve(before: Tensor, start: Tensor, end: Tensor, after: Tensor) -> Tensor:
    """Four points from `start` towards `end`: E. Catmull and R. Rom, "A class of local interpolating splines", 1974."""
    t = torch.arange(4, dtype=torch.float64)[:, None] / 4
    linear = end - before
    square = 2 * before - 5 * start + 4 * end - after
    cube = 3 * (start - end) + after - before
    return start + (linear * t + square * t**2 + cube * t**3) / 2


def _straight(start: Tensor, end: Tensor) -> Tensor:
    """Four points from `start` towards `end`, so that another hand can bend the line."""
    t = torch.arange(4, dtype=torch.float64)[:, None] / 4
    return start + (end - start) * t


def _tidy(drawing: list) -> list:
    """Shrink a drawing to four fifths, so that another hand stays on the paper, and round to a thousandth."""
    return [
        [[round(0.5 + 0.8 * (x - 0.5), 3), round(0.5 + 0.8 * (y - 0.5), 3)] for x, y in stroke] for stroke in drawing
    ]
