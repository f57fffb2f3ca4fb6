"""`mlcourse run`: parameters are checked, time is limited, a learner's progress is out of reach.

The program and its kernels start warm (`warm.py`), but where a test is about their start, or about what they take.
"""

import errno
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
import warm
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from mlcourse import files
from mlcourse.commands import app, console, run
from mlcourse.errors import CourseError

PARAMETERS = 'SEED = 0\nDATASET = "glyphs"\nBUDGET = "lesson"\nRATE = 0.5\nFAST = True\nNOTE = None'


def notebook(*sources, parameters=PARAMETERS):
    cells = [new_markdown_cell("# 01 · Small"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    return new_notebook(cells=[*cells, *map(new_code_cell, sources)])


def write(folder, *sources, name="01_small.ipynb", **options):
    path = Path(folder) / name
    nbformat.write(notebook(*sources, **options), path)
    return path


@pytest.fixture(autouse=True)
def _kernels(request, monkeypatch):
    if "cold" not in request.fixturenames:
        monkeypatch.setenv("JUPYTER_PATH", warm.jupyter_path("python3"))


@pytest.fixture
def cold():
    """With it, kernels start as a learner's do, and are processes below this one: what they take is seen."""


def command(*arguments, cwd, **options):
    return warm.command("run", *arguments, folder=cwd, **options)


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


@pytest.mark.usefixtures("cold")
def test_command_writes_notebook_page_and_table(tmp_path):
    source = (
        "import os\nprint(SEED, BUDGET, os.environ['MLCOURSE_BUDGET'], DATASET, 'mine' in os.environ['MLCOURSE_WORK'])"
    )
    path = write(tmp_path, source, "import time; time.sleep(0.5)")
    before = path.read_bytes()
    options = ("--budget", "smoke", "--seed", "7", "-p", "DATASET=C:\\new\\data", "--out", tmp_path / "out")
    answer = command(path, *options, cwd=tmp_path, cold=True, environment={"MLCOURSE_WORK": "mine"})
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""  # a kernel does not warn of its own transport
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


@pytest.mark.usefixtures("cold")
def test_memory_is_seen(tmp_path):
    outcome = execute(write(tmp_path, "block = bytearray(300_000_000)\nimport time; time.sleep(0.6)"))
    assert outcome.peak_mb > 300


def test_outcome_says_which_cell_was_slow(tmp_path):
    outcome = execute(write(tmp_path, "1", "import time; time.sleep(0.7)", "2"))
    assert outcome.slowest_cell == 3  # the parameters are the first
    assert 0.6 < outcome.slowest_seconds < outcome.seconds
    assert json.dumps(outcome.notebook) == '"01_small"'


# -------------------------------------------------------------------------------- what is said is what runs


@pytest.mark.parametrize(
    ("arguments", "variable", "ran"),
    [
        (["-p", "BUDGET=smoke"], None, "smoke 0"),
        (["-p", "BUDGET=smoke", "-p", "SEED=4"], "lesson", "smoke 4"),
        (["--budget", "smoke", "--seed", "3"], "lesson", "smoke 3"),
        ([], "smoke", "smoke 0"),
    ],
)
def test_the_budget_that_is_asked_for_runs(tmp_path, arguments, variable, ran, monkeypatch):
    path = write(tmp_path, "import os; print(BUDGET, SEED, os.environ['MLCOURSE_BUDGET'])")
    monkeypatch.delenv("MLCOURSE_BUDGET", raising=False)
    answer = command(path, *arguments, cwd=tmp_path, environment=variable and {"MLCOURSE_BUDGET": variable})
    assert answer.returncode == 0, answer.stderr
    assert printed(tmp_path / "runs" / "notebooks" / path.name).split() == [*ran.split(), ran.split()[0]]


def test_without_a_word_the_budget_is_lesson(monkeypatch):
    monkeypatch.delenv("MLCOURSE_BUDGET", raising=False)
    assert run.settings([], None, None) == (run.Budget.lesson, {})
    monkeypatch.setenv("MLCOURSE_BUDGET", "")
    assert run.settings([], None, None)[0] == "lesson"


@pytest.mark.parametrize(
    ("pairs", "budget", "seed", "message"),
    [
        (["BUDGET=tiny"], None, None, "unknown: use one of smoke, lesson, paper"),
        (["BUDGET=3"], None, None, "unknown: use one of smoke, lesson, paper"),
        (["BUDGET=[smoke]"], None, None, "unknown: use one of smoke, lesson, paper"),
        (["BUDGET=smoke"], "smoke", None, "leave one out"),
        (["SEED=3"], None, 3, "leave one out"),
        (["SEED=3", "SEED=4"], None, None, "given twice"),
        (["WHEN=2024-99-99"], None, None, "not valid YAML"),
    ],
)
def test_contradictions_and_unknown_budgets(pairs, budget, seed, message):
    with pytest.raises(CourseError, match=message):
        run.settings(pairs, budget and run.Budget(budget), seed)


def test_an_unknown_budget_in_the_environment(monkeypatch):
    monkeypatch.setenv("MLCOURSE_BUDGET", "quick")
    with pytest.raises(CourseError, match="'quick' is unknown"):
        run.settings([], None, None)


def test_a_notebook_without_budget_or_seed_runs(tmp_path):
    path = write(tmp_path, "print(RATE)", parameters="RATE = 0.5")
    answer = command(path, "--budget", "smoke", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    answer = command(path, "--seed", "1", cwd=tmp_path)
    assert answer.returncode == 2
    assert "has no parameter SEED: it has RATE" in answer.stderr


@pytest.mark.parametrize(
    "line",
    ["%matplotlib inline", "!ls", "%%time", "?print", "SEED = = 3", "SEED = {[]: 1}", "SEED = '\0'", "  SEED = 0"],
)
def test_parameters_that_are_no_python_name_the_line(line):
    with pytest.raises(CourseError, match=r"01_a\.ipynb: the cell `parameters` holds") as caught:
        run.parameters_of(notebook(parameters=f"A = 1\n{line}"), "01_a.ipynb")
    assert (line.strip()[:6] in str(caught.value)) or ("no Python" in str(caught.value))


@pytest.mark.parametrize("where", [("kernelspec", "language"), ("language_info", "name")])
def test_a_notebook_of_another_language_is_refused(tmp_path, where):
    made = notebook("x <- 1")
    made.metadata = {where[0]: {where[1]: "R", "name": "R", "display_name": "R"}}
    nbformat.write(made, tmp_path / "01_r.ipynb")
    answer = command("01_r.ipynb", cwd=tmp_path)
    assert answer.returncode == 2
    assert "01_r.ipynb is written in R" in answer.stderr


@pytest.mark.parametrize("content", ["", "<html>404</html>", '{"cells": [', "[]", '{"nbformat": 4}'])
def test_what_is_no_notebook_is_one_line_before_anything_runs(tmp_path, content):
    write(tmp_path, "print('ran')")
    (tmp_path / "02_bad.ipynb").write_text(content)
    answer = command("01_small.ipynb", "02_bad.ipynb", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.startswith("mlcourse: 02_bad.ipynb is not a notebook, or is damaged")
    assert len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


# -------------------------------------------------------------------------------- what is there stays


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A course of two notebooks and a learner's folder with a copy of the first."""
    for folder in ("notebooks", "work"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "notebooks", "print('course')")
    write(tmp_path / "notebooks", "print('course')", name="02_next.ipynb")
    write(tmp_path / "work", "print('mine')")
    monkeypatch.setattr("mlcourse.places.notebooks", lambda: tmp_path / "notebooks")
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path / "work"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_means_the_learners_copy_and_a_path_that_file(house):
    assert run.choose(["1"]) == run.choose(["01"]) == run.choose(["01_small"]) == [house / "work" / "01_small.ipynb"]
    assert run.choose(["2"]) == [house / "notebooks" / "02_next.ipynb"]
    assert run.choose(["notebooks/01_small.ipynb"]) == [Path("notebooks/01_small.ipynb")]
    assert [path.parent.name for path in run.choose([])] == ["work", "notebooks"]
    assert len(run.choose(["1", "01", "work/01_small.ipynb"])) == 1


def test_the_command_says_that_it_runs_the_learners_copy(house):
    answer = CliRunner().invoke(app, ["run", "1", "--budget", "smoke"])
    assert answer.exit_code == 0, answer.output
    assert "your copy" in answer.stdout
    assert str(house / "work") in answer.stdout
    assert printed(house / "runs" / "notebooks" / "01_small.ipynb") == "mine\n"


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        (["01"], "notebooks", "the course's own notebooks"),
        (["notebooks/01_small.ipynb"], "notebooks", "the course's own notebooks"),
        (["02"], "work", "your copies"),
        (["work/01_small.ipynb"], "work/../work", "your copies"),
        (["01"], "link", "the course's own notebooks"),
        (["other/01_small.ipynb"], "other", "overwrite the notebook other/01_small.ipynb itself"),
        (["01"], "hard", "overwrite the notebook"),
        (["01"], "thesis", "was not made by `mlcourse run`"),
        (["01"], "pages", "is there without its notebook"),
        (["other/01_small.ipynb", "01"], "new", "would both become"),
        (["other/01_SMALL.ipynb", "01"], "new", "would both become"),
    ],
)
def test_nothing_that_somebody_wrote_is_overwritten(house, names, out, message):
    for folder in ("other", "thesis", "pages", "hard"):
        (house / folder).mkdir()
    (house / "link").symlink_to(house / "notebooks")
    (house / "hard" / "01_small.ipynb").hardlink_to(house / "work" / "01_small.ipynb")
    write(house / "other", "print('other')")
    write(house / "other", "print('other')", name="01_SMALL.ipynb")
    (house / "thesis" / "01_small.ipynb").write_text("years of work")
    (house / "pages" / "01_small.html").write_text("years of work")
    before = {path: path.read_bytes() for path in house.rglob("*") if path.is_file()}
    answer = CliRunner().invoke(app, ["run", *names, "--out", out, "--budget", "smoke"])
    assert answer.exit_code == 2, answer.output
    assert message in answer.stderr
    assert {path: path.read_bytes() for path in house.rglob("*") if path.is_file()} == before


def test_a_result_is_replaced_by_the_next_run(house):
    for seed in ("1", "2"):
        assert CliRunner().invoke(app, ["run", "2", "--budget", "smoke", "--seed", seed]).exit_code == 0
    page = (house / "runs" / "notebooks" / "02_next.html").read_text(encoding="utf-8")
    assert "SEED" in page
    again = CliRunner().invoke(app, ["run", "runs/notebooks/02_next.ipynb"])
    assert "overwrite the notebook runs/notebooks/02_next.ipynb itself" in again.stderr


def test_an_older_result_is_never_shown_as_the_new_one(house, monkeypatch):
    arguments = ["run", "2", "--budget", "smoke"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    result = house / "runs" / "notebooks" / "02_next.ipynb"
    before, page = result.read_bytes(), result.with_suffix(".html").stat().st_mtime_ns

    def fail(*_, **__):
        raise ValueError("it did not even begin")

    monkeypatch.setattr("papermill.execute_notebook", fail)
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 1
    assert "nothing was written" in answer.stdout
    assert "is of an earlier run" in answer.stdout
    assert "Executed notebooks" not in answer.stdout
    assert "[0]" in answer.stdout  # no time of the older run
    assert (result.read_bytes(), result.with_suffix(".html").stat().st_mtime_ns) == (before, page)


def test_what_ran_before_a_ctrl_c_is_kept_and_no_older_page_beside_it(house, monkeypatch):
    import papermill

    target, real = house / "out" / "02_next.ipynb", papermill.execute_notebook
    target.parent.mkdir()
    target.with_suffix(".html").write_text("older")

    def interrupted(*arguments, **options):
        real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.execute(house / "notebooks" / target.name, target, budget="smoke", work=house / "w")
    assert printed(target) == "course\n"
    assert [path.name for path in target.parent.iterdir()] == ["02_next.ipynb"]


def test_what_has_run_is_kept_on_the_way(tmp_path, monkeypatch):
    """A power cut after a week, or `kill -9`, takes the last minute and not all results."""
    monkeypatch.setattr(run, "KEEP_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    target = tmp_path / "out" / "01_small.ipynb"
    look = f"import json; print(sum(len(c.get('outputs', [])) for c in json.load(open({str(target)!r}))['cells']))"
    path = write(tmp_path / "deep", "print('first')", look)
    outcome = run.execute(path, Path("out") / path.name, budget="smoke", work=tmp_path / "work")
    assert outcome.error == ""
    assert printed(target) == "first\n1\n"


# -------------------------------------------------------------------------------- disks, paths, terminals


@pytest.mark.parametrize("step", ["the draft", "the result", "the page"])
def test_a_full_disk_is_one_line_and_leaves_no_half_file(house, monkeypatch, step):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    real = files.write_text
    if step == "the draft":
        monkeypatch.setattr("papermill.iorw.LocalHandler.write", full)
    else:
        suffix = ".ipynb" if step == "the result" else ".html"
        monkeypatch.setattr(
            files, "write_text", lambda path, text: full() if Path(path).suffix == suffix else real(path, text)
        )
    answer = CliRunner().invoke(app, ["run", "1", "2", "--budget", "smoke", "--out", "out"])
    assert answer.exit_code == 1, answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    assert answer.stdout.count("no space is left on the disk") == 2
    left = sorted(path.name for path in (house / "out").iterdir())
    assert left == (["01_small.ipynb", "02_next.ipynb"] if step == "the page" else [])


def test_a_folder_that_cannot_be_written_is_told_before_the_run(house, monkeypatch):
    (house / "file").write_text("")
    answer = CliRunner().invoke(app, ["run", "1", "--out", "file/inside"])
    assert answer.exit_code == 2
    assert "in the place of a folder" in answer.stderr


@pytest.mark.parametrize(
    "name", ["{x}", "a%20b", "why?", "100%", "ü" * 100, "a" * 230, "[bold]x", "#1", "a b", "{", "s3:"]
)
def test_any_name_of_a_notebook_and_its_folder(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    path = write(folder, "import os; print(os.path.basename(os.getcwd()))", name=f"{name}.ipynb")
    answer = command(path, "--budget", "smoke", "--out", folder / "out", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr + answer.stdout
    assert printed(folder / "out" / path.name) == f"{name}\n"
    assert (folder / "out" / f"{name}.html").is_file()


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="their file names are always Unicode")
def test_a_name_that_is_no_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = write(folder, "print('reached')", name=os.fsdecode(b"caf\xe9.ipynb"))
    answer = command(path, "--budget", "smoke", "--out", folder, cwd=tmp_path, cold=True)
    assert "overwrite the notebook" in answer.stderr
    assert "caf\\xe9" in answer.stderr
    answer = command(path, "--budget", "smoke", "--out", folder / "out", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert printed(folder / "out" / path.name) == "reached\n"
    answer = command(path, "-p", f"DATASET={folder.name}", "--budget", "smoke", cwd=tmp_path)
    assert answer.returncode == 2
    assert "no UTF-8" in answer.stderr


def test_relative_folders_mean_the_same_in_the_kernel(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "pictures").mkdir()
    path = write(tmp_path / "deep" / "er", "import os; print(DATASET, os.environ['MLCOURSE_DATA'], sep='\\n')")
    folders = {"MLCOURSE_DATA": "data/sets", "MLCOURSE_CACHE": "cache"}
    answer = command(path, "-p", "DATASET=pictures", "--budget", "smoke", cwd=tmp_path, environment=folders)
    assert answer.returncode == 0, answer.stderr
    result = printed(tmp_path / "runs" / "notebooks" / path.name)
    assert result.split() == [str(tmp_path / "pictures"), str(tmp_path / "data" / "sets")]


def test_a_name_of_a_data_set_stays_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "omniglot").mkdir()
    assert run.settings(["DATASET=omniglot"], None, None)[1] == {"DATASET": "omniglot"}
    assert run.settings(["DATASET=gone"], None, None)[1] == {"DATASET": "gone"}
    (tmp_path / "mine").mkdir()
    assert run.settings(["DATASET=./mine"], None, None)[1] == {"DATASET": str(tmp_path / "mine")}


def test_the_terminal_is_told_which_cell_runs(tmp_path):
    said = []

    class Noted:
        def at(self, share, text):
            said.append((round(share, 2), text))

    path = write(tmp_path, "1", "2", parameters="SEED = 0")
    execute(path, parameters={"SEED": 3}, progress=Noted())
    assert said == [(0.0, "cell 1 of 4"), (0.25, "cell 2 of 4"), (0.5, "cell 3 of 4"), (0.75, "cell 4 of 4")]


# a lesson's bar as `training.train` shows it, slow enough to be seen on its way
BAR = """\
import sys, time
from tqdm import tqdm
bar = tqdm(total=4, file=sys.stdout, mininterval=0.0, ncols=100)
for step in range(4):
    bar.set_postfix({"accuracy": f"{0.2 * step:.3f}", "val": "0.500"}, refresh=False)
    bar.update()
    time.sleep(0.3)
bar.close()"""


class Line:
    """Stands in for the progress line: what it is told, in order."""

    def __init__(self):
        self.said = []

    def at(self, share, text):
        self.said.append(text)

    def note(self, detail):
        self.said.append(detail)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_terminal_is_told_the_metric_of_a_training(tmp_path, stream):
    line, quiet = Line(), "print('a table | 1/2 [of three, four, five', 'no bar at all: 3/4')"
    outcome = execute(write(tmp_path, BAR.replace("sys.stdout", f"sys.{stream}"), quiet), progress=line)
    assert outcome.error == ""
    first, last = (line.said.index(f"cell {number} of 3") for number in (2, 3))
    metrics = line.said[first + 1 : last]
    assert metrics[-1] == "accuracy=0.600, val=0.500 (4/4)"
    assert "accuracy=0.200, val=0.500 (2/4)" in metrics  # while it works, and not at its end only
    assert line.said[last + 1 :] == []
    assert "accuracy=0.600" in json.dumps(nbformat.read(tmp_path / "01_small.out.ipynb", as_version=4))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (" 45%|####      | 450/1000 [00:03<00:04, 120.10it/s, accuracy=0.923]", ["accuracy=0.923 (450/1000)"]),
        ("\r 5%|# | 1/20 [0:01<0:19, 1it/s, loss=3]\r 10%|# | 2/20 [0:02<0:18, 1it/s, loss=2]", ["loss=2 (2/20)"]),
        ("tasks:  50%|#####     | 4/8 [00:03<00:03, 1.2it/s]", ["4/8"]),
        ("  0%|          | 0/8 [00:00<?, ?it/s]", ["0/8"]),
        (" 10%|#  | 1.2k/12k [00:03<00:04, 9.99kit/s, loss=nan, val=-1]", ["loss=nan, val=-1 (1.2k/12k)"]),
        (" 45%|####      | 450/1000 [00:03<00:04, 120.10it/s, accuracy=0.9", []),  # cut: a figure that is none
        ("30it [00:01, 30it/s]", []),
        ("| a | table |\n|---|---|\n| 1/2 | [3] |", []),
        ("loss 0.5 at step 3/4", []),
    ],
)
def test_what_is_read_of_a_bar(text, told):
    line = Line()
    run.Metric(line).write(text)
    assert line.said == told


def test_the_command_shows_the_metric_and_the_time_left(tmp_path, monkeypatch):
    monkeypatch.setitem(console.SECONDS, False, 0.05)
    path = write(tmp_path, BAR, name="07_a_name_that_would_fill_a_narrow_terminal.ipynb")
    answer = CliRunner().invoke(app, ["run", str(path), "--budget", "smoke", "--out", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    shown = [one for one in answer.stderr.splitlines() if "accuracy" in one]
    pattern = r"07: cell 3 of 3, \d+ s so far, about \d+ s left; accuracy=0\.\d00, val=0\.500 \(\d/4\)"
    assert shown
    assert all(re.fullmatch(pattern, one) for one in shown), shown


@pytest.mark.parametrize(
    ("stem", "name"), [("07_the_price", "07"), ("07", "07"), ("my_notes", "my_notes"), ("a b", "a b"), ("_", "_")]
)
def test_a_notebook_on_a_narrow_terminal(tmp_path, monkeypatch, stem, name):
    named = []
    monkeypatch.setattr(run, "Progress", lambda what: named.append(what) or console.Progress(what))
    monkeypatch.setattr(run, "execute", lambda path, executed, **_: run.Outcome(path.stem, "", 0, 0, 0, 0, 0, 1, None))
    CliRunner().invoke(app, ["run", str(write(tmp_path, "1", name=f"{stem}.ipynb")), "--out", str(tmp_path / "out")])
    assert named == [name]


def test_a_relative_folder_of_data_means_the_folder_of_the_command(tmp_path):
    """The kernel works in the notebook's folder, where `photos` is another folder, or none."""
    (tmp_path / "photos {x} a%20b").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path / "elsewhere", "import os\nprint(DATASET)\nprint(os.environ['MLCOURSE_DATA'])")
    options = ("--budget", "smoke", "-p", "DATASET=photos {x} a%20b", "--out", "out")
    answer = command(path, *options, cwd=tmp_path, environment={"MLCOURSE_DATA": "copies"})
    assert answer.returncode == 0, answer.stderr
    found = printed(tmp_path / "out" / path.name).splitlines()
    assert found == [str(tmp_path / "photos {x} a%20b"), str(tmp_path / "copies")]
