"""Make the course's environment, open the lessons, run the tests: what `make` does, with the standard library only.

    python mlcourse/environment.py help                say what there is
    python mlcourse/environment.py env [TORCH=cpu]     make .venv, or repair it; the second time costs nothing
    python mlcourse/environment.py lab [NB=05]         open JupyterLab at the first notebook, or at another one
    python mlcourse/environment.py test [NB=05]        run everything that CI runs, or one notebook's tests
    python mlcourse/environment.py test-full           the same, with every notebook at the budget `lesson`
    python mlcourse/environment.py tidy | golden       write the notebooks canonically | fill their golden outputs
    python mlcourse/environment.py site [NB=05]        make the course's web pages in runs/pages, or one notebook's
    python mlcourse/environment.py clean               remove what tools left behind; your work and .venv stay

This file runs before anything is installed, so it imports nothing of the course. Linux, macOS and Windows run the same.
"""

# No new syntax here: an old Python must be able to read this file, so that it can say that it is too old.
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST_TRIED, OLDEST = (3, 13), (3, 11)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's documented index of wheels without CUDA
VENV = ("-m", "venv")
STAMP = "mlcourse-environment.json"  # written last: an environment without it is a broken one
# The finished .venv with the tested set of constraints.txt: measured on Linux, x86-64 ("cpu" is an estimate).
SIZE_GB = {"default": 6.0, "cpu": 2.0}
FREE_GB = {"default": 9.0, "cpu": 4.0}  # the finished environment, and pip's temporary files beside it
PROOF = "import torch, torchvision, jupyterlab, ipykernel, ipywidgets, anywidget, papermill, nbval, pytest, mlcourse"

# What a user may tell pip in the environment about how it reaches and shows packages. Everything else that begins with
# PIP_ would change what is installed, or where to (PIP_USER, PIP_TARGET, PIP_PREFIX, PIP_NO_DEPS, PIP_CONSTRAINT, ...).
PIP_KEPT = {
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST", "PIP_CERT",
    "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "PIP_CONFIG_FILE", "PIP_RETRIES",
    "PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT", "PIP_KEYRING_PROVIDER", "PIP_PROGRESS_BAR", "PIP_QUIET", "PIP_VERBOSE",
    "PIP_NO_COLOR", "PIP_LOG",
}  # fmt: skip
# What would make the environment's Python look for modules elsewhere.
PYTHON_DROPPED = {
    "PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE", "PYTHONSTARTUP",
    "PYTHONINSPECT", "__PYVENV_LAUNCHER__",
}  # fmt: skip

NETWORK_SIGNS = (
    "newconnectionerror",
    "failed to establish a new connection",
    "name resolution",
    "connection refused",
    "connection broken",
    "connecttimeout",
    "readtimeout",
    "proxyerror",
    "no matching distribution found",
    "ssl: certificate",
    "certificate_verify_failed",
)


class Problem(Exception):
    """Something is missing on this machine. The message is one line that names the remedy."""


# -------------------------------------------------------------------------------- the environment


def check_python(version=None):
    """Raise `Problem` unless `version` (default: the Python that runs this) is new enough."""
    version = tuple((version or sys.version_info)[:2])
    if version < OLDEST:
        raise Problem(
            f"Python {version[0]}.{version[1]} is too old: the course needs {OLDEST[0]}.{OLDEST[1]} or newer. Install"
            " one from python.org or your package manager, then name it: make lab PYTHON=python3.12"
        )
    if sys.maxsize < 2**32:
        raise Problem(
            "This Python is a 32-bit program, and PyTorch needs 64 bits: install the 64-bit Python from python.org"
        )


def pythons():
    """The paths of interpreters that may be new enough, the newest first: all on the PATH, then those that pyenv keeps.

    A shim of pyenv lies on the PATH for each version that is installed, and runs only for those that are chosen.
    """
    names = [f"python3.{minor}" for minor in range(NEWEST_TRIED[1], OLDEST[1] - 1, -1)] + ["python3", "python"]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for name in names:
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            found = shutil.which(name, path=folder) if folder else None
            if found:
                yield found
        for found in sorted(pyenv.glob(name[len("python") :] + ".*/bin/python")):
            yield str(found)


def newer_python():
    """The path of a Python on this machine that runs and is new enough, or None."""
    code = f"import sys, venv; sys.exit(sys.version_info[:2] < {OLDEST})"
    return next((python for python in pythons() if runs(python, code)), None)


def check_disk(folder, torch):
    """Raise `Problem` unless the disk of `folder` has room for the environment."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < FREE_GB[torch]:
        smaller = "" if torch == "cpu" else ", or take the smaller one without CUDA: make env TORCH=cpu"
        raise Problem(
            f"{free:.1f} GB are free in {folder}, and the environment needs {FREE_GB[torch]:.0f} GB while it is made: "
            f"free some space{smaller}"
        )


def interpreter(folder):
    """The Python inside the virtual environment `folder`."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(root, torch):
    """What the environment depends on; when it changes, the environment is brought up to date."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((root / name).read_bytes())
    # the package is installed in place, so a folder that was moved needs it installed again
    return {"torch": torch, "files": digest.hexdigest(), "root": str(root)}


def read_stamp(folder):
    """The fingerprint that a finished environment carries, or {}."""
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_stamp(folder, content):
    """Write the stamp under a temporary name and rename it: a stamp is whole, or it is not there."""
    handle, name = tempfile.mkstemp(dir=str(folder), prefix=STAMP)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    os.replace(name, str(folder / STAMP))


def clean_variables():
    """The environment variables for pip and the environment's Python: without what would send modules elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in PYTHON_DROPPED and (name in PIP_KEPT or not name.upper().startswith("PIP_"))
    }


def runs(python, code="import pip"):
    """True when the interpreter `python` can run `code`."""
    try:
        answer = subprocess.run(
            [str(python), "-c", code],
            cwd=str(ROOT),
            env=clean_variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=300,
        )
        return answer.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def chosen_torch(options, stamp):
    """Which PyTorch, and whether nobody asked for it.

    Returns:
        (`cpu` or `default`, automatic). In this order: what this call asks for, what the environment has, and without
        either the small one on a Linux machine that has no NVIDIA GPU and reaches PyTorch's own index (elsewhere the
        default one is small already).
    """
    value = options.get("TORCH") or os.environ.get("TORCH") or stamp.get("torch")
    if value:
        if value not in SIZE_GB:
            raise Problem(f"TORCH={value} is unknown: say TORCH=cpu (without CUDA) or TORCH=default")
        return value, False
    small = sys.platform == "linux" and not has_gpu() and reaches(CPU_INDEX + "/torch/")
    return ("cpu" if small else "default"), True


def has_gpu():
    """Whether NVIDIA's driver names a GPU."""
    try:
        said = subprocess.run(
            ["nvidia-smi", "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"GPU" in said


def reaches(address):
    """Whether a page is there; it is given five seconds."""
    if os.environ.get("PIP_NO_INDEX"):
        return False
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (OSError, ValueError):  # no network, no such page, an odd proxy
        return False


def announce(folder, torch, automatic=False):
    """Say what is going to happen, and what it costs, before it starts."""
    print(f"Making the Python environment of the course in {folder}", flush=True)
    if torch == "cpu":
        why = "No NVIDIA GPU was found, so it takes " if automatic else ""
        print(f"  {why}PyTorch without CUDA, from PyTorch's own index {CPU_INDEX}")
        print("  (only the default index was tried by the authors). It needs about 2 GB of disk: an estimate.")
        if automatic:
            print("  The one with CUDA: make env TORCH=default")
    else:
        print(f"  It needs {SIZE_GB['default']:.0f} GB of disk and downloads about 3 GB (measured on Linux, x86-64).")
        print("  2 minutes from a local mirror; 3 GB are 8 minutes at 50 Mbit/s. No GPU? make env TORCH=cpu")
    print('  The last step, "Installing collected packages", unpacks all that and says nothing for 1 to 5 minutes:')
    print(
        "  that is normal. It happens once. You may stop it with Ctrl-C: the next start goes on from there.", flush=True
    )


def create(folder):
    """Make an empty virtual environment in `folder`, in the place of a broken one."""
    if folder.exists():
        if not (folder / "pyvenv.cfg").exists() and any(folder.iterdir()):
            raise Problem(f"{folder} is there and is not a Python environment: move it away, then start again")
        print(f"  The environment in {folder} is broken or half made: making it anew.", flush=True)
        shutil.rmtree(str(folder))
    answer = subprocess.run(
        [sys.executable, *VENV, str(folder)],
        env=clean_variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if answer.returncode:
        if "ensurepip" in answer.stdout:
            raise Problem(
                "This Python has no venv module: install it (Debian, Ubuntu: apt install python3-venv), try again"
            )
        raise Problem(f"python -m venv failed: {last_line(answer.stdout)}")


def last_line(text):
    """The last line of `text` that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def pip_install(python, arguments):
    """Run `pip install` in sight of the user; raise `Problem` with a remedy when it fails."""
    # a user's pip.conf may say `user` or `target`; it is read all the same, because it may name the index
    here = ["--no-user", "--target="]
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *here, *arguments]
    # pip shows its progress on stdout, which is left alone; what it says on stderr is shown, and kept for the remedy
    process = subprocess.Popen(
        command, cwd=str(ROOT), env=clean_variables(), stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    said = []

    def listen():
        for line in process.stderr:
            said.append(line)
            sys.stderr.write(line)
            sys.stderr.flush()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    listener.join()
    if code:
        raise Problem(pip_remedy("".join(said)))


def pip_remedy(said):
    """One line for the reason why pip failed.

    Args:
        said: what pip wrote on stderr.
    """
    text = said.lower()
    if "no space left" in text or "errno 28" in text:
        return "The disk became full: free some space, then start again (what is there already is kept)"
    if any(sign in text for sign in NETWORK_SIGNS):
        return (
            "pip could not reach its package index, or the index lacks a package for this Python"
            f" ({platform.python_version()}, {platform.system()} {platform.machine()}): check the network and the proxy"
            " (HTTPS_PROXY), then start again (what is there already is kept)"
        )
    return f"pip failed: {last_line(said)}"


def fill(python, torch, automatic=False):
    """Install the course, its dependencies and its tests in the tested versions; return the torch that it has then.

    automatic: nobody asked for this torch, so the default one may take its place.
    """
    if torch == "cpu":
        try:
            # torch and torchvision must come from the same index: a pair from two indexes fails at import
            pip_install(python, ["-c", "constraints.txt", "--index-url", CPU_INDEX, "torch", "torchvision"])
        except Problem:
            if not automatic:
                raise
            print("  PyTorch's own index did not serve it: taking PyTorch from the default index.", flush=True)
            torch = "default"
    pip_install(python, ["-c", "constraints.txt", "-e", ".[test]"])
    return torch


def make_environment(options=None, root=None):
    """Make, repair or find the environment; return its Python.

    A second call costs a few milliseconds. An environment that was stopped half way goes on where it stopped; one that
    cannot be repaired is made anew.

    Raises:
        Problem: Python is too old, the disk too full, the network away.
    """
    root = root or ROOT
    folder = root / ".venv"
    stamp, python = read_stamp(folder), interpreter(folder)
    torch, automatic = chosen_torch(options or {}, stamp)
    wanted = fingerprint(root, torch)
    if {name: stamp.get(name) for name in wanted} == wanted and runs(python):
        return python
    check_python()
    check_disk(root, torch)
    announce(folder, torch, automatic)
    started = time.monotonic()
    (folder / STAMP).unlink(missing_ok=True)
    # a CUDA torch and a CPU torch do not mix: then start from an empty folder
    switched = stamp.get("torch") not in (None, torch)
    if switched or not runs(python):
        create(folder)
    torch = fill(python, torch, automatic)
    if not runs(python, PROOF):
        create(folder)
        torch = fill(python, torch, automatic)
        if not runs(python, PROOF):
            raise Problem(f"The environment was made, but does not import: run {python} -m mlcourse doctor to see why")
    write_stamp(folder, {**fingerprint(root, torch), "python": platform.python_version()})
    print(f"The environment is ready ({(time.monotonic() - started) / 60:.1f} minutes).", flush=True)
    return python


# -------------------------------------------------------------------------------- the verbs


def call(python, *arguments, **environment):
    """Run the environment's Python in the repository; return its exit status."""
    sys.stdout.flush()
    # PYTHONPATH stays: it may name a user's own modules; PYTHONHOME would take the standard library of another Python
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    try:
        return subprocess.run([str(python), *arguments], cwd=str(ROOT), env={**variables, **environment}).returncode
    except KeyboardInterrupt:
        return 130


def become(python, *arguments):
    """Go on as this Python program: one process less, so that one Ctrl-C reaches it, and it alone ends what it started.

    A process that waits here instead would be ended by the same Ctrl-C, and would take the program with it before
    that has ended its own processes. Windows cannot replace a process: it waits, and lets the program hear Ctrl-C.
    """
    os.chdir(str(ROOT))
    os.environ.pop("PYTHONHOME", None)  # it would take the standard library of another Python
    sys.stdout.flush()
    command = [str(python), *arguments]
    if os.name == "posix":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def open_lab(python, options):
    """Open JupyterLab at the first notebook, or at the one that NB=05 names."""
    number = options.get("NB") or os.environ.get("NB") or ""
    return become(python, "-m", "mlcourse", "lab", *(["--notebook", number] if number else []))


# which read NB
SHARED_TESTS = ["tests/lessons/test_hints.py", "tests/lessons/test_more_answers.py", "tests/notebooks"]


def selected(number):
    """The paths that `make test NB=05` tests: the notebook itself, its lesson's room, what all share of both."""
    notebooks = sorted((ROOT / "notebooks").glob(f"{number}*.ipynb"))
    if not notebooks:
        there = ", ".join(path.stem[:2] for path in sorted((ROOT / "notebooks").glob("*.ipynb"))) or "none"
        raise Problem(f"NB={number}: there is no such notebook; there are {there}")
    lesson = re.search(r"from mlcourse\.lessons\.(\w+) import", notebooks[0].read_text(encoding="utf-8"))
    rooms = [ROOT / "tests" / "lessons" / lesson[1]] if lesson else []
    return [path.relative_to(ROOT).as_posix() for path in [*rooms, *notebooks]] + SHARED_TESTS


def make_site(python, options):
    """Make the static pages of the course, or of the notebook that NB=05 names, in runs/pages."""
    number = options.get("NB") or os.environ.get("NB") or ""
    return call(python, "-m", "mlcourse", "site", "runs/pages", *([number] if number else []))


LINT_IMPORTS = "from importlinter.cli import lint_imports_command as run; run(['--no-logo', '--no-cache'])"


# Minutes on two quiet cores: of the tests, and of all lessons (only those that changed are run by `make test`).
TEST_MINUTES, LESSON_MINUTES = 40, 20
# One worker more than cores: tests in the browser wait for a third of their time. They are collected first and stay
# first, so that the workers end together.
WORKERS = ["-n", "3", "--dist", "loadscope", "--no-loadscope-reorder"]
SLOWEST = ["--durations=40", "--durations-min=4"]  # where the minutes go is printed, so that it can be mended


def run_tests(python, options, lesson="changed"):
    """Run what CI runs: the style, all tests at `smoke` on three workers, then the lessons one by one on all cores.

    Every stage runs, also after one that failed; all are reported together at the end.
    """
    number = options.get("NB") or os.environ.get("NB") or ""
    paths = selected(number) if number else ["tests", "notebooks"]
    stages = [
        ("Style: ruff", ["-m", "ruff", "check", "."], {}),
        ("Style: ruff format", ["-m", "ruff", "format", "--check", "."], {}),
        ("Style: the rules of the house", ["-c", LINT_IMPORTS], {}),
        ("Style: the notebooks are tidy", ["-m", "mlcourse", "tidy", "--check"], {}),
        (
            "Tests: units, checks, widgets, every notebook at `smoke` in all its states",
            ["-m", "pytest", *paths, "-m", "not lesson", *WORKERS, "-rfEs", *SLOWEST],
            # one thread for each of the workers: more threads than cores make everything slower
            {"OMP_NUM_THREADS": "1", "MLCOURSE_BUDGET": "smoke"},
        ),
        (
            "Lessons: full runs, and whether their claims can fail",
            ["-m", "pytest", "tests/notebooks", "-m", "lesson", "-rfEs"],
            {},
        ),
    ]
    lessons = "all lessons" if lesson == "all" else "up to as many as all lessons take, for those that changed"
    about = f"about {TEST_MINUTES} minutes on two quiet cores, then {LESSON_MINUTES} for {lessons}"
    print(f"{len(stages)} stages, {'a few minutes' if number else about}.", flush=True)
    ended = []
    for title, arguments, environment in stages:
        print(f"\n== {title}", flush=True)
        started = time.monotonic()
        code = call(python, *arguments, NB=number, MLCOURSE_LESSON=lesson, **environment)
        ended.append((title, arguments, code, (time.monotonic() - started) / 60))
        if code == 130:  # Ctrl-C asks for an end, not for the next stage
            break
    return report(python, ended)


def report(python, ended):
    """Print how each stage ended; return 0, or the status of the first that failed."""
    print("\n== Together")
    for title, _, code, minutes in ended:
        print(f"{'passed' if code == 0 else 'FAILED':6} {minutes:5.1f} min  {title}")
    failed = [(title, arguments, code) for title, arguments, code, _ in ended if code]
    sys.stdout.flush()
    for title, arguments, _ in failed:
        again = " ".join(f'"{word}"' if " " in word else word for word in [str(python), *arguments])
        print(f"Failed: {title}. Run this stage alone: {again}", file=sys.stderr)
    return failed[0][2] if failed else 0


HELP = """\
make lab               make the environment (once), open JupyterLab at the first notebook; NB=05 at another one
make env               make or repair the environment only; TORCH=cpu takes PyTorch without CUDA, TORCH=default with it
make test              everything that CI runs; NB=05 runs one notebook's tests
make test-full         the same, with every notebook at its full length
make tidy              write the notebooks canonically (for authors)
make golden            fill the golden outputs from a fresh run (for authors)
make site              make the course's web pages in runs/pages (for authors); NB=05 one notebook's
make clean             remove what tools left behind: caches, build folders; work/, runs/ and .venv stay
make help              this list

PYTHON=python3.12 names the Python to start with. Without make: python mlcourse/environment.py lab"""

LEFT_BEHIND = (".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis", "build", "dist")


def clean():
    """Remove the caches of Python and of the tools, and build folders; nothing that anybody wrote."""
    folders = [ROOT / name for name in LEFT_BEHIND]
    for room in ("mlcourse", "tests", "notebooks", "docs", "data"):
        folders += [*(ROOT / room).rglob("__pycache__"), *(ROOT / room).rglob(".ipynb_checkpoints")]
    there = [folder for folder in folders if folder.is_dir()]
    for folder in there:
        shutil.rmtree(str(folder))
    print(
        f"{len(there)} folders of caches removed. work/, runs/ and .venv stay; without .venv: make env makes it anew."
    )
    return 0


def tell():
    """Say what there is."""
    print(HELP)
    return 0


BARE = {"help": tell, "clean": clean}  # what needs no environment
VERBS = {
    "env": lambda python, options: call(python, "-c", f"print('The environment is ready: {Path(python).as_posix()}')"),
    "lab": open_lab,
    "test": run_tests,
    "test-full": lambda python, options: run_tests(python, options, lesson="all"),
    "tidy": lambda python, options: call(python, "-m", "mlcourse", "tidy"),
    "golden": lambda python, options: call(python, "-m", "mlcourse", "golden"),
    "site": make_site,
}


def read_arguments(arguments):
    """Split `["test", "NB=05"]` into the verb and a dict of the options."""
    verbs = [word for word in arguments if "=" not in word]
    known = [*VERBS, *BARE]
    if len(verbs) != 1 or verbs[0] not in known:
        raise Problem(f"say one of: {', '.join(known)} (got: {' '.join(arguments) or 'nothing'})")
    options = dict(word.split("=", 1) for word in arguments if "=" in word)
    unknown = sorted(set(options) - {"NB", "TORCH"})
    if unknown:
        raise Problem(f"{unknown[0]}=... is unknown: the options are NB=05 and TORCH=cpu")
    return verbs[0], options


def main(arguments=None):
    """Run one verb; return the exit status. Every problem is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # since Python 3.7; a path may hold letters that the terminal has not
            stream.reconfigure(errors="backslashreplace")
    try:
        verb, options = read_arguments(sys.argv[1:] if arguments is None else arguments)
        if verb in BARE:
            return BARE[verb]()
        newer = newer_python() if sys.version_info[:2] < OLDEST else None
        if newer:
            return become(newer, str(Path(__file__).resolve()), *(arguments or sys.argv[1:]))
        return VERBS[verb](make_environment(options), options)
    except Problem as problem:
        print(f"mlcourse: {problem}", file=sys.stderr)
    except KeyboardInterrupt:
        print("mlcourse: stopped; what is there already is kept, the next start goes on from there", file=sys.stderr)
        return 130
    except OSError as error:
        print(
            f"mlcourse: {error.strerror or error}: {error.filename or ''} (free the disk or mend the rights)",
            file=sys.stderr,
        )
    return 2


if __name__ == "__main__":
    sys.exit(main())
