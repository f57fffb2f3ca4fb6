"""`mlcourse doctor` on set-ups that are broken for real, as far as that can be done without harm."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlcourse.commands import app, console, doctor

TORCH = {"torch": "2.14.1", "torchvision": "0.29.1", "cuda": False, "cuda_build": None, "gpu": None}
NMS = "operator torchvision::nms does not exist"


def fake(folder, **packages):
    """Write importable packages into a folder."""
    for name, source in packages.items():
        (folder / f"{name}.py").write_text(source)
    return folder


def run_doctor(*arguments, **environment):
    command = [sys.executable, "-m", "mlcourse", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)


def state_of(answer, check):
    return next(one for one in json.loads(answer.stdout)["checks"] if one["check"] == check)


# -------------------------------------------------------------------------------- PyTorch and its partner


def test_mismatched_torchvision_in_a_process(tmp_path):
    """A torchvision built for another torch registers its operators at import, and fails."""
    path = fake(tmp_path, torchvision=f"raise RuntimeError({NMS!r})")
    answer = run_doctor("--json", PYTHONPATH=str(path))
    assert answer.returncode == 1
    finding = state_of(answer, "torchvision")
    assert finding["state"] == "off"
    assert "built for another torch" in finding["found"]
    assert "make env" in finding["remedy"]


def test_wrong_version_that_imports(tmp_path):
    source = "__version__ = '0.20.1'\nclass ops:\n    nms = staticmethod(lambda *a: None)\n"
    finding = state_of(run_doctor("--json", PYTHONPATH=str(fake(tmp_path, torchvision=source))), "torchvision")
    assert finding["state"] == "off"
    assert "its partner is torchvision 0." in finding["found"]


def test_missing_torch(tmp_path):
    path = fake(tmp_path, torch="raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    answer = run_doctor("--json", PYTHONPATH=str(path))
    assert state_of(answer, "PyTorch")["state"] == "off"
    assert "libtorch_cpu.so" in state_of(answer, "PyTorch")["found"]
    assert state_of(answer, "torchvision")["state"] == "off"


def test_python_that_does_not_run():
    assert "error" in doctor.probe_torch("no-such-python")
    assert doctor.check_torch(doctor.probe_torch("no-such-python")).state == "off"


@pytest.mark.parametrize(("torch", "torchvision"), [("2.11.0", "0.26"), ("2.12.1", "0.27"), ("2.14.1+cu130", "0.29")])
def test_pairs(torch, torchvision):
    assert doctor.partner(torch) == torchvision


def test_good_pair():
    assert doctor.check_pair(TORCH).state == "ok"
    assert doctor.check_torch(TORCH).state == "ok"


# -------------------------------------------------------------------------------- GPU


@pytest.mark.parametrize(
    ("found", "driver", "state", "text"),
    [
        ({"cuda": True, "gpu": "A Fine GPU"}, True, "ok", "A Fine GPU"),
        ({}, False, "ok", "every lesson runs on the CPU"),
        ({"cuda_build": None}, True, "note", "built for the CPU"),
        ({"cuda_build": "13.0"}, True, "note", "driver"),
    ],
)
def test_gpu(found, driver, state, text, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    finding = doctor.check_gpu(TORCH | found)
    assert (finding.state, text in finding.found) == (state, True)


# -------------------------------------------------------------------------------- the kernel


def kernel(folder, python):
    """Write a kernel called python3 into a Jupyter data folder."""
    spec = {"argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Python 3"}
    (folder / "kernels" / "python3").mkdir(parents=True)
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec | {"language": "python"}))
    return str(folder)


def test_kernel_is_there():
    assert doctor.check_kernel().state == "ok"


def test_kernel_missing():
    finding = doctor.check_kernel("a-kernel-nobody-has")
    assert finding.state == "off"
    assert "ipykernel install" in finding.remedy


def test_ipykernel_missing(tmp_path):
    absent = {"ipykernel": "raise ImportError('no ipykernel')", "torch": "raise ImportError('it takes long')"}
    answer = run_doctor("--json", PYTHONPATH=str(fake(tmp_path, **absent)))
    finding = state_of(answer, "Jupyter kernel")
    assert finding["state"] == "off"
    assert "no ipykernel" in json.dumps(finding)


def test_kernel_of_another_python(tmp_path, monkeypatch):
    """An old kernel in the user's folder hides the environment's own: notebooks would run without the course."""
    other = Path(sys.base_prefix) / "bin" / "python3"
    if sys.prefix == sys.base_prefix or not other.exists():
        pytest.skip("needs a virtual environment and the Python that it was made from")
    monkeypatch.setenv("JUPYTER_PATH", kernel(tmp_path, other))
    assert "points to another Python" in doctor.check_kernel().found


def test_kernel_of_a_python_that_is_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", kernel(tmp_path, tmp_path / "gone" / "python"))
    assert "does not run" in doctor.check_kernel().found


def test_kernel_by_absolute_path(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", kernel(tmp_path, sys.executable))
    assert doctor.check_kernel().state == "ok"


# -------------------------------------------------------------------------------- widgets


def test_widgets_fit():
    assert doctor.check_widgets().state == "ok"


@pytest.mark.parametrize(
    ("package", "version"), [("jupyterlab_widgets", (1, 1, 1)), ("ipywidgets", (7, 8, 1)), ("anywidget", None)]
)
def test_widgets_of_another_generation(package, version, monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: version if name == package else real(name))
    finding = doctor.check_widgets()
    assert finding.state == "off"
    assert package in finding.found


def test_widgets_without_their_browser_half(tmp_path):
    finding = doctor.check_widgets(str(tmp_path))
    assert finding.state == "off"
    assert "JupyterLab lacks" in finding.found


# -------------------------------------------------------------------------------- disk, folders, data


def test_no_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 3 * 10**8))
    finding = doctor.check_disk(tmp_path / "not" / "yet")
    assert finding.state == "off"
    assert "0.3 GB" in finding.found


def test_work_folder_cannot_be_made(tmp_path):
    """A file in the folder's place: as good as a read-only folder, and true for root as well."""
    (tmp_path / "work").write_text("")
    for place in (tmp_path / "work", tmp_path / "work" / "inside"):
        finding = doctor.check_work(place)
        assert finding.state == "off"
        assert "MLCOURSE_WORK" in finding.remedy


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_work_folder(tmp_path):
    tmp_path.chmod(0o500)
    assert doctor.check_work(tmp_path).state == "off"


def test_read_only_disk(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert "Read-only file system" in doctor.check_work(tmp_path).found


def sheets(folder, damage=None):
    from PIL import Image

    (folder / "glyphs").mkdir()
    (folder / "glyphs" / "index.json").write_text(json.dumps({"scripts": {"A": [], "B": []}}))
    for name in "AB":
        Image.new("L", (28, 28)).save(folder / "glyphs" / f"{name}.png")
    if damage:
        damage(folder / "glyphs")
    return doctor.check_data(folder)


def test_data_is_whole(tmp_path):
    assert sheets(tmp_path).state == "ok"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "B.png").unlink(),
        lambda folder: (folder / "B.png").write_bytes((folder / "B.png").read_bytes()[:-9]),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_text("{"),
        lambda folder: (folder / "index.json").write_text("[]"),
    ],
)
def test_data_is_damaged(damage, tmp_path):
    finding = sheets(tmp_path, damage)
    assert finding.state == "off"
    assert "git checkout" in finding.remedy


def test_real_data(tmp_path):
    assert doctor.check_real_data("").state == "ok"
    assert doctor.check_real_data(str(tmp_path / "gone")).state == "off"
    assert doctor.check_real_data(str(tmp_path)).state == "off"
    (tmp_path / "omniglot-py").mkdir()
    assert doctor.check_real_data(str(tmp_path)).state == "ok"


def test_old_python(monkeypatch):
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    assert doctor.check_python().state == "off"


# -------------------------------------------------------------------------------- the command


def test_table_names_the_remedy_and_the_exit_code(tmp_path):
    (tmp_path / "file").write_text("")
    answer = run_doctor(MLCOURSE_WORK=str(tmp_path / "file"))
    assert answer.returncode == 1
    assert "Work folder: Change its rights" in answer.stdout
    assert "checks are off" in answer.stdout


def test_json_and_exit_code_agree():
    answer = run_doctor("--json")
    found = json.loads(answer.stdout)
    assert found["ok"] == (answer.returncode == 0) == all(one["state"] != "off" for one in found["checks"])


# -------------------------------------------------------------------------------- the course and the machine


def test_version_and_commit(tmp_path):
    from mlcourse import __version__

    assert doctor.check_course().found.startswith(f"mlcourse {__version__}, ")
    assert doctor.commit(tmp_path) == "no git clone"


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_commit_of_a_clone(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    assert doctor.commit(tmp_path) == "git does not tell its commit"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    git("tag", "v9")
    name = git("rev-parse", "HEAD")[:10]
    assert doctor.commit(tmp_path) == f"commit {name}"
    (tmp_path / "file").write_text("2")
    assert doctor.commit(tmp_path) == f"commit {name} with changes"
    (tmp_path / "inside").mkdir()
    assert doctor.commit(tmp_path / "inside") == "no git clone"


def test_git_is_missing(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.commit(tmp_path) == "git does not answer"


def test_system_cores_and_memory(monkeypatch):
    monkeypatch.setattr(doctor.memory, "total", lambda: 8 * 10**9)
    monkeypatch.setattr(doctor.memory, "available", lambda: 5 * 10**9)
    finding = doctor.check_machine()
    assert finding.state == "ok"
    assert re.search(r"\w+ .*, \d+ cores?, 8\.0 GB of memory, 5\.0 free", finding.found)
    monkeypatch.setattr(doctor.memory, "available", lambda: 10**9)
    assert doctor.check_machine().state == "note"


def test_cores_are_those_that_the_lessons_take(monkeypatch):
    """A container's quota may be less than the processors that one sees."""
    monkeypatch.setattr(doctor.threads, "cores", lambda: 3)
    assert ", 3 cores, " in doctor.check_machine().found


def test_pytorch_does_not_hold_up_the_other_checks(monkeypatch):
    """Both wait here until the other has begun: one after the other they would wait in vain."""
    begun = threading.Barrier(2)

    def after_both(result):
        begun.wait(timeout=30)
        return result

    kernel = doctor.Finding("Jupyter kernel", "ok", "")
    monkeypatch.setattr(doctor, "check_kernel", lambda: after_both(kernel))
    monkeypatch.setattr(doctor, "probe_torch", lambda: after_both(TORCH))
    assert {"Course", "Machine", "PyTorch"} <= {finding.check for finding in doctor.examine()}


def test_brackets_in_a_path_are_shown(capsys):
    doctor.show([doctor.Finding("Disk", "ok", "1 GB free for /[bold]x", "")])
    assert "/[bold]x" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_slow_pytorch_is_not_waited_for_in_silence(monkeypatch, options):
    """On a cold disk PyTorch takes long to import. What is said meanwhile is not among the findings."""
    monkeypatch.setitem(console.SECONDS, False, 0.05)
    monkeypatch.setattr(doctor, "probe_torch", lambda: time.sleep(0.5) or TORCH)
    answer = CliRunner().invoke(app, ["doctor", *options])
    assert answer.stderr.startswith("doctor: importing PyTorch, which takes longest, 0 s so far\n")
    assert "importing PyTorch" not in answer.stdout
    if options:
        assert json.loads(answer.stdout)["checks"]
