"""The glossary, `docs/glossary.md`: each term in one sentence, from `docs/glossary.yaml` and the notebooks.

The same page stands beside the notebooks, which link it, and goes with them into a learner's folder. Which notebook
uses a term first is looked up, never typed. `mlcourse tidy` writes both pages, and `mlcourse tidy --check` fails when
they are not of today.
"""

import re
from pathlib import Path

import yaml

from mlcourse import files
from mlcourse.errors import CourseError

NAME, TABLE = "glossary.md", "glossary.yaml"
NEEDED, FIELDS = {"term", "zh", "say"}, {"term", "zh", "say", "symbol", "forms"}
HEAD = """# Glossary

<!-- written by `mlcourse tidy` from docs/glossary.yaml -->

Each term in one sentence, with its Chinese name, its symbol, and the first notebook that uses it.

| term | 中文 | symbol | in one sentence | first in |
|---|---|---|---|---|
"""


def pages(folder: Path) -> list[tuple[Path, str]]:
    """The page in docs and the one beside a folder of notebooks, and their texts of today; none where no table is."""
    docs = folder.parent / "docs"
    if not (docs / TABLE).is_file():
        return []
    said = lessons(folder)
    table = [(row, first_use(row, said)) for row in rows(docs / TABLE)]
    places = {docs / NAME: f"../{folder.name}/", folder / NAME: ""}  # how each names the folder in its links
    return [(place, HEAD + "".join(_line(*row, links) for row in table)) for place, links in places.items()]


def rows(table: Path) -> list[dict]:
    """The table, sorted by term. Raises CourseError for a file, or a row, that is no such table."""
    try:
        found = yaml.safe_load(table.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CourseError(f"{table} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, list):
        raise CourseError(f"{table} holds no rows; begin each with a dash: - {{term: way, zh: …, say: …}}")
    for row in found:
        _check(row, table)
    return sorted(found, key=lambda row: row["term"].lower())


def _check(row: object, table: Path) -> None:
    if not isinstance(row, dict) or not NEEDED <= row.keys() <= FIELDS:
        raise CourseError(f"{table}: {row}: a row has term, zh and say, and may have symbol and forms")
    forms = row.get("forms", [])
    if not isinstance(forms, list):
        raise CourseError(f"{table}: {row['term']}: forms is {forms!r}; give a list, in brackets")
    for text in (*(row[name] for name in row if name != "forms"), *forms):
        if not isinstance(text, str) or not text or "|" in text or "\n" in text:
            raise CourseError(f"{table}: {row['term']}: {text!r} stands in no cell of a table; give text in one line")


def names(row: dict) -> list[str]:
    """The term and its other forms."""
    return [row["term"], *row.get("forms", [])]


def lessons(folder: Path) -> dict[Path, str]:
    """What each notebook says in its text cells, as one line; in the order of the course."""
    return {path: _text_of(path) for path in sorted(folder.glob("*.ipynb"))}


def first_use(row: dict, said: dict[Path, str]) -> Path | None:
    """The first notebook that uses a term, in any of its forms."""
    word = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, names(row))) + r")(?![\w])", re.IGNORECASE)
    return next((path for path, text in said.items() if word.search(text)), None)


def _text_of(path: Path) -> str:
    cells = files.read_notebook(path).cells
    return " ".join(" ".join(cell.source.split()) for cell in cells if cell.cell_type == "markdown")


def _line(row: dict, path: Path | None, links: str) -> str:
    where = f"[{path.name[:2]}]({links}{path.name})" if path else ""
    return f"| {row['term']} | {row['zh']} | {row.get('symbol', '')} | {row['say']} | {where} |\n"
