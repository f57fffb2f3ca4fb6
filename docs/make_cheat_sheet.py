"""One page of symbols, shapes and formulas: `python docs/make_cheat_sheet.py` draws docs/cheat_sheet.pdf and .png.

Symbols come from docs/glossary.yaml, what has no row there from docs/cheat_sheet.yaml. The files hold no date: two runs
give the same bytes. The page carries a digest of its table, so a test sees when it is not of today.
"""

import hashlib
import io
from pathlib import Path

import matplotlib
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlcourse import files

DOCS = Path(__file__).resolve().parent
TABLE, GLOSSARY = DOCS / "cheat_sheet.yaml", DOCS / "glossary.yaml"
PAGES = {"pdf": DOCS / "cheat_sheet.pdf", "png": DOCS / "cheat_sheet.png"}
SIZE = (11.69, 8.27)  # inches: A4, lying
DPI = 110
FIELDS = {
    "symbols": {"symbol", "says"},
    "shapes": {"name", "shape", "says"},
    "formulas": {"name", "formula", "in"},
}
BLUE, GREY = "#0072B2", "#555555"


def table() -> dict[str, list[dict[str, str]]]:
    """Symbols (of the glossary, too), shapes and formulas. Raises ValueError for a row with other fields."""
    found = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    for part, rows in found.items():
        for row in rows:
            if set(row) != FIELDS[part]:
                raise ValueError(f"{part}: {row} has other fields than {', '.join(sorted(FIELDS[part]))}")
    terms = yaml.safe_load(GLOSSARY.read_text(encoding="utf-8"))
    known = [{"symbol": row["symbol"], "says": row["term"]} for row in terms if "symbol" in row]
    return {**found, "symbols": sorted([*known, *found["symbols"]], key=_place)}


def _place(row: dict[str, str]) -> tuple:
    """Abbreviations last, Greek letters first."""
    symbol = row["symbol"]
    return (symbol.isascii() and symbol.isupper() and len(symbol) > 1, symbol.isascii(), symbol.lower(), row["says"])


def digest(rows: dict) -> str:
    """Of the table's content."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def sheet(rows: dict) -> Figure:
    """The page."""
    fig = Figure(figsize=SIZE)
    fig.text(0.03, 0.955, "Meta-learning for computer vision: symbols, shapes, formulas", fontsize=15, weight="bold")
    fig.text(0.03, 0.925, "The symbols of all notebooks. The first dimension of every tensor is the task.",
             fontsize=10, color=GREY)  # fmt: skip
    left = fig.add_axes((0.03, 0.03, 0.30, 0.87))
    upper = fig.add_axes((0.36, 0.555, 0.62, 0.345))
    lower = fig.add_axes((0.36, 0.03, 0.62, 0.50))
    _lines(left, "Symbols", [(_told(row["symbol"]), row["says"]) for row in rows["symbols"]], (0, 0.27), 9.5)
    _lines(upper, "Shapes", [(row["name"], row["shape"], row["says"]) for row in rows["shapes"]], (0, 0.17, 0.55), 9.5)
    formulas = [(row["name"], row["formula"], row["in"]) for row in rows["formulas"]]
    _lines(lower, "Formulas", formulas, (0, 0.28, 0.95), 10.5)
    lower.text(1.0, 1.0, "notebook", fontsize=8.5, color=GREY, ha="right", va="top")
    return fig


def _told(symbol: str) -> str:
    """A symbol as mathtext where it has an index."""
    name, _, index = symbol.partition("_")
    return rf"${name}_{{{index}}}$" if index else symbol


def _lines(ax: Axes, title: str, rows: list[tuple[str, ...]], columns: tuple[float, ...], size: float) -> None:
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.text(0, 1, title, fontsize=12, weight="bold", color=BLUE, va="top")
    step = 0.93 / len(rows)
    for place, row in enumerate(rows):
        y = 0.92 - (place + 0.5) * step
        for column, (x, words) in enumerate(zip(columns, row, strict=True)):
            ax.text(x, y, words, fontsize=size, va="center", weight="bold" if column == 0 else "normal")
        ax.axhline(y - step / 2, color="#DDDDDD", linewidth=0.6)


def drawn(kind: str) -> bytes:
    """The page as a file of a kind, "pdf" or "png"."""
    rows, file = table(), io.BytesIO()
    about = {"Title": "Symbols, shapes, formulas"}
    about |= {"Keywords": digest(rows), "CreationDate": None} if kind == "pdf" else {"Description": digest(rows)}
    with matplotlib.rc_context({"pdf.fonttype": 42, "mathtext.fontset": "dejavusans"}):
        sheet(rows).savefig(file, format=kind, dpi=DPI, metadata=about)
    return file.getvalue()


if __name__ == "__main__":
    for kind, path in PAGES.items():
        with files.replacing(path) as temporary:
            temporary.write_bytes(drawn(kind))
