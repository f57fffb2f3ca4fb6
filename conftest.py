"""Every test, and every notebook that nbval runs, gets a work folder of its own and the budget `smoke`."""

import os
import shutil
import tempfile


def pytest_configure(config):
    os.environ.setdefault("MLCOURSE_BUDGET", "smoke")
    # a learner's progress is never touched, and parallel workers do not share one
    config.mlcourse_work = tempfile.mkdtemp(prefix="mlcourse-work-")
    os.environ["MLCOURSE_WORK"] = config.mlcourse_work


def pytest_unconfigure(config):
    shutil.rmtree(config.mlcourse_work, ignore_errors=True)
