"""What the result of a lesson depends on, as one hash: its code, the package files that it imports, the embedded data.

It needs no git history and runs nothing, so it answers the same in a shallow clone and in an archive. The tests ask it
which lessons to run again (`data/results/lessons.json`), and the site which executed notebooks it may still show.
"""

import ast
import functools
import hashlib
from pathlib import Path

from mlcourse import files, places
from mlcourse.teaching.claims import without_comments


def imported_modules(source: str, package: str = "mlcourse", root: Path | None = None) -> set[Path]:
    """The files of the package that Python code imports, directly or through other files of the package.

    Imports inside functions count too. It reads, it runs nothing; a name that is no module is ignored.
    """
    root, seen, waiting = root or places.repository(), set(), [(source, "")]
    while waiting:
        text, inside = waiting.pop()
        for name in _imports(text, inside):
            parts = name.split(".")
            for path in (root.joinpath(*parts[:k]) for k in range(1, len(parts) + 1)):
                file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
                if parts[0] == package and file.is_file() and file not in seen:
                    seen.add(file)
                    home = path if path.is_dir() else path.parent
                    waiting.append((file.read_text(encoding="utf-8"), ".".join(home.relative_to(root).parts)))
    return seen


@functools.cache  # by content, so never out of date: eighteen notebooks import mostly the same files
def _imports(text: str, inside: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = inside.split(".")[: len(inside.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return tuple(names)


_code = functools.cache(without_comments)


def fingerprint(path: Path) -> str:
    """A hash of all that a lesson's result depends on in this repository: its code, the package files, the data.

    Comments, docstrings and blank lines do not count: no result depends on them. Nor do the programs beside the data,
    `data/make_….py`: what they have written does.
    """
    notebook = files.read_notebook(path)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    source = "\n".join(one for one in code if not one.lstrip().startswith(("%", "!")))
    digest = hashlib.sha256((without_comments(source) + str(notebook.metadata.get("mlcourse", ""))).encode())
    results = places.data() / "results"
    kept = (p for p in places.data().rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    stored = [p for p in kept if results not in p.parents and p.suffix not in (".md", ".py")]
    for file in sorted([*imported_modules(source), *stored]):
        digest.update(str(file.relative_to(places.repository()).as_posix()).encode())
        content = file.read_bytes()
        digest.update(_code(content.decode()).encode() if file.suffix == ".py" else content)
    return digest.hexdigest()
