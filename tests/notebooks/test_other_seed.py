"""`mlcourse run` at `smoke` with another seed: parameters work, no result hangs on one seed, golden cells hold.

The fourth state, untouched, is what this run and nbval have in common.
"""

import subprocess
import sys

import harness
import nbformat
import pytest


@pytest.mark.parametrize("path", harness.notebooks(), ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    command = [sys.executable, "-m", "mlcourse", "run", str(path), "--budget", "smoke", "--seed", "20011"]
    answer = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=900)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert (tmp_path / f"{path.stem}.html").is_file()
    executed = nbformat.read(tmp_path / path.name, as_version=4)
    differing = harness.golden_differences(nbformat.read(path, as_version=4), executed)
    assert not differing, "golden cells depend on the seed or the budget:\n" + "\n".join(differing)
