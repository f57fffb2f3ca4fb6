"""The drawing pad of notebook 13: a person paints the mask of a support drawing, and the answer in the scene follows.

The browser's half (`mask_pad.js`, `mask_pad.css`) paints. This half teaches the learner with the mask, and answers. It
works without a browser: set `pad.task` and `pad.mask`, read `pad.answer`.
"""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import anywidget
import torch
import traitlets
from PIL import Image
from torch import Tensor

from mlcourse.errors import CourseError
from mlcourse.lessons.segmentation import pictures
from mlcourse.lessons.segmentation.pictures import Painting
from mlcourse.teaching import figures, stacks
from mlcourse.teaching.output import picture
from mlcourse.teaching.widgets import KERNEL_WATCH

HINT = "Paint on the drawing, left: without a pixel nothing says what to look for."
RECORDED = "This is the pad's first picture: painting and erasing work in the living course."
LARGER = 3  # times as large the scene is shown


class MaskPad(anywidget.AnyWidget):
    """A widget: left a support drawing whose mask is painted by mouse, finger, pen or keys, right the scene's answer.

    painting: the tasks, and the learner that is taught. After each stroke, and live while a person paints, `answer`
    holds "kind" ("hint", "answer" or "error"), "message" (one line), "picture" (base64, PNG), "alt", "milliseconds".
    """

    _esm = KERNEL_WATCH + Path(__file__).with_name("mask_pad.js").read_text(encoding="utf-8")
    _css = Path(__file__).with_name("mask_pad.css")

    drawings = traitlets.List(help="one per task: base64 of side · side · 3 bytes").tag(sync=True)
    inks = traitlets.List(help="one per task: the mask of the drawing's own ink").tag(sync=True)
    side = traitlets.Int(help="height and width of a drawing, pixels").tag(sync=True)
    task = traitlets.Int(0).tag(sync=True)
    # It is not echoed to the browser that sent it: it would only be sent twice.
    mask = traitlets.Unicode(help="side · side signs, row by row: 1 in the mask, 0 else").tag(
        sync=True, echo_update=False
    )
    number = traitlets.Int(0, help="counts the questions; the answer carries the same number").tag(
        sync=True, echo_update=False
    )
    answer = traitlets.Dict(help="what is shown").tag(sync=True)
    own = traitlets.Unicode(help="the id of this very model").tag(sync=True)

    def __init__(self, painting: Painting) -> None:
        self.painting, batch = painting, painting.batch
        inks = [_as_text(mask[0].cpu()) for mask in batch.support_y]
        super().__init__(
            drawings=[_as_bytes(pictures.coloured(x[0])) for x in batch.support_x],
            inks=inks,
            side=batch.support_x.shape[-1],
            mask=inks[0],
        )
        self.own = self.model_id
        self._answered = None
        self._on_change()
        self.observe(self._on_change, names=["task", "mask", "number"])

    def _on_change(self, _change: object = None) -> None:
        # A message of the browser changes several traits at once, and each of them calls: answer such a message once.
        question = (self.task, self.mask, self.number)
        if question != self._answered:
            self._answered = question
            self.answer = self._reply()

    def _reply(self) -> dict:
        """What `answer` shows. Never raises: an error is shown in place, in one line."""
        start, reply = time.perf_counter(), {"number": self.number, "picture": "", "alt": ""}
        try:
            reply |= self._asked()
        except Exception as error:  # a learner of the reader's own may fail in any way
            line = " ".join(str(error).split()) or "no message"
            named = line if isinstance(error, CourseError) else f"{type(error).__name__}: {line}"
            reply |= {"kind": "error", "message": named}
        return reply | {"milliseconds": round(1000 * (time.perf_counter() - start))}

    def _asked(self) -> dict:
        mask, painting = self._mask(), self.painting
        scene, target = painting.batch.query_x[self.task, 0], painting.batch.query_y[self.task, 0]
        if not mask.any():
            return {
                "kind": "hint",
                "message": HINT,
                "picture": _as_png(pictures.coloured(scene)),
                "alt": f"The scene of task {self.task}, without an answer: the mask is empty.",
            }
        found = painting.answer(self.task, mask)
        told = painting.score(self.task, mask, found)
        return {
            "kind": "answer",
            "message": told,
            "picture": _as_png(pictures.overlay(scene, found, target)),
            "alt": f"The scene of task {self.task} with the answer: white is found, orange a false alarm, light blue "
            f"missed. {told}",
        }

    def _mask(self) -> Tensor:
        """The painted mask: bool [side, side]. Raises CourseError for a task or a mask that there is not."""
        if not 0 <= self.task < len(self.inks):
            raise CourseError(f"there is no task {self.task}: choose 0 to {len(self.inks) - 1}")
        if len(self.mask) != self.side**2 or set(self.mask) - {"0", "1"}:
            raise CourseError(
                f"a mask has {self.side} · {self.side} signs, each 0 or 1, row by row; this one has {len(self.mask)}"
            )
        return torch.tensor([sign == "1" for sign in self.mask]).view(self.side, self.side)

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        """The widget for JupyterLab; for everything else a picture of the first task with the drawing's own mask."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        values = {"task": 0, "paint": "ink", "x": 16, "y": 16, "size": 8}
        fig, _ = self.painting.draw(**values)
        width, height = figures.pixel_size(fig)
        seen = picture(figures.png(fig), self.painting.text(**values), width=width, height=height)
        if stacks.wanted():
            still = seen.forms["text/html"]
            seen.forms["text/html"] = stacks.page(stacks.Stack([]), lambda _: still, RECORDED)
        return data | seen.forms, metadata | seen.metadata


def _as_text(mask: Tensor) -> str:
    return "".join("1" if one else "0" for one in mask.flatten().tolist())


def _as_bytes(image) -> str:
    """[H, W, 3] in [0, 1] as base64, three bytes per pixel."""
    return base64.b64encode((255 * image).round().astype("uint8").tobytes()).decode("ascii")


def _as_png(image) -> str:
    """[H, W, 3] in [0, 1] as a PNG, LARGER times as large, each pixel a square: base64."""
    small = Image.fromarray((255 * image).round().astype("uint8"))
    file = io.BytesIO()
    small.resize((LARGER * small.width, LARGER * small.height), Image.Resampling.NEAREST).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
