"""`ClassImages`: pictures grouped by class, the one form in which every data set of the course arrives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from mlcourse.errors import CourseError

QUARTER_TURNS = (0, 90, 180, 270)


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
        names = (f"{name}/rot{QUARTER_TURNS[k]:03d}" if rotates else name for name, k, rotates in named)
        return replace(turned, names=tuple(names))

    def to(self, device: torch.device | str) -> ClassImages:
        """The same with `images` on `device`. `counts` stays on the CPU, where indices are drawn."""
        return replace(self, images=self.images.to(device))

    def __repr__(self) -> str:
        return (
            f"ClassImages({self.name} {self.split}: {self.classes} classes in {len(set(self.groups))} groups, "
            f"{len(self.images)} images of {'×'.join(map(str, self.shape))})"
        )


def positions(counts: Tensor) -> Tensor:
    """0..n-1 for each n in counts, one after another: [2, 3] -> [0, 1, 0, 1, 2]."""
    ends = counts.cumsum(0)
    return torch.arange(int(ends[-1])) - (ends - counts).repeat_interleave(counts)
