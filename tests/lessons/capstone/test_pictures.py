"""Notebook 17's pictures and its method picker: each choice has its row, its source and its words."""

import itertools
import json

import pytest
import torch
from picture_helpers import assert_follows
from typer.testing import CliRunner

from mlcourse import datasets, places
from mlcourse.commands import app
from mlcourse.errors import CourseError
from mlcourse.learners import METHODS
from mlcourse.lessons.capstone import drawn, exam, picker, pictures, stored
from mlcourse.teaching import figures
from mlcourse.teaching.finish import Row

ALL = list(
    itertools.product(
        picker.CHOICES["task"],
        picker.CHOICES["training_classes"],
        picker.CHOICES["shots"],
        (False, True),
        picker.CHOICES["compute"],
    )
)
NAMES = ("task", "training_classes", "shots", "pre_trained", "compute")


def chosen(values):
    return dict(zip(NAMES, values, strict=True))


def test_every_choice_has_a_method_rows_and_a_source():
    for values in ALL:
        advice = picker.advise(**chosen(values))
        assert advice.rows, values
        assert advice.method, values
        assert [row.better * row.value for row in advice.rows] == sorted(
            (row.better * row.value for row in advice.rows), reverse=True
        )
        for row in advice.rows:
            assert (places.data() / "results" / row.source).exists(), row.source
            assert stored.title(row.method) != row.method or row.method.startswith("prototypical network, "), row.method
        said = picker.words(**chosen(values))
        assert advice.method in said
        assert "data/results/" in said


def test_the_first_choice_of_the_controls_is_what_the_widget_starts_with():
    first = {name: values[0] if isinstance(values, list) else values for name, values in picker.CHOICES.items()}
    assert first == picker.START


def test_methods_that_nothing_tells_from_the_best_are_named_with_it(monkeypatch):
    """The ties of the protocol's own table: who shares its rank 1 is named; so, too, without the first of today."""
    table = json.loads(CliRunner().invoke(app, ["table", "glyphs-5way-1shot", "--format", "json"]).stdout)
    first = {row["method"] for row in table["rows"] if row["rank"] == 1}
    advised = picker.advise("name characters", "hundreds", 1, False, "minutes or more").method
    assert set(advised.split(" or ")) == set(map(stored.title, first))

    logs = stored.logs()
    monkeypatch.setattr(stored, "logs", lambda: {name: right for name, right in logs.items() if name != "relation"})
    advised = picker.advise("name characters", "hundreds", 1, False, "minutes or more").method
    assert set(advised.split(" or ")) == {"prototypes by cosines", "prototypical network", "matching network"}


def test_few_training_classes_speak_for_the_edges_and_dozens_for_the_network():
    few, dozens = (
        picker.advise("name characters", classes, 1, False, "a minute").method for classes in picker.CLASSES[1:3]
    )
    assert few == stored.TITLES["edges"]
    assert dozens == "prototypical network"
    assert stored.pays_from("characters, 1-shot") == 80
    assert stored.pays_from("drawn faces, 1-shot") is None


@pytest.mark.parametrize("task", picker.TASKS[2:])
def test_without_training_the_best_untrained_row_is_named(task):
    advice = picker.advise(task, "none like mine", 1, False, "no training")
    named = [row for row in advice.rows if stored.TITLES[row.method] == advice.method]
    assert named[0].method in picker.UNTRAINED
    others = [row for row in advice.rows if row.method in picker.UNTRAINED]
    assert named[0] == max(others, key=lambda row: row.better * row.value)


# what somebody has to train here, by the names of the rows
TRAINED = ({*METHODS} - {"pixels"}) | {
    "matched-boxes", "correlation", "fine-tuning", "colour-groups", "frozen incontext", "trained", "cosface",
    "three cosface", "prototypes", "fisherfaces", "fine-tuned layers", "logistic",
}  # fmt: skip


@pytest.mark.parametrize("values", [values for values in ALL if values[-1] == "no training"])
def test_no_training_never_advises_what_is_trained(values):
    advice = picker.advise(**chosen(values))
    assert not {stored.title(name) for name in TRAINED} & set(advice.method.split(" or "))
    named = [row for row in advice.rows if stored.title(row.method) in advice.method.split(" or ")]
    assert named, "the advice is among the rows"
    assert all(row.method in picker.UNTRAINED for row in named)
    known = {row.method for row in advice.rows}
    assert known <= picker.UNTRAINED | TRAINED, "a row is of neither kind: say of which"


def test_without_training_photos_are_named_by_the_best_untrained_row():
    chosen_now = picker.START | {"task": "name photos"}
    advice = picker.advise(**chosen_now)
    rows = {row.method: row.value for row in advice.rows}
    best = max(("pixels", "untrained-prototypical"), key=rows.__getitem__)
    assert stored.title(best) in advice.method
    assert "r2d2" in rows, "what it gives up is shown"
    assert "what it gives up" in picker.words(**chosen_now)


@pytest.mark.parametrize(("shots", "examples"), [(1, 1), (5, 10)])
@pytest.mark.parametrize("compute", picker.COMPUTE[1:])
def test_boxes_in_photos_are_the_stored_rows(shots, examples, compute):
    advice = picker.advise("find boxes", "a few (5)", shots, True, compute)
    kept = stored.read("detection_photos.json")["systems"]
    assert {row.method for row in advice.rows} == set(stored.BOXES)
    for row in advice.rows:
        value, low, high = kept[stored.BOXES[row.method]][f"{examples} shots"]["new"]["AP50"]
        assert row.value == value
        assert row.ci == pytest.approx((high - low) / 2)
    assert advice.method == stored.title("frozen")
    assert "playing cards are no class of it" in advice.near
    assert ("5 examples were not measured" in advice.near) == (shots == 5)


def test_a_lead_on_boxes_is_told_only_where_the_paired_interval_says_so(monkeypatch):
    assert stored.lead_on_boxes(1) == "Paired, it lies above each other row."
    kept = json.loads(json.dumps(stored.read("detection_photos.json")))
    kept["systems"]["fine-tuning"]["1 shots"]["new"]["frozen minus this"] = [0.01, -0.02, 0.04]
    monkeypatch.setattr(stored, "read", lambda *place: kept)
    assert stored.lead_on_boxes(1) == f"Paired, it cannot be told from {stored.title('fine-tuned layers')}."


def test_boxes_in_photos_without_training_say_what_they_need():
    said = picker.words(**picker.START | {"task": "find boxes", "pre_trained": True})
    assert "not measured" not in said
    assert "a head must first learn the boxes" in said
    assert "data/results/detection_photos.json" in said


def test_what_a_pre_trained_network_has_seen_is_said():
    for task in picker.TASKS[1:3]:
        said = picker.words(**picker.START | {"task": task, "pre_trained": True})
        assert ("of these 21 classes were in it" in said) == (task == "mark pixels")
        assert ("Of all 101 classes" in said) == (task == "name photos")
        assert ("data/results/backbone.json" in said) == (task == "name photos")


def test_a_backbone_is_spoken_for_where_it_was_measured():
    """On photos its rows lead; on characters the paired result says whether it does."""
    rows = picker.advise(**picker.START | {"task": "name photos", "pre_trained": True}).rows
    assert stored.title(rows[0].method).startswith("frozen backbone, ")
    assert {"prototypical", "pixels"} <= {row.method for row in rows}
    said = picker.words(**picker.START | {"task": "name characters", "pre_trained": True})
    assert stored.far_from_photos() in said


def test_other_figures_turn_the_advice_round(monkeypatch):
    """Made-up figures in which the edges lose from the start: the advice follows them."""
    kept = json.loads(json.dumps(stored.read("capstone.json")))
    for row in kept["nothing trained"].values():
        row["edges"]["accuracy"] = [0.2, 0.01]
        row["pixels"]["accuracy"] = [0.2, 0.01]
    real = stored.read
    monkeypatch.setattr(stored, "read", lambda *place: kept if place == ("capstone.json",) else real(*place))
    assert picker.advise("name characters", "a few (5)", 1, False, "a minute").method == "prototypical network"


def test_a_file_that_is_missing_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "data", lambda: tmp_path)
    stored.logs.cache_clear()
    with pytest.raises(CourseError, match="glyphs-5way-1shot is empty"):
        stored.logs()
    stored.logs.cache_clear()


def test_the_picture_follows_its_controls():
    def draw(*values, fig=None):
        return picker.draw(**chosen(values), fig=fig)

    values = [ALL[0], ("name photos", "none like mine", 1, False, "no training"), ("find boxes", "hundreds", 1, False,
              "a minute"), ("mark pixels", "hundreds", 1, True, "a minute")]  # fmt: skip
    assert_follows(draw, lambda *values: picker.text(**chosen(values)), values)


# ------------------------------------------------------------------ the other pictures


def test_each_picture_has_a_text(tmp_path):
    domains = exam.domains()
    answers = {
        name: {"edges": exam.examine(exam.submission.Edges(), images, number=6, seed=0)}
        for name, images in domains.items()
    }
    photos = datasets.load(drawn.write(tmp_path), "all").in_shape(exam.SHAPE)
    own = exam.every_support(exam.submission.Edges(), photos)
    made = [
        (pictures.samples(domains), pictures.samples_text(domains)),
        (pictures.board(answers), pictures.board_text(answers)),
        (pictures.own(photos, own), pictures.own_text(photos, own)),
        (pictures.prices(), pictures.prices_text()),
        (pictures.speed(), pictures.speed_text()),
    ]
    for fig, text in made:
        assert figures.check_text(text, fig) == text
        assert "nan" not in text
        assert figures.png(fig)


def row(number, exercises, passed=(), stretch=(), guesses=0):
    return Row(f"{number}_a", list(exercises), list(passed), guesses, list(stretch), "write a test")


def test_the_path_says_that_nothing_is_done():
    rows = [row("00", ["00.1"]), row("17", ["17.1"])]
    assert "nothing is done yet" in pictures.path_text(rows)
    figures.png(pictures.path(rows))


def test_the_path_tells_done_begun_and_not_begun():
    rows = [
        row("00", ["00.1"], ["00.1"]),
        row("05", ["05.1", "05.2"], ["05.1"], stretch=["05.2"]),
        row("06", ["06.1", "06.2"], ["06.1"]),
        row("07", ["07.1"], guesses=1),
        row("17", ["17.1"]),
        row("99", []),  # of a notebook that is gone
    ]
    text = pictures.path_text(rows)
    assert "core passed: 00, 05; begun: 06, 07; not begun: 17" in text
    assert "3 of 7 exercises passed" in text
    plain, done = (figures.png(pictures.path(some)) for some in ([row("00", ["00.1"])], rows[:1]))
    assert plain != done


@pytest.mark.parametrize(("share", "queries"), [(0.95, 75), (0.35, 75), (0.5, 10)])
def test_the_worst_tenth_of_equally_hard_tasks_is_that_of_drawn_ones(share, queries):
    drawn = torch.distributions.Binomial(queries, torch.tensor(share)).sample((100_000,)) / queries
    assert stored.worst_by_chance(share, queries) == pytest.approx(
        drawn.sort().values[:10_000].mean().item(), abs=0.003
    )


def test_what_is_said_of_the_classes_follows_the_figures(monkeypatch):
    border, more, faces = stored.classes_and_gain()
    assert "20 classes do not beat the edges, 80 do" in border
    assert "up to 320; 799 gave no more" in more
    assert "no number that was tried" in faces
    kept = json.loads(json.dumps(stored.read("capstone.json")))
    for run in kept["runs"]:
        run["characters, 1-shot"] = {"accuracy": [run["classes"] / 1000, 0.01], "minus": [[1, 0], [0, 1]]}
        run["drawn faces, 1-shot"]["minus"] = [[1, 0], [1 if run["classes"] > 100 else 0, 0.5]]
    monkeypatch.setattr(stored, "read", lambda *place: kept)
    border, more, faces = stored.classes_and_gain()
    assert "no number that was tried" in border
    assert more == "More classes help up to 799."
    assert "320 or more beat the edges" in faces


def test_worst_tenths_are_below_the_means():
    rows = stored.means_and_worst()
    assert [value for _, value, *_ in rows] == sorted((value for _, value, *_ in rows), reverse=True)
    assert all(worst < chance < value for _, value, _, worst, chance in rows)
    right = stored.logs()["prototypical"]
    assert any(abs(value - right.mean().item()) < 1e-12 for _, value, *_ in rows)
    assert isinstance(right, torch.Tensor)
