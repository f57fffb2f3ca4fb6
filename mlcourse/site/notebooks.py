"""Executed notebooks as sources of the site: folds, pictures as files, one form for each output."""

import base64
import html
import re
from pathlib import Path
from urllib.parse import quote, unquote

import mistune
import nbformat
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from mlcourse.errors import CourseError
from mlcourse.site import pictures
from mlcourse.site.markdown import Links

FOLDED = ("solution",)  # tags of cells whose code one opens
FRAME = {"injected-parameters"}  # what a run puts in, and nobody wrote
ATTACHED = "attachment:"
NO_GUESS = re.compile(r"^You made no guess\. Measured: ", re.MULTILINE)  # of `teaching.progress`: a page asks nobody
# prose as a page shows it; "harmful" is what mistune calls the addresses of attachments
HTML = mistune.create_markdown(renderer=mistune.HTMLRenderer(escape=False, allow_harmful_protocols=True))


def shown(source: str) -> list[str]:
    """The addresses of the pictures that a text shows; what stands in code shows none."""
    return [unquote(place) for place in re.findall(r"""<img\b[^>]*?\bsrc=["']?([^"'>]*)""", HTML(source))]


def _names(source: str) -> set[str]:
    """The names of the attached pictures that a text shows."""
    return {place.removeprefix(ATTACHED) for place in shown(source) if place.startswith(ATTACHED)}


def check_attached(notebook: nbformat.NotebookNode, name: str) -> None:
    """Raise CourseError for a picture that is not attached to the cell that shows it."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for picture in sorted(_names(cell.source)):
            if not cell.get("attachments", {}).get(picture):
                where = cell.source.strip().splitlines()[0][:40]
                raise CourseError(
                    f"{name} shows {picture}, which is not attached to its cell ({where!r}): drop the picture into the "
                    "cell, or take its line out"
                )


def source(notebook: nbformat.NotebookNode, folder: Path, links: Links) -> nbformat.NotebookNode:
    """A notebook as Sphinx reads it: changed in place, and returned.

    Args:
        notebook: with its outputs.
        folder: of the sources, where its pictures go.
        links: rewrites its Markdown.
    """
    CoalesceStreamsPreprocessor().preprocess(notebook, {})  # a progress bar is its last state
    notebook.cells = [cell for cell in notebook.cells if not FRAME & set(cell.metadata.get("tags", []))]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            _prose(cell, folder, links)
        elif cell.cell_type == "code":
            _code(cell, folder)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        | {"language_info": {"name": "python"}}
    )
    return notebook


def _prose(cell: nbformat.NotebookNode, folder: Path, links: Links) -> None:
    attached = cell.pop("attachments", {})
    for name in sorted(_names(cell.source), key=len, reverse=True):  # a name may begin as another one
        kept = pictures.kept(base64.b64decode(next(iter(attached[name].values()))), folder)
        for written in (name, quote(name)):
            cell.source = re.sub(rf"""(src=["']?){ATTACHED}{re.escape(written)}""", rf"\g<1>../{kept}", cell.source)
            for form in (f"<{ATTACHED}{written}>", f"{ATTACHED}{written}"):
                cell.source = cell.source.replace(form, f"/{kept}")
    cell.source = links.rewritten(cell.source, "notebooks")


def _code(cell: nbformat.NotebookNode, folder: Path) -> None:
    tags = set(cell.metadata.get("tags", []))
    if cell.metadata.get("jupyter", {}).get("source_hidden") or tags & set(FOLDED):
        cell.metadata["tags"] = ["hide-input"]
    else:
        cell.metadata["tags"] = []
    cell.outputs = [_one_form(output, folder) for output in cell.outputs]


def _one_form(output: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """An output in the one form that a page shows: HTML with its pictures as files, else text."""
    data = output.get("data")
    if not data:
        if output.get("name") == "stdout":
            output.text = NO_GUESS.sub("Measured: ", output.text)
        return output
    page = data.get("text/html")
    if page is None and "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt") or data.get("text/plain", "")
        page = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data["image/png"].strip()}">'
    if page is not None:
        output.data = {"text/html": pictures.taken_out(page, folder, "../")}
    elif "text/markdown" in data:
        output.data = {"text/markdown": data["text/markdown"]}
    else:
        output.data = {"text/plain": data.get("text/plain", "")}
    output.metadata = {}
    return output
