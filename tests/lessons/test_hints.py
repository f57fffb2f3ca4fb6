"""A hint that quotes a check must quote what the check can say: else nobody finds it by what they see."""

import ast
import re
from itertools import chain
from pathlib import Path

import harness
import nbformat
import pytest

from mlcourse import lessons, places, teaching

LEAST, FIRST = 5, "03"  # the first notebooks are older than this rule
TITLE = re.compile(r"<summary>Hint: the check says (.*?)</summary>")


def quotes(notebook: str) -> list[str]:
    """The quoted words of the titles "the check says …"; what such a title quotes of an error is left out."""
    (path,) = places.notebooks().glob(f"{notebook}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    titles = [title for cell in cells if cell.cell_type == "markdown" for title in TITLE.findall(cell.source)]
    return [quote for title in titles for quote in re.findall(r'"([^"]+)"', title.split("an error")[0])]


def sentences() -> list[str]:
    """All texts in the checks' source; in a text with values in it, the values are left out."""
    found = []
    rooms = Path(lessons.__file__).parent.glob("*/checks.py"), Path(teaching.__file__).parent.glob("*.py")
    for path in chain(*rooms):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
    return found


@pytest.mark.parametrize("notebook", [path.name[:2] for path in harness.notebooks() if path.name[:2] >= FIRST])
def test_hints_quote_what_checks_say(notebook):
    said, quoted = sentences(), quotes(notebook)
    form = '<summary>Hint: the check says "words of a diagnosis"</summary>'
    assert len(quoted) >= LEAST, f"{len(quoted)} hints quote a check, {LEAST} or more must: {form}"
    unsaid = [quote for quote in quoted if not any(quote in sentence for sentence in said)]
    assert not unsaid, f"no check says {unsaid}: copy the words of a diagnosis, letter by letter, values left out"
