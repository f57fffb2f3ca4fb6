"""Read the cells of a notebook that a student handed in, whatever happened to the file on the way.

Only the kind, the source and the tags of cells are looked at. So a wrong kernel, lost ids and a wrong minor version of
the format do not matter, and a file that is cut or holds the markers of a merge still gives its whole cells.
"""

import ast
import json
import re
from dataclasses import dataclass, field

ATTEMPTS = 5_000  # places in a damaged file where a cell is looked for
SCANNED = 20_000_000  # characters that are read for this, in all attempts together
LONGEST = 200_000  # characters of one cell
ALL = 2_000_000  # characters of all code cells that are read
MARKER = re.compile(r"^(<{7}|={7}|>{7}|\|{7})(?: .*)?$")


@dataclass
class Cell:
    """One cell: kind ("code", "markdown", "raw"), source with \\n, tags; parsed when it is plain Python."""

    kind: str
    source: str
    tags: list[str] = field(default_factory=list)
    tree: ast.Module | None = None
    error: str = ""  # why Python cannot read it

    def __post_init__(self):
        self.source = plain(self.source) if self.kind == "code" else self.source
        if self.kind == "code":
            self.tree, self.error = parse(self.source)


def parse(source: str) -> tuple[ast.Module | None, str]:
    """The syntax tree, and ""; or None, and why Python cannot read it."""
    if len(source) > LONGEST:
        return None, f"the cell is longer than {LONGEST} characters"
    try:
        return ast.parse(source), ""
    except SyntaxError as error:
        return None, f"{type(error).__name__} on line {error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return None, f"{type(error).__name__}: {str(error)[:100]}"


def plain(source: str) -> str:
    """The cell without lines that only IPython reads (`%time`, `!pip`, `name?`); the other lines keep their numbers."""
    lines = source.split("\n")
    return "\n".join("" if re.match(r"\s*[%!]|\s*[\w.]+\?{1,2}\s*$", line) else line for line in lines)


def cells_of(content: bytes) -> tuple[list[Cell], list[str]]:
    """The cells of a file, and one sentence for each thing that is wrong with it."""
    if not content.strip(b"\0 \r\n\t"):
        return [], ["The file is empty."]
    if content.startswith(b"%PDF"):
        return [], ["This is a PDF, not a notebook: hand in the file that ends in .ipynb."]
    if content.startswith(b"PK\x03\x04"):
        return [], ["This is a zip archive under the name of a notebook."]
    text, notes = _decode(content)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return _salvage(text, notes)
    found = _listed(whole)
    if found is None:
        return [], [*notes, "The file is JSON, but no notebook: it has no list of cells."]
    cells = _read_all(found, notes)
    if len(cells) < len(found):
        notes.append(f"{len(found) - len(cells)} of {len(found)} cells cannot be read.")
    return cells, _once(notes)


def _read_all(found: list, notes: list[str]) -> list[Cell]:
    """The cells that can be read, up to ALL characters."""
    cells, room = [], ALL
    for one in found:
        if (cell := _cell(one, notes, room)) is not None:
            cells.append(cell)
            room -= len(cell.source)
    return cells


def _decode(content: bytes) -> tuple[str, list[str]]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace"), []
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return content.decode("utf-8-sig", "replace"), ["Some characters of the file are no UTF-8."]


def _listed(whole) -> list | None:
    """The cells of a notebook of format 4, or of format 3, whose cells lie in worksheets."""
    if not isinstance(whole, dict):
        return None
    if isinstance(whole.get("cells"), list):
        return whole["cells"]
    sheets = whole.get("worksheets")
    if isinstance(sheets, list) and sheets and isinstance(sheets[0], dict):
        lists = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
        return [cell for one in lists if isinstance(one, list) for cell in one]
    return None


def _cell(one, notes: list[str], room: int = ALL) -> Cell | None:
    """A cell of its JSON; None when it has no kind or no text, or is longer than `room` characters."""
    if not isinstance(one, dict) or not isinstance(one.get("cell_type"), str):
        return None
    source = one.get("source", one.get("input"))
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str) or len(source) > room:
        return None
    source = source.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    metadata = one.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    tags = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    if any(MARKER.match(line) and line[0] in "<>" for line in source.split("\n")):
        notes.append("A cell holds the markers of a merge (<<<<<<<); the first side that Python can read counts.")
        source = _one_side(source)
    return Cell(one["cell_type"], source, tags)


def _one_side(source: str) -> str:
    """The text of one side of a merge: the first, or the second when Python reads only that one."""
    sides: list[list[str]] = [[], []]
    side = None
    for line in source.split("\n"):
        marker = MARKER.match(line)
        if marker:
            side = {"<": 0, "|": 2, "=": 1, ">": None}[line[0]]
        elif side is None:
            sides[0].append(line)
            sides[1].append(line)
        elif side < 2:
            sides[side].append(line)
    first, second = ("\n".join(lines) for lines in sides)
    return second if parse(plain(first))[0] is None and parse(plain(second))[0] is not None else first


def _salvage(text: str, notes: list[str]) -> tuple[list[Cell], list[str]]:
    """The whole cells of a file that is no JSON as a whole."""
    merged = bool(re.search(r"^<{7}", text, re.MULTILINE))
    if merged:
        for side in (0, 1):
            try:
                listed = _listed(json.loads(_side_of(text, side)))
            except (ValueError, RecursionError):
                continue
            if listed is not None:
                notes = [*notes, "The file holds the markers of a merge (<<<<<<<); one of its two sides counts."]
                return _read_all(listed, notes), _once(notes)
    found, place, scanned, decoder = [], 0, 0, json.JSONDecoder()
    starts = re.compile(r'\{\s*"(?:cell_type|attachments|execution_count|id|metadata|source|outputs)"')
    for _ in range(ATTEMPTS):
        begin = starts.search(text, place)
        if begin is None or scanned > SCANNED:
            break
        try:
            one, place = decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError) as error:
            scanned += max(1000, getattr(error, "pos", 0) - begin.start())
            place = begin.start() + 1
            continue
        if isinstance(one, dict) and "cell_type" in one:
            found.append(one)
    cells = _read_all(found, notes)
    if not cells:
        return [], [*notes, "The file is no notebook, or is damaged beyond reading."]
    what = "holds the markers of a merge (<<<<<<<)" if merged else "is cut or damaged"
    return cells, _once([*notes, f"The file {what}; of its cells {len(cells)} could be read, and these count."])


def _side_of(text: str, wanted: int) -> str:
    kept, side = [], None
    for line in text.splitlines():
        marker = MARKER.match(line)
        if marker:
            side = {"<": 0, "|": 2, "=": 1, ">": None}[line[0]]
        elif side is None or side == wanted:
            kept.append(line)
    return "\n".join(kept)


def _once(notes: list[str]) -> list[str]:
    return list(dict.fromkeys(notes))
