"""The drawing pad on a page without a kernel: recorded strokes that draw themselves (SVG), and the learner's answer."""

import html
from collections.abc import Sequence

from mlcourse.teaching.pad.strokes import Drawing
from mlcourse.teaching.stacks import Axis, Stack

QUERIES = 5  # of each set of sample drawings
SIDE, GAP = 100, 14  # of a paper, and between two; the units of the SVG
SECONDS = 0.7  # that a stroke takes
NOTE = (
    "This recording of the pad has no buttons, asks one learner, and takes no drawing: what the text says of Another "
    "sample, Clear all, Who answers? and of drawings of your own works in the living course."
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def stack(samples: Sequence[dict]) -> Stack:
    """The controls of a recorded pad: which sample drawings, and which of their queries."""
    names = [one["name"] for one in samples]
    queries = range(min(QUERIES, *(len(one["queries"]) for one in samples)))
    whole = all(len(queries) == len(one["queries"]) for one in samples)
    over = [
        Axis("drawings", "drawings", names, names, 0, slides=False),
        Axis("query", "query", queries, [str(k + 1) for k in queries], 0, slides=True, whole=whole),
    ]
    return Stack(over)


def page(support: Sequence[Drawing], query: Drawing, probabilities: Sequence[float], alt: str) -> str:
    """The query, whose strokes draw themselves one after another, and the taught characters with their probabilities.

    A drawing is a list of strokes, a stroke a list of points (x, y) in [0, 1]. alt: all of it in words.
    """
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    papers = [_paper(0, query, "query", moves=True)]
    for k, (drawing, probability) in enumerate(zip(support, probabilities, strict=True), start=1):
        said = f"{LETTERS[k - 1]}: {100 * probability:.0f} %"
        papers.append(_paper(k, drawing, said, share=probability, best=k - 1 == best))
    width = (len(support) + 1) * (SIDE + GAP) - GAP + 4
    return (
        f'<svg class="pad-replay" role="img" aria-label="{html.escape(alt)}" viewBox="-2 -2 {width} {SIDE + 40}">'
        f"{''.join(papers)}</svg>"
    )


def _paper(place: int, drawing: Drawing, said: str, *, share: float = 0.0, best: bool = False, moves=False) -> str:
    paths = "".join(
        f'<path pathLength="1" d="{_path(stroke)}"'
        + (f' class="pad-stroke" style="animation-delay: {SECONDS * k:.1f}s"' if moves else "")
        + "/>"
        for k, stroke in enumerate(drawing)
        if len(stroke)
    )
    bar = f'<rect class="pad-bar" x="0" y="{SIDE + 6}" width="{SIDE * share:.1f}" height="8"/>' if not moves else ""
    kind = "pad-paper pad-best" if best else "pad-paper"
    paper = f'<rect class="{kind}" width="{SIDE}" height="{SIDE}" rx="6"/>'
    return (
        f'<g transform="translate({place * (SIDE + GAP)} 0)">{paper}'
        f'{paths}{bar}<text x="{SIDE / 2:.0f}" y="{SIDE + 30}">{html.escape(said)}</text></g>'
    )


def _path(stroke: Sequence) -> str:
    points = [f"{SIDE * x:.0f} {SIDE * y:.0f}" for x, y, *_ in stroke]
    return f"M{points[0]}" + "".join(f"L{point}" for point in points[1:] or points)
