"""Every answer right, with another seed, by `mlcourse run`: each exercise passes, golden cells hold, a page is written.

The solution stands in the stub's place, under the stub's name. One run asks both: is the solution right, and does a
result hang on one seed? Right answers with the lesson's own seed are those of `test_state_answers`; untouched, with
its own seed, nbval runs each notebook. Here the kernels start warm, but the first lesson's; nbval's start cold.
"""

import harness
import nbformat
import pytest
import warm
from states import OTHER_SEED, PATHS

SAY = "from mlcourse.teaching import progress\nprint(*sorted(entry['exercise'] for entry in progress.passes()))"


def run(path, folder):
    """Run a notebook with `mlcourse run` at `smoke`, with another seed; return the notebook with its outputs."""
    words = ["run", path, "--budget", "smoke", "--seed", OTHER_SEED, "--out", folder]
    cold = path.name.startswith("00")  # as a learner starts it
    kernels = {} if cold else {"JUPYTER_PATH": warm.jupyter_path("python3")}
    answer = warm.command(*words, cold=cold, environment=kernels, seconds=900)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert (folder / f"{path.stem}.html").is_file()
    return nbformat.read(folder / path.name, as_version=4)


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_runs_and_passes_every_exercise(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    edition = harness.all_right(notebook)
    edition.cells.append(nbformat.v4.new_code_cell(SAY))
    nbformat.write(edition, tmp_path / path.name)
    executed = run(tmp_path / path.name, tmp_path / "out")
    exercises = {
        tag.split(":")[1] for cell in harness.Lesson.read(path).code for tag in harness.tags(cell) if ":" in tag
    }
    assert set(executed.cells[-1].outputs[0].text.split()) == exercises
    differing = harness.golden_differences(notebook, executed)
    assert not differing, "golden cells depend on the seed or the budget:\n" + "\n".join(differing)
