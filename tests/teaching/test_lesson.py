"""How a notebook begins and ends."""

import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from mlcourse import datasets, memory
from mlcourse.errors import CourseError
from mlcourse.teaching import lesson


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.delenv("MLCOURSE_BUDGET", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def start(**changes):
    return lesson.start("01", **{"seed": 3, "budget": "smoke", "device": "cpu", "dataset": "glyphs"} | changes)


def test_start_says_one_line(capsys):
    session = start()
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    for part in ("Notebook 01", "budget smoke", "seed 3", "glyphs", "CPU", torch.__version__):
        assert part in said
    assert (session.seed, session.budget, session.device, session.dataset) == (
        3,
        "smoke",
        torch.device("cpu"),
        "glyphs",
    )


def test_pick_follows_the_budget_and_the_environment_overrides_it(monkeypatch):
    values = {"smoke": 1, "lesson": 2, "paper": 3}
    assert [start(budget=budget).pick(**values) for budget in lesson.BUDGETS] == [1, 2, 3]
    monkeypatch.setenv("MLCOURSE_BUDGET", "smoke")
    assert start(budget="paper").pick(**values) == 1
    monkeypatch.setenv("MLCOURSE_BUDGET", "fast")
    with pytest.raises(CourseError, match="'fast'"):
        start()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"seed": "1"}, "SEED is '1'"),
        ({"seed": -1}, "SEED is -1"),
        ({"seed": 2**70}, "SEED is 11805"),
        ({"seed": True}, "SEED is True"),
        ({"budget": "long"}, "BUDGET is 'long'"),
        ({"device": "tpu"}, "device 'tpu'"),
    ],
)
def test_bad_parameters_are_one_line(changes, part):
    with pytest.raises(CourseError, match=part):
        start(**changes)


def test_generators_are_the_same_for_the_same_seed_and_offset_only():
    def draw(seed, offset):
        return torch.rand(4, generator=start(seed=seed).generator(offset)).tolist()

    assert draw(1, 0) == draw(1, 0)
    streams = [draw(seed, offset) for seed in range(3) for offset in range(3)]
    assert len({tuple(stream) for stream in streams}) == 9
    draw(2**62, 5)


def test_start_seeds_what_initialises_networks():
    first = (start(), torch.nn.Linear(3, 3).weight)[1]
    assert torch.equal(first, (start(), torch.nn.Linear(3, 3).weight)[1])


def test_threads_follow_the_cpus_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    start()
    assert 1 <= torch.get_num_threads() <= 8
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start()
    assert torch.get_num_threads() == 1


def test_end_prints_time_and_peak_memory(capsys):
    start().end()
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"Notebook 01, smoke: \d+ s, peak memory \d+ MiB\.", line)
    assert memory.peak() > 50


def test_the_import_cell_stops_with_the_line_to_paste(tmp_path):
    assert len(lesson.IMPORT_CELL.splitlines()) <= 8
    compile(lesson.IMPORT_CELL, "cell", "exec")
    (tmp_path / "cell.py").write_text(lesson.IMPORT_CELL, encoding="utf-8")
    # -S and -I: a Python without our package, as in a notebook opened elsewhere
    done = subprocess.run([sys.executable, "-I", "-S", "cell.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "%pip install" in done.stderr


def test_a_lesson_hides_the_warning_that_forward_derivatives_bring():
    """A warning of PyTorch about its own inside, in red below a learner's cell, is noise; other warnings still show."""
    code = (
        "import warnings\n"
        "from mlcourse.teaching import lesson\n"
        "lesson.start('01', seed=0, budget='smoke')\n"
        "warnings.warn('`torch.jit.script` is deprecated. Please switch.', FutureWarning)\n"
        "warnings.warn('something else is deprecated', FutureWarning)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch.jit.script" not in ran.stderr
    assert "something else" in ran.stderr


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"dataset": "caltech101", "takes": ("glyphs", "omniglot")},
            "this takes glyphs or omniglot, but not caltech101",
        ),
        ({"dataset": "glyphs", "takes": ("omniglot",)}, "this takes omniglot, but not glyphs: set DATASET"),
        ({"takes": ("glyphs", "omniglto")}, "there is no data set 'omniglto' to take"),
        (
            {"least": {"test": (9999, 1)}},
            "glyphs has .* test classes, but 9999 are needed here: add class folders, or set",
        ),
        ({"least": {"test": (5, 21)}}, "has 20 pictures, but each test class needs 21 here"),
        ({"dataset": ""}, "name is empty"),
        ({"dataset": None}, "data set None is no name"),
        ({"dataset": "glpyhs"}, "did you mean 'glyphs'"),
    ],
)
def test_data_that_a_notebook_cannot_work_with_is_refused_at_its_start(changes, part):
    with pytest.raises(CourseError, match=part):
        start(**changes)


def test_start_says_which_data_is_taken(capsys):
    start()
    names = ", ".join(datasets.NAMES)
    assert f"data glyphs (taken: {names} or a folder of class folders)" in capsys.readouterr().out
    start(takes=("glyphs",))
    assert "data glyphs (taken: glyphs)" in capsys.readouterr().out


def test_a_notebook_that_makes_its_data_takes_nothing_else(capsys):
    session = start(dataset="drawn faces", makes="drawn faces")
    assert session.dataset == "drawn faces"
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "data drawn faces (taken: drawn faces)" in said
    for wrong in ("glyphs", "", 3, None, ["drawn faces"]):
        with pytest.raises(CourseError, match=r"this takes drawn faces, but not .*: set DATASET to 'drawn faces'"):
            start(dataset=wrong, makes="drawn faces")
    with pytest.raises(CourseError, match="SEED is -1"):
        start(dataset="drawn faces", makes="drawn faces", seed=-1)


def test_a_folder_is_taken_where_it_has_enough(tmp_path, capsys):
    for i in range(8):
        for k in range(3):
            (tmp_path / "photos" / f"kind {i}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i, k, 0)).save(tmp_path / "photos" / f"kind {i}" / f"{k}.png")
    folder = {"dataset": tmp_path / "photos", "takes": ("glyphs", "folder")}
    assert start(**folder, least={"train": (2, 3), "test": (2, 3)}).dataset == str(tmp_path / "photos")
    with pytest.raises(CourseError, match="has 3 pictures, but each test class needs 4 here: add pictures, remove the"):
        start(**folder, least={"test": (2, 4)})
    with pytest.raises(CourseError, match="this takes glyphs, but not"):
        start(**folder | {"takes": ("glyphs",)})
