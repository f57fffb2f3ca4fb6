"""Every test, and every notebook that nbval runs, gets a work folder of its own and the budget `smoke`."""

import os
import shutil
import signal
import tempfile
import threading

from hypothesis import settings

# The same cases in each run, and no verdict on a case's time: a machine may be busy.
settings.register_profile("course", derandomize=True, deadline=None)
settings.load_profile("course")


def pytest_configure(config):
    os.environ.setdefault("MLCOURSE_BUDGET", "smoke")
    # A shell that starts the tests in the background lets them ignore Ctrl-C, and so every program that they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # a learner's progress is never touched, and parallel workers do not share one
    config.mlcourse_work = tempfile.mkdtemp(prefix="mlcourse-work-")
    os.environ["MLCOURSE_WORK"] = config.mlcourse_work


def pytest_unconfigure(config):
    shutil.rmtree(config.mlcourse_work, ignore_errors=True)
