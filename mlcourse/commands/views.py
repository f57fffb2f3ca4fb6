"""`mlcourse evaluate … --views STRENGTH --symmetries N`: a learner that compares sees each picture several times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.datasets import ClassImages

VIEWS_HELP = (
    "for learners that compare, on characters: each picture is seen as it is and in 12 views, turned, sheared, "
    "stretched and moved by so much (above 0, up to 3; 1: 15 degrees, a fifth), and its mean embedding counts"
)
SYMMETRIES_HELP = (
    "for learners that compare: each picture is seen in its quarter turns, too (4), and these mirrored (8); the "
    "embeddings stand side by side"
)


def asked(views: float | None, symmetries: int | None) -> dict[str, float]:
    """The two options, by name, as far as they are given.

    Raises CourseError for values that there are not, before any work is done.
    """
    from mlcourse.networks.views import STRONGEST, SYMMETRIES

    if views is not None and not 0 < views <= STRONGEST:
        raise CourseError(f"--views is {views}: give a number above 0 and up to {STRONGEST}, or leave it out")
    if symmetries is not None and symmetries not in SYMMETRIES[1:]:
        raise CourseError(
            f"--symmetries is {symmetries}: give {' or '.join(map(str, SYMMETRIES[1:]))}, or leave it out"
        )
    return {name: one for name, one in {"views": views, "symmetries": symmetries}.items() if one is not None}


def check_ground(images: ClassImages, seen: dict[str, float]) -> None:
    """Raise CourseError where views would bring in black from outside, and the pictures' edges are not black."""
    if "views" in seen:
        check_black_ground(images, "--views", "a view")


def check_black_ground(images: ClassImages, option: str, what: str) -> None:
    """Raise CourseError where a distortion would bring in black from outside, and the pictures' edges are not black.

    option, what: what asks for it, and what brings it in, as the message says them.
    """
    some = images.images[:: max(1, len(images.images) // 1000)]
    bright = max(
        float(edge.float().mean()) for edge in (some[..., 0], some[..., -1], some[..., 0, :], some[..., -1, :])
    )
    if bright > 255 / 4:
        raise CourseError(
            f"{option} is for characters, bright on black: what {what} brings in is black, and the edges of "
            f"{images.name} are not (mean {bright:.0f} of 255): leave it out, or invert pictures that are dark on white"
        )
