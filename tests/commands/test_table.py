"""`mlcourse evaluate --protocol` and `mlcourse table` from outside."""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image
from protocol_helpers import small
from typer.testing import CliRunner

from mlcourse import files, learners, protocols
from mlcourse.commands import app, on_protocol
from mlcourse.errors import CourseError


def call(*arguments):
    answer = CliRunner().invoke(app, [str(one) for one in arguments])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small protocol, a run, and two results in `runs/results/small`."""
    folder = tmp_path_factory.mktemp("comparison")
    files.write_json(folder / "small.json", small(rows=("pixels", "prototypical", "maml")).as_json())
    learner = learners.build("prototypical", way=5, seed=0, channels=8)
    told = {"dataset": "glyphs", "protocol": None, "way": 5, "shot": 1, "query": 15, "train_way": 10, "train_query": 2}
    told |= {"budget": "smoke", "seed": 4, "steps": 5, "steps_done": 5, "tasks": 1, "drawn": False}
    learners.save(learner, folder / "net", **told)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for one in ("net", "pixels"):
            assert call("evaluate", one, "--protocol", "small.json").exit_code == 0
    return folder


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_a_result_is_kept_where_the_table_looks(inside):
    kept = protocols.load(inside / "runs" / "results" / "small" / "net.json", protocols.read("small.json"))
    assert (kept.method, kept.seed, kept.budget, kept.trained_on) == ("prototypical", 4, "smoke", "glyphs")
    assert kept.made_by.startswith("mlcourse train prototypical --dataset glyphs --way 5 --shot 1 --train-way 10")
    assert kept.made_by.endswith("--recipe smoke --steps 5 --seed 4")
    assert kept.command == "mlcourse evaluate net --protocol small"
    assert kept.flop["training"] == 5 * kept.flop["step"] > 0


def test_evaluate_again_gives_the_same_file_to_the_byte(inside):
    path = inside / "runs" / "results" / "small" / "net.json"
    before = path.read_bytes()
    answer = call("evaluate", "net", "--protocol", "small.json")
    assert "on protocol small: " in answer.stdout
    assert "over scripts; worst tenth" in answer.stdout
    assert path.read_bytes() == before


def test_json_of_evaluate_and_another_place(inside, tmp_path):
    answer = call(
        "evaluate",
        "untrained-prototypical",
        "--protocol",
        "small.json",
        "--seed",
        3,
        "--out",
        tmp_path / "u.json",
        "--json",
    )
    told = json.loads(answer.stdout)
    assert told["method"] == "untrained-prototypical"
    assert told["digest"] == protocols.read("small.json").digest
    assert protocols.load(tmp_path / "u.json", protocols.read("small.json")).seed == 3


def test_the_table_as_text(inside):
    answer = call("table", "small.json")
    assert answer.exit_code == 0
    lines = answer.stdout.splitlines()
    assert lines[0].startswith("small: glyphs")
    row = next(line for line in lines if "prototypical networks" in line)
    assert row.split()[0] in ("1", "2")
    assert "running, inductive" in row
    assert "not run" in next(line for line in lines if "MAML" in line)
    assert any(line.strip().startswith("mlcourse train prototypical") and line.endswith("--out net") for line in lines)


def test_the_table_as_markdown_csv_and_json_says_the_same(inside):
    rows = json.loads(call("table", "small.json", "--format", "json").stdout)["rows"]
    table = list(csv.DictReader(io.StringIO(call("table", "small.json", "--format", "csv").stdout)))
    text = call("table", "small.json", "--format", "markdown").stdout
    assert len(rows) == len(table) == 3
    for one, other in zip(rows, table):
        assert one["title"] == other["title"]
        assert one["run"] == (other["run"] == "True")
        if one["run"]:
            assert float(other["accuracy"]) == one["accuracy"]
            line = next(line for line in text.splitlines() if line.startswith("|") and one["title"] in line)
            assert f"| {100 * one['accuracy']:.2f} | ± {100 * one['ci95']:.2f} |" in line
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_pairs_in_all_forms(inside):
    told = json.loads(call("table", "small.json", "--pairs", "--format", "json").stdout)["pairs"]
    assert len(told) == 1
    assert {"difference", "ci95", "data_lower", "effect_size", "won", "tied", "p_holm"} <= told[0].keys()
    text = call("table", "small.json", "--pairs").stdout
    assert f"{100 * told[0]['difference']:+.2f} ± {100 * told[0]['ci95']:.2f}" in text
    assert "Holm for all 1 pairs" in text
    assert call("table", "small.json", "--pairs", "--format", "markdown").stdout.count("\n| ") == 2
    assert call("table", "small.json", "--pairs", "--format", "csv").stdout.startswith("a,b,difference")


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_the_forest_plot(ending, inside, tmp_path):
    paths = [tmp_path / f"{name}.{ending}" for name in ("one", "two")]
    for path in paths:
        answer = call("table", "small.json", "--plot", path)
        assert answer.exit_code == 0, answer.output
    if ending == "png":
        with Image.open(paths[0]) as picture:
            assert "Forest plot of small" in picture.text["Description"]
            assert picture.size[0] > 300
    elif ending == "svg":
        ElementTree.parse(paths[0])
        assert "Forest plot of small" in paths[0].read_text(encoding="utf-8")
    else:
        assert paths[0].read_bytes().startswith(b"%PDF")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_table_without_any_result_says_not_run(inside, tmp_path):
    answer = call("table", "small.json", "--results", tmp_path)
    assert answer.exit_code == 0
    assert answer.stdout.count("not run") == 3


BAD = {
    "unknown protocol": (["table", "smal"], "there is no protocol 'smal'"),
    "unknown protocol in evaluation": (["evaluate", "pixels", "--protocol", "smal"], "there is no protocol 'smal'"),
    "no file": (["table", "none.json"], "there is no file none.json"),
    "unknown form": (["table", "small.json", "--format", "word"], "--format is 'word'"),
    "no picture": (["table", "small.json", "--plot", "forest.doc"], "end the file's name in one of .png"),
    "no folder": (["table", "small.json", "--results", "nowhere"], "there is no folder nowhere"),
    "pairs of nothing": (["table", "small.json", "--results", "empty", "--pairs"], "needs two rows, but 0 were run"),
    "nothing to draw": (["table", "small.json", "--results", "empty", "--plot", "f.png"], "nothing to draw"),
    "result of another protocol": (["table", "small.json", "--results", "others"], "is a result of protocol 'other'"),
    "one episode": (["evaluate", "pixels", "--protocol", "one.json"], "episodes is 1, and one has no interval"),
    "changed digest": (["evaluate", "pixels", "--protocol", "changed.json"], "other episodes than its digest says"),
    "other data": (["evaluate", "pixels", "--protocol", "data.json"], "is of other data"),
    "too few pictures": (["evaluate", "pixels", "--protocol", "few.json"], "21 samples per class"),
    "an option that is fixed": (["evaluate", "pixels", "--protocol", "small.json", "--way", "3"], "leave --way out"),
    "episodes are fixed": (["evaluate", "net", "--protocol", "small.json", "--episodes", "9"], "leave --episodes out"),
    "a seed for a run": (["evaluate", "net", "--protocol", "small.json", "--seed", "1"], "leave it out"),
    "no run": (["evaluate", "nowhere", "--protocol", "small.json"], "there is no folder nowhere"),
    "a place without episodes": (["evaluate", "pixels", "--out", "x.json"], "add --protocol NAME"),
    "NaN": (["evaluate", "broken", "--protocol", "small.json"], "answers are not finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case, inside):
    (inside / "empty").mkdir(exist_ok=True)
    made = protocols.read("small.json")
    for name, changes in {
        "one": {"episodes": 1},
        "changed": {"digest": "0" * 16},
        "data": {"split": "val"},
        "few": {"shot": 10, "query": 11},
    }.items():
        files.write_json(inside / f"{name}.json", made.as_json() | changes)
    kept = files.read_json(inside / "runs" / "results" / "small" / "net.json")
    files.write_json(inside / "others" / "net.json", kept | {"protocol": "other"})
    broken = learners.build("prototypical", way=5, seed=0, channels=8)
    next(broken.parameters()).data.fill_(float("nan"))
    learners.save(broken, inside / "broken")
    arguments, named = BAD[case]
    answer = call(*arguments)
    assert answer.exit_code == 2, answer.output
    lines = answer.stderr.strip().splitlines()
    assert len(lines) == 1, answer.stderr
    assert named in lines[0]
    assert not (inside / "runs" / "results" / "small" / "broken.json").exists()


def test_a_result_of_another_training_is_not_replaced(tmp_path):
    path = tmp_path / "run.json"
    on_protocol.check_replaced(path, 1)  # nothing there
    path.write_text("{")
    on_protocol.check_replaced(path, 1)  # nothing that anyone can read
    path.write_text('{"seed": 1}')
    on_protocol.check_replaced(path, 1)  # the same again
    with pytest.raises(CourseError, match="seed 1, this one has 2"):
        on_protocol.check_replaced(path, 2)
