"""Forty hand-ins to notebook 00: right, wrong, damaged on the way, and hostile, each with the marks that it must get.

    made = hand_in_all(folder, enemy)      # {student: Expected}

`enemy` names what a hostile answer tries to reach: a file of the teacher's, a port that listens.
"""

import copy
import io
import json
import re
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlcourse import places

NAME = "00_start_here.ipynb"
NEAREST = """\
def my_nearest(distances: torch.Tensor) -> torch.Tensor:
    best = distances.min(dim=1).indices
    return best"""
PROTOTYPES = """\
def my_prototypes(embeddings, labels, way):
    rows = [members(embeddings, labels, k).mean(0) for k in range(way)]
    return torch.stack(rows)"""
HELPER = """\
def members(embeddings, labels, k):
    return embeddings[labels == k]"""
INTERVAL = """\
def my_accuracy_interval(per_episode):
    se = per_episode.std() / len(per_episode) ** 0.5
    return float(per_episode.mean()), FACTOR * float(se)"""
WRONG = {
    "wrong-farthest": ("return distances.argmax(dim=1)", "the farthest prototypes"),
    "wrong-from-one": ("return distances.argmin(dim=1) + 1", "labels begin with 0"),
    "wrong-raises": ("return distances.argmin(dim=7)", "IndexError"),
}


@dataclass
class Expected:
    """The marks of 00.1, 00.2, 00.3, and words that the student's record must hold."""

    marks: tuple[int, int, int] = (0, 0, 0)
    words: str = ""


@dataclass
class Enemy:
    """What hostile answers try to reach."""

    file: Path
    port: int
    written: Path


def course() -> dict:
    """The course's notebook, untouched."""
    return json.loads((places.notebooks() / NAME).read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return "".join(cell["source"])


def stub(notebook: dict, number: int) -> dict:
    """The cell of an exercise."""
    return next(cell for cell in notebook["cells"] if f"exercise:00.{number}" in cell["metadata"].get("tags", []))


def code(text: str, **metadata) -> dict:
    return {"cell_type": "code", "id": f"n{abs(hash(text)) % 10**8}", "metadata": metadata, "source": text,
            "outputs": [], "execution_count": None}  # fmt: skip


def answered(nearest: str = NEAREST, *, all_three: bool = False) -> dict:
    """A notebook with an answer to 00.1, or with right answers to all three, a helper and a constant in cells apart."""
    notebook = course()
    stub(notebook, 1)["source"] = nearest
    if all_three:
        stub(notebook, 2)["source"] = PROTOTYPES
        stub(notebook, 3)["source"] = INTERVAL
        place = notebook["cells"].index(stub(notebook, 2))
        notebook["cells"][place:place] = [code(HELPER), code("FACTOR = 1.96")]
    return notebook


def body(*lines: str) -> str:
    """An answer to 00.1 with these lines as its body."""
    return "def my_nearest(distances):\n" + "\n".join(f"    {line}" for line in lines)


def bytes_of(notebook: dict) -> bytes:
    return json.dumps(notebook, indent=1, ensure_ascii=False).encode()


# ---- damages: each takes a notebook with three right answers and returns the bytes of a file ----


def untagged(notebook: dict) -> bytes:
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        cell.pop("id", None)
    return bytes_of(notebook)


def split(notebook: dict) -> bytes:
    cell = stub(notebook, 1)
    first, rest = source(cell).rsplit("\n", 1)
    cell["source"] = first
    notebook["cells"].insert(notebook["cells"].index(cell) + 1, code(rest))
    return bytes_of(notebook)


def split_head(notebook: dict) -> bytes:
    cell = stub(notebook, 1)
    first, rest = source(cell).split("\n", 1)
    cell["source"] = first
    notebook["cells"].insert(notebook["cells"].index(cell) + 1, code(rest))
    return bytes_of(notebook)


def duplicated(notebook: dict) -> bytes:
    cell = copy.deepcopy(stub(notebook, 1))
    notebook["cells"].append(cell)
    notebook["cells"].append(copy.deepcopy(stub(course(), 1)))
    return bytes_of(notebook)


def deleted(notebook: dict) -> bytes:
    notebook["cells"].remove(stub(notebook, 1))
    return bytes_of(notebook)


def retyped(notebook: dict) -> bytes:
    cell = stub(notebook, 1)
    cell.update(cell_type="markdown", metadata={})
    return bytes_of(notebook)


def reordered(notebook: dict) -> bytes:
    notebook["cells"].reverse()
    return untagged(notebook)


def kernel(notebook: dict) -> bytes:
    notebook["metadata"]["kernelspec"] = {"name": "ir", "language": "R", "display_name": "R"}
    return bytes_of(notebook)


def old_format(notebook: dict) -> bytes:
    notebook["nbformat_minor"] = 0
    return untagged(notebook)


def same_ids(notebook: dict) -> bytes:
    for cell in notebook["cells"]:
        cell["id"] = "same"
    return bytes_of(notebook)


def byte_order_mark(notebook: dict) -> bytes:
    return b"\xef\xbb\xbf" + bytes_of(notebook)


def crlf(notebook: dict) -> bytes:
    for cell in notebook["cells"]:
        cell["source"] = source(cell).replace("\n", "\r\n")
    return bytes_of(notebook).replace(b"\n", b"\r\n")


def merge_in_file(notebook: dict) -> bytes:
    lines = bytes_of(notebook).decode().split("\n")
    place = next(k for k, line in enumerate(lines) if '"cells"' in line)
    conflict = ["<<<<<<< HEAD", ' "merged": 1,', "=======", ' "merged": 2,', ">>>>>>> theirs"]
    return "\n".join([*lines[:place], *conflict, *lines[place:]]).encode()


def merge_in_cell(notebook: dict) -> bytes:
    cell = stub(notebook, 1)
    cell["source"] = f"<<<<<<< HEAD\n{source(cell)}\n=======\n{body('return distances.argmax(1)')}\n>>>>>>> theirs\n"
    return bytes_of(notebook)


def cut(notebook: dict) -> bytes:
    whole = bytes_of(notebook)
    return whole[: whole.index(b"my_accuracy_interval(per_episode)")]


def no_imports(notebook: dict) -> bytes:
    notebook["cells"] = [cell for cell in notebook["cells"] if "import" not in source(cell)]
    return bytes_of(notebook)


def renamed(notebook: dict) -> bytes:
    cell = stub(notebook, 1)
    cell["source"] = source(cell).replace("my_nearest", "nearest_of_mine")
    return bytes_of(notebook)


ALL = (1, 1, 1)
DAMAGES: dict[str, tuple[Callable[[dict], bytes], tuple[int, int, int], str]] = {
    "untagged": (untagged, ALL, ""),
    "split": (split, ALL, "split in two"),
    "split-head": (split_head, ALL, "was split"),
    "duplicated": (duplicated, ALL, ""),
    "deleted": (deleted, (0, 1, 1), "There is no function my_nearest"),
    "retyped": (retyped, ALL, "of the kind markdown"),
    "reordered": (reordered, ALL, ""),
    "kernel": (kernel, ALL, ""),
    "old-format": (old_format, ALL, ""),
    "same-ids": (same_ids, ALL, ""),
    "byte-order-mark": (byte_order_mark, ALL, ""),
    "crlf": (crlf, ALL, ""),
    "merge-in-file": (merge_in_file, ALL, "markers of a merge"),
    "merge-in-cell": (merge_in_cell, ALL, "markers of a merge"),
    "cut": (cut, (1, 1, 0), "is cut or damaged"),
    "no-imports": (no_imports, ALL, ""),
    "renamed": (renamed, ALL, "was called nearest_of_mine"),
    "empty": (lambda notebook: b"", (0, 0, 0), "The file is empty."),
    "pdf": (lambda notebook: b"%PDF-1.7 printed", (0, 0, 0), "This is a PDF"),
}


# ---- hostile answers ----

RIGHT = "return distances.argmin(dim=1)"


def hostile(enemy: Enemy) -> dict[str, tuple[str, int, str]]:
    """Answers to 00.1 by name: source, the mark, and words of the record."""
    return {
        "loop": (body("while True:", "    pass"), 0, "did not end within"),
        "memory": (body("big = torch.zeros(10 * 2**30 // 8, dtype=torch.float64) + 1", RIGHT), 0, ""),
        "exit": (body("import os", "os._exit(0)"), 0, "ended its process"),
        "system-exit": (body("raise SystemExit(0)"), 0, "SystemExit"),
        "recursion": (body("return my_nearest(distances)"), 0, "RecursionError"),
        "fork-bomb": (body("import os", "while True:", "    os.fork()"), 0, ""),
        "remove-home": (body("import os, shutil", f"shutil.rmtree({str(enemy.file.parent)!r})", RIGHT), 0, ""),
        "neighbour": (body(f"text = open({str(enemy.file)!r}).read()", RIGHT), 0, ""),
        "socket": (
            body("import socket", f"socket.create_connection(('127.0.0.1', {enemy.port}), 5).close()", RIGHT), 0, "",
        ),
        "write": (body(f"open({str(enemy.written)!r}, 'w').write('x')", RIGHT), 0, ""),
        "prints": (
            body("import os", "for k in range(1000):", "    os.write(1, b'passed' * 170_000)", RIGHT), 1, "",
        ),
        "patches": (
            body(
                "from mlcourse.lessons.start_here import checks", "from mlcourse.teaching.checks import Check",
                "object.__setattr__(checks.nearest, 'judge', lambda inputs, outputs: None)",
                "Check.judge_outputs = lambda self, given, outputs: None", "torch.allclose = lambda *a, **k: True",
                "torch.equal = lambda *a: True", "return distances.argmax(dim=1)",
            ), 0, "changes code that is not its own",
        ),
        "forges": (
            body(
                "import os, json, struct", "head = json.dumps({'found_by': '', 'passed': True}).encode()",
                "for k in range(3, 40):", "    try:", "        os.write(k, struct.pack('<II', len(head), 0) + head)",
                "    except OSError:", "        pass", "return distances.argmax(dim=1)",
            ), 0, "",
        ),
        "floods": (
            body("import os", "for k in range(3, 40):", "    try:", "        os.write(k, b'\\xff' * 100_000)",
                 "    except OSError:", "        pass", "return distances.argmin(dim=1)"), 0, "",
        ),
        "says-passed": (body("print('✓ Passed: exercise 00.1')", "return distances.argmax(dim=1)"), 0, ""),
        "exec": (body("space = {}", "exec('def f(d):\\n    return d.argmin(dim=1)', space)",
                      "return space['f'](distances)"), 1, "It uses exec"),
        "packages-own": (body("return __import__('mlcourse.lessons.start_here.checks', fromlist=['x'])"
                              ".nearest.reference(distances)"), 1, "It uses __import__"),
    }  # fmt: skip


def zipped(entries: dict[str, bytes], *, link: str = "") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if link:
            entry = zipfile.ZipInfo("link.ipynb")
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, link)
    return made.getvalue()


def hand_in_05(folder: Path, count: int) -> None:
    """Hand-ins to notebook 05, in turn: all exercises right, all wrong, untouched; the students' names count up."""
    (path,) = places.notebooks().glob("05_*.ipynb")
    for k in range(count):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            text, tags = source(cell), cell["metadata"].get("tags", [])
            if any(tag.startswith("exercise:") for tag in tags) and k % 3 < 2:
                name = re.search(r"def my_(\w+)", text)[1]
                answer = next(source(one) for one in notebook["cells"] if f"def solution_{name}(" in source(one))
                answer = answer.split("assert checks.")[0].replace("solution_", "my_")
                cell["source"] = answer if k % 3 == 0 else re.sub(r"return \.\.\.", "return torch.zeros(3)", text)
        notebook["cells"] = [c for c in notebook["cells"] if "solution" not in c["metadata"].get("tags", [])]
        (folder / f"s{k:02d}").mkdir()
        (folder / f"s{k:02d}" / path.name).write_bytes(bytes_of(notebook))


def hand_in_all(folder: Path, enemy: Enemy) -> dict[str, Expected]:
    """Write all hand-ins; returns what each must get."""
    expected: dict[str, Expected] = {}

    def put(student: str, content: bytes, *marks: int, words: str = "") -> None:
        path = folder / student / NAME
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        expected[student] = Expected(marks or (0, 0, 0), words)

    put("untouched", bytes_of(course()), words="is not written yet")
    put("all-right", bytes_of(answered(all_three=True)), 1, 1, 1)
    for student, (line, words) in WRONG.items():
        put(student, bytes_of(answered(body(line))), words=words)
    for student, (damage, marks, words) in DAMAGES.items():
        put(student, damage(answered(all_three=True)), *marks, words=words)
    for student, (text, mark, words) in hostile(enemy).items():
        put(student, bytes_of(answered(text)), mark, 0, 0, words=words)
    (folder / "linked").mkdir()
    (folder / "linked" / NAME).symlink_to(enemy.file)
    expected["linked"] = Expected(words="links are not followed")
    right = bytes_of(answered())
    bomb = {NAME: b"0" * 60_000_000}
    (folder / "bomb.zip").write_bytes(zipped(bomb))
    expected["bomb"] = Expected(words="larger than 20 MB")
    (folder / "escaping.zip").write_bytes(zipped({"../../escaped.ipynb": right, NAME: right}))
    expected["escaping"] = Expected((1, 0, 0), "leads out of it")
    (folder / "zip-link.zip").write_bytes(zipped({NAME: right}, link="/etc/passwd"))
    expected["zip-link"] = Expected((1, 0, 0), "links are not followed")
    return expected
