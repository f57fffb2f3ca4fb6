"""Drawn faces: a face of a few flat shapes, computed from numbers. They are drawings, of nobody; nobody must consent.

Two kinds of numbers make a picture. PERSON holds what makes a person: the shape of the head, the distance of the eyes,
the nose, the hair. They stay the same in all pictures of a person. PICTURE holds what changes from picture to picture:
how the head is turned, where the light comes from, a smile, glasses, something before the face, where the picture was
cut. To recognise a person is to see the first through the second.

    people = draw_people(5, generator)                        # five persons: name of a number → [5]
    render(people, plain(5))                                  # as in a passport: uint8 [5, 1, 48, 40]
    render(people, plain(5) | {"turn": torch.full((5,), 20)}) # all of them turned by 20 degrees
    load("test")                                              # ClassImages: 120 people, 10 pictures each

The drawings are easier than photos in some ways (flat shapes, no skin), and harder in others (each number is drawn by
itself, so that no two of them tell of each other). A result on them is a result on drawings. No number stands for where
a person's family comes from: skin and hair have a tone each, drawn by themselves.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from mlcourse.datasets import local
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError, check_number

Numbers = dict[str, Tensor]  # name → float32 [faces]

SIZE = (48, 40)  # height, width
SAMPLES = 10
PEOPLE = {"train": 240, "val": 40, "test": 120}  # in this order: person 0 to 239 learn, no two splits share a person
TWINS = 0.06  # least distance (root of the mean square, grey in 0 … 1) between the plain portraits of two people
SPARE = 100  # people who are drawn beyond those that are wanted, in place of twins
AT_ONCE = 32  # faces: their pixels stay in the processor's cache

# What makes a person: least, most. Lengths are in half heights of the picture, tones from 0 (black) to 1 (white).
PERSON = {
    "head width": (0.47, 0.62),
    "head height": (0.62, 0.76),
    "jaw": (0.0, 0.5),  # how much narrower the face becomes towards the chin
    "squareness": (1.9, 3.0),  # exponent of the outline: 2 is an ellipse
    "skin": (0.42, 0.86),
    "hair": (0.04, 0.60),
    "hairline": (0.05, 0.55),  # how far hair comes down the forehead, as a share of the half head
    "parting": (-0.35, 0.35),  # slope of the hairline
    "fringe": (-0.25, 0.5),  # its curve: above 0 it comes down at the temples
    "curls": (0.0, 0.05),  # waves of the hairline
    "volume": (0.0, 0.14),  # how far hair stands off
    "length": (-0.35, 0.95),  # how far down hair hangs beside the face
    "ears": (0.05, 0.12),
    "eye distance": (0.19, 0.29),  # from the middle to each
    "eye size": (0.065, 0.105),
    "eye height": (-0.16, -0.02),  # of the eyes, below 0 is up
    "eye slant": (-0.35, 0.35),
    "iris": (0.02, 0.45),
    "brow height": (0.10, 0.17),  # above the eyes
    "brow thickness": (0.014, 0.045),
    "brow slant": (-0.22, 0.22),
    "nose length": (0.20, 0.34),
    "nose width": (0.045, 0.11),
    "mouth height": (0.15, 0.24),  # below the nose
    "mouth width": (0.13, 0.26),
    "lips": (0.016, 0.045),
    "beard": (0.0, 1.0),  # from 0.6 a moustache, from 0.75 a full beard
}

# What changes from picture to picture: its plain value, least, most, and the share of the pictures where it is not
# plain.
PICTURE = {
    "turn": (0.0, -24.0, 24.0, 1.0),  # degrees, to the side
    "nod": (0.0, -10.0, 10.0, 1.0),  # degrees, down and up
    "tilt": (0.0, -9.0, 9.0, 1.0),  # degrees, in the plane of the picture
    "shift x": (0.0, -0.08, 0.08, 1.0),
    "shift y": (0.0, -0.08, 0.08, 1.0),
    "zoom": (1.0, 0.90, 1.10, 1.0),
    "light side": (0.0, -0.55, 0.55, 1.0),
    "light above": (0.0, -0.30, 0.30, 1.0),
    "brightness": (1.0, 0.70, 1.15, 1.0),
    "smile": (0.0, -0.5, 1.0, 0.8),
    "open mouth": (0.0, 0.2, 1.0, 0.25),
    "open eyes": (0.8, 0.1, 1.0, 0.8),
    "brows up": (0.0, -0.035, 0.05, 0.8),
    "gaze": (0.0, -0.5, 0.5, 0.8),
    "glasses": (0.0, 0.5, 1.0, 0.3),  # 0: none; else their size
    "hidden": (0.0, 0.5, 1.0, 0.15),  # 0: nothing before the face; else how much
    "hidden x": (0.0, -0.6, 0.6, 1.0),  # where it is, if there is something
    "hidden y": (0.5, -0.4, 0.8, 1.0),
    "hidden tone": (0.5, 0.1, 0.9, 1.0),
    "background": (0.75, 0.15, 0.95, 1.0),
    "clothes": (0.3, 0.05, 0.9, 1.0),
    "noise": (0.0, 0.005, 0.025, 1.0),
}


# ------------------------------------------------------------------ numbers


def draw_people(count: int, generator: torch.Generator) -> Numbers:
    """`count` people: for each name in PERSON a number, evenly drawn between its ends."""
    uniform = torch.rand(count, len(PERSON), generator=generator)
    return {name: low + (high - low) * uniform[:, k] for k, (name, (low, high)) in enumerate(PERSON.items())}


def draw_pictures(count: int, generator: torch.Generator) -> Numbers:
    """What changes, for `count` pictures: for each name in PICTURE its plain value, or one between its ends."""
    uniform = torch.rand(count, 2 * len(PICTURE), generator=generator)
    found = {}
    for k, (name, (plainly, low, high, share)) in enumerate(PICTURE.items()):
        value = low + (high - low) * uniform[:, 2 * k]
        found[name] = torch.where(uniform[:, 2 * k + 1] < share, value, torch.full_like(value, plainly))
    return found


def plain(count: int) -> Numbers:
    """The numbers of `count` pictures in which nothing is out of the ordinary: straight, even light, no glasses."""
    return {name: torch.full((count,), value) for name, (value, *_) in PICTURE.items()}


def picked(numbers: Numbers, index: Tensor) -> Numbers:
    """The numbers of some faces: `index` is int64 [faces]."""
    return {name: value[index] for name, value in numbers.items()}


# ------------------------------------------------------------------ data sets


def load(split: str, *, samples: int = SAMPLES, seed: int = 0, size: tuple[int, int] = SIZE) -> ClassImages:
    """Drawn people as classes: "train" 240, "val" 40, "test" 120, "trainval" or "all"; grey, uint8 [_, 1, 48, 40].

    samples: pictures of each. seed: the same seed gives the same people and pictures; people of another seed are other
    people. size: height and width. No two splits share a person, and no two people are nearly the same: their plain
    portraits differ by TWINS or more. Raises CourseError for an unknown split, and a number below 1.
    """
    parts = local.parts_of(split)
    check_number("samples", samples, least=1)
    everyone, ends = population(seed), dict(zip(PEOPLE, accumulate(PEOPLE.values()), strict=True))
    images, names = [], []
    for part in parts:
        index = torch.arange(ends[part] - PEOPLE[part], ends[part])
        generator = torch.Generator().manual_seed(1000 * seed + ends[part])
        people = picked(everyone, index.repeat_interleave(samples))
        images.append(render(people, draw_pictures(len(index) * samples, generator), size, generator=generator))
        names += [f"person {number:03d}" for number in index.tolist()]
    return ClassImages(
        images=torch.cat(images),
        counts=torch.full((len(names),), samples),
        names=tuple(names),
        groups=tuple(names),
        name="drawn faces",
        split=split,
    )


@lru_cache(maxsize=4)
def population(seed: int = 0) -> Numbers:
    """All 400 people of a seed. Whoever looks nearly like one before him is left out, and the next one is drawn."""
    generator, wanted = torch.Generator().manual_seed(seed), sum(PEOPLE.values())
    drawn = wanted + SPARE
    kept: list[int] = []
    people = draw_people(drawn, generator)
    portraits = render(people, plain(drawn)).flatten(1).float() / 255
    for one in range(drawn):
        away = (portraits[kept] - portraits[one]).square().mean(1)
        if not len(kept) or away.min() >= TWINS**2:
            kept.append(one)
        if len(kept) == wanted:
            return picked(people, torch.tensor(kept))
    raise CourseError(f"only {len(kept)} of {drawn} people of seed {seed} differ enough: take another seed")


# ------------------------------------------------------------------ drawing


def render(
    person: Numbers,
    picture: Numbers,
    size: tuple[int, int] = SIZE,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Faces from their numbers: uint8 [faces, 1, height, width].

    person: the names of PERSON, picture: those of PICTURE, each float32 [faces]. size: height and width in pixels.
    generator: of the noise (None: always the same). Raises CourseError for a name that is missing, numbers of other
    lengths, and numbers that are not finite.
    """
    for what in size:
        check_number("size", what, least=8)
    numbers = _checked(person, PERSON) | _checked(picture, PICTURE)
    lengths = {len(value) for value in numbers.values()}
    if len(lengths) != 1:
        raise CourseError(f"the numbers are of {sorted(lengths)} faces; give each name one number per face")
    generator = generator or torch.Generator().manual_seed(0)
    faces = []
    for start in range(0, lengths.pop(), AT_ONCE):
        some = {name: value[start : start + AT_ONCE].view(-1, 1, 1) for name, value in numbers.items()}
        grey = _Face(some, size).draw()
        grey += some["noise"] * torch.randn(grey.shape, generator=generator)
        faces.append(grey.mul_(255).round_().clamp_(0, 255).to(torch.uint8).unsqueeze(1))
    return torch.cat(faces) if faces else torch.empty(0, 1, *size, dtype=torch.uint8)


def _checked(numbers: Numbers, names: dict) -> Numbers:
    """The numbers of these names, float32 [faces]."""
    missing = [name for name in names if name not in numbers]
    if missing:
        raise CourseError(f"the numbers have no {missing[0]!r}; give all of {', '.join(names)}")
    found = {name: torch.as_tensor(numbers[name], dtype=torch.float32).flatten() for name in names}
    for name, value in found.items():
        if not value.isfinite().all():
            raise CourseError(f"{name} of a face is nan or infinite; give finite numbers")
    return found


class _Face:
    """Some faces in the making: shapes are laid on each other, each with soft edges one pixel wide.

    A shape is given by signed distances [faces, height, width]: below 0 inside. Lengths are those of the head, before
    it is moved, tilted and zoomed. The head is an ellipsoid: what lies on it moves with its turn.
    """

    def __init__(self, numbers: Numbers, size: tuple[int, int]):
        self.of = numbers
        height, width = size
        y = ((torch.arange(height) + 0.5) * 2 / height - 1).view(1, height, 1)
        x = ((torch.arange(width) + 0.5) * 2 / height - width / height).view(1, 1, width)
        tilt = torch.deg2rad(numbers["tilt"])
        x, y = x - numbers["shift x"], y - numbers["shift y"]
        self.x = (x * tilt.cos() + y * tilt.sin()) / numbers["zoom"]
        self.y = (y * tilt.cos() - x * tilt.sin()) / numbers["zoom"]
        self.pixel = 2 / height / numbers["zoom"]
        turn, nod = torch.deg2rad(numbers["turn"]), torch.deg2rad(numbers["nod"])
        self.turn, self.nod = (turn.cos(), turn.sin()), (nod.cos(), nod.sin())
        self.grey = numbers["background"] + 0.05 * self.y + 0 * self.x

    # .................................................................. what shapes are made of

    def paint(self, distance: Tensor, tone: Tensor | float, strength: Tensor | float = 1.0) -> None:
        """Lay a shape of this tone on the picture."""
        cover = (0.5 - distance / self.pixel).clamp_(0, 1) * strength
        self.grey += cover * (tone - self.grey)

    def ellipse(self, x: Tensor, y: Tensor, wide: Tensor, high: Tensor, slant: Tensor | float = 0.0) -> Tensor:
        """Signed distance (to first order) from an ellipse around (x, y); slant: how much it rises to the right."""
        u, v = self.x - x, self.y - y
        v = v + slant * u
        u, v = u / wide, v / high
        length = (u.square() + v.square()).sqrt_()
        slope = ((u / wide).square_() + (v / high).square_()).sqrt_()
        return length * (length - 1) / slope.clamp_(min=1e-6)

    def stroke(self, x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, radius: Tensor | float) -> Tensor:
        """Signed distance from a line with round ends."""
        u, v, across, down = self.x - x0, self.y - y0, x1 - x0, y1 - y0
        along = ((u * across + v * down) / (across.square() + down.square()).clamp(min=1e-9)).clamp_(0, 1)
        return ((u - along * across).square_() + (v - along * down).square_()).sqrt_() - radius

    def on_head(self, x: Tensor | float, y: Tensor, beyond: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Where a point of the face is seen, and how narrow things are there, when the head is turned.

        beyond: how far it stands out of the ellipsoid, as the tip of the nose does.
        """
        x = torch.as_tensor(x)
        wide, high, deep = self.of["head width"], self.of["head height"], 0.55
        root = (1 - (x / wide).square() - (y / high).square()).clamp(min=0.05).sqrt()
        z = deep * root + beyond
        (cos, sin), (cos_nod, sin_nod) = self.turn, self.nod
        narrow = (cos - deep * x / (wide.square() * root) * sin).clamp(0.35, 1.25)
        return x * cos + z * sin, y * cos_nod + z * sin_nod, narrow

    def outline(self) -> Tensor:
        """Signed distance from the outline of the head: an ellipse of any exponent that narrows to the chin."""
        wide, high, power = self.of["head width"], self.of["head height"], self.of["squareness"]
        v = self.y / high
        narrower = 1 - self.of["jaw"] * v.clamp(0, 1).square()
        u = (self.x / (wide * narrower)).abs_().clamp_(min=1e-4)
        power_sum = u.pow(power) + v.abs().clamp_(min=1e-4).pow(power)
        return (power_sum.pow(1 / power) - 1) * wide

    # .................................................................. the face, from back to front

    def draw(self) -> Tensor:
        """The faces, float32 [faces, height, width], about 0 to 1."""
        head = self.outline()
        self.body_and_back_hair(head)
        self.skin(head)
        self.nose()
        self.beard(head)
        self.mouth()
        for side in (-1.0, 1.0):
            self.eye_and_brow(side)
        self.front_hair(head)
        self.glasses()
        self.light()
        self.hide()
        return self.grey

    def body_and_back_hair(self, head: Tensor) -> None:
        of = self.of
        zero = torch.zeros_like(of["skin"])
        neck = 0.5 * of["head width"]
        self.paint(self.ellipse(zero, zero + 1.35, 1.6 * of["head width"] + 0.1, zero + 0.5), of["clothes"])
        self.paint(self.stroke(zero, 0.5 * of["head height"], zero, zero + 0.85, neck), 0.85 * of["skin"])
        behind = torch.maximum(head - of["volume"] - 0.02, self.y - of["length"])
        self.paint(behind, of["hair"])
        for side in (-1.0, 1.0):
            x, y, narrow = self.on_head(side * 0.96 * of["head width"], of["eye height"] + 0.10)
            seen = x + side * 0.02
            self.paint(self.ellipse(seen, y, 0.75 * of["ears"] * narrow, 1.25 * of["ears"]), 0.88 * of["skin"])

    def skin(self, head: Tensor) -> None:
        self.paint(head, self.of["skin"])

    def nose(self) -> None:
        of = self.of
        top, tip = of["eye height"] + 0.04, of["eye height"] + of["nose length"]
        x0, y0, _ = self.on_head(0.0, top, 0.03)
        x1, y1, narrow = self.on_head(0.0, tip, 0.13)
        wide = of["nose width"] * narrow
        self.paint(self.stroke(x0 + 0.25 * wide, y0, x1 + 0.55 * wide, y1, 0.3 * wide), 0.86 * of["skin"])
        self.paint(self.ellipse(x1, y1, wide, 0.5 * of["nose width"]), 0.93 * of["skin"])
        for side in (-1.0, 1.0):
            self.paint(self.ellipse(x1 + side * 0.5 * wide, y1 + 0.025, 0.28 * wide, 0.2 * wide), 0.5 * of["skin"])

    def beard(self, head: Tensor) -> None:
        of = self.of
        x, y, narrow = self.on_head(0.0, self.mouth_height(), 0.05)
        tone = 0.75 * of["hair"] + 0.25 * of["skin"]
        full, moustache = (of["beard"] > 0.75).float(), (of["beard"] > 0.6).float()
        line = y - 0.07 - 0.45 * ((self.x - x) / of["head width"]).square()
        self.paint(torch.maximum(head, line - self.y), tone, full)
        above = self.ellipse(x, y - 0.075, 0.95 * of["mouth width"] * narrow, 0.25 * of["mouth height"])
        self.paint(above, tone, moustache)

    def mouth_height(self) -> Tensor:
        return self.of["eye height"] + self.of["nose length"] + self.of["mouth height"]

    def mouth(self) -> None:
        of = self.of
        x, y, narrow = self.on_head(0.0, self.mouth_height(), 0.05)
        wide = of["mouth width"] * narrow * (1 + 0.2 * of["smile"])
        curve = 0.06 * of["smile"] * (1 - ((self.x - x) / wide).square().clamp_(max=1.5))
        bent, self.y = self.y, self.y - curve  # the corners of a smile are up
        self.paint(self.ellipse(x, y, wide, of["lips"] + 0.07 * of["open mouth"]), 0.58 * of["skin"])
        inside = 0.010 + 0.055 * of["open mouth"]
        self.paint(self.ellipse(x, y, 0.9 * wide, inside), 0.22 * of["skin"])
        teeth = self.ellipse(x, y - 0.4 * inside, 0.7 * wide, 0.45 * inside)
        self.paint(teeth, 0.92, (of["open mouth"] > 0).float())
        self.y = bent

    def eye_and_brow(self, side: float) -> None:
        of = self.of
        x, y, narrow = self.on_head(side * of["eye distance"], of["eye height"])
        slant = side * of["eye slant"]
        wide, high = of["eye size"] * narrow, 0.62 * of["eye size"] * of["open eyes"]
        white = self.ellipse(x, y, wide, high, slant)
        self.paint(white - 0.012, 0.62 * of["skin"])  # lids
        self.paint(white, 0.6 + 0.35 * of["skin"])
        iris = self.ellipse(x + of["gaze"] * 0.6 * wide, y, 0.5 * wide, 0.5 * of["eye size"])
        self.paint(torch.maximum(white, iris), of["iris"])
        rise = of["eye height"] - of["brow height"] - of["brows up"]
        x, y, narrow = self.on_head(side * of["eye distance"], rise, 0.02)
        half = 1.25 * of["eye size"] * narrow
        outer, inner = side * half, -side * half
        up = of["brow slant"] * half
        brow = self.stroke(x + inner, y + up, x + outer, y - up, of["brow thickness"])
        self.paint(brow, 0.8 * of["hair"] + 0.1 * of["skin"])

    def front_hair(self, head: Tensor) -> None:
        of = self.of
        (_, sin), (_, sin_nod) = self.turn, self.nod
        u = (self.x - 0.35 * sin) / of["head width"]
        line = of["head height"] * (of["hairline"] - 1) + 0.3 * sin_nod
        line = line + 0.6 * of["head width"] * (of["parting"] * u + of["fringe"] * u.square())
        line = line + of["curls"] * torch.sin(14 * u)
        self.paint(torch.maximum(head - of["volume"], self.y - line), of["hair"])

    def glasses(self) -> None:
        of = self.of
        there, radius = (of["glasses"] > 0).float(), 0.09 + 0.05 * of["glasses"]
        tone, ends = 0.08 + 0.1 * of["glasses"], []
        for side in (-1.0, 1.0):
            x, y, narrow = self.on_head(side * of["eye distance"], of["eye height"] + 0.01, 0.06)
            lens = self.ellipse(x, y, radius * 1.15 * narrow, radius)
            self.paint(lens, 0.9, 0.12 * there)
            self.paint(lens.abs() - 0.016, tone, there)
            ends.append((x - side * radius * 1.15 * narrow, y))
        self.paint(self.stroke(*ends[0], *ends[1], 0.014), tone, there)

    def light(self) -> None:
        of = self.of
        falls = of["light side"] * (self.x / of["head width"]).clamp(-1.3, 1.3)
        falls = falls - of["light above"] * (self.y / of["head height"]).clamp(-1.3, 1.3)
        self.grey *= of["brightness"] * (1 + falls)

    def hide(self) -> None:
        of = self.of
        box = torch.maximum(
            (self.x - of["hidden x"]).abs() - 0.28 * of["hidden"], (self.y - of["hidden y"]).abs() - 0.24
        )
        self.paint(box - 0.06, of["hidden tone"], (of["hidden"] > 0).float())
