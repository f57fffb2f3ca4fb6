"""What a cell shows: one output that each front end reads in its own way.

A cell output is a bundle of forms of the same thing. A front end shows exactly one of them, the first in its own order
of preference, so a reader never sees it twice.
"""

import base64
import html

from IPython.display import display

WIDGET = "application/vnd.jupyter.widget-view+json"


class Output:
    """A bundle of forms: `plain` for terminals and logs, `html`, and others by MIME type."""

    def __init__(self, plain: str, page: str | None = None, forms: dict | None = None, metadata: dict | None = None):
        self.plain = plain
        self.forms = {"text/plain": plain, **(forms or {})}
        if page is not None:
            self.forms["text/html"] = page
        self.metadata = metadata or {}

    def __repr__(self) -> str:
        return self.plain

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.forms, self.metadata

    def show(self) -> None:
        """Put it under the cell (or print `plain`, where no notebook runs)."""
        display(self)


def image_tag(png: bytes, alt: str, *, width: int | None = None, height: int | None = None) -> str:
    """Return `<img …>` with the picture inside and its alternative text. It shrinks with a narrow window."""
    size = f' width="{width}" height="{height}"' if width and height else ""
    text = html.escape(alt, quote=True)
    source = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{source}" alt="{text}"{size} style="max-width: 100%; height: auto;">'


def picture(png: bytes, alt: str, *, width: int, height: int, widget: dict | None = None) -> Output:
    """A picture with its alternative text as one output; `widget` adds the view of a widget that shows it too.

    The forms, and who takes which:

    - the widget's view: JupyterLab and VS Code while the kernel lives;
    - text/html with `<img alt=…>`: JupyterLab (it ranks HTML before images, and would drop the text of an image/png),
      nbconvert's HTML and VS Code;
    - image/png with the text in its metadata: viewers that rank images before HTML or remove data addresses from HTML,
      as GitHub may do; nbconvert reads the metadata `alt` too;
    - text/plain, the alternative text: terminals, logs, nbval.

    nbconvert takes the widget's view when the notebook stores the widget's state, and shows nothing without a network:
    who converts to HTML removes `metadata.widgets` before.
    """
    forms = {"image/png": base64.b64encode(png).decode("ascii")}
    if widget:
        forms[WIDGET] = widget
    metadata = {"image/png": {"alt": alt, "width": width, "height": height}}
    return Output(f"Picture: {alt}", image_tag(png, alt, width=width, height=height), forms, metadata)
