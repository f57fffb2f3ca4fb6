"""Scenes: many characters on one canvas, drawn over each other, with the mask and the box of each.

After Michaelis, Bethge, Ecker, *One-Shot Segmentation in Clutter*, ICML 2018, https://arxiv.org/abs/1803.09597, and the
code that made its data set. There are two recipes, by name:

| | `published` | `grey` |
|---|---|---|
| colour | each character in a random one: red, green, blue uniform | all in one ink |
| target | drawn last: all of it is seen | drawn at a random place in the order: others may hide a part |
| clutter | 4, 8, 16, 32, 64, 128 or 256 characters, of which the target is one | the same |
| rotation | uniform in ±20° | the same |
| shear | uniform in ±10° (the two axes turn apart by twice that) | the same |
| scale | each axis by itself from ½ to 2, uniform in its logarithm, of a character of 32 pixels | the same |
| place | uniform, so that all its ink lies on the canvas of 96×96 | the same |
| drawing | the same picture as in the scene, turned and sheared otherwise | another picture of the class |

**What a pixel of a character is.** Pictures have soft edges: a pixel's ink lies between 0 and 1. Here ink is there, or
it is not: a character's pixels are those where its turned and scaled picture has at least INK = 0.3 (hairlines of thin
typefaces have little more). They are opaque and of one colour. Of several characters at a pixel the one that is drawn
last is seen, and owns it. So a mask says exactly what one sees, and soft edges cannot tell where one character ends.

**What always holds.** Every character has LEAST = 8 pixels of ink or more: one that would have fewer (a dot, at half
its size) is drawn at twice its size; where that is not enough its picture is refused. Of a target at least LEAST pixels
are seen: where others hide more, it changes its place with the character that is drawn last. And in
`vision.segmentation.SceneTasks` no other character of a scene is of the target's class. (In the published code one may
be, by chance; then two answers are right, and one of them counts as wrong.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

SIZE = 96  # of a scene, pixels
CHARACTER = 32  # of a character at scale 1, and of the canvas of a single drawing, pixels
INK = 0.3  # from which on a pixel is ink
LEAST = 8  # pixels of ink that a character has, and that are seen of a target
LEVELS = (4, 8, 16, 32, 64, 128, 256)  # the published numbers of characters
NUMBERS = 9  # random numbers of a character: rotation, shear, two scales, two of its place, three of its colour
SIDES = (24, 32, 40, 48, 64, 80)  # of the squares in which characters are drawn, pixels; the last one is the canvas


@dataclass(frozen=True)
class SceneRecipe:
    """How scenes are drawn. Angles in degrees; `scale`: from 1/scale to scale; `channels`: 3 (colours) or 1 (one ink).

    target_last: whether the target is drawn over all others. same_picture: whether the drawing that says what to look
    for is of the picture that stands in the scene (as in the published code), or of another one of its class (harder).
    """

    channels: int
    target_last: bool
    same_picture: bool
    rotation: float = 20.0
    shear: float = 10.0
    scale: float = 2.0


RECIPES = {
    "published": SceneRecipe(channels=3, target_last=True, same_picture=True),
    "grey": SceneRecipe(channels=1, target_last=False, same_picture=False),
}


@dataclass(frozen=True)
class Scenes:
    """Scenes, and what stands in them. Characters are numbered by their place in the order of drawing, 0 to count − 1.

    images: uint8 [scenes, C, size, size]; ink is bright, on 0. C = 3 (`published`) or 1 (`grey`).
    owner: int16 [scenes, size, size], the place of the character that is seen at a pixel; −1: none.
    classes: int64 [scenes, count]; −1: no character (scenes of fewer characters than others beside them).
    boxes: float32 [scenes, count, 4]: x0, y0, x1, y1 around all ink of a character, hidden ink, too. Pixel (row i,
        column j) covers j to j + 1 and i to i + 1; so the area of a box of one pixel is 1. No character: zeros.
    visible: float32 [scenes, count], the share of a character's ink that is seen. No character: 0.
    target: int64 [scenes], the place of the target; −1: none was named.
    """

    images: Tensor
    owner: Tensor
    classes: Tensor
    boxes: Tensor
    visible: Tensor
    target: Tensor

    @property
    def masks(self) -> Tensor:
        """bool [scenes, size, size]: the pixels of each scene's target. Without a target: none."""
        return (self.owner == self.target.view(-1, 1, 1)) & (self.target.view(-1, 1, 1) >= 0)


def recipe_of(name: str) -> SceneRecipe:
    """The recipe of that name. Raises CourseError for an unknown one."""
    if name not in RECIPES:
        raise CourseError(f"scenes of {name!r} are unknown; use one of {', '.join(RECIPES)}")
    return RECIPES[name]


def draw(
    characters: ClassImages,
    classes: Tensor,
    samples: Tensor,
    *,
    generator: torch.Generator,
    recipe: str = "published",
    size: int = SIZE,
    target: Tensor | None = None,
) -> Scenes:
    """Scenes of given characters, drawn in the order of their places.

    classes: int64 [scenes, count], −1 for no character. samples: int64 [scenes, count], which picture of the class.
    generator: on the CPU; it gives NUMBERS numbers for each character, scene by scene, so that scenes are the same
    whether they are drawn in one call or in several. target: int64 [scenes], a place (−1: none) of which at least
    LEAST pixels must be seen. Raises CourseError for pictures that are no characters, and for indices out of range.
    """
    numbers = torch.rand(*classes.shape, NUMBERS, generator=generator, dtype=torch.float64)
    return compose(characters, classes, samples, numbers, recipe=recipe, size=size, target=target)


def compose(
    characters: ClassImages,
    classes: Tensor,
    samples: Tensor,
    numbers: Tensor,
    *,
    recipe: str = "published",
    size: int = SIZE,
    target: Tensor | None = None,
) -> Scenes:
    """What `draw` gives, for random numbers of one's own: float64 [scenes, count, NUMBERS] in [0, 1)."""
    how = recipe_of(recipe)
    _check(characters, classes, samples, size)
    target = torch.full((len(classes),), -1) if target is None else target
    there = classes >= 0
    scene, place = there.nonzero(as_tuple=True)
    given = numbers[scene, place]
    linear = linear_maps(given, how)
    pictures = _pictures(characters, classes[scene, place], samples[scene, place])
    ink = _ink(pictures, linear, size)
    small = ink.counts < LEAST
    if small.any():
        linear[small] = how.scale * linear_maps(given[small], how, scaled=False)
        ink = _ink(pictures, linear, size)
        _check_ink(ink.counts, LEAST, characters, classes[scene, place], samples[scene, place])
    corner = (given[:, 4:6] * (size - ink.extent + 1)).long()  # column and row of the first ink
    owner = _owner(ink, corner, scene, place, classes.shape, size)
    seen = _seen(owner, classes.shape[1])
    hidden = (target >= 0) & (seen.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1) < LEAST)
    order = _raised(there, target, hidden)  # [scenes, count]: which character stands at each place
    if hidden.any():
        place_of = order  # two characters change places: the exchange is its own inverse
        owner = _owner(ink, corner, scene, place_of[scene, place], classes.shape, size)
        seen = _seen(owner, classes.shape[1])
        target = torch.where(hidden, place_of.gather(1, target.clamp_min(0).unsqueeze(1)).squeeze(1), target)
    boxes, counts = torch.zeros(*classes.shape, 4), torch.zeros(classes.shape)
    boxes[scene, place] = torch.cat([corner, corner + ink.extent], 1).float()
    counts[scene, place] = ink.counts.float()
    boxes, colours = (value.gather(1, order.unsqueeze(2).expand_as(value)) for value in (boxes, _colours(numbers, how)))
    return Scenes(
        images=_coloured(owner, colours),
        owner=owner,
        classes=classes.gather(1, order),
        boxes=boxes,
        visible=seen / counts.gather(1, order).clamp_min(1),
        target=target,
    )


def drawings(
    characters: ClassImages, classes: Tensor, samples: Tensor, numbers: Tensor, *, recipe: str = "published"
) -> tuple[Tensor, Tensor]:
    """Single characters on a canvas of their own, turned and sheared but not scaled, in the middle.

    classes, samples: int64 [n]. numbers: float64 [n, NUMBERS] in [0, 1). Returns uint8 [n, C, 32, 32], bool masks
    [n, 32, 32].
    """
    how = recipe_of(recipe)
    _check(characters, classes.unsqueeze(1), samples.unsqueeze(1), CHARACTER)
    ink = _ink(_pictures(characters, classes, samples), linear_maps(numbers, how, scaled=False), CHARACTER)
    _check_ink(ink.counts, 1, characters, classes, samples)
    corner = (CHARACTER - ink.extent) // 2
    each = torch.arange(len(classes))
    owner = _owner(ink, corner, each, torch.zeros_like(each), (len(classes), 1), CHARACTER)
    return _coloured(owner, _colours(numbers.unsqueeze(1), how)), owner == 0


def _colours(numbers: Tensor, how: SceneRecipe) -> Tensor:
    """uint8 [scenes, count, C]."""
    drawn = (numbers[..., 6 : 6 + how.channels] * 256).to(torch.uint8)
    return drawn if how.channels > 1 else torch.full_like(drawn, 255)


def linear_maps(numbers: Tensor, how: SceneRecipe, *, scaled: bool = True) -> Tensor:
    """The linear map of each character from its own axes to those of the scene: float64 [n, NUMBERS] → [n, 2, 2].

    The x axis turns by rotation + shear, the y axis by rotation − shear; each is stretched by a scale of its own.
    """
    turn = math.radians(how.rotation) * (2 * numbers[:, 0] - 1)
    shear = math.radians(how.shear) * (2 * numbers[:, 1] - 1)
    scales = how.scale ** (2 * numbers[:, 2:4] - 1) if scaled else torch.ones_like(numbers[:, 2:4])
    x_axis = torch.stack([(turn + shear).cos(), -(turn + shear).sin()], 1)
    y_axis = torch.stack([(turn - shear).sin(), (turn - shear).cos()], 1)
    return torch.stack([scales[:, :1] * x_axis, scales[:, 1:] * y_axis], 2)


@dataclass(frozen=True)
class _Ink:
    """The ink of n characters.

    counts: int64 [n], pixels of ink. extent: int64 [n, 2], columns and rows from the first ink to the last.
    index, column, row: int64 [all ink], whose a pixel is, and where it lies, counted from the character's first ink.
    """

    counts: Tensor
    extent: Tensor
    index: Tensor
    column: Tensor
    row: Tensor


def _ink(pictures: Tensor, linear: Tensor, size: int) -> _Ink:
    """The ink of pictures [n, 1, h, w] under linear maps [n, 2, 2]; what is larger than the canvas is cut."""
    # Each is drawn in a square around its middle. Those of about one size go together: most are small.
    reach = (linear.abs().sum(2).amax(1) * CHARACTER).ceil()
    sides = [side for side in SIDES if side < size] + [size]
    fits = torch.bucketize(reach, torch.tensor(sides[:-1], dtype=reach.dtype))
    counts = torch.zeros(len(pictures), dtype=torch.int64)
    first, last = torch.zeros(2, len(pictures), 2, dtype=torch.int64).unbind()
    found = []
    for number, side in enumerate(sides):
        which = (fits == number).nonzero().flatten()
        if not len(which):
            continue
        ink = _drawn(pictures[which], linear[which], side)
        counts[which] = ink.sum((1, 2))
        for axis, lines in enumerate((ink.any(1), ink.any(2))):
            first[which, axis] = lines.int().argmax(1)
            last[which, axis] = side - 1 - lines.flip(1).int().argmax(1)
        index, row, column = ink.nonzero(as_tuple=True)
        found.append((which[index], column, row))
    index, column, row = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _Ink(counts, last - first + 1, index, column - first[index, 0], row - first[index, 1])


def _drawn(pictures: Tensor, linear: Tensor, side: int) -> Tensor:
    """Where ink is: bool [n, side, side]. A picture's frame is CHARACTER pixels wide at scale 1."""
    middle = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    points = torch.stack([x, y], 2).view(side * side, 2)
    back = torch.linalg.inv(linear) / (CHARACTER / 2)  # to the picture, whose frame reaches from −1 to 1
    grid = (points @ back.transpose(1, 2)).float().view(-1, side, side, 2)
    return F.grid_sample(pictures, grid, align_corners=False).squeeze(1) >= INK


def _pictures(characters: ClassImages, classes: Tensor, samples: Tensor) -> Tensor:
    """float32 [n, 1, h, w] in [0, 1]."""
    index = characters.first[classes] + samples
    return characters.images[index.to(characters.images.device)].cpu().float() / 255


def _owner(ink: _Ink, corner: Tensor, scene: Tensor, place: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """The last place with ink at each pixel: int16 [scenes, size, size], −1: none. corner: column, row of first ink."""
    column, row = corner[ink.index, 0] + ink.column, corner[ink.index, 1] + ink.row
    pixel = (scene[ink.index] * size + row) * size + column
    owner = torch.full((shape[0] * size * size,), -1)
    owner.scatter_reduce_(0, pixel, place[ink.index], "amax")
    return owner.view(shape[0], size, size).to(torch.int16)


def _seen(owner: Tensor, count: int) -> Tensor:
    """How many pixels of each character are seen: int64 [scenes, count]."""
    scenes = len(owner)
    cells = owner.long().flatten(1) + 1 + torch.arange(scenes).unsqueeze(1) * (count + 1)
    return torch.bincount(cells.flatten(), minlength=scenes * (count + 1)).view(scenes, count + 1)[:, 1:]


def _raised(there: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """int64 [scenes, count]: which character stands at each place once hidden targets have changed places with the
    character that is drawn last."""
    order = torch.arange(there.shape[1]).repeat(len(there), 1)
    rows = hidden.nonzero().flatten()
    last = (there.long() * (order + 1)).argmax(1)
    order[rows, target[rows]] = last[rows]
    order[rows, last[rows]] = target[rows]
    return order


def _coloured(owner: Tensor, colours: Tensor) -> Tensor:
    """uint8 [scenes, C, size, size]: each pixel in the colour of its owner. colours: uint8 [scenes, count, C]."""
    palette = torch.cat([torch.zeros_like(colours[:, :1]), colours], 1)  # of no character: 0
    index = (owner.long() + 1).flatten(1).unsqueeze(2).expand(-1, -1, colours.shape[2])
    return palette.gather(1, index).transpose(1, 2).reshape(len(owner), -1, *owner.shape[1:])


def _check(characters: ClassImages, classes: Tensor, samples: Tensor, size: int) -> None:
    if characters.shape[0] != 1:
        raise CourseError(
            f"the pictures of {characters.name} have {characters.shape[0]} channels; scenes are drawn of characters in "
            "one ink on 0: take glyphs or omniglot"
        )
    if size < CHARACTER:
        raise CourseError(f"scenes of {size} pixels hold no character of {CHARACTER}; give {CHARACTER} or more")
    if classes.dim() != 2 or classes.shape != samples.shape or not classes.shape[1]:
        shapes = f"{tuple(classes.shape)} and {tuple(samples.shape)}"
        raise CourseError(f"classes and samples have the shapes {shapes}; give [scenes, count] twice")
    there = classes >= 0
    if not there.any(1).all() or int(classes.max()) >= characters.classes or int(classes.min()) < -1:
        raise CourseError(
            f"the classes of a scene are {int(classes.min())} to {int(classes.max())}; give one or more of 0 to "
            f"{characters.classes - 1} for each scene, and -1 for no character"
        )
    too_many = there & ((samples < 0) | (samples >= characters.counts[classes.clamp_min(0)]))
    if too_many.any():
        scene, place = too_many.nonzero()[0].tolist()
        name = characters.names[int(classes[scene, place])]
        raise CourseError(f"{name!r} of {characters.name} has no picture {int(samples[scene, place])}; give one it has")


def _check_ink(counts: Tensor, least: int, characters: ClassImages, classes: Tensor, samples: Tensor) -> None:
    """Raise CourseError for a picture with next to no ink."""
    if (counts < least).any():
        worst = int(counts.argmin())
        name = characters.names[int(classes[worst])]
        raise CourseError(
            f"picture {int(samples[worst])} of {name!r} has {int(counts[worst])} pixels of ink; a character in a scene "
            f"needs {least}: leave it out, or draw bright on dark"
        )
