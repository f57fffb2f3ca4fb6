"""The command `mlcourse`: quick help, one line for what a person can mend, a traceback for faults of the course."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rich.markup
import typer
from typer.testing import CliRunner

from mlcourse import commands, places
from mlcourse.commands import COMMANDS, OF_TASKS, app, one_line
from mlcourse.commands.progress import rows
from mlcourse.errors import CourseError


def mlcourse(*arguments):
    return subprocess.run([sys.executable, "-m", "mlcourse", *arguments], capture_output=True, text=True, timeout=120)


def help_texts():
    """All texts of all helps, as the commands hold them: (command, text)."""
    group = typer.main.get_command(app)
    found = [(name, group.get_command(typer.Context(group), name)) for name in [*COMMANDS, *OF_TASKS]]
    for name, command in found:
        found += [(f"{name} {part}", one) for part, one in getattr(command, "commands", {}).items()]
    for name, command in found:
        yield from (
            (name, text) for text in [command.help, *(getattr(one, "help", "") for one in command.params)] if text
        )


def test_no_help_swallows_what_stands_in_brackets():
    """typer reads help as rich's markup, where [weights] is a style; \\[weights] is shown."""
    texts = list(help_texts())
    assert len(texts) > 100
    for name, text in texts:
        assert rich.markup.render(text).plain == re.sub(r"[\b\f]", "", text).replace("\\[", "["), name
    assert any("\\[weights]" in text for _, text in texts)
    assert "[weights]" in CliRunner().invoke(app, ["grade", "--help"]).output


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = "import sys\nfrom mlcourse.commands import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "print('HEAVY', [m for m in ('torch', 'matplotlib', 'papermill', 'jupyterlab') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "HEAVY []" in answer.stdout, answer.stderr
    assert all(name in answer.stdout for name in commands.COMMANDS)


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_explains_itself(name):
    answer = CliRunner().invoke(app, [name, "--help"])
    assert answer.exit_code == 0
    assert len(answer.output) > 100


def test_script_and_module_are_the_same():
    answer = mlcourse("--version")
    assert answer.returncode == 0
    assert answer.stdout.strip() == commands.__version__


def test_unknown_command():
    answer = mlcourse("fly")
    assert answer.returncode == 2
    assert "No such command" in answer.stderr


@pytest.fixture
def failing(monkeypatch):
    """Make `mlcourse progress` raise an error of choice."""

    def fail_with(error):
        def progress():
            raise error

        monkeypatch.setattr("mlcourse.commands.progress.progress", progress)
        return CliRunner().invoke(app, ["progress"])

    return fail_with


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CourseError("way 0 is too small:\n say 2 or more"), "way 0 is too small: say 2 or more"),
        (
            OSError(errno.ENOSPC, "No space left on device", "model.safetensors"),
            "no space is left on the disk (model.sa",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc] . No space left on device (os error 28)"),
            "no space is left",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "gone.txt"), "there is no such file or folder (gone.txt)"),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), "may not be used (secret)"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "file/x"), "in the place of a folder (file/x)"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), "a name is too long for this disk (aaa)"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), "a link leads back to itself (x)"),
        (OSError(errno.EFBIG, "File too large", "x"), "a file grew larger than this system allows (x)"),
        (OSError(errno.EROFS, "Read-only file system", "/disk/x"), "the disk can only be read (/disk/x)"),
    ],
)
def test_what_a_person_can_mend_is_one_line(failing, error, text):
    answer = failing(error)
    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("mlcourse: ")
    assert text in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_fault_of_the_course_keeps_its_traceback(failing):
    answer = failing(ZeroDivisionError("division by zero"))
    assert isinstance(answer.exception, ZeroDivisionError)
    assert one_line(ZeroDivisionError()) is None
    assert one_line(OSError(errno.EIO, "I/O error")) is None


def test_debug_keeps_every_traceback(failing, monkeypatch):
    monkeypatch.setenv("MLCOURSE_DEBUG", "1")
    assert isinstance(failing(CourseError("x")).exception, CourseError)


@pytest.mark.parametrize(
    ("error", "text"), [(KeyboardInterrupt(), "is kept"), (KeyboardInterrupt("a: 30 steps"), "30 steps")]
)
def test_interrupt_says_what_was_kept(failing, error, text):
    answer = failing(error)
    assert answer.exit_code == 130
    assert text in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_progress_table(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    from mlcourse.teaching import progress

    progress.record_pass("98.1", "an exercise of a notebook that is gone")
    progress.record_guess("99.p1", "A question?", "yes")
    answer = CliRunner().invoke(app, ["progress"])
    assert answer.exit_code == 0
    rows = {line.split()[0]: line for line in answer.output.splitlines() if line.startswith(("98", "99"))}
    assert "1 of 1" in rows["98"]
    assert "begun" in rows["99"]
    assert str(tmp_path) in answer.output


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_progress_fits_80_columns_with_a_line_for_each_notebook(tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    from mlcourse.commands.progress import Row
    from mlcourse.teaching import progress

    long = Row("20_a_name_longer_than_that_of_any_notebook_here", [f"20.{n}" for n in range(1, 10)], [], 12)
    ours = [*rows(), Row("21_[bold]x", ["21.1", "21.2"], ["21.2"], 0), long]
    progress.record_pass("01.1", "first")
    monkeypatch.setattr("mlcourse.commands.progress.rows", lambda: ours)
    lines = CliRunner(charset=encoding).invoke(app, ["progress"]).output.splitlines()
    table = [line for line in lines if "exercises passed" not in line]
    assert max(map(len, table)) <= 80
    assert len([line for line in table if re.match(r"\d\d_", line)]) == len(ours)
    row = next(line for line in table if line.startswith("21_[bold]x"))
    assert row.split()[1:] == ["1", "of", "2", "1", "0", "begun"]


def test_a_damaged_notebook_of_the_course_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "01_a.ipynb").write_text("")
    monkeypatch.setattr("mlcourse.places.notebooks", lambda: tmp_path)
    answer = CliRunner().invoke(app, ["progress"])
    assert answer.exit_code == 2
    assert "01_a.ipynb is not a notebook, or is damaged" in answer.stderr


def test_progress_states():
    from mlcourse.commands.progress import Row

    assert Row("01_a", ["01.1", "01.2"], [], 0).state == "not begun"
    assert Row("01_a", ["01.1", "01.2"], [], 1).state == "begun"
    assert Row("01_a", ["01.1", "01.2"], ["01.1"], 0).state == "begun"
    assert Row("01_a", ["01.1", "01.2"], ["01.1", "01.2"], 0).state == "all passed"


def test_no_wrapping_into_pipes_breaks_a_line():
    answer = mlcourse("run", "a-notebook-that-does-not-exist")
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["MLCOURSE_DATA", "MLCOURSE_WORK", "MLCOURSE_CACHE"])
def test_a_folder_of_the_environment_means_the_same_from_everywhere(name, tmp_path, monkeypatch):
    """JupyterLab's kernels and those of `mlcourse run` work in other folders than the command."""
    monkeypatch.chdir(tmp_path)
    for value, meant in (("sets", tmp_path / "sets"), ("./a/../b", tmp_path / "b"), ("~/x", Path.home() / "x")):
        monkeypatch.setenv(name, value)
        places.settle()
        assert os.environ[name] == str(meant)
    monkeypatch.setenv(name, "")
    places.settle()
    assert os.environ[name] == ""
