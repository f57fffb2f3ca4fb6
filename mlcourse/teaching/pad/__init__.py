"""The drawing pad: a person teaches a meta-learner characters from one drawing each, and asks it about another drawing.

The browser's half (`pad.js`, `pad.css`) collects strokes and shows answers. This half turns strokes into pictures
(`mlcourse.strokes`), adapts the learner when the taught characters change, and predicts when the query changes. All of
it works without a browser: set `pad.support` and `pad.query`, read `pad.answer`.
"""

from __future__ import annotations

import base64
import functools
import html
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, evaluation_mode
from mlcourse.teaching import figures, stacks
from mlcourse.teaching.output import Output, picture
from mlcourse.teaching.pad import replay
from mlcourse.teaching.pad.samples import sample_sets
from mlcourse.teaching.pad.strokes import Drawing, as_drawings, rasterise, redraw
from mlcourse.teaching.widgets import KERNEL_WATCH

__all__ = ["DrawingPad", "Recogniser", "as_drawings", "rasterise", "redraw"]

SCRIPT = KERNEL_WATCH + Path(__file__).with_name("pad.js").read_text(encoding="utf-8")  # the browser's half
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HINT = "Draw at least two characters in the small boxes. Then draw one of them again in the large box."
ASK = "Now draw one of the characters again in the large box."


class Recogniser:
    """A learner and what it has been taught: adapts once per change of the support set, predicts once per query.

    learner: any `mlcourse.learners.Learner` for pictures [1, 28, 28]. It is used in evaluation mode, so with running
    statistics the answer to a query depends on that query and the support set alone.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.adaptations = 0  # how often `adapt` ran: the tests count it
        self._taught: list | None = None
        self._state = None

    def __call__(self, support: Sequence[Drawing], query: Drawing) -> list[float | None]:
        """Probabilities of the characters, in the order of `support`; None for a box without a drawing.

        support: drawings, one per character; empty ones are left out. query: a drawing with at least one point.

        Raises:
            CourseError: fewer than two characters are drawn, the query is empty, or the learner's answer does not fit.

        """
        drawn = [index for index, drawing in enumerate(support) if has_ink(drawing)]
        if len(drawn) < 2:
            raise CourseError(f"{len(drawn)} characters are drawn: draw two or more, so that there is a choice")
        if not has_ink(query):
            raise CourseError("the query is empty: draw one of the characters again")
        with torch.no_grad(), evaluation_mode(self.learner):
            self._teach([support[index] for index in drawn])
            logits = self.learner.predict(self._state, seen(query)[None, None])
        if logits.shape != (1, 1, len(drawn)):
            wanted = f"[1, 1, {len(drawn)}]"
            raise CourseError(f"the learner answers with logits of shape {list(logits.shape)}, not {wanted}")
        if not bool(logits.isfinite().all()):
            raise CourseError("the learner answers with infinite or undefined logits: train it with a smaller rate")
        probabilities = iter(logits[0, 0].softmax(-1).tolist())
        return [next(probabilities) if index in drawn else None for index in range(len(support))]

    def _teach(self, drawings: list[Drawing]) -> None:
        """Adapt the learner, unless it has been taught exactly these drawings."""
        if drawings == self._taught:
            return
        self._taught = None  # stays empty if adapt fails
        self._state = self.learner.adapt(
            torch.stack([seen(drawing) for drawing in drawings])[None], torch.arange(len(drawings))[None]
        )
        self._taught = drawings
        self.adaptations += 1


def seen(drawing: Drawing) -> Tensor:
    """What the learner sees of a drawing: `rasterise`, remembered, as most drawings of a pad stay while one changes."""
    return _seen(tuple(tuple(map(tuple, stroke)) for stroke in drawing))


@functools.lru_cache(maxsize=64)
def _seen(drawing: tuple) -> Tensor:
    return rasterise(drawing)


def has_ink(drawing: Drawing) -> bool:
    """Whether a drawing has at least one point."""
    return any(len(stroke) for stroke in drawing)


class DrawingPad(anywidget.AnyWidget):
    """A widget with one small box per character and a larger one for the query. Mouse, finger and pen draw.

    learners: a `Learner`, or a dict of name -> Learner among which a person chooses who answers.
    ways: how many characters there are boxes for.
    samples: what the sample buttons draw (see `mlcourse.pad_samples.sample_sets`); default: the course's own.

    After each stroke, and live while a person draws, `answer` holds: "kind" ("hint", "answer" or "error"), "message"
    (one line), "probabilities" (one per box, None for an empty one), "best" (index of the largest), "milliseconds" (of
    the learner), and the pictures as the learner sees them ("seen_support", "seen_query": base64, a byte per pixel).

    Raises:
        CourseError: no learner, or a number of ways that does not fit.

    """

    _esm = SCRIPT
    _css = Path(__file__).with_name("pad.css")

    # Drawings are not echoed to the browser that sent them: they would only be sent twice.
    support = traitlets.List(help="one drawing per character").tag(sync=True, echo_update=False)
    query = traitlets.List(help="the drawing to classify").tag(sync=True, echo_update=False)
    number = traitlets.Int(0, help="counts the questions; the answer carries the same number").tag(
        sync=True, echo_update=False
    )
    chosen = traitlets.Unicode(help="the name of the learner that answers").tag(sync=True)
    names = traitlets.List(traitlets.Unicode(), help="the names of all learners").tag(sync=True)
    samples = traitlets.List(help="what the sample buttons draw").tag(sync=True)
    answer = traitlets.Dict(help="what is shown").tag(sync=True)
    own = traitlets.Unicode(help="the id of this very model").tag(sync=True)

    def __init__(
        self, learners: Learner | Mapping[str, Learner], *, ways: int = 5, samples: list[dict] | None = None
    ) -> None:
        named = dict(learners) if isinstance(learners, Mapping) else {"the learner": learners}
        if not named or not all(isinstance(learner, Learner) for learner in named.values()):
            raise CourseError(f"DrawingPad({learners!r}): give a learner, or a dict of name -> learner")
        if not 2 <= ways <= len(LETTERS):
            raise CourseError(f"ways is {ways}: give a number from 2 to {len(LETTERS)}")
        samples = sample_sets() if samples is None else samples
        self._recognisers = {name: Recogniser(learner) for name, learner in named.items()}
        super().__init__(
            support=[[] for _ in range(ways)],
            chosen=next(iter(named)),
            names=list(named),
            samples=[one for one in samples if len(one["support"]) <= ways],
        )
        self.own = self.model_id
        self.answer = self._reply()
        self.observe(self._on_change, names=["support", "query", "number", "chosen"])

    def recogniser(self, name: str | None = None) -> Recogniser:
        """The recogniser behind a name; default: the one that answers now. Raises CourseError for an unknown name."""
        if (self.chosen if name is None else name) not in self._recognisers:
            raise CourseError(f"there is no learner {name or self.chosen!r}: choose one of {', '.join(self.names)}")
        return self._recognisers[self.chosen if name is None else name]

    def show_sample(self, name: str, query: int = 0) -> dict:
        """Do what the sample buttons do: fill the boxes from the set `name`, ask its query number `query`.

        Returns the answer; `answer["is"]` is the right one. Raises CourseError for an unknown set.
        """
        chosen = self._sample(name)
        asked = chosen["queries"][query % len(chosen["queries"])]
        boxes = chosen["support"] + [[] for _ in range(len(self.support) - len(chosen["support"]))]
        with self.hold_trait_notifications():
            self.support, self.query = boxes, asked["drawing"]
        return {**self.answer, "is": asked["is"]}

    def score_samples(self, learner: str) -> tuple[int, int]:
        """How many queries of all sample sets the learner of this name answers rightly, and how many there are."""
        recogniser, right, asked = self.recogniser(learner), 0, 0
        for one in self.samples:
            for query in one["queries"]:
                probabilities = recogniser(one["support"], query["drawing"])
                right += max(range(len(probabilities)), key=probabilities.__getitem__) == query["is"]
                asked += 1
        return right, asked

    def _sample(self, name: str) -> dict:
        sets = {one["name"]: one for one in self.samples}
        if name not in sets:
            raise CourseError(f"there is no sample set {name!r}: choose one of {', '.join(sets)}")
        return sets[name]

    def _on_change(self, _change: object) -> None:
        # A message of the browser changes several traits at once, and each of them calls: answer such a message once.
        question = (self.support, self.query, self.number, self.chosen)
        if question != getattr(self, "_answered", None):
            self._answered = question
            self.answer = self._reply()

    def _reply(self) -> dict:
        """What `answer` shows for the drawings at hand. Never raises: an error is shown in place, in one line."""
        reply = {"number": self.number, "kind": "hint", "message": HINT, "probabilities": [None] * len(self.support)}
        reply |= {"best": None, "milliseconds": 0}
        try:
            reply["seen_support"] = [_as_text(drawing) for drawing in self.support]
            reply["seen_query"] = _as_text(self.query)
            if sum(map(has_ink, self.support)) < 2:
                return reply
            if not has_ink(self.query):
                return reply | {"message": ASK}
            return reply | self._classify()
        except Exception as error:  # a learner of the reader's own may fail in any way
            return reply | {"kind": "error", "message": _one_line(error)}

    def _classify(self) -> dict:
        start = time.perf_counter()
        probabilities = self.recogniser()(self.support, self.query)
        took = round(1000 * (time.perf_counter() - start))
        best = max(range(len(probabilities)), key=lambda index: probabilities[index] or 0.0)
        message = f"This is {LETTERS[best]} ({_percent(probabilities[best])})."
        return {
            "kind": "answer",
            "message": message,
            "probabilities": probabilities,
            "best": best,
            "milliseconds": took,
        }

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        """The widget for JupyterLab; for everything else a picture of what the sample drawings give."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if not self.samples:
            return data, metadata
        seen = self.sample_picture()
        if stacks.wanted():
            seen.forms["text/html"] = stacks.page(replay.stack(self.samples), self._recorded, replay.NOTE)
        return data | seen.forms, metadata | seen.metadata

    def _recorded(self, values: dict) -> str:
        """A picture of the site: the strokes of a set and of one of its queries, drawn anew, and the answer."""
        chosen = self._sample(values["drawings"])
        asked = chosen["queries"][values["query"]]
        probabilities = self.recogniser()(chosen["support"], asked["drawing"])
        return replay.page(chosen["support"], asked["drawing"], probabilities, _told(chosen, asked, probabilities))

    def sample_picture(self, name: str | None = None, query: int = 0) -> Output:
        """The sample drawings of a set and what the learner answers, as a picture with a text. The pad does not change.

        name: of the set; default: the first one. query: which of its queries.
        """
        chosen = self._sample(name or self.samples[0]["name"])
        asked = chosen["queries"][query % len(chosen["queries"])]
        try:
            probabilities = self.recogniser()(chosen["support"], asked["drawing"])
        except Exception as error:  # the pad itself shows an error in place; so does its picture
            return Output(f"Drawing pad: {_one_line(error)}", html.escape(f"Drawing pad: {_one_line(error)}"))
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        text = _told(chosen, asked, probabilities)
        fig = _draw(chosen["support"], asked["drawing"], probabilities, best)
        width, height = figures.pixel_size(fig)
        return picture(figures.png(fig), text, width=width, height=height)


def _told(chosen: dict, asked: dict, probabilities: list[float]) -> str:
    """What a set of sample drawings and one of its queries gave, in words."""
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    letters = ", ".join(f"{LETTERS[i]} {_percent(p)}" for i, p in enumerate(probabilities))
    return (
        f"Drawing pad with the sample drawings {chosen['name']}: {len(probabilities)} taught characters and a "
        f"query, which is {LETTERS[asked['is']]}. The answer is {LETTERS[best]}. Probabilities: {letters}."
    )


def _as_text(drawing: Drawing) -> str:
    """The picture as the learner sees it: base64 of 28*28 bytes, ink = 255; an empty string for empty paper."""
    if not has_ink(drawing):
        return ""
    return base64.b64encode((seen(drawing) * 255).round().to(torch.uint8).numpy().tobytes()).decode()


def _percent(probability: float) -> str:
    return f"{100 * probability:.0f} %"


def _one_line(error: Exception) -> str:
    """An error in one line: its message, with the kind of error before it unless the course raised it on purpose."""
    line = " ".join(str(error).split()) or "no message"
    return line if isinstance(error, CourseError) else f"{type(error).__name__}: {line}"


def _draw(support: list[Drawing], query: Drawing, probabilities: list[float], best: int) -> Figure:
    """The query and the taught characters, as the learner sees them, with bars of probability."""
    ways = len(support)
    fig = Figure(figsize=(1.3 * (ways + 1), 1.95))
    grid = fig.add_gridspec(2, ways + 1, height_ratios=[6, 1], width_ratios=[1.2] + [1] * ways)
    _paper(fig.add_subplot(grid[0, 0]), query, "the query")
    for i, (drawing, probability) in enumerate(zip(support, probabilities, strict=True)):
        title = f"{LETTERS[i]}: most alike" if i == best else LETTERS[i]
        _paper(fig.add_subplot(grid[0, i + 1]), drawing, title, best=i == best)
        ax = fig.add_subplot(grid[1, i + 1])
        ax.barh([0], [1], color="#e5f1f7")
        ax.barh([0], [probability], color=figures.COLOURS[0])
        ax.set(xlim=(0, 1), xticks=[], yticks=[], xlabel=_percent(probability))
        ax.spines[:].set_visible(False)
    return fig


def _paper(ax: Axes, drawing: Drawing, title: str, *, best: bool = False) -> None:
    ax.imshow(seen(drawing)[0], cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(title, fontsize=11, fontweight="bold" if best else "normal")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=figures.COLOURS[0] if best else "#b8c0c8", linewidth=2 if best else 1)
