"""`mlcourse slides`: a notebook as slides for a class, one web page that needs no network.

The slides are nbconvert's own (`SlidesExporter`): where one begins stands in the cells' metadata, `slideshow`, and
where a notebook says nothing there, headings, prose and results begin one. Only the program that turns the pages is
ours: nbconvert's fetches reveal.js from the network, and a class room may have none.
"""

import re
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbconvert import SlidesExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from mlcourse import files
from mlcourse.classroom import handout
from mlcourse.commands import pages, say
from mlcourse.commands.run import choose
from mlcourse.errors import CourseError

MADE_BY = "<!-- made by mlcourse slides -->"
RUNS = Path("runs/notebooks")  # where `mlcourse run` leaves what it executed
# cells that a class does not look at
FRAME = {"parameters", "injected-parameters", "solution"}

STYLE = """
:root { --jp-ui-font-size1: 20px; --jp-content-font-size1: 22px; --jp-code-font-size: 18px; }
html, body { margin: 0; height: 100%; }
.jp-Notebook { padding: 0; }
.anchor-link { display: none; }
.shown .slides section section { display: none; }
.shown .slides section section.now { display: block; }
.slides section section { box-sizing: border-box; height: 100vh; overflow: auto; padding: 3vh 5vw 9vh; }
.jp-RenderedMarkdown img { max-height: 65vh; width: auto; }
nav { position: fixed; right: 1em; bottom: .5em; font: 18px sans-serif; }
nav button { font: inherit; padding: .2em .8em; }
@media print {
  nav { display: none; }
  .shown .slides section section { display: block; height: auto; break-after: page; }
}
"""
SCRIPT = """
const slides = [...document.querySelectorAll(".slides section section")];
const nav = document.createElement("nav");
nav.innerHTML = '<button aria-label="slide before">←</button> <span role="status"></span> ' +
  '<button aria-label="next slide">→</button>';
document.body.append(nav);
document.body.classList.add("shown");
let at = 0;
function show(place) {
  at = Math.min(Math.max(place, 0), slides.length - 1);
  slides.forEach((slide, k) => slide.classList.toggle("now", k === at));
  nav.querySelector("span").textContent = `${at + 1} of ${slides.length}`;
  history.replaceState(null, "", `#${at + 1}`);
  slides[at].scrollTop = 0;
}
const [before, after] = nav.querySelectorAll("button");
before.addEventListener("click", () => show(at - 1));
after.addEventListener("click", () => show(at + 1));
const keys = {ArrowRight: () => at + 1, PageDown: () => at + 1, " ": () => at + 1, ArrowLeft: () => at - 1,
  PageUp: () => at - 1, Home: () => 0, End: () => slides.length - 1};
document.addEventListener("keydown", (event) => {
  const busy = event.ctrlKey || event.altKey || event.metaKey || event.target.closest("summary, button, input");
  if (!busy && keys[event.key]) { event.preventDefault(); show(keys[event.key]()); }
});
show((parseInt(location.hash.slice(1)) || 1) - 1);
"""
TEMPLATE = (
    """
{%- extends 'reveal/index.html.j2' -%}
{% from 'mathjax.html.j2' import mathjax %}
{%- block header -%}
<!DOCTYPE html>
<html lang="{{ resources.language_code }}">
<head><meta charset="utf-8">MADE_BY
<title>{{ resources['metadata']['name'] | escape_html_keep_quotes }}: slides</title>
{% for css in resources.inlining.css -%}<style>{{ css }}</style>{% endfor %}
{{ resources.include_css("static/index.css") }}
{{ resources.include_css("static/theme-light.css") }}
{%- if not resources.formulas_are_drawn -%}{{ mathjax(resources.mathjax_url) }}{%- endif -%}
<style>STYLE</style>
</head>
{%- endblock -%}
{%- block input -%}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details><summary>Show the code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block footer_js -%}<script>SCRIPT</script>{%- endblock -%}
""".replace("MADE_BY", MADE_BY)
    .replace("STYLE", STYLE)
    .replace("SCRIPT", SCRIPT)
)


class Slides(pages.Page, SlidesExporter):
    """nbconvert's slides, with formulas as MathML."""


def slides(
    notebooks: Annotated[list[str], typer.Argument(help="1, 01, 01_name, or the path of a notebook that was run.")],
    out: Annotated[Path, typer.Option(help="The folder for the slides.")] = Path("runs/slides"),
) -> None:
    """Make slides of notebooks for a class: one web page each, which needs no network.

    The pictures are those of your last `mlcourse run` of the notebook (in runs/notebooks), or of the file whose path
    you name. Turn the pages with the arrow keys, the space bar or the two buttons. Solutions, and notes for teachers,
    are left out. To print, or for a PDF, use the browser's own print.
    """
    files.check_named(out, "--out")
    chosen = choose(notebooks)
    taken: dict[str, Path] = {}
    for path in chosen:
        other = taken.setdefault(path.stem.casefold(), path)  # a disk may not tell A from a
        if other is not path:
            raise CourseError(f"{other} and {path} would both become {path.stem}.slides.html: call it once for each")
    for path in chosen:
        source = _executed(path)
        target = out / f"{path.stem}.slides.html"
        if target.exists() and MADE_BY not in target.read_text(encoding="utf-8", errors="replace"):
            raise CourseError(f"{target} was not made by `mlcourse slides` and is not overwritten: name another --out")
        files.write_text(target, page(files.read_notebook(source), path.stem))
        print(f"{target} (from {source})")


def _executed(path: Path) -> Path:
    """The file that the slides are made of: one that holds results, where there is one."""
    run = RUNS / path.name
    if any(cell.get("outputs") and not _is_golden(cell) for cell in files.read_notebook(path).cells):
        return path
    if not run.is_file():
        say(f"there is no run of {path.stem} in {RUNS}: its slides lack most results; call `mlcourse run` for it first")
        return path
    if _code(run) != _code(path):
        say(f"{run} was run from another version of {path.stem}: call `mlcourse run` for it again")
    return run


def _is_golden(cell: nbformat.NotebookNode) -> bool:
    return "nbval-check-output" in cell.metadata.get("tags", [])


def _code(path: Path) -> list[str]:
    """The code of a notebook, without what a run puts into it."""
    cells = files.read_notebook(path).cells
    tagged = [(cell.metadata.get("tags", []), cell) for cell in cells if cell.cell_type == "code"]
    return [cell.source for tags, cell in tagged if "injected-parameters" not in tags]


def page(notebook: nbformat.NotebookNode, name: str) -> str:
    """The slides of a notebook as a web page.

    Args:
        notebook: with its outputs.
        name: its title.
    """
    shown = arranged(notebook)
    shown.metadata.pop("widgets", None)  # else nbconvert shows views that want a network, as on a page of a run
    exporter = Slides(raw_template=TEMPLATE, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    about = {"formulas_are_drawn": pages.convert is not None, "metadata": {"name": name}}
    return exporter.from_notebook_node(shown, about)[0]


def arranged(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cells that a class sees, each with its `slide_type`: what the notebook says itself, else by these rules.

    A heading ## begins a slide. Other prose, and what comes after a guess or after a result, begins a slide below it.
    """
    cells, before = [], None
    for cell in _pieces(handout.without_solutions(notebook, set())):
        kind = cell.metadata.get("slideshow", {}).get("slide_type") or _kind(cell, before)
        cell.metadata["slideshow"] = {"slide_type": kind}
        cells.append(cell)
        before = cell
    return nbformat.from_dict({**notebook, "cells": cells})


def _pieces(notebook: nbformat.NotebookNode):
    """The cells without the frame of a notebook; prose is cut at its headings."""
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        frame = tags & FRAME or cell.source == handout.START or "ModuleNotFoundError" in cell.source
        if frame or not cell.source.strip() or cell.source.strip() == "session.end()":
            continue
        if cell.cell_type != "markdown":
            yield nbformat.from_dict(cell)
            continue
        for number, text in enumerate(part for part in re.split(r"^(?=##+ )", cell.source, flags=re.MULTILINE) if part):
            yield nbformat.from_dict({**cell, "id": f"{cell.get('id', 'cell')}-{number}", "source": text.strip()})


def _kind(cell: nbformat.NotebookNode, before: nbformat.NotebookNode | None) -> str:
    if cell.cell_type == "markdown":
        return "slide" if before is None or re.match(r"##? ", cell.source) else "subslide"
    guessed = before is not None and "lesson.predict(" in before.source
    return "subslide" if guessed or (before is not None and before.get("outputs")) else "-"
