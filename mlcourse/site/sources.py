"""The folder of sources that Sphinx makes the site from. It looks like the repository: links lead where they did."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat

from mlcourse import files, places
from mlcourse.site import docstrings, methods
from mlcourse.site import notebooks as of_notebooks
from mlcourse.site.markdown import Links, table, without_comments
from mlcourse.teaching import claims
from mlcourse.teaching.stacks import START

THEME = Path(__file__).with_name("theme")
DOCS = ("syllabus", "glossary", "results", "questions", "teaching", "challenge", "hub")
CLAIMS = "notebooks/README.md"
TABLES, END = "<!-- results: tables -->", "<!-- results: end -->"
BEGIN_WITH = """Begin with [notebook {number}](notebooks/{name}.ipynb). Here you read and look: each widget shows some
of its pictures. In JupyterLab you also guess, break and mend: that is the living course.

## Start the living course

{commands}
{address}[What it needs, and other ways to start it](start.md).
"""
LIVING = """# Start the living course

These pages show the course as it was executed once. In the living course each widget answers, each cell can be changed,
and a check says what is wrong with your own code. It runs on your machine.

{address}
{how}"""
PLACEHOLDER = "<the address of this repository>"
CAPTIONS = {"Look up": [f"docs/{name}" for name in ("syllabus", "glossary", "results", "questions")]}
CAPTIONS |= {"Teach": ["docs/teaching", "docs/challenge", "docs/hub", "notebooks/README"]}
CAPTIONS |= {"Read on": ["methods/index", "reference/index"]}


def write(executed: dict[str, nbformat.NotebookNode], folder: Path) -> None:
    """Write all sources.

    Args:
        executed: name → notebook with outputs; it is changed.
        folder: an empty folder.
    """
    root = places.repository()
    pages = {f"docs/{name}.md" for name in DOCS} | {f"notebooks/{name}.ipynb" for name in executed}
    links = Links(root, pages | {CLAIMS, "index.md", f"{START}.md", "reference/index.md"})
    for place in ("_static", "docs", "notebooks", "methods", "reference"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for file in (THEME / "static").iterdir():
        shutil.copy(file, folder / "_static" / file.name)
    methods.write(folder / "methods", executed, links)  # it reads the notebooks as they were written
    for name, notebook in executed.items():
        source = of_notebooks.source(notebook, folder, links)
        files.write_text(folder / "notebooks" / f"{name}.ipynb", nbformat.writes(source))
    for name in DOCS:
        text = (root / "docs" / f"{name}.md").read_text(encoding="utf-8")
        text = links.rewritten(without_comments(text), "docs")
        text += measured(list(executed)) if name == "syllabus" else _compared(links) if name == "results" else ""
        files.write_text(folder / "docs" / f"{name}.md", text)
    text = without_comments((root / CLAIMS).read_text(encoding="utf-8"))
    files.write_text(folder / CLAIMS, links.rewritten(text, "notebooks"))
    docstrings.write(places.PACKAGE, folder / "reference")
    files.write_text(folder / "index.md", index(list(executed), links))
    files.write_text(folder / f"{START}.md", start(links))
    for name in sorted(links.files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, folder / name)


def index(names: list[str], links: Links) -> str:
    """The first page: what README says first, and the lists of pages."""
    readme = (places.repository() / "README.md").read_text(encoding="utf-8")
    first = without_comments(readme[: readme.index("<!-- vision: end -->")])
    first = re.sub(r"^English · .*\n", "", first, flags=re.MULTILINE)
    commands = re.search(r"```sh\n.*?```\n", install(), re.DOTALL)[0]
    begin = BEGIN_WITH.format(number=names[0][:2], name=names[0], commands=commands, address=_where())
    table = without_comments(readme[readme.index("## Syllabus") : readme.index("## Results")])
    lists = [_list("Begin", [START]), _list("Notebooks", [f"notebooks/{name}" for name in names])]
    lists += [_list(caption, pages) for caption, pages in CAPTIONS.items()]
    return "\n".join([links.rewritten(first, ""), begin, links.rewritten(table, ""), *lists])


def start(links: Links) -> str:
    """The page that says how to get the course: README's commands, and its table of what they need."""
    return LIVING.format(address=_where(), how=links.rewritten(install(), ""))


def install() -> str:
    """What README says of the way to the course, with the repository's address where it is known."""
    readme = (places.repository() / "README.md").read_text(encoding="utf-8")
    part = readme[readme.index("<!-- vision: end -->") : readme.index("## Before you begin")]
    return without_comments(part).strip().replace(PLACEHOLDER, address() or PLACEHOLDER) + "\n"


def _where() -> str:
    known = address()
    return f"The repository: [{known}]({known}). " if known else ""


def address() -> str:
    """The address from which this clone came, where a reader can open it; else "".

    Only https: another address is one of the person who made the site. A name or a password in it is left out.
    """
    asked = ["git", "-C", str(places.repository()), "remote", "get-url", "origin"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.fullmatch(r"https://(?:[^@/\s]*@)?([^@\s]+)", said.stdout.strip())
    return f"https://{found[1]}" if found and said.returncode == 0 else ""


def _list(caption: str, pages: list[str]) -> str:
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"


def measured(names: list[str]) -> str:
    """The minutes that a machine needs for each lesson, as they were measured."""
    record = places.data() / claims.RECORD
    rows = [
        [f"[{name[:2]}](../notebooks/{name}.ipynb)", f"{row['seconds'] / 60:.1f}", f"{row['peak_mb'] / 1000:.1f} GB"]
        for name, row in sorted(files.read_json(record).items())
        if name in names
    ]
    words = "Measured on two cores, from top to bottom at `lesson`: minutes of the machine, and memory at its peak."
    return f"\n## What a lesson costs the machine\n\n{words}\n\n{table(['notebook', 'minutes', 'memory'], rows)}"


def _compared(links: Links) -> str:
    """How to read README's tables, and the tables and forest plots themselves."""
    readme = (places.repository() / "README.md").read_text(encoding="utf-8")
    part = readme[readme.index(TABLES) + len(TABLES) : readme.index(END)]
    part = re.sub(r"^\*\*([^*]+)\*\*: ", r"### \1\n\n", part, flags=re.MULTILINE)
    return "\n## Comparisons on fixed tasks\n" + links.rewritten(part, "")
