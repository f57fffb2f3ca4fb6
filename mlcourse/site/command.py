"""`mlcourse site`: the course as static pages."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places
from mlcourse.commands import say
from mlcourse.commands.run import Budget, find
from mlcourse.errors import CourseError

# what Sphinx and its theme leave that no page asks for
UNUSED = (
    "*.map",
    "objects.inv",
    ".buildinfo",
    ".doctrees",
    "fontawesome.js",
    "*.LICENSE.txt",
    "locales",
    "*webpack-macros.html",
    "_sources",
    "vendor",
)
FONT = re.compile(r"@font-face\s*\{[^}]*?url\(([^)]*)\)[^}]*\}")
MADE_BY = ".made-by-mlcourse-site"


def site(
    out: Annotated[Path, typer.Argument(help="The folder for the pages; what an earlier call left there is replaced.")],
    notebooks: Annotated[list[str] | None, typer.Argument(help="1, 01, 01_name; default: all")] = None,
    budget: Annotated[
        Budget, typer.Option(help="What the notebooks are executed with: lesson, or smoke for a quick look.")
    ] = Budget.lesson,
    cache: Annotated[
        Path | None, typer.Option(help="What was executed before. Default: MLCOURSE_SITE_CACHE, else runs/site.")
    ] = None,
    as_pdf: Annotated[bool, typer.Option("--pdf", help="Also print each notebook to OUT/pdf; needs Chromium.")] = False,
) -> None:
    """Make static pages of the course: notebooks with results, methods, reference, glossary, search.

    A notebook is executed only when its code, the package or the data have changed. The pages need no kernel, no
    network and no server: open OUT/index.html.
    """
    from mlcourse.site import building, pdf  # late, as the others: they bring PyTorch, and help needs none

    building.check_installed()
    program = pdf.browser() if as_pdf else None
    files.check_named(out, "OUT")
    out = places.whole(out).resolve()  # the folder itself, where a link leads to it
    check_ours(out)
    with alone(out):
        _build(out, find(notebooks or []), budget, cache, program)


def _build(out: Path, paths: list[Path], budget: Budget, cache: Path | None, program: str | None) -> None:
    """Execute, make the pages, put them into `out`, check them. Leaves with exit code 1 where they have a fault."""
    from mlcourse.site import building, checking, notebooks, pdf, sources
    from mlcourse.site.executed import default_cache, executed

    for path in paths:  # before the minutes that the first one takes
        notebooks.check_attached(files.read_notebook(path), path.stem)
    ran = {}
    for number, path in enumerate(paths, start=1):
        notebook, fresh = executed(path, budget, cache or default_cache())
        print(
            f"{number}/{len(paths)} {path.stem}: {'executed' if fresh else 'unchanged since it was executed'}",
            flush=True,
        )
        ran[path.stem] = notebook
    with tempfile.TemporaryDirectory(prefix="mlcourse-site-") as folder:
        place = Path(folder)
        sources.write(ran, place / "sources")
        warnings = building.build(place / "sources", place / "pages", place / "doctrees", banner(budget))
        put(place / "pages", out)
    for name in ran if program else ():
        pdf.write(out / "notebooks" / f"{name}.html", out / "pdf" / f"{name}.pdf", program)
        mark(out, made_before(out) | {f"pdf/{name}.pdf"})
    wrong = warnings + checking.faults(out)
    for line in wrong:
        say(line)
    print(f"{out / 'index.html'}: {sum(1 for _ in out.rglob('*.html'))} pages, {len(wrong) or 'no'} faults")
    if wrong:
        raise typer.Exit(1)


def banner(budget: Budget) -> str:
    """What stands over each page: the code says `lesson`, whatever it was executed with."""
    if budget == Budget.lesson:
        return ""
    kind = "short" if budget == Budget.smoke else "long"
    return f"Built with the {kind} settings <code>{budget}</code>: figures are those of a {kind} run."


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Inside, no other call builds into this folder. Raises CourseError where one does."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CourseError(f"another `mlcourse site` is building {out}: wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


def made_before(out: Path) -> set[str]:
    """The files in a folder that an earlier call made."""
    marker = out / MADE_BY
    return set(marker.read_text(encoding="utf-8").splitlines()) if marker.is_file() else set()


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def _empty_folders(out: Path) -> list[str]:
    """The folders in a folder that hold nothing: an earlier call made none of them."""
    found = [path for path in out.rglob("*") if path.is_dir() and not path.is_symlink() and not any(path.iterdir())]
    return [path.relative_to(out).as_posix() for path in found]


def check_ours(out: Path) -> None:
    """Raise CourseError for what is no folder, and for a folder of other files that no earlier call has made."""
    if out.exists() and not out.is_dir():
        raise CourseError(f"{out} is a file; name a folder")
    if out.exists() and any(out.iterdir()) and not (out / MADE_BY).is_file():
        raise CourseError(f"{out} holds files that `mlcourse site` did not make; name another folder")


def _leave_out_missing_fonts(folder: Path) -> None:
    """Of the styles: a browser would ask for the theme's icons, which no page shows (`UNUSED`)."""
    for path in folder.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        kept = FONT.sub(lambda face, at=path.parent: face[0] if (at / face[1].strip("'\"")).exists() else "", text)
        if kept != text:
            path.write_text(kept, encoding="utf-8")


def put(made: Path, out: Path) -> None:
    """Put the pages in the place of the last ones. What an earlier call made is gone; what it did not make stays.

    Whoever publishes a folder of pages keeps more in it: a CNAME, a .git.
    """
    (made / ".nojekyll").touch()  # hosts of pages leave out folders that begin with _ without it
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        shutil.copytree(made, fresh, ignore=shutil.ignore_patterns(*UNUSED), dirs_exist_ok=True)
        fresh.chmod(0o755)  # a temporary folder is its owner's alone
        _leave_out_missing_fonts(fresh)
        names = files_in(fresh)
        others = sorted(files_in(out) - made_before(out) - {MADE_BY}) if out.is_dir() else []
        empty = _empty_folders(out)  # a .git is none without its empty refs
        if both := [name for name in (*others, *empty) if name in names]:
            raise CourseError(f"{out / both[0]} is not of `mlcourse site`, and a page has its name: move it away")
        mark(fresh, names)
        for name in others:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(out / name, fresh / name, follow_symlinks=False)
        for name in empty:
            (fresh / name).mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            out.rename(old / "pages")
        fresh.rename(out)
    finally:
        if not out.exists() and (old / "pages").is_dir():
            (old / "pages").rename(out)
        for folder in (fresh, old):
            shutil.rmtree(folder, ignore_errors=True)


def mark(out: Path, names: set[str]) -> None:
    """Note which files of a folder this command has made."""
    (out / MADE_BY).write_text("\n".join(sorted(names)) + "\n", encoding="utf-8")
