"""One page for each method, made from what its file registers: paper, formula, code, figures, where it is taught."""

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import nbformat

from mlcourse import files, places
from mlcourse.learners import METHODS
from mlcourse.learners.methods import Method
from mlcourse.site import docstrings
from mlcourse.site.markdown import Links, table

MEASURED = ("README.md", "docs/results.md")  # whose tables docs/make_results.py makes from data/results


class Measured(NamedTuple):
    """A table of results: what it is of, the names of its columns, its rows."""

    caption: str
    head: list[str]
    rows: list[list[str]]


def write(folder: Path, notebooks: dict[str, nbformat.NotebookNode], links: Links) -> None:
    """Write a page for each method, and one that lists them all.

    Args:
        folder: of the pages.
        notebooks: by name: where a method is taught is looked up in them.
        links: learns which files the pages show.
    """
    measured = tables([(places.repository() / name).read_text(encoding="utf-8") for name in MEASURED])
    rows = []
    for name, method in METHODS.items():
        files.write_text(folder / f"{file_of(name)}.md", page(name, method, notebooks, measured, links))
        paper = f"[{method.paper.short}]({method.paper.link})" if method.paper else "–"
        rows.append([f"[{method.title}]({file_of(name)}.md)", f"`{name}`", method.help, paper])
    toctree = "```{toctree}\n:hidden:\n\n" + "\n".join(map(file_of, METHODS)) + "\n```\n"
    words = (
        "Each method is one file of `mlcourse/learners`. `mlcourse train NAME` trains it, `mlcourse evaluate` and "
        "`mlcourse table` compare it."
    )
    listed = table(["method", "name", "what it does", "paper"], rows)
    files.write_text(folder / "index.md", f"# The methods\n\n{words}\n\n{listed}\n{toctree}")


def file_of(name: str) -> str:
    """The name of a method's page: "maml++" → "maml-plus-plus"."""
    return name.replace("+", "-plus")


def page(name: str, method: Method, notebooks: dict, measured: list[Measured], links: Links) -> str:
    """The page of one method."""
    source = Path(inspect.getsourcefile(method.learner)).relative_to(places.repository()).as_posix()
    links.files.add(source)
    family = inspect.getdoc(inspect.getmodule(method.learner)) or ""
    parts = [
        f"# {method.title}\n\n`{name}`: {method.help}.\n",
        *_paper(method),
        "## What it is\n",
        docstrings.markdown(inspect.getdoc(method.learner) or ""),
        "\n## Its family\n",
        docstrings.markdown(family),
        "\n## Where it is taught\n",
        _taught(name, method, notebooks),
        "\n## Measured here\n",
        _measured(method, measured),
        *_recipes(method),
        f"\n## The code\n\n`{source}`:\n",
        f"```{{literalinclude}} /{source}\n:pyobject: {method.learner.__name__}\n:language: python\n```\n",
    ]
    return "\n".join(parts)


def _paper(method: Method) -> list[str]:
    if not method.paper:
        return ["It has no paper of its own.\n"]
    one = method.paper
    said = [f"{one.authors}: [*{one.title}*]({one.link}), {one.year}.\n"]
    if method.published:
        setting = f" Setting: {method.setting}." if method.setting else ""
        rows = [[what, f"{figure:g} %"] for what, figure in method.published.items()]
        said.append(f"Figures of the paper, not measured here.{setting}\n\n{table(['task', 'accuracy'], rows)}")
    return said


def _taught(name: str, method: Method, notebooks: dict) -> str:
    """The notebooks whose code uses the learner, and those that name its paper."""
    words = rf"\b{method.learner.__name__}\b|[\"'`]{re.escape(name)}[\"'`]"
    lines = []
    for stem, notebook in notebooks.items():
        title = re.sub(r"^#+ *", "", notebook.cells[0].source.split("\n")[0])
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        how = [
            "used in its code" if re.search(words, code) else "",
            "its paper is read" if method.paper and method.paper.link in prose else "",
        ]
        if any(how):
            lines.append(f"- [{title}](../notebooks/{stem}.ipynb): {', '.join(filter(None, how))}")
    return "\n".join(lines) or "No notebook uses it."


def _measured(method: Method, measured: list[Measured]) -> str:
    """The rows of the results' tables that are of this method, each table under what it is of."""
    found = []
    for caption, head, rows in measured:
        column = head.index("method")
        of_it = [row for row in rows if row[column] == method.title]
        if of_it:
            found.append(f"**{caption}**\n\n{table(head, of_it)}")
    where = "\nAll methods, with a forest plot and the settings: [results](../docs/results.md).\n"
    return "\n".join(found) + where if found else "Nothing yet; see [what was measured](../docs/results.md).\n"


def tables(texts: list[str]) -> list[Measured]:
    """All tables that have a column `method` first or second."""
    found: list[Measured] = []
    for text in texts:
        for block in re.finditer(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
            lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block[0].splitlines()]
            head = [cell.strip("| ") for cell in lines[0]]
            if "method" in head[:2]:
                above = re.findall(r"^\*\*[^*]+\*\*: (.*?)(?: \(`.*)?$|^#+ (.*)$", text[: block.start()], re.MULTILINE)
                found.append(Measured("".join(above[-1]) if above else "", head, lines[2:]))
    return found


def _recipes(method: Method) -> list[str]:
    if not method.recipes:
        return []
    rows = [
        [f"`{name}`", f"{one.steps:,}", str(one.tasks), f"{one.rate:g}", one.schedule]
        for name, one in method.recipes.items()
    ]
    head = ["recipe", "steps", "tasks in a step", "outer rate", "schedule"]
    return [f"\n## Recipes\n\n`mlcourse train NAME --recipe short`\n\n{table(head, rows)}"]
