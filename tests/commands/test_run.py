"""`mlcourse run`: parameters are checked, time is limited, a learner's progress is out of reach."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlcourse.commands import run
from mlcourse.errors import CourseError

PARAMETERS = 'SEED = 0\nDATASET = "glyphs"\nBUDGET = "lesson"\nRATE = 0.5\nFAST = True\nNOTE = None'


def notebook(*sources, parameters=PARAMETERS):
    cells = [new_markdown_cell("# 01 · Small"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    return new_notebook(cells=[*cells, *map(new_code_cell, sources)])


def write(folder, *sources, name="01_small.ipynb", **options):
    path = Path(folder) / name
    nbformat.write(notebook(*sources, **options), path)
    return path


def command(*arguments, cwd, **options):
    line = [sys.executable, "-m", "mlcourse", "run", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=300, **options)


def printed(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs)


# -------------------------------------------------------------------------------- parameters


def test_values_are_yaml():
    pairs = ["A=3", "B=0.5", "C=false", "D=glyphs", "E=[1, 2]", "F=null", "G=C:\\data\\new", "H=a=b", "I='3'"]
    values = run.read_parameters(pairs)
    assert values == {
        "A": 3, "B": 0.5, "C": False, "D": "glyphs", "E": [1, 2], "F": None, "G": "C:\\data\\new", "H": "a=b", "I": "3",
    }  # fmt: skip


@pytest.mark.parametrize("pair", ["SEED", "=3", "my seed=3", "SEED=[1,"])
def test_bad_pairs(pair):
    with pytest.raises(CourseError, match="-p"):
        run.read_parameters([pair])


def test_parameters_of_a_notebook():
    values = run.parameters_of(notebook())
    assert values == {"SEED": 0, "DATASET": "glyphs", "BUDGET": "lesson", "RATE": 0.5, "FAST": True, "NOTE": None}


@pytest.mark.parametrize("cell", ["SEED = 1 + 1j * x", "SEED = f()", "import os", "a = b = 1", "SEED += 1"])
def test_parameters_that_are_no_literals(cell):
    with pytest.raises(CourseError, match="literal"):
        run.parameters_of(notebook(parameters=cell))


def test_a_notebook_without_parameters():
    with pytest.raises(CourseError, match="0 cells"):
        run.parameters_of(new_notebook(cells=[new_code_cell("1")]))


@pytest.mark.parametrize("values", [{"SEED": 5}, {"RATE": 1}, {"NOTE": "x"}, {"FAST": False}, {}])
def test_values_that_fit(values):
    run.check_parameters(values, run.parameters_of(notebook()), "01_small")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SED": 5}, "no parameter SED: it has SEED"),
        ({"SEED": "five"}, "no int"),
        ({"FAST": 1}, "no bool"),
        ({"SEED": True}, "no int"),
    ],
)
def test_values_that_do_not_fit(values, message):
    with pytest.raises(CourseError, match=message):
        run.check_parameters(values, run.parameters_of(notebook()), "01_small")


# -------------------------------------------------------------------------------- names


def test_names(tmp_path):
    first = write(tmp_path)
    second = write(tmp_path, name="02_next.ipynb")
    assert run.find([], tmp_path) == [first, second]
    for name in ("02", "02_next", "02_next.ipynb", str(second)):
        assert run.find([name], tmp_path) == [second]
    with pytest.raises(CourseError, match="one of 01_small, 02_next"):
        run.find(["03"], tmp_path)
    with pytest.raises(CourseError, match="no notebooks"):
        run.find([], tmp_path / "empty")


# -------------------------------------------------------------------------------- running


def test_command_writes_notebook_page_and_table(tmp_path):
    source = (
        "import os\nprint(SEED, BUDGET, os.environ['MLCOURSE_BUDGET'], DATASET, 'mine' in os.environ['MLCOURSE_WORK'])"
    )
    path = write(tmp_path, source, "import time; time.sleep(0.5)")
    before = path.read_bytes()
    options = ("--budget", "smoke", "--seed", "7", "-p", "DATASET=C:\\new\\data", "--out", tmp_path / "out")
    answer = command(path, *options, cwd=tmp_path, env=os.environ | {"MLCOURSE_WORK": "mine"})
    assert answer.returncode == 0, answer.stderr
    assert printed(tmp_path / "out" / path.name) == "7 smoke smoke C:\\new\\data False\n"
    assert "<html" in (tmp_path / "out" / "01_small.html").read_text(encoding="utf-8")
    assert path.read_bytes() == before
    row = next(line for line in answer.stdout.splitlines() if "01_small" in line and "passed" in line)
    cells = [cell.strip() for cell in row.strip("│┃ ").split("│")]
    assert cells[1] == "passed"
    assert 0.4 < float(cells[4]) <= float(cells[2])
    assert float(cells[5]) > 30  # a kernel takes more than 30 MB
    assert cells[6] == "1"


def test_failing_cell_stops_the_notebook_and_not_the_others(tmp_path):
    bad = write(tmp_path, "1 / 0", "print('never')", name="01_bad.ipynb")
    good = write(tmp_path, "print('reached')", name="02_good.ipynb")
    answer = command(bad, good, "--budget", "smoke", "--out", tmp_path / "out", cwd=tmp_path)
    assert answer.returncode == 1
    assert "ZeroDivisionError: division by zero" in answer.stdout
    assert "Traceback" not in answer.stderr
    assert "never" not in printed(tmp_path / "out" / bad.name)
    assert "reached" in printed(tmp_path / "out" / good.name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["42"], "there is no notebook 42"),
        (["-p", "SED=1"], "no parameter SED"),
        (["--seed", "1", "-p", "SEED=x"], "Invalid"),
        (["gone.ipynb"], "there is no notebook gone.ipynb"),
    ],
)
def test_bad_input_runs_nothing(arguments, message, tmp_path):
    if message == "Invalid":
        arguments = ["--seed", "x"]
    path = write(tmp_path, "print('ran')")
    names = [] if arguments[0].isdigit() or arguments[0].endswith("ipynb") else [path]
    answer = command(*names, *arguments, "--out", tmp_path / "out", cwd=tmp_path)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()


def execute(path, **options):
    return run.execute(path, path.with_suffix(".out.ipynb"), budget="smoke", work=path.parent / "work", **options)


def test_cell_that_takes_too_long_is_stopped(tmp_path):
    outcome = execute(write(tmp_path, "import time; time.sleep(60)"), cell_seconds=2)
    assert "longer than its limit" in outcome.error
    assert outcome.seconds < 40


def test_kernel_that_dies_is_not_tried_again(tmp_path):
    outcome = execute(write(tmp_path, "import os; os._exit(1)"), cell_seconds=60)
    assert "died" in outcome.error
    assert outcome.kernel_starts == 1


def test_failed_cell_is_not_tried_again(tmp_path):
    mark = tmp_path / "count"
    outcome = execute(
        write(tmp_path, f"open({str(mark)!r}, 'a').write('x'); raise RuntimeError('kernel did not start')")
    )
    assert outcome.kernel_starts == 1
    assert mark.read_text() == "x"


@pytest.mark.parametrize(("failures", "starts", "error"), [(1, 2, ""), (2, 2, "RuntimeError")])
def test_kernel_that_does_not_start_is_tried_once_more(failures, starts, error, tmp_path, monkeypatch):
    import papermill

    real, calls = papermill.execute_notebook, []

    def flaky(*arguments, **options):
        calls.append(1)
        if len(calls) <= failures:
            raise RuntimeError("Kernel didn't respond in 60 seconds")
        return real(*arguments, **options)

    monkeypatch.setattr(papermill, "execute_notebook", flaky)
    outcome = execute(write(tmp_path, "1"))
    assert outcome.kernel_starts == starts
    assert outcome.error.startswith(error)
    assert bool(outcome.error) == bool(error)


def test_memory_is_seen(tmp_path):
    outcome = execute(write(tmp_path, "block = bytearray(300_000_000)\nimport time; time.sleep(0.6)"))
    assert outcome.peak_mb > 300


def test_outcome_says_which_cell_was_slow(tmp_path):
    outcome = execute(write(tmp_path, "1", "import time; time.sleep(0.7)", "2"))
    assert outcome.slowest_cell == 3  # the parameters are the first
    assert 0.6 < outcome.slowest_seconds < outcome.seconds
    assert json.dumps(outcome.notebook) == '"01_small"'


def test_a_relative_folder_of_data_means_the_folder_of_the_command(tmp_path):
    """The kernel works in the notebook's folder, where `photos` is another folder, or none."""
    (tmp_path / "photos {x} a%20b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path / "elsewhere", "import os\nprint(DATASET)\nprint(os.environ['MLCOURSE_DATA'])")
    options = ("--budget", "smoke", "-p", "DATASET=photos {x} a%20b", "--out", "out")
    answer = command(path, *options, cwd=tmp_path, env=os.environ | {"MLCOURSE_DATA": "copies"})
    assert answer.returncode == 0, answer.stderr
    found = printed(tmp_path / "out" / path.name).splitlines()
    assert found == [str(tmp_path / "photos {x} a%20b"), str(tmp_path / "copies")]
