"""`mlcourse doctor`: is this machine ready, and if not, what is the remedy?

Each check is a small function that returns a `Finding`. None of them imports torch into this process: a broken PyTorch
is one of the things that the doctor must be able to tell.
"""

import json as json_module
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from mlcourse import __version__, memory, places, threads
from mlcourse.commands.console import Progress

OLDEST_PYTHON = (3, 11)
FREE_GB = 2.0  # room for the learner's notebooks, checkpoints and figures
MEMORY_GB = 2.0  # the largest lesson takes 1.99 GB (data/results/lessons.json)

PROBE = """
import json
import torch
found = {"torch": torch.__version__, "cuda_build": torch.version.cuda, "cuda": torch.cuda.is_available()}
found["gpu"] = torch.cuda.get_device_name(0) if found["cuda"] else None
try:
    import torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    found["torchvision"] = torchvision.__version__
except Exception as error:
    found["torchvision_error"] = f"{type(error).__name__}: {error}"
print("FOUND" + json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    """What one check found. `state` is "ok", "note" (works, worth knowing) or "off" (has a remedy)."""

    check: str
    state: str
    found: str
    remedy: str = ""


# -------------------------------------------------------------------------------- the checks


def check_course() -> Finding:
    """Which version of the course is this, and which commit?"""
    return Finding("Course", "ok", f"mlcourse {__version__}, {commit(places.repository())}")


def commit(folder: Path) -> str:
    """The commit of a clone, in words, and whether its files were changed since."""
    if not (folder / ".git").exists():  # an installed package may lie inside a clone of something else
        return "no git clone"
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=10"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "git does not answer"
    if answer.returncode:
        return "git does not tell its commit"
    name, dirty, _ = answer.stdout.strip().partition("-dirty")
    return f"commit {name}{' with changes' if dirty else ''}"


def check_machine() -> Finding:
    """Which system, how many cores may be used, how much memory is there?"""
    cores = threads.cores()
    free = memory.available() / 1e9
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    found = f"{system}, {cores} core{'s' * (cores != 1)}, {memory.total() / 1e9:.1f} GB of memory, {free:.1f} free"
    if free < MEMORY_GB:
        return Finding("Machine", "note", found, f"Close other programs: a lesson may take {MEMORY_GB:.0f} GB")
    return Finding("Machine", "ok", found)


def check_python() -> Finding:
    """Is this Python new enough, and is it the environment's own?"""
    found = f"Python {sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("Python", "off", found, "Install Python 3.11 or newer, then: make env")
    return Finding("Python", "ok", found)


def probe_torch(python: str = sys.executable) -> dict:
    """Import torch and torchvision in a process of their own; return what they say, or {"error": line}."""
    try:
        command = [python, "-c", PROBE]
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    marked = [line for line in answer.stdout.splitlines() if line.startswith("FOUND")]
    if marked:
        return json_module.loads(marked[-1][len("FOUND") :])
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    return {"error": lines[-1].strip() if lines else f"it ended with status {answer.returncode} and without a message"}


def check_torch(found: dict) -> Finding:
    """Does PyTorch import?"""
    if "torch" in found:
        return Finding("PyTorch", "ok", f"torch {found['torch']}")
    return Finding("PyTorch", "off", f"torch does not import: {found['error']}", "Make the environment anew: make env")


def partner(torch_version: str) -> str | None:
    """The torchvision that belongs to a torch: 2.14.1 -> "0.29" (PyTorch's release table, torch >= 2.0)."""
    match = re.match(r"2\.(\d+)", torch_version)
    return f"0.{int(match[1]) + 15}" if match else None


def check_pair(found: dict) -> Finding:
    """Are torch and torchvision a pair from one index?"""
    name = "torchvision"
    if "torch" not in found:
        return Finding(name, "off", "cannot be told without torch", "Mend PyTorch first")
    wanted = partner(found["torch"])
    remedy = "Take both from one index: delete the folder .venv, then: make env"
    if "torchvision_error" in found:
        error = found["torchvision_error"]
        if "torchvision::nms does not exist" in error:
            return Finding(name, "off", f"built for another torch than {found['torch']} ({error})", remedy)
        return Finding(name, "off", f"does not import: {error}", remedy)
    pair = f"torchvision {found['torchvision']} with torch {found['torch']}"
    if wanted and not found["torchvision"].startswith(wanted + "."):
        return Finding(name, "off", f"{pair}; its partner is torchvision {wanted}", remedy)
    return Finding(name, "ok", pair)


def check_gpu(found: dict) -> Finding:
    """Is there a GPU, and can PyTorch use it? The course needs none."""
    if found.get("cuda"):
        return Finding("GPU", "ok", found["gpu"])
    if "torch" not in found or not shutil.which("nvidia-smi"):
        return Finding("GPU", "ok", "none; every lesson runs on the CPU")
    if not found.get("cuda_build"):
        return Finding("GPU", "note", "there, but this torch is built for the CPU", "To use it: make env TORCH=default")
    return Finding(
        "GPU", "note", "there, but its driver is too old for this torch", "To use it, update NVIDIA's driver"
    )


def check_kernel(name: str = "python3") -> Finding:
    """Does the notebooks' kernel exist, and does it run this environment's Python?"""
    label, remedy = "Jupyter kernel", f"{sys.executable} -m ipykernel install --sys-prefix --name {name}"
    try:
        import ipykernel  # noqa: F401  (without it no kernel starts, whatever its file says)
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError as error:
        return Finding(label, "off", f"does not import: {error}", "Make the environment anew: make env")
    try:
        command = KernelSpecManager().get_kernel_spec(name).argv[0]
    except NoSuchKernel:
        return Finding(label, "off", f"there is no kernel {name}", remedy)
    if Path(command).name.split(".")[0] == command:
        return Finding(
            label, "ok", f"{name} runs {sys.executable}"
        )  # a bare "python" means the Python that runs Jupyter
    try:
        # the prefix tells environments apart; the path does not, because a virtual environment's Python is a link
        code = "import sys; print(sys.prefix)"
        answer = subprocess.run([command, "-c", code], capture_output=True, text=True, errors="replace", timeout=60)
        prefix = answer.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return Finding(label, "off", f"{name} points to {command}, which does not run", remedy)
    if not prefix or Path(prefix).resolve() != Path(sys.prefix).resolve():
        return Finding(label, "off", f"{name} points to another Python, {command}", remedy)
    return Finding(label, "ok", f"{name} runs {command}")


def version_of(package: str) -> tuple[int, ...] | None:
    """The version of an installed package as numbers, or None."""
    try:
        return tuple(map(int, re.findall(r"\d+", metadata.version(package))[:3]))
    except metadata.PackageNotFoundError:
        return None


def check_widgets(prefix: str = sys.prefix) -> Finding:
    """Do the widgets' Python half and JupyterLab half belong together?"""
    label, remedy = "Widgets", "Bring the environment up to date: make env"
    # package -> (oldest, first one that is too new)
    ranges = {"jupyterlab": ((4, 4), (5,)), "ipywidgets": ((8, 1, 5), (9,)), "jupyterlab_widgets": ((3,), (4,))}
    ranges["anywidget"] = ((0, 9, 18), (1,))
    for package, (oldest, newest) in ranges.items():
        version = version_of(package)
        if version is None:
            return Finding(label, "off", f"{package} is missing", remedy)
        if not oldest <= version < newest:
            wanted = f"{'.'.join(map(str, oldest))} or newer, below {newest[0]}"
            return Finding(label, "off", f"{package} {'.'.join(map(str, version))} does not fit: {wanted}", remedy)
    extensions = Path(prefix) / "share/jupyter/labextensions"
    for folder in ("@jupyter-widgets/jupyterlab-manager", "anywidget"):
        if not (extensions / folder / "package.json").is_file():
            return Finding(label, "off", f"JupyterLab lacks its half of the widgets, {folder}", remedy)
    return Finding(
        label, "ok", f"ipywidgets {metadata.version('ipywidgets')}, anywidget {metadata.version('anywidget')}"
    )


def check_disk(folder: Path) -> Finding:
    """Is there room for work?"""
    free = shutil.disk_usage(next(path for path in [folder, *folder.parents] if path.exists())).free / 1e9
    found = f"{free:.1f} GB free for {folder}"
    if free < FREE_GB:
        return Finding("Disk", "off", found, f"Free some space: {FREE_GB:.0f} GB are enough")
    return Finding("Disk", "ok", found)


def check_work(folder: Path) -> Finding:
    """Can the learner's notebooks and progress be written?"""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        found = f"{folder} cannot be written ({error.strerror})"
        return Finding("Work folder", "off", found, "Change its rights, or name another: MLCOURSE_WORK=FOLDER")
    return Finding("Work folder", "ok", f"{folder} can be written")


def check_data(folder: Path | None = None) -> Finding:
    """Are the embedded characters there, each sheet of them?"""
    folder = (folder or places.data()) / "glyphs"
    label, remedy = "Embedded data", "Bring it back: git checkout -- data"
    try:
        scripts = list(json_module.loads((folder / "index.json").read_text(encoding="utf-8"))["scripts"])
    except (OSError, ValueError, KeyError, TypeError):
        return Finding(label, "off", f"{folder / 'index.json'} is missing or damaged", remedy)
    for sheet in (folder / f"{script}.png" for script in scripts):
        if not sheet.is_file() or sheet.read_bytes()[-12:-4] != b"\0\0\0\0IEND":  # a whole PNG ends in this mark
            return Finding(label, "off", f"{sheet} is missing or damaged", remedy)
    return Finding(label, "ok", f"glyphs, {len(scripts)} scripts")


def check_real_data(root: str | None = None) -> Finding:
    """Does MLCOURSE_DATA, when it is set, name a folder with data sets in it?"""
    root = os.environ.get("MLCOURSE_DATA") if root is None else root
    label = "Real data sets"
    if not root:
        return Finding(label, "ok", "MLCOURSE_DATA is not set; the lessons run on the embedded data")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        return Finding(label, "off", f"MLCOURSE_DATA={root} is no folder", "Correct the path, or unset MLCOURSE_DATA")
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not inside:
        remedy = "Name the folder that holds the sets' folders"
        return Finding(label, "off", f"MLCOURSE_DATA={root} holds no data set", remedy)
    return Finding(label, "ok", f"{root}: {', '.join(inside[:8])}{', …' if len(inside) > 8 else ''}")


def examine() -> list[Finding]:
    """Run every check. None of them raises."""
    work = places.work()
    with ThreadPoolExecutor(1) as pool:  # PyTorch takes seconds to import: the other checks need not wait for it
        probe = pool.submit(probe_torch)
        first = [check_course(), check_machine(), check_python()]
        last = [
            check_kernel(),
            check_widgets(),
            check_disk(work),
            check_work(work),
            check_data(),
            check_real_data(),
        ]
        found = probe.result()
    return [*first, check_torch(found), check_pair(found), check_gpu(found), *last]


# -------------------------------------------------------------------------------- the command


def show(findings: list[Finding]) -> None:
    """Print a table, and under it the remedy for everything that is off."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("check", "state", "found", title="mlcourse doctor", title_justify="left")
    styles = {"ok": "green", "note": "yellow", "off": "bold red"}
    for finding in findings:
        table.add_row(finding.check, f"[{styles[finding.state]}]{finding.state}[/]", escape(finding.found))
    console = Console()
    console.print(table)
    for finding in findings:
        if finding.remedy:
            console.print(f"{finding.check}: {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
    wrong = sum(finding.state == "off" for finding in findings)
    console.print("All is well." if not wrong else f"{wrong} of {len(findings)} checks are off.")


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Check Python, PyTorch, GPU, kernel, widgets, disk and data, and print the remedy for each thing that is off."""
    with Progress("doctor") as waiting:  # a cold disk may need a minute for PyTorch
        waiting.at(0.0, "importing PyTorch, which takes longest")
        findings = examine()
    if json:
        print(json_module.dumps({"ok": all(f.state != "off" for f in findings), "checks": list(map(asdict, findings))}))
    else:
        show(findings)
    if any(finding.state == "off" for finding in findings):
        raise typer.Exit(1)
