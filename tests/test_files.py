"""Files are whole or not there: the order in which bytes and names reach the disk."""

import errno
import json
import os
import stat
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from mlcourse import files
from mlcourse.errors import CourseError


def noted(monkeypatch) -> list[str]:
    """The calls that decide what a power cut leaves, in their order; each is still carried out."""
    calls, fsync, replace = [], os.fsync, os.replace

    def note_fsync(handle):
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        calls.append("flush folder" if folder else f"flush {os.fstat(handle).st_size} bytes")
        fsync(handle)

    def note_replace(old, new):
        calls.append(f"rename to {os.path.basename(new)}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return calls


def test_a_name_that_stands_twice_in_a_json_object_is_named(tmp_path):
    path = tmp_path / "a.json"
    for text in ('{"x": 1, "y": 2, "x": 3}', '{"in": [{"x": 1, "x": 1}]}'):
        path.write_text(text)
        with pytest.raises(CourseError, match=r"a\.json has 'x' twice in one object, so one of them would be lost"):
            files.read_json(path)
    path.write_text('{"x": {"x": 1}, "y": {"x": 2}}')
    assert files.read_json(path) == {"x": {"x": 1}, "y": {"x": 2}}


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = noted(monkeypatch)
    files.write_text(tmp_path / "new" / "some.txt", "twelve bytes")
    order = ["flush 12 bytes", "rename to some.txt", "flush folder"]
    assert calls == (order[:2] if os.name == "nt" else order)
    assert (tmp_path / "new" / "some.txt").read_text() == "twelve bytes"


def test_a_block_that_fails_flushes_nothing_and_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_text(tmp_path / "some.txt", "old")
    calls = noted(monkeypatch)

    def half(path):
        with files.replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half(tmp_path / "some.txt")
    assert calls == []
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("some.txt", "old")]


def test_a_disk_that_flushes_no_folders_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    files.write_text(tmp_path / "some.txt", "new")
    assert (tmp_path / "some.txt").read_text() == "new"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_fails_while_it_flushes_leaves_the_old_file(tmp_path, monkeypatch, failing):
    files.write_text(tmp_path / "some.txt", "old")

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="Input/output"):
        files.write_text(tmp_path / "some.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("some.txt", "old")]


# -------------------------------------------------------------------------------- names and disks of every kind


@pytest.mark.parametrize("name", ["a" * 240 + ".json", "ü" * 120 + ".json", "why?.json", "{x}.json", "a%20b.json"])
def test_a_name_that_the_disk_takes_can_be_written(tmp_path, name):
    files.write_json(tmp_path / name, {"name": name})
    assert files.read_json(tmp_path / name) == {"name": name}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="their file names are always Unicode")
def test_a_name_that_is_no_utf8_is_written_and_read_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.json")
    files.write_json(tmp_path / name, {"path": name})
    assert files.read_json(tmp_path / name) == {"path": name}


def test_a_file_that_is_removed_while_it_is_opened_is_one_line(tmp_path, monkeypatch):
    """PyTorch opens a file of tensors a second time: another process may have removed it by then."""

    def removed(*_, **__):
        raise RuntimeError("unable to open file <x> in read-only mode: No such file or directory (2)")

    path = tmp_path / "x.safetensors"
    files.save_tensors(path, {"one": torch.ones(1)}, {"mine": 1})
    assert files.load_metadata(path) == {"mine": 1}
    monkeypatch.setattr("safetensors.safe_open", removed)
    with pytest.raises(CourseError, match=r"x\.safetensors is damaged or truncated"):
        files.load_tensors(path)


def test_a_full_disk_is_named_with_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    files.write_text(tmp_path / "some.txt", "old")

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"some\.txt"):
        files.write_text(tmp_path / "some.txt", "much more")
    monkeypatch.undo()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("some.txt", "old")]


WHOLE = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])).encode()
NO_NOTEBOOKS = {
    "empty": b"", "cut": WHOLE[:-40], "html": b"<!DOCTYPE html><html>404</html>", "list": b"[]", "number": b"4",
    "null": b"null", "no cells": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "latin": b"\xe9\xe8",
    "zeros": bytes(100), "later": WHOLE.replace(b'"nbformat": 4', b'"nbformat": 9'), "deep": b"[" * 100_000,
    "cells is a word": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": "none"}',
    "cell is a word": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": ["one"]}',
    "cell without source": b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
    "no metadata": WHOLE.replace(b'"metadata": {}', b'"metadata": 3'), "png": b"\x89PNG\r\n\x1a\n" + bytes(20),
}  # fmt: skip


@pytest.mark.parametrize("content", NO_NOTEBOOKS.values(), ids=NO_NOTEBOOKS.keys())
def test_what_is_no_notebook_is_one_line(tmp_path, content):
    path = tmp_path / "some.ipynb"
    path.write_bytes(content)
    with pytest.raises(CourseError, match=r"some\.ipynb is not a notebook, or is damaged") as caught:
        files.read_notebook(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_notebook_is_read_whatever_its_outputs_and_its_mark_of_order(tmp_path):
    path = tmp_path / "some.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    notebook.cells[0].outputs = [{"output_type": "odd"}]
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(notebook).encode())
    assert files.read_notebook(path).cells[0].source == "1"
    with pytest.raises(CourseError, match="no notebook"):
        files.read_notebook(tmp_path / "gone.ipynb")
