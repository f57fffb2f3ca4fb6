"""The page docs/glossary.md, from docs/glossary.yaml and the notebooks: `python docs/make_glossary.py`.

The same page stands beside the notebooks, which link it, and goes with them into a learner's folder. Which notebook
uses a term first is looked up, never typed. A test makes the page anew and compares.
"""

import re
from pathlib import Path

import nbformat
import yaml

from mlcourse import files

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "glossary.yaml"
# each page, and how it names the folder of the notebooks
PAGES = {ROOT / "docs" / "glossary.md": "../notebooks/", ROOT / "notebooks" / "glossary.md": ""}
FIELDS = {"term", "zh", "say", "symbol", "forms"}
HEAD = """# Glossary

<!-- made by docs/make_glossary.py from docs/glossary.yaml -->

Each term in one sentence, with its Chinese name, its symbol, and the first notebook that uses it.

| term | 中文 | symbol | in one sentence | first in |
|---|---|---|---|---|
"""


def rows() -> list[dict]:
    """The table, sorted by term. Raises ValueError for a row with another field, or without one that it needs."""
    found = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    for row in found:
        if not {"term", "zh", "say"} <= row.keys() <= FIELDS:
            raise ValueError(f"{row}: a row has term, zh and say, and may have symbol and forms")
    return sorted(found, key=lambda row: row["term"].lower())


def names(row: dict) -> list[str]:
    """The term and its other forms."""
    return [row["term"], *row.get("forms", [])]


def text_of(path: Path) -> str:
    """What a notebook says: its text cells, as one line."""
    cells = nbformat.read(path, as_version=4).cells
    return " ".join(" ".join(cell.source.split()) for cell in cells if cell.cell_type == "markdown")


def lessons() -> dict[Path, str]:
    """Each notebook's text, in the order of the course."""
    return {path: text_of(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def first_use(row: dict, said: dict[Path, str]) -> Path | None:
    """The first notebook that uses a term, in any of its forms."""
    word = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, names(row))) + r")(?![\w])", re.IGNORECASE)
    return next((path for path, text in said.items() if word.search(text)), None)


def page(folder: str) -> str:
    """The glossary; folder: what stands before the name of a notebook in its links."""
    said = lessons()
    lines = []
    for row in rows():
        path = first_use(row, said)
        where = f"[{path.name[:2]}]({folder}{path.name})" if path else ""
        lines.append(f"| {row['term']} | {row['zh']} | {row.get('symbol', '')} | {row['say']} | {where} |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    for place, folder in PAGES.items():
        with files.replacing(place) as temporary:
            temporary.write_text(page(folder), encoding="utf-8")
