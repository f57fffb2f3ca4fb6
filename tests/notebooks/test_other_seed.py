"""`mlcourse run` at `smoke` with another seed: parameters work, no result hangs on one seed, golden cells hold.

The fourth state, untouched, is what this run and nbval have in common. Here
the kernels start warm, but the first lesson's; nbval's start cold.
"""

import subprocess
import sys

import harness
import nbformat
import pytest
import warm


@pytest.mark.parametrize("path", harness.notebooks(), ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    options = ["--budget", "smoke", "--seed", "20011", "--out", tmp_path]
    if path.name.startswith("00"):  # as a learner starts it
        command = [sys.executable, "-m", "mlcourse", "run", path, *options]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=900)
    else:
        kernels = {"JUPYTER_PATH": warm.jupyter_path("python3")}
        answer = warm.command("run", path, *options, environment=kernels, seconds=900)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert (tmp_path / f"{path.stem}.html").is_file()
    executed = nbformat.read(tmp_path / path.name, as_version=4)
    differing = harness.golden_differences(nbformat.read(path, as_version=4), executed)
    assert not differing, "golden cells depend on the seed or the budget:\n" + "\n".join(differing)
