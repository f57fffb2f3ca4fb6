"""The package's reference, from its source: it is read, not imported, so that it is the same on every machine.

The docstrings of the course are Markdown. Sections such as `Args:` become lists; indented lines stay as they are
written: there stand formulas and examples.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mlcourse import files

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):[ \t]*\n((?:(?:[ \t]+.*)?\n)*)", re.MULTILINE)
ADDRESS = re.compile(r"(?<![<(\[`])https?://[^\s<>()`]*[^\s<>()`.,;:]")
ROOM = re.compile(r"^\| `(\w+)(\.py|/)` \| (.+) \|$", re.MULTILINE)
LEFT_OUT = {"lessons", "commands", "site", "environment"}  # what is read in notebooks, by --help, and by nobody
Callable_ = ast.FunctionDef | ast.AsyncFunctionDef


def rooms(package: Path) -> list[tuple[str, str, list[Path]]]:
    """The rooms of the plan (README of the package): name, the question that it answers, its files."""
    plan = (package / "README.md").read_text(encoding="utf-8")
    found = []
    for name, kind, question in ROOM.findall(plan):
        place = package / name
        paths = [place.with_suffix(".py")] if kind == ".py" else _in_order(place)
        if name not in LEFT_OUT:
            found.append((name, question, paths))
    return found


def _in_order(room: Path) -> list[Path]:
    """The files of a folder: what it says of itself first."""
    every = [path for path in sorted(room.rglob("*.py")) if not path.name.startswith("_")]
    inits = [path for path in sorted(room.rglob("__init__.py")) if path.read_text(encoding="utf-8").strip()]
    return sorted([*inits, *every], key=lambda path: (path.parent != room, path.parent, path.name != "__init__.py"))


def page(name: str, question: str, paths: list[Path], package: Path) -> str:
    """The page of a room, in MyST's Markdown."""
    parts = [f"# `mlcourse.{name}`\n\n{question}\n"]
    for path in paths:
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        title = f"## `{module}`\n\n" if module != f"mlcourse.{name}" else ""
        members = "\n".join(_members(tree, module))
        parts.append(
            f"{title}```{{py:module}} {module}\n```\n\n{markdown(ast.get_docstring(tree) or '')}\n\n{members}\n"
        )
    return "\n".join(parts)


def _members(tree: ast.Module, module: str) -> Iterator[str]:
    seen = set()
    for node in tree.body:
        if getattr(node, "name", "_").startswith("_") or node.name in seen or not ast.get_docstring(node):
            continue
        seen.add(node.name)
        if isinstance(node, Callable_):
            yield _function(node, "py:function", f":module: {module}\n")
        elif isinstance(node, ast.ClassDef):
            yield _class(node, module)


def _class(node: ast.ClassDef, module: str) -> str:
    inner = []
    for one in node.body:
        if isinstance(one, Callable_) and not one.name.startswith("_") and ast.get_docstring(one):
            setter = any(isinstance(mark, ast.Attribute) for mark in one.decorator_list)
            inner += [] if setter else [_method(one)]
    made = next((one for one in node.body if isinstance(one, Callable_) and one.name == "__init__"), None)
    arguments = _arguments(made) if made else _fields(node)
    body = "\n\n".join([markdown(ast.get_docstring(node)), *inner])
    return f"::::{{py:class}} {node.name}{arguments}\n:module: {module}\n\n{body}\n::::\n"


def _method(node: ast.FunctionDef) -> str:
    marks = {mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)}
    if marks & {"property", "cached_property"}:
        text = markdown(ast.get_docstring(node))
        return f":::{{py:property}} {node.name}\n\n{text}\n:::\n"
    options = "".join(f":{mark}:\n" for mark in ("classmethod", "staticmethod") if mark in marks)
    return _function(node, "py:method", options, drop=not marks & {"staticmethod"})


def _function(node: ast.FunctionDef, kind: str, options: str, drop: bool = False) -> str:
    arguments = _arguments(node) if drop else f"({ast.unparse(node.args)})"
    answer = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    text = markdown(ast.get_docstring(node))
    return f":::{{{kind}}} {node.name}{arguments}{answer}\n{options}\n{text}\n:::\n"


def _arguments(node: ast.FunctionDef) -> str:
    """The arguments of a method, without `self`."""
    first = next(iter([*node.args.posonlyargs, *node.args.args]), None)
    words = ast.unparse(node.args)
    return f"({words.removeprefix(first.arg).lstrip(', /')})" if first else f"({words})"


def _fields(node: ast.ClassDef) -> str:
    """What a dataclass is made of, as its arguments; nothing for another class."""
    marks = {getattr(getattr(mark, "func", mark), "id", "") for mark in node.decorator_list}
    bases = {getattr(base, "id", "") for base in node.bases}
    if "dataclass" not in marks and "NamedTuple" not in bases:
        return ""
    given = []
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            value = "" if one.value is None else f" = {ast.unparse(one.value)}"
            given.append(f"{one.target.id}: {ast.unparse(one.annotation)}{value}")
    return f"({', '.join(given)})"


def markdown(docstring: str) -> str:
    """A docstring as Markdown: sections become lists, addresses links, and no dollar begins a formula."""
    lines = SECTION.sub(_section, docstring.rstrip() + "\n").replace("$", r"\$").rstrip().split("\n")
    return "\n".join(line if line.startswith("    ") else ADDRESS.sub(r"<\g<0>>", line) for line in lines)


def _section(found: re.Match) -> str:
    items: list[str] = []
    indent = None
    for line in found[2].splitlines():
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None and line.strip() else indent
        if line.strip() and depth == indent:
            items.append(line.strip())
        elif items:
            items[-1] += f" {line.strip()}"
    if found[1] in ("Returns", "Yields"):
        return f"**{found[1]}** {' '.join(items).strip()}\n\n"
    named = [re.sub(r"^([\w*, ]+?):(?= |$)", r"`\1`:", item.strip()) for item in items]
    return f"**{found[1]}**\n\n" + "\n".join(f"- {item}" for item in named) + "\n\n"


def write(package: Path, folder: Path) -> list[str]:
    """Write a page for each room, and one that lists them; return their names without ending, in order."""
    names, lines = [], []
    for name, question, paths in rooms(package):
        files.write_text(folder / f"{name}.md", page(name, question, paths, package))
        names.append(name)
        lines.append(f"| [`{name}`]({name}.md) | {question} |")
    toctree = "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    plan = "\n".join(["| room | the question that it answers |", "|---|---|", *lines])
    words = (
        "The package is meant to be read. These are its rooms in the order of reading: imports run up the list only, "
        "so each can be understood with the ones above it. All of it is made from the docstrings of the source."
    )
    files.write_text(folder / "index.md", f"# The package\n\n{words}\n\n{plan}\n\n{toctree}")
    return names
