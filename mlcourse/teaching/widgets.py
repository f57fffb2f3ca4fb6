"""One call for every widget: `explore(draw, alt=…, **controls)`.

    def draw(rate=0.1, steps=1, fig=None): ...  # a plain function that returns a figure; works without a widget

    explore(draw, alt=lambda rate, steps: f"…", rate=(0.0, 1.0, 0.05, 0.1), steps=(1, 20, 1))

Neither `Output` nor `interact` is used. Under nbclient (papermill, nbconvert) an `Output` widget captures messages that
the client waits for, and about one run in twenty never ends; and JupyterLab drops the alternative text of image
outputs. Here the controls stand over a `widgets.HTML` that holds `<img alt=…>`, and the cell has one output: the
widget's view for front ends with widgets, the picture of the defaults for all others.
"""

import html
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import matplotlib.pyplot as plt
import torch
import traitlets
from matplotlib.figure import Figure

from mlcourse.errors import CourseError
from mlcourse.teaching import figures, stacks
from mlcourse.teaching.output import image_tag, picture


def explore(draw: Callable, *, alt: str | Callable, **controls) -> None:
    """Show controls and the picture that `draw` makes of their values; it is drawn anew when a control moves.

    Args:
        draw: called as `draw(**values)`, returns a matplotlib figure, or (figure, text): the text stands below it.
            When `draw` has a parameter `fig` that is no control, it gets the figure it returned last time (None at
            first), so that it can change the artists in place: this halves the time of a drawing. The layout is then
            kept from the first drawing, so the picture does not jump.
        alt: the alternative text, 40 characters or more, or a function of the same values that returns it.
        controls: for each value an ipywidgets control, `(min, max, step)` or `(min, max, step, start)`, a list of
            choices, a dict from words to choices, or True/False.

    Errors of the first drawing are raised. Later ones stand in place of the picture until the next value draws well.
    """
    Explorer(draw, alt=alt, **controls).show()


def view(widget: ipywidgets.Widget) -> dict:
    """The form of an output that tells a front end to show `widget`."""
    return {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}


def control(name: str, wish) -> ipywidgets.Widget:
    """Return the control that `wish` describes (see `explore`), labelled with `name` in words."""
    label = name.replace("_", " ")
    look = {"description": label, "style": {"description_width": "initial"}}
    if isinstance(wish, ipywidgets.ValueWidget):
        wish.description = wish.description or label
        return wish
    if isinstance(wish, bool):
        return ipywidgets.Checkbox(value=wish, indent=False, **look)
    if isinstance(wish, list | Mapping) and len(wish) > 0:
        return ipywidgets.Dropdown(options=wish if isinstance(wish, list) else list(wish.items()), **look)
    if isinstance(wish, tuple) and len(wish) in (3, 4) and all(isinstance(x, int | float) for x in wish):
        return _slider(name, wish, look)
    raise CourseError(
        f"control {name}={wish!r} is not understood; pass (min, max, step[, start]), a list or True/False"
    )


def _slider(name: str, wish: tuple, look: dict) -> ipywidgets.Widget:
    low, high, step = wish[:3]
    start = wish[3] if len(wish) == 4 else low
    if not (low < high and step > 0 and low <= start <= high):
        raise CourseError(
            f"control {name}={wish!r} has no range; pass (min, max, step[, start]) with min < max, step > 0"
        )
    numbers = {"min": low, "max": high, "step": step, "value": start}
    look |= {"continuous_update": True, "layout": ipywidgets.Layout(width="min(100%, 32em)")}
    if all(isinstance(x, int) for x in wish):
        return ipywidgets.IntSlider(**numbers, **look)
    decimals = max(len(f"{x:.10f}".rstrip("0").partition(".")[2]) for x in (low, step, start))
    return ipywidgets.FloatSlider(**numbers, readout_format=f".{max(decimals, 1)}f", **look)


# What is put before the text of a widget that says when the kernel is busy or gone.
KERNEL_WATCH = Path(__file__).with_name("kernel_watch.js").read_text(encoding="utf-8")


class Narrator(anywidget.AnyWidget):
    """Stands in a box beside `watched` controls, and says so when the kernel that answers them is busy or gone.

    For screen readers it names the sliders of the box and speaks `said`. Else it shows nothing.
    """

    _esm = KERNEL_WATCH + Path(__file__).with_name("narrator.js").read_text(encoding="utf-8")
    own = traitlets.Unicode(help="the id of this very model").tag(sync=True)
    watched = traitlets.List(traitlets.Unicode(), help="the ids of the controls").tag(sync=True)
    heard = traitlets.Int(0, help="how often a change of the controls has reached the kernel").tag(sync=True)
    said = traitlets.Unicode("").tag(sync=True)

    def __init__(self, watched: Sequence[ipywidgets.Widget] = ()) -> None:
        super().__init__(watched=[one.model_id for one in watched])
        self.own = self.model_id

    def hear(self) -> None:
        """Tell the page at once that the kernel is at work on what was changed."""
        self.heard += 1


class Explorer:
    """The widget behind `explore`: `.controls` (by name), `.box` (the whole), `.image` (HTML), `.drawn` (how often)."""

    def __init__(self, draw: Callable, *, alt: str | Callable, **controls):
        if not controls:
            raise CourseError(
                "explore has no control; pass one or more, such as rate=(0.0, 1.0, 0.1), or use figures.show"
            )
        self._draw, self._alt, self._fig = draw, alt, None
        self._reuses = "fig" in inspect.signature(draw).parameters and "fig" not in controls
        self._resetting = False
        self.drawn = 0
        self.controls = {name: control(name, wish) for name, wish in controls.items()}
        self._defaults = self.values()
        self.image, self.text = ipywidgets.HTML(), ipywidgets.HTML()
        self.narrator = Narrator(list(self.controls.values()))
        self._first = self._render(self._defaults)  # before anything is shown: an error of the first drawing is raised
        self._place(*self._first)
        self.reset = ipywidgets.Button(description="Reset", tooltip="Put all controls back to where they started")
        self.reset.on_click(lambda _: self.put_back())
        for one in self.controls.values():
            one.observe(self._changed, names="value")
        self.box = ipywidgets.VBox([*self.controls.values(), self.reset, self.narrator, self.image, self.text])

    def values(self) -> dict:
        """The values of the controls, by name."""
        return {name: one.value for name, one in self.controls.items()}

    def put_back(self) -> None:
        """Put every control back to its start, and draw once."""
        self._resetting = True
        try:
            for name, value in self._defaults.items():
                self.controls[name].value = value
        finally:
            self._resetting = False
        self._changed()

    def show(self) -> None:
        """Put it under the cell: one output with the widget and, for other front ends, the first picture."""
        data, alt, width, height, text = self._first
        shown = picture(data, alt, width=width, height=height, widget=view(self.box))
        if text:
            shown.forms["text/html"] += f"<p>{html.escape(text)}</p>"
            shown.forms["text/plain"] += f"\n{text}"
        if stacks.wanted():
            with torch.random.fork_rng(devices=[]):  # what comes after draws the numbers that it draws without a site
                page = stacks.recorded(self.controls, self._frame, small=len(data) < stacks.SMALL)
            shown.forms["text/html"] = page
        shown.show()

    def _frame(self, values: dict) -> str:
        """A picture of the site: drawn for these values, all others as at the start. No control moves."""
        data, alt, width, height, text = self._render(self._defaults | values)
        below = f"<p>{html.escape(text)}</p>" if text else ""
        return image_tag(data, alt, width=width, height=height) + below

    def _changed(self, _=None) -> None:
        # The drawing happens inside the message's own handler on purpose. The front end holds further values of a
        # control back until the kernel has answered, then sends the newest only: dragging never queues up.
        if self._resetting:
            return
        self.narrator.hear()
        try:
            self._place(*self._render(self.values()))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.image.value = f'<p role="alert">This picture cannot be drawn. {html.escape(reason)}</p>'
            self.text.value = ""

    def _render(self, values: dict) -> tuple[bytes, str, int, int, str]:
        """Draw these values: PNG, alternative text, width, height, text below."""
        open_before = set(plt.get_fignums())
        try:
            made = self._draw(**values, **({"fig": self._fig} if self._reuses else {}))
            fig, text = made if isinstance(made, tuple) else (made, "")
            if not isinstance(fig, Figure):
                raise CourseError(f"draw returned a {type(fig).__name__}; return a figure, or (figure, text)")
            alt = figures.check_text(self._alt(**values) if callable(self._alt) else self._alt, fig)
            data = figures.png(fig)
        finally:
            # a figure left open in pyplot would be shown a second time by the notebook, without its text
            for number in set(plt.get_fignums()) - open_before:
                plt.close(number)
        if self._reuses:
            fig.set_layout_engine("none")  # keep the places of the first drawing: a third less time, and no jumping
            self._fig = fig
        self.drawn += 1
        return data, alt, *figures.pixel_size(fig), str(text)

    def _place(self, data: bytes, alt: str, width: int, height: int, text: str) -> None:
        self.image.value = image_tag(data, alt, width=width, height=height)
        self.text.value = f"<p>{html.escape(text)}</p>" if text else ""
        self.narrator.said = f"{alt} {text}".strip()
