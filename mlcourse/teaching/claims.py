"""The claims of all notebooks in one table: what is claimed, against which rival, and what a run printed.

The claim cell of a notebook says in its metadata, under `mlcourse.claim`, what it `says`, its `method`, its strongest
simple `rival`, and how the rival was `tuned`. The result is what the cell printed in a run at `lesson`, which
`make test-full` records in `data/results/lessons.json`; nothing of it is typed. `mlcourse tidy` writes the table into
the README.md beside the notebooks.
"""

import ast
import hashlib
import io
import tokenize
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from mlcourse import files
from mlcourse.errors import CourseError

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
WORDS = ("says", "method", "rival", "tuned")  # what a claim cell's metadata must name
RECORD = Path("results") / "lessons.json"  # below the folder of the data
BEGIN = "<!-- claims: begin (written by `mlcourse tidy`) -->"
END = "<!-- claims: end -->"
HEADER = (
    "| notebook | claim | method | strongest rival | how the rival was tuned | what the run printed |\n"
    + "|---" * 6
    + "|"
)


def of(notebook: NotebookNode) -> dict[str, str]:
    """What the claim cell's metadata says; empty texts for what it does not name."""
    said = _cell(notebook).metadata.get("mlcourse", {}).get("claim", {})
    return {word: said.get(word, "") for word in WORDS}


def record(notebook: NotebookNode, executed: NotebookNode) -> dict[str, str]:
    """What is kept of a run: what the claim cell printed, and a mark of the code that did.

    Args:
        notebook: the notebook as it stands in the repository.
        executed: the same after a run.
    """
    streams = [output for output in _cell(executed).outputs if output.output_type == "stream"]
    printed = "".join(output.text for output in streams if output.name == "stdout")
    return {"code": _mark(notebook), "printed": printed.strip()}


def table(notebooks: dict[str, NotebookNode], recorded: dict[str, dict]) -> str:
    """The table in Markdown, a row for each notebook.

    Args:
        notebooks: the notebooks by name, such as "01_inner_and_outer_losses".
        recorded: the content of lessons.json; `claim` in a row is what `record` gave.
    """
    rows = [HEADER]
    for name, notebook in sorted(notebooks.items()):
        kept = recorded.get(name, {}).get("claim", {})
        fresh = kept.get("code") == _mark(notebook)
        result = kept.get("printed", "not run") if fresh else "not run"
        columns = [f"[{name[:2]}]({name}.ipynb)", *of(notebook).values(), result]
        rows.append("| " + " | ".join(map(_in_a_cell, columns)) + " |")
    return "\n".join(rows)


def with_table(page: str, table_: str) -> str:
    """The page with the table between its two marks. Raises CourseError when a mark lacks."""
    return files.between_marks(page, BEGIN, END, table_, "the page of the notebooks")


def page(folder: Path, data: Path) -> tuple[Path, str]:
    """The README.md of a folder of notebooks, and its text with the table of today.

    Raises CourseError when the file, or one of its marks, is not there.
    """
    place, recorded = folder / "README.md", data / RECORD
    notebooks = {path.stem: files.read_notebook(path) for path in folder.glob("*.ipynb")}
    claimed = {name: notebook for name, notebook in notebooks.items() if _cells(notebook)}
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CourseError(f"there is no file {place}: it holds the table of claims") from None
    return place, with_table(text, table(claimed, files.read_json(recorded) if recorded.is_file() else {}))


def without_comments(source: str) -> str:
    """Python code without its comments, docstrings, blank lines and spaces at line ends.

    It cuts them out of the text, because a tree is written differently by different versions of Python.
    """
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            _cut(lines, node.body[0])
    return "\n".join(kept for line in lines if (kept := line.rstrip()))


def _cut(lines: list[str], text: ast.stmt) -> None:
    """Cut a docstring out of the lines, in place; code beside it, on its first or last line, stays."""
    first, last = text.lineno - 1, text.end_lineno - 1
    # a tree counts columns in bytes
    before, after = lines[first].encode()[: text.col_offset], lines[last].encode()[text.end_col_offset :]
    lines[first : last + 1] = [(before + after).decode(), *[""] * (last - first)]


def _python(cell: str) -> str:
    """The code of a cell as plain Python: a magic, such as `%matplotlib inline`, as the call that it stands for.

    Raises CourseError when it is neither.
    """
    try:
        ast.parse(cell)
        return cell
    except SyntaxError:
        code = TransformerManager().transform_cell(cell)
    try:
        ast.parse(code)
        return code
    except SyntaxError as error:
        where = (error.text or cell).strip()
        raise CourseError(f"a code cell is not Python ({error.msg}), mend it: {where}") from None


def _cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if "claim" in cell.metadata.get("tags", []) and cell.cell_type == "code"]


def _cell(notebook: NotebookNode) -> NotebookNode:
    return _cells(notebook)[0]


def _mark(notebook: NotebookNode) -> str:
    """A mark of the notebook's code: a result is of this code, or it is no result."""
    code = "\n".join(_python(cell.source) for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(without_comments(code).encode()).hexdigest()[:16]


def _in_a_cell(text: str) -> str:
    """A text as one cell of a table."""
    return text.replace("|", "\\|").replace("\n", "<br>")
