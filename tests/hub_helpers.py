"""The hub in a process of its own, for the tests of the class room and those in the browser."""

import csv
import importlib.util
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from mlcourse.classroom import sandbox
from mlcourse.commands import hub as command

WALLS = pytest.mark.skipif(not sandbox.bubblewrap(), reason="needs bubblewrap")
HUB = pytest.mark.skipif(
    not (importlib.util.find_spec("jupyterhub") and shutil.which(command.PROXY)),
    reason="needs jupyterhub and configurable-http-proxy",
)


class Hub:
    """The command, in a process of its own; `with` it runs."""

    def __init__(self, folder, *students, memory=1.2):
        (folder / "class.txt").write_text("".join(f"{name}\n" for name in students))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.base = folder, f"http://127.0.0.1:{port}"
        words = [sys.executable, "-m", "mlcourse", "hub", str(folder / "class.txt"), "--folder", str(folder / "hub")]
        self.words = [*words, "--port", str(port), "--memory", str(memory)]

    def __enter__(self):
        import requests

        self.process = subprocess.Popen(self.words, start_new_session=True, preexec_fn=_hears_ctrl_c)
        session = requests.Session()
        session.trust_env = False
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if session.get(f"{self.base}/hub/login").status_code == 200:
                    return self
            except requests.ConnectionError:
                pass
            time.sleep(0.5)
        raise AssertionError("the hub does not start")

    def passwords(self):
        """The password of each student, as the teacher finds them."""
        return dict(list(csv.reader((self.folder / "hub" / "passwords.csv").open()))[1:])

    def __exit__(self, *_):
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(90)
        _, alive = psutil.wait_procs(family, timeout=20)
        for process in alive:
            process.kill()
        assert not alive, "Ctrl-C left processes behind"


def _hears_ctrl_c():
    signal.signal(signal.SIGINT, signal.default_int_handler)
