"""A warm process is a fresh one: nothing of another one is in it, and it ends when its asker ends it."""

import contextlib
import os
import socket
import subprocess
import time

import nbformat
import psutil
import pytest
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from states import run_edition
from warm import POSSIBLE, Warm, command

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="a fork needs Linux")


def run(folder, *cells):
    """Run cells; return the error, and what each cell printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    folder.mkdir(exist_ok=True)
    error, executed, _ = run_edition(folder / "any.ipynb", notebook, folder)
    return error, ["".join(output.get("text", "") for output in cell.outputs) for cell in executed.cells]


def test_its_modules_are_its_own(tmp_path):
    change = "import torch, mlcourse\nprint(hasattr(mlcourse, 'changed'), torch.rand(1))\nmlcourse.changed = 1"
    first, second = run(tmp_path / "a", change), run(tmp_path / "b", change)
    assert first == second
    assert first[1][0].startswith("False")


def test_its_folder_and_environment_are_those_that_were_asked_for(tmp_path, monkeypatch):
    look = "import os\nprint(os.getcwd(), os.environ.get('ASKED'), os.environ['MLCOURSE_BUDGET'])"
    for value in ("one", "two"):
        monkeypatch.setenv("ASKED", value)
        assert run(tmp_path, look) == ("", [f"{tmp_path} {value} smoke\n"])


def test_the_first_cell_that_fails_ends_it_and_is_named(tmp_path):
    error, printed = run(tmp_path, "print(1)", "raise ValueError('no such class')", "print(2)")
    assert error == "ValueError: no such class"
    assert printed[0::2] == ["1\n", ""]


@pytest.mark.parametrize("died", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_kernel_that_dies_is_told(tmp_path, died):
    with pytest.raises(DeadKernelError):
        run(tmp_path, f"import os\n{died}")


def test_none_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("states.CELL_SECONDS", 5)
    told = tmp_path / "process"
    endless = f"import os\nopen({str(told)!r}, 'w').write(str(os.getpid()))\nwhile True:\n    pass"
    with pytest.raises(CellTimeoutError):
        run(tmp_path, endless)
    kernel = int(told.read_text())
    assert kernel != os.getpid()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(kernel) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(kernel)


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_what_a_kernel_has_started_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("states.CELL_SECONDS", 5)
    told = tmp_path / "process"
    sleeper = (
        f"import subprocess\none = subprocess.Popen(['sleep', '600'])\nopen({str(told)!r}, 'w').write(str(one.pid))"
    )
    with pytest.raises(CellTimeoutError):
        run(tmp_path, f"{sleeper}\nwhile True:\n    pass")
    assert until(lambda: not psutil.pid_exists(int(told.read_text())))


def test_when_the_forked_process_is_gone_its_kernels_are_too_and_the_next_edition_starts_another(tmp_path):
    Warm.start()
    first = Warm.server
    with pytest.raises(DeadKernelError):
        run(tmp_path, f"import os, time\nos.kill({first.pid}, 9)\ntime.sleep(60)")
    assert run(tmp_path, "print(1)") == ("", ["1\n"])
    assert Warm.server.pid != first.pid


@pytest.mark.parametrize("said", [b"", b"abc", (100).to_bytes(8, "big") + b"half"])
def test_who_asks_for_nothing_stops_no_other(tmp_path, said):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(f"{Warm.start()}/socket")
        line.sendall(said)
    assert run(tmp_path, "print(1)") == ("", ["1\n"])


# -------------------------------------------------------------------------------- commands


def test_a_command_has_its_own_output_status_and_folder(tmp_path):
    told = command("data", "list", "--nothing", folder=tmp_path)
    assert (told.returncode, told.stdout) == (2, "")
    assert "--nothing" in told.stderr
    told = command("--help", environment={"COLUMNS": "60"})
    assert told.returncode == 0
    assert max(map(len, told.stdout.splitlines())) <= 60
    assert "evaluate" in told.stdout


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_a_command_says_what_one_that_starts_cold_says_in_the_encoding_that_is_asked_for(encoding):
    words, asked = ["run", "ü → notebook"], {"PYTHONIOENCODING": encoding}
    told, first = command(*words, environment=asked), command(*words, environment=asked, cold=True)
    assert (told.returncode, told.stdout, told.stderr) == (first.returncode, first.stdout, first.stderr)
    assert {"utf-8": "ü →", "latin-1": "ü ->", "ascii": "-> notebook"}[encoding] in told.stderr


def test_a_command_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        command("train", "maml", "--recipe", "short", "--out", "run", folder=tmp_path, seconds=20)
    assert (tmp_path / "run").is_dir()

    def in_it(process):
        with contextlib.suppress(psutil.Error):
            return process.cwd() == str(tmp_path)

    assert until(lambda: not [one for one in psutil.process_iter() if in_it(one)])
