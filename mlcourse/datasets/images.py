"""`ClassImages`: pictures grouped by class, the one form in which every data set of the course arrives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from mlcourse.errors import CourseError

QUARTER_TURNS = (0, 90, 180, 270)
TURNED = "/rot"
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue


def upright(name: str) -> str:
    """The name of a class before it was turned: "Greek/character03" of "Greek/character03/rot090"."""
    return name.rsplit(TURNED, 1)[0]


@dataclass(frozen=True, eq=False)
class ClassImages:
    """Pictures of many classes in one tensor. The samples of a class stand together; classes may differ in size.

    images: uint8 [total, C, H, W] in 0..255; for characters, ink is 255.
    counts: int64 [classes], the number of samples of each class (on the CPU: indices are drawn there).
    names:  one per class, such as "Greek/character03/rot090".
    groups: one per class, such as the alphabet.
    name, split: where the pictures come from, such as "omniglot" and "train".
    """

    images: Tensor
    counts: Tensor
    names: tuple[str, ...]
    groups: tuple[str, ...]
    name: str
    split: str

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            shape, kind = tuple(self.images.shape), self.images.dtype
            raise CourseError(f"images must be uint8 [total, C, H, W], not {kind} {shape}: convert them first")
        if int(self.counts.sum()) != len(self.images):
            raise CourseError(f"counts add up to {int(self.counts.sum())}, but there are {len(self.images)} images")
        if not len(self.names) == len(self.groups) == len(self.counts):
            lengths = f"{len(self.counts)} counts, {len(self.names)} names, {len(self.groups)} groups"
            raise CourseError(f"{lengths}: give one of each per class")

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return tuple(self.images.shape[1:])

    @cached_property
    def first(self) -> Tensor:
        """int64 [classes]: where the samples of each class begin in `images`."""
        return self.counts.cumsum(0) - self.counts

    @cached_property
    def content(self) -> str:
        """A digest of the classes and their pictures: a name alone does not tell two selections apart."""
        digest = hashlib.sha256(repr(self.names).encode())
        digest.update(self.images.cpu().contiguous().numpy())
        return digest.hexdigest()[:12]

    def of_class(self, index: int) -> Tensor:
        """All samples of one class: uint8 [n, C, H, W]. A negative index counts from the end."""
        if not -self.classes <= index < self.classes:
            raise CourseError(f"class {index} does not exist: {self.name} {self.split} has {self.classes} classes")
        start, count = int(self.first[index]), int(self.counts[index])
        return self.images[start : start + count]

    def select(self, class_indices: Iterable[int] | Tensor) -> ClassImages:
        """Only these classes, in this order. A bool tensor [classes] is a mask."""
        chosen = torch.as_tensor(class_indices if isinstance(class_indices, Tensor) else list(class_indices))
        chosen = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen.long()
        if chosen.numel() == 0 or int(chosen.min()) < 0 or int(chosen.max()) >= self.classes:
            wanted = chosen.tolist() if chosen.numel() < 8 else f"{chosen.numel()} indices"
            raise CourseError(f"cannot select classes {wanted}: give indices in 0..{self.classes - 1}, at least one")
        counts = self.counts[chosen]
        source = positions(counts) + self.first[chosen].repeat_interleave(counts)
        return replace(
            self,
            images=self.images[source.to(self.images.device)],
            counts=counts,
            names=tuple(self.names[i] for i in chosen.tolist()),
            groups=tuple(self.groups[i] for i in chosen.tolist()),
        )

    def with_rotations(self, mask: Tensor | None = None) -> ClassImages:
        """Each class in `mask` (bool [classes]; default: every class) four times: turned by 0, 90, 180 and 270 degrees.

        The four stand side by side and are named ".../rot000" to ".../rot270". A turn is counter-clockwise and exact,
        pixel by pixel. Classes outside the mask stay as they are. Pictures must be square.
        """
        if self.shape[1] != self.shape[2]:
            raise CourseError(
                f"pictures of {self.shape[1]}×{self.shape[2]} cannot turn by 90 degrees: make them square"
            )
        mask = torch.ones(self.classes, dtype=torch.bool) if mask is None else torch.as_tensor(mask, dtype=torch.bool)
        if mask.shape != (self.classes,):
            raise CourseError(f"the rotation mask has shape {tuple(mask.shape)}: give one bool for each of the classes")
        versions = torch.where(mask, 4, 1)
        source_class = torch.arange(self.classes).repeat_interleave(versions)
        turn = positions(versions)
        turned = self.select(source_class)
        turn_of_image = turn.repeat_interleave(turned.counts).to(self.images.device)
        for quarter in (1, 2, 3):
            here = turn_of_image == quarter
            turned.images[here] = torch.rot90(turned.images[here], quarter, dims=(-2, -1))
        named = zip(turned.names, turn.tolist(), mask[source_class].tolist(), strict=True)
        names = (f"{name}{TURNED}{QUARTER_TURNS[k]:03d}" if rotates else name for name, k, rotates in named)
        return replace(turned, names=tuple(names))

    def with_at_least(self, samples: int) -> tuple[ClassImages, tuple[str, ...]]:
        """Only the classes with that many samples, and the names of the others.

        Raises CourseError, with the size of the largest class, when no class has as many.
        """
        enough = self.counts >= samples
        if not enough.any():
            largest = int(self.counts.argmax())
            raise CourseError(
                f"no class of {self.name} {self.split} has {samples} samples; {self.names[largest]!r} has most, "
                f"{int(self.counts[largest])}: ask for fewer, or add pictures"
            )
        left_out = tuple(name for name, kept in zip(self.names, enough.tolist()) if not kept)
        return (self.select(enough) if left_out else self), left_out

    def in_shape(self, shape: tuple[int, int, int]) -> ClassImages:
        """The same pictures as uint8 [total, C, H, W] of another `shape` (C, H, W): C is 1 (grey) or 3 (RGB).

        Colours become their luma (ITU-R BT.601, as Pillow's "L"); grey becomes three equal channels. Sizes are scaled
        bilinearly, with antialiasing. Bright stays bright: dark ink on white paper is not turned into the bright ink
        of `glyphs` and `omniglot`.
        """
        if len(shape) != 3 or shape[0] not in (1, 3) or self.shape[0] not in (1, 3) or min(shape) < 1:
            raise CourseError(f"{self.name} cannot turn from {self.shape} into {tuple(shape)}: give (1 or 3, H, W)")
        if tuple(shape) == self.shape:
            return self
        return replace(self, images=torch.cat([_converted(some, shape) for some in self.images.split(1024)]))

    def to(self, device: torch.device | str) -> ClassImages:
        """The same with `images` on `device`. `counts` stays on the CPU, where indices are drawn."""
        return replace(self, images=self.images.to(device))

    def __repr__(self) -> str:
        return (
            f"ClassImages({self.name} {self.split}: {self.classes} classes in {len(set(self.groups))} groups, "
            f"{len(self.images)} images of {'×'.join(map(str, self.shape))})"
        )


def _converted(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """uint8 [n, C, H, W] in another shape; see `ClassImages.in_shape`."""
    values = images.float()
    if len(LUMA) == values.shape[1] != shape[0]:
        values = (values * torch.tensor(LUMA, device=values.device).view(3, 1, 1)).sum(1, keepdim=True)
    if tuple(values.shape[2:]) != tuple(shape[1:]):
        values = functional.interpolate(values, tuple(shape[1:]), mode="bilinear", antialias=True)
    return values.round().clamp(0, 255).to(torch.uint8).expand(-1, shape[0], -1, -1).contiguous()


def positions(counts: Tensor) -> Tensor:
    """0..n-1 for each n in counts, one after another: [2, 3] -> [0, 1, 0, 1, 2]."""
    ends = counts.cumsum(0)
    return torch.arange(int(ends[-1])) - (ends - counts).repeat_interleave(counts)
