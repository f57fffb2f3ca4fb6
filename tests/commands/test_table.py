"""`mlcourse evaluate --protocol` and `mlcourse table` from outside."""

import csv
import io
import json
import os
import shlex
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from protocol_helpers import small
from typer.testing import CliRunner

from mlcourse import files, learners, networks, protocols
from mlcourse.commands import app, table
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
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = call("train", "prototypical", "--recipe", "smoke", "--seed", 4, "--out", "net", "--device", "cpu")
        assert made.exit_code == 0, made.output
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
    assert kept.made_by == (
        "mlcourse train prototypical --dataset glyphs --way 5 --shot 1 --query 15 --train-way 10 --recipe smoke "
        "--steps 5 --network conv4 --normalisation running --optimizer adam --accumulate 1 --precision float32 "
        "--seed 4 --device cpu"
    )
    assert kept.command == "mlcourse evaluate net --protocol small.json"
    assert kept.flop["training"] == 5 * kept.flop["step"] > 0


def test_views_are_another_row_which_its_commands_make_again(inside, tmp_path):
    """The same run, seen 13 times: another result, which costs as much, beside that of the run."""
    protocol = protocols.read("small.json")
    once = protocols.load(inside / "runs" / "results" / "small" / "net.json", protocol)
    found = {}
    for file, options in {"v": ["--views", "0.1234567"], "x": ["--views", "0.5", "--symmetries", "8"]}.items():
        answer = call(
            "evaluate", "net", "--protocol", "small.json", *options, "--out", tmp_path / "two" / f"{file}.json"
        )
        assert answer.exit_code == 0, answer.output
        found[file] = protocols.load(tmp_path / "two" / f"{file}.json", protocol)
        assert found[file].command == shlex.join(["mlcourse", "evaluate", "net", "--protocol", "small.json", *options])
    seen, sides = found.values()
    assert (seen.learner, seen.title, seen.weights) == ("net", "prototypical networks, views 0.1234567", once.weights)
    assert sides.title == "prototypical networks, views 0.5, symmetries 8"
    assert seen.made_by == once.made_by
    assert seen.flop["episode"] == pytest.approx(13 * once.flop["episode"], rel=0.05)
    assert sides.flop["episode"] == pytest.approx(8 * seen.flop["episode"], rel=0.05)
    assert seen.flop["training"] == once.flop["training"]
    assert len({one.right for one in (once, seen, sides)}) == 3
    assert len(protocols.rows(protocol, [once, seen, sides])) == len(protocols.rows(protocol, [once])) + 2
    # alone they are no plain row of their method
    alone = call("table", "small.json", "--results", tmp_path / "two", "--format", "markdown").stdout
    assert [row.method for row in protocols.rows(protocol, [seen]) if not row.run] == ["pixels", "prototypical", "maml"]
    for title in (seen.title, sides.title):
        assert f"| {title} |" in alone
    words = [line[3:-1] for line in alone.splitlines() if line.startswith("- `mlcourse ")]
    assert words[0] == f"{once.made_by} --out net"
    assert sorted(words[1:]) == sorted([seen.command, sides.command])


def test_the_command_of_a_result_with_views_makes_its_file_again(inside):
    path = inside / "runs" / "results" / "small" / "net-views0.1234567-symmetries4.json"
    command = "mlcourse evaluate net --protocol small.json --views 0.1234567 --symmetries 4"
    texts = []
    for _ in range(2):
        assert call(*shlex.split(command)[1:]).exit_code == 0
        assert files.read_json(path)["command"] == command
        texts.append(path.read_bytes())
        path.unlink()
    assert texts[0] == texts[1]


def test_views_of_a_learner_of_ones_own_are_told_apart(inside, tmp_path):
    """It has no name of a method and no options: its result tells the views all the same."""
    own = learners.PrototypicalNetwork(networks.make("conv4", size=28, channels=8, normalisation="running"))
    learners.save(own, inside / "own")
    out = ["--protocol", "small.json", "--out", tmp_path / "o.json"]
    assert call("evaluate", "own", "--views", 0.5, *out).exit_code == 0
    assert protocols.load(tmp_path / "o.json", protocols.read("small.json")).seen == {"views": 0.5}
    answer = call("evaluate", "own", "--views", 1.5, *out)
    assert answer.exit_code == 2
    assert "another training, or on another protocol (settings" in answer.stderr


TRAININGS = {
    "one": "prototypical --recipe smoke --seed 3 --optimizer adamw --query 5 --train-way 8",
    "two": "maml --recipe smoke --way 4 --shot 2 --accumulate 2 --normalisation support --optimizer sgd "
    "--tasks 4 --rate 0.002 --inner-rate 0.3",
}


def commands_of(protocol):
    lines = call("table", protocol, "--format", "markdown").stdout.splitlines()
    return [line[3:-1] for line in lines if line.startswith("- `mlcourse ")]


def test_rows_are_made_again_by_the_commands_that_the_table_prints(tmp_path, monkeypatch):
    """In another folder, from nothing: the same weights, the same answers, the same file to the byte."""
    own = small(rows=("prototypical", "maml"), way=4, episodes=10)
    found, printed = [], []
    for folder in (tmp_path / "first", tmp_path / "again"):
        files.write_json(folder / "small.json", own.as_json())
        monkeypatch.chdir(folder)
        if not found:
            words = [["train", *text.split(), "--out", name, "--device", "cpu"] for name, text in TRAININGS.items()]
            words += [["evaluate", name, "--protocol", "small.json"] for name in TRAININGS]
        else:
            words = [shlex.split(command)[1:] for command in printed]
        for one in words:
            answer = call(*one)
            assert answer.exit_code == 0, answer.output
        printed = commands_of("small.json")
        assert len(printed) == 4
        kept = folder / "runs" / "results" / "small"
        found.append({path.name: path.read_bytes() for path in kept.glob("*.json")})
    assert found[0].keys() == {"one.json", "two.json"}
    assert found[0] == found[1]


def test_a_run_that_no_command_makes_has_no_command(inside):
    model, about = learners.load_run("net")
    assert protocols.results.made_by(about, model).startswith("mlcourse train prototypical")
    assert " --precision bfloat16 " in protocols.results.made_by(about | {"precision": "bfloat16"}, model)
    for flag in ("drawn", "turned", "within_groups"):
        assert protocols.results.made_by(about | {flag: True}, model).endswith(f" --{flag.replace('_', '-')}")
        assert protocols.results.trained_on(about | {flag: True}).endswith(f" {flag.replace('_', ' ')}")
    assert "turned" in protocols.results.TRAINING
    assert " --tasks 2 --rate 0.5 " in protocols.results.made_by(about | {"tasks": 2, "rate": 0.5}, model)
    for changes in ({"schedule": "other"}, {"budget": "mine"}, {"finished": False}):
        assert protocols.results.made_by(about | changes, model) is None
    model.config["options"]["scaled"] = True
    assert protocols.results.made_by(about, model) is None


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
    assert f"there is no result of protocol small (*.json) in {tmp_path}" in answer.stderr
    assert "there is no result" not in call("table", "small.json").stderr


def test_braces_in_a_protocol_are_words(inside, tmp_path):
    told = files.read_json(inside / "small.json")
    own = replace(protocols.read("small.json"), clusters="scripts {old}").completed()
    assert told["clusters"] != own.clusters
    files.write_json(tmp_path / "own.json", own.as_json())
    results = tmp_path / "results"
    for one in ("pixels", "net"):
        path = results / f"{one}.json"
        answer = call("evaluate", one, "--protocol", tmp_path / "own.json", "--out", path)
        assert answer.exit_code == 0, answer.output
    for more in ([], ["--pairs"]):
        answer = call("table", tmp_path / "own.json", "--results", results, *more)
        assert answer.exit_code == 0, answer.output
        assert "scripts {old}" in answer.stdout


@pytest.mark.parametrize(("changed", "trained_on", "shown"), [
    ({}, "omniglot vinyals", True), ({}, "omniglot vinyals turned", True), ({}, None, True),
    ({}, "glyphs", False), ({"split": "val"}, "omniglot vinyals", False), ({"rotations": False}, None, False),
    ({"left_out": ("Greek",)}, None, False), ({"at_most": 2}, None, False),
    ({"tasks": "within groups"}, None, False), ({"one_by_one": True}, None, False),
])  # fmt: skip
def test_a_papers_figure_stands_beside_its_own_tasks_only(inside, changed, trained_on, shown):
    """Of prototypical networks on Omniglot, 98.8 %: it is no figure of other classes, or of training on other data."""
    protocol = replace(protocols.read("omniglot-5way-1shot"), **changed)
    kept = protocols.load(inside / "runs" / "results" / "small" / "net.json", protocols.read("small.json"))
    row = protocols.Row("prototypical", "prototypical networks", (replace(kept, trained_on=trained_on),))
    assert table.cells(protocol, row)["paper"].startswith("98.8") == shown


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
    "changed digest": (["evaluate", "pixels", "--protocol", "changed.json"], "was changed: its fields have the digest"),
    "other episodes": (["evaluate", "pixels", "--protocol", "drawn.json"], "other episodes than its index_digest says"),
    "changed field": (["table", "alone.json"], "was changed: its fields have the digest"),
    "other data": (["evaluate", "pixels", "--protocol", "data.json"], "is of other data"),
    "too few pictures": (["evaluate", "pixels", "--protocol", "few.json"], "21 samples per class"),
    "an option that is fixed": (["evaluate", "pixels", "--protocol", "small.json", "--way", "3"], "leave --way out"),
    "episodes are fixed": (["evaluate", "net", "--protocol", "small.json", "--episodes", "9"], "leave --episodes out"),
    "a seed for a run": (["evaluate", "net", "--protocol", "small.json", "--seed", "1"], "leave it out"),
    "a default, said": (["evaluate", "net", "--protocol", "small.json", "--episodes", "1000"], "leave --episodes out"),
    "the split, said": (["evaluate", "net", "--protocol", "small.json", "--split", "test"], "leave --split out"),
    "seed 0, said": (["evaluate", "net", "--protocol", "small.json", "--seed", "0"], "leave it out"),
    "a seed for pixels": (["evaluate", "pixels", "--protocol", "small.json", "--seed", "3"], "pixels has no weights"),
    "no run": (["evaluate", "nowhere", "--protocol", "small.json"], "there is no folder nowhere"),
    "a place without episodes": (["evaluate", "pixels", "--out", "x.json"], "add --protocol NAME"),
    "views of nothing": (["evaluate", "net", "--protocol", "small.json", "--views", "0"], "--views is 0.0: give"),
    "views too far": (["evaluate", "net", "--protocol", "small.json", "--views", "4"], "--views is 4.0: give"),
    "views without a number": (["evaluate", "net", "--views", "nan"], "--views is nan: give"),
    "two symmetries": (["evaluate", "net", "--protocol", "small.json", "--symmetries", "2"], "give 4 or 8"),
    "symmetries for MAML": (["evaluate", "untrained-maml", "--episodes", "2", "--symmetries", "4"], "maml is none"),
    "views for pixels": (["evaluate", "pixels", "--protocol", "small.json", "--views", "1"], "and pixels is none"),
    "views for relation": (["evaluate", "untrained-relation", "--episodes", "2", "--views", "1"], "way of its own"),
    "views of scenes": (["evaluate", "every-character", "--views", "1"], "--views is for classification"),
    "views 0 of scenes": (["evaluate", "every-character", "--views", "0"], "--views is for classification"),
    "symmetries 0 of scenes": (["evaluate", "every-character", "--symmetries", "0"], "is for classification"),
    "a way of 0 of scenes": (["evaluate", "every-character", "--way", "0"], "--way is for classification"),
    "views of white paper": (
        ["evaluate", "untrained-prototypical", "--dataset", "paper", "--way", "2", "--query", "2", "--views", "1"],
        "what a view brings in is black, and the edges of paper are not",
    ),
    "NaN": (["evaluate", "broken", "--protocol", "small.json"], "answers are not finite"),
}


def test_a_protocol_without_rows_and_results_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_json("bare.json", small(name="bare", rows=()).as_json())
    for form in ("text", "csv", "markdown", "json"):
        answer = call("table", "bare.json", "--format", form)
        assert answer.exit_code == 2
        assert "no result of protocol bare yet: mlcourse evaluate DIR --protocol bare.json" in answer.stderr


def test_a_folder_whose_name_no_table_can_show_is_refused_before_the_work(inside):
    shutil.copytree("net", "n\tet")
    answer = call("evaluate", "n\tet", "--protocol", "small.json", "--out", "odd/n.json")
    assert answer.exit_code == 2
    assert r"named 'n\tet', which no table can show: rename it" in answer.stderr
    assert not Path("odd").exists()


def test_a_name_with_dollars_is_drawn_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_json("lr.json", small(name=r"lr$\frac$", rows=("pixels",)).as_json())
    assert call("evaluate", "pixels", "--protocol", "lr.json").exit_code == 0
    answer = call("table", "lr.json", "--plot", "f.svg")
    assert answer.exit_code == 0, answer.output
    assert Path("f.svg").is_file()


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case, inside):
    (inside / "empty").mkdir(exist_ok=True)
    if case == "views of white paper":
        for row, name in enumerate(("test/a", "test/b", "train/c", "train/d", "val/e", "val/f")):
            for k in range(4):
                picture = Image.new("L", (28, 28), 255)
                picture.putpixel((9 + k, 9 + row), 0)
                (inside / "paper" / name).mkdir(parents=True, exist_ok=True)
                picture.save(inside / "paper" / name / f"{k}.png")
        arguments, _ = BAD[case]
        assert call(*arguments[:-2], "--episodes", 2).exit_code == 0
    made = protocols.read("small.json")
    damaged = {"one": {"episodes": 1}, "changed": {"digest": "0" * 16}, "alone": {"one_by_one": True}}
    for name, changes in damaged.items():
        files.write_json(inside / f"{name}.json", made.as_json() | changes)
    for name, changes in {"drawn": {"seed": 1}, "data": {"split": "val"}, "few": {"shot": 10, "query": 11}}.items():
        other = replace(made, **changes)
        files.write_json(inside / f"{name}.json", replace(other, digest=other.field_digest).as_json())
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


OUT = {
    "no .json": ("result.txt", "end the file's name in .json"),
    "a folder": ("folder.json", "is a folder"),
    "a file in place of a folder": ("small.json/mine.json", "cannot be written"),
    "a name that is too long": ("x" * 300 + ".json", "cannot be written"),
    "a file that is no result": ("small.json", "is there, and is no result"),
    "a file that is no JSON": ("broken.json", "is there, and is no result"),
    "a result of another training": ("runs/results/small/pixels.json", "another training"),
    "a result on another protocol": ("other.json", "on another protocol"),
}


@pytest.mark.parametrize("case", OUT)
def test_out_is_looked_at_before_the_work(case, inside, monkeypatch):
    (inside / "folder.json").mkdir(exist_ok=True)
    (inside / "broken.json").write_text("{")
    kept = files.read_json(inside / "runs" / "results" / "small" / "net.json")
    files.write_json(inside / "other.json", kept | {"protocol": "other"})
    monkeypatch.setattr(protocols, "evaluate", lambda *_, **__: pytest.fail("the work was done first"))
    out, named = OUT[case]
    before = (inside / out).read_bytes() if os.path.isfile(inside / out) else None  # not Path: a name may be too long
    answer = call("evaluate", "net", "--protocol", "small.json", "--out", out)
    assert answer.exit_code == 2, answer.output
    assert len(answer.stderr.strip().splitlines()) == 1
    assert named in answer.stderr
    assert before is None or (inside / out).read_bytes() == before


def test_a_folder_that_may_not_be_written_is_found_before_the_work(inside, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(protocols, "evaluate", lambda *_, **__: pytest.fail("the work was done first"))
    answer = call("evaluate", "net", "--protocol", "small.json", "--out", "new/mine.json")
    assert answer.exit_code == 2
    assert "cannot be written (Permission denied)" in answer.stderr


def test_a_result_of_another_training_is_not_replaced(inside):
    """Trained again under the same name: by another seed, by another recipe, or to other weights."""
    path = inside / "runs" / "results" / "small" / "net.json"
    chosen = protocols.read("small.json")
    told = protocols.of_training(*learners.load_run("net"))
    protocols.check_place(path, chosen, told)  # the same again
    protocols.check_place(path.with_name("new.json"), chosen, told)
    protocols.check_place(inside / "new" / "folder" / "new.json", chosen, told)
    assert not (inside / "new").exists()
    changes = {"seed": 5, "budget": "short", "steps": 9, "weights": "0" * 16, "settings": {"options": {}}}
    for name, value in changes.items():
        with pytest.raises(CourseError, match=rf"net\.json holds the result of another training, .*\({name} "):
            protocols.check_place(path, chosen, told | {name: value})


def test_fine_tuning_from_random_weights_is_a_row_like_any_other(inside):
    files.write_json(inside / "few.json", small(name="few", episodes=4, rows=("fine-tune",)).as_json())
    assert "not run" in call("table", "few.json").stdout
    answer = call("evaluate", "fine-tune", "--protocol", "few.json", "--seed", 2)
    assert answer.exit_code == 0, answer.output
    (row,) = json.loads(call("table", "few.json", "--format", "json").stdout)["rows"]
    assert (row["method"], row["title"]) == ("fine-tune", "fine-tuning from random weights")
    assert (row["normalisation"], row["transductive"], row["trained_on"]) == ("support", False, None)
    assert row["accuracy"] > 0.25
    assert row["command"] == "mlcourse evaluate fine-tune --protocol few.json --seed 2"
    assert (inside / "runs" / "results" / "few" / "fine-tune-seed2.json").is_file()
