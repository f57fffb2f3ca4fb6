"""Files are whole or not there: the order in which bytes and names reach the disk."""

import os
import stat

import pytest

from mlcourse import files


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
