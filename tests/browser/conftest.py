"""JupyterLab in a headless browser.

`lab(path)` copies a notebook into an empty folder of a running JupyterLab and opens it in Chromium. It returns an
`Opened`: `.page` is playwright's page, `.run_all()` runs the notebook, `.work` is the learner's folder (MLCOURSE_WORK).
All notebooks share one server, and a kernel is a fork of a warm process (`warm.py`). A notebook's variables are set in
its kernel, before the first cell.

    def test_something(lab):
        notebook = lab("notebooks/00_start_here.ipynb")
        notebook.run_all()
        slider = Slider(notebook.page)
        slider.press("ArrowRight")

`door(…)` is the course as a learner meets it: `mlcourse lab` with a fresh home, opened at the address that it prints.

A server or a browser that does not start is tried once more, and counted; everything else fails at once. The machine is
proven offline: the browser's proxy is a closed port, and a request to any other machine fails the test.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import warm
from expecting import PATIENCE

from mlcourse.commands.lab import CONFIG
from mlcourse.site.pdf import BROWSERS

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past the closed proxy of CI
PROXY = {"server": "http://127.0.0.1:9", "bypass": "127.0.0.1"}  # "discard": nothing listens there
# The course's own settings, and every cell in the page, also those out of sight
SHIPPED = json.loads((CONFIG / "labconfig" / "default_setting_overrides.json").read_text(encoding="utf-8"))
SETTINGS = SHIPPED | {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
ADDRESS = r"((http://127\.0\.0\.1:\d+)/lab\S*\?token=(\w+))\n"
# Never awaits for long: `page.evaluate` has no time limit of its own
READY = """async () => {
    const panel = window.jupyterapp?.shell.currentWidget;
    if (!panel?.context?.isReady || !panel.sessionContext?.isReady) return false;
    const kernel = panel.sessionContext.session?.kernel;
    if (!kernel) return false;
    const soon = new Promise(resolve => setTimeout(resolve, 500, null));
    return (await Promise.race([kernel.info, soon])) !== null;
}"""

# All pictures that the text of the notebook names are on the page, whether they are whole or broken
SHOWN = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells;
    const text = cells.filter(cell => cell.cell_type === 'markdown').map(cell => cell.getSource()).join('');
    return document.querySelectorAll('.jp-MarkdownOutput img').length >= text.split('![').length - 1;
}"""
PICTURE = "img => [img.getAttribute('src').slice(0, 60), img.complete && img.naturalWidth > 1]"


class DidNotStart(Exception):
    """A server or a browser that does not start. Nothing of the course has run yet."""


@dataclass
class Opened:
    """A notebook that is open in the browser, its kernel ready."""

    page: object
    work: Path
    foreign: list[str] = field(default_factory=list)  # requests to other machines

    def run_all(self, seconds: float = 300) -> None:
        """Run all cells and wait until the last has ended. Fails with the error's text when a cell raises."""
        self.page.evaluate(
            """() => {
                window.ranAll = null;
                window.jupyterapp.commands.execute('notebook:run-all-cells')
                    .then(ok => { window.ranAll = String(ok) }, error => { window.ranAll = 'error ' + error });
            }"""
        )
        self.page.wait_for_function("window.ranAll !== null", timeout=1000 * seconds)
        errors = self.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'] .ansi-red-fg")
        assert errors.count() == 0, errors.all_inner_texts()

    def pictures(self) -> list[tuple[str, bool]]:
        """The pictures of the text: the beginning of their address, and whether each has a natural width."""
        self.wait_for("[...document.querySelectorAll('.jp-MarkdownOutput img')].every(image => image.complete)")
        return [tuple(one.evaluate(PICTURE)) for one in self.page.locator(".jp-MarkdownOutput img").all()]

    def run(self, code: str) -> None:
        """Run code in the kernel, beside the cells."""
        self.page.evaluate(
            """async (code) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                await kernel.requestExecute({ code, silent: true, store_history: false }).done;
            }""",
            code,
        )

    def wait_for(self, script: str, seconds: float = 180):
        """Wait until the JavaScript expression is true."""
        return self.page.wait_for_function(script, timeout=1000 * seconds)


@dataclass
class Course(Opened):
    """`mlcourse lab` in the browser. `.server` is its address, `.said` what it printed, `.home` the learner's home."""

    server: str = ""
    token: str = ""
    said: str = ""
    home: Path | None = None

    def open(self, name: str) -> None:
        """Close everything, and open this notebook of the work folder."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.server}/lab/tree/{name}?reset&token={self.token}", timeout=PATIENCE)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        _until(lambda: self.page.evaluate(READY), 90, "the kernel does not become ready (has the notebook one?)")

    def do(self, command: str) -> None:
        """Run one of JupyterLab's commands, and wait until it has ended."""
        self.page.evaluate(
            """(command) => {
                window.done = null;
                window.jupyterapp.commands.execute(command)
                    .then(() => { window.done = 'done' }, error => { window.done = String(error) });
            }""",
            command,
        )
        self.page.wait_for_function("window.done !== null", timeout=PATIENCE)
        assert self.page.evaluate("window.done") == "done"

    def end_kernels(self) -> None:
        """End all kernels, as ending the server would."""
        _end_kernels(self.server, self.token)


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, or a skip that says what is missing."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        pytest.skip("the Python package playwright is not installed: pip install playwright")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium here: install it (on Debian and Ubuntu: apt install chromium)")
    with sync_playwright() as playwright:

        def launch():
            try:
                return playwright.chromium.launch(executable_path=program, args=FLAGS, proxy=PROXY, timeout=PATIENCE)
            except Error as error:
                raise DidNotStart(str(error)) from error

        browser, starts = _at_most_twice(launch)
        browser.starts = starts
        yield browser
        browser.close()


class Lab:
    """One JupyterLab for all notebooks of a test process, started again when it is gone."""

    def __init__(self, folder: Path):
        self.folder, self.process, self.opened, self.starts = folder, None, 0, 1

    def open(self, chromium, path: Path | str, variables: dict[str, str], stack: contextlib.ExitStack) -> Opened:
        """Open a copy of a notebook in a folder of its own; the stack closes it and ends its kernel."""
        if self.process is None or self.process.poll() is not None:
            (self.process, self.address, self.token), self.starts = _at_most_twice(lambda: _start_server(self.folder))
        self.opened += 1
        place = self.folder / "root" / str(self.opened)
        place.mkdir(parents=True)
        shutil.copy(path, place)
        context = chromium.new_context(viewport={"width": 1200, "height": 1000})
        stack.callback(_end_kernels, self.address, self.token)
        stack.callback(context.close)
        opened = Opened(context.new_page(), self.folder / "work" / str(self.opened))
        opened.page.on("request", lambda request: _note_foreign(request.url, opened.foreign))
        where = f"{self.opened}/{Path(path).name}?reset&token={self.token}"
        opened.page.goto(f"{self.address}/lab/tree/{where}", timeout=PATIENCE)
        _until(lambda: opened.page.evaluate(READY), 90, "the kernel does not become ready (has the notebook one?)")
        opened.wait_for(SHOWN)
        pictures = opened.pictures()
        assert all(there for _, there in pictures), pictures
        opened.run(f"import os; os.environ.update({variables | {'MLCOURSE_WORK': str(opened.work)}!r}); del os")
        stack.callback(_assert_offline, opened.foreign)
        return opened


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory):
    """The server that all notebooks share: it starts with the first one."""
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    if server.process is not None:
        _stop(server.process)


@pytest.fixture
def lab(chromium, jupyterlab, record_property):
    """`lab(path)` opens a copy of the notebook in JupyterLab and returns an `Opened`."""
    with contextlib.ExitStack() as stack:

        def open_notebook(path: Path | str, **variables: str) -> Opened:
            opened = jupyterlab.open(chromium, path, variables, stack)
            record_property("browser", json.dumps({"server": jupyterlab.starts, "browser": chromium.starts}))
            return opened

        yield open_notebook


@pytest.fixture(scope="module")
def module_lab(chromium, jupyterlab):
    """As `lab`, for a notebook that all tests of a file share."""
    with contextlib.ExitStack() as stack:
        yield lambda path, **variables: jupyterlab.open(chromium, path, variables, stack)


@pytest.fixture
def door(chromium, tmp_path, record_property):
    """`door(*arguments)` runs `mlcourse lab`, opens the address that it prints, and returns a `Course`.

    Its kernels start warm, unless a test is about the very start (`cold`).
    """
    with contextlib.ExitStack() as stack:

        def open_course(
            *arguments: str, own: dict[str, str] | None = None, width: int = 1280, cold: bool = False
        ) -> Course:
            folder = tmp_path / f"course{len(list(tmp_path.glob('course*')))}"
            work = folder / "work"
            work.mkdir(parents=True)
            for name, content in (own or {}).items():
                (work / name).write_text(content, encoding="utf-8")
            environment = {"MLCOURSE_BUDGET": "smoke", "MLCOURSE_WORK": str(work)}
            environment |= {} if cold else {"JUPYTER_PATH": warm.jupyter_path("python3")}
            (process, said), starts = _at_most_twice(lambda: _start_course(folder, arguments, environment))
            stack.callback(_stop, process)
            context = chromium.new_context(viewport={"width": width, "height": 800})
            stack.callback(context.close)
            address = re.search(ADDRESS, said)
            course = Course(context.new_page(), work, [], address[2], address[3], said, folder)
            course.page.on("request", lambda request: _note_foreign(request.url, course.foreign))
            record_property("browser", json.dumps({"server": starts, "browser": chromium.starts}))
            course.page.goto(address[1], timeout=PATIENCE)
            course.wait_until_ready()
            stack.callback(_assert_offline, course.foreign)
            return course

        yield open_course


def _start_course(folder: Path, arguments: tuple[str, ...], variables: dict[str, str]):
    """Start `mlcourse lab` with a fresh home. Returns (process, what it printed)."""
    home = folder / f"home-{secrets.token_hex(3)}"
    (home / "config").mkdir(parents=True)
    # the one thing that a learner's server has not: the tests talk to the page through it
    (home / "config" / "jupyter_lab_config.json").write_text('{"LabApp": {"expose_app_in_browser": true}}')
    names = {"CONFIG_DIR": "config", "RUNTIME_DIR": "runtime", "DATA_DIR": "data"}
    environment = {**os.environ, **variables, "HOME": str(home), "IPYTHONDIR": str(home / "ipython")}
    environment |= {f"JUPYTER_{variable}": str(home / name) for variable, name in names.items()}
    command = [sys.executable, "-m", "mlcourse", "lab", "--no-browser", *arguments]
    with (home / "said").open("w") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)

    def text() -> str:
        return (home / "said").read_text(encoding="utf-8", errors="replace")

    try:
        _until(lambda: process.poll() is not None or re.search(ADDRESS, text()), 90, "no address")
        if process.poll() is not None:
            raise TimeoutError("it ended")
    except TimeoutError as error:
        _stop(process)
        raise DidNotStart(f"mlcourse lab does not start ({error}): {text()}") from None
    return process, text()


def _at_most_twice(start):
    """Call `start`, once more when it did not start. Returns (what it gave, number of starts)."""
    try:
        return start(), 1
    except DidNotStart as reason:
        print(f"started again, because: {reason}")
        return start(), 2


def _start_server(folder: Path):
    """Start JupyterLab with folders of its own and warm kernels. Returns (process, address, token)."""
    root = folder / "root"
    root.mkdir(exist_ok=True)
    home = folder / f"jupyter-{secrets.token_hex(3)}"
    names = {"CONFIG_DIR": "config", "RUNTIME_DIR": "runtime", "DATA_DIR": "data"}
    environment = {**os.environ, "MLCOURSE_BUDGET": "smoke", "IPYTHONDIR": str(home / "ipython")}
    environment |= {f"JUPYTER_{variable}": str(home / name) for variable, name in names.items()}
    environment["JUPYTER_PATH"] = warm.jupyter_path("python3")
    environment |= {f"JUPYTERLAB_{name.upper()}_DIR": str(home / name) for name in ("settings", "workspaces")}
    for name, value in SETTINGS.items():
        file = home / "settings" / f"{name.replace(':', '/')}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, address = secrets.token_hex(8), f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _until(lambda: process.poll() is not None or _answers(f"{address}/api/status?token={token}"), 60, "no answer")
        if process.poll() is not None:
            raise TimeoutError("it ended")
    except TimeoutError as error:
        _stop(process)
        said = (home / "log").read_text(errors="replace")[-1000:]
        raise DidNotStart(f"JupyterLab does not start ({error}): {said}") from None
    return process, address, token


def _end_kernels(address: str, token: str) -> None:
    """End all kernels of a server."""

    def ask(method: str, what: str) -> bytes:
        asked = urllib.request.Request(f"{address}/api/{what}?token={token}", method=method)
        with DIRECT.open(asked, timeout=60) as answer:
            return answer.read()

    for session in json.loads(ask("GET", "sessions")):
        ask("DELETE", f"sessions/{session['id']}")


def _answers(address: str) -> bool:
    try:
        with DIRECT.open(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _until(condition, seconds: float, message: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{message} within {seconds:.0f} s")
        time.sleep(0.2)


def _stop(process: subprocess.Popen) -> None:
    """End the server; on its way it ends its kernels."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _note_foreign(url: str, foreign: list[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
        foreign.append(url)


def _assert_offline(foreign: list[str]) -> None:
    assert not foreign, f"requests to other machines: {foreign}"


def pytest_terminal_summary(terminalreporter):
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    kept = [pair for report in reports if report.when == "call" for pair in report.user_properties]
    starts = [json.loads(value) for name, value in kept if name == "browser"]
    times = [value for name, value in kept if name == "widget times"]
    if starts:
        again = sum(one["server"] - 1 for one in starts), sum(one["browser"] > 1 for one in starts)
        terminalreporter.section("browser")
        terminalreporter.write_line(
            f"{len(starts)} notebooks opened; started again: servers {again[0]}, browser {again[1]}"
        )
        for line in times:
            terminalreporter.write_line(line)
