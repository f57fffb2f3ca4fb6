"""What notebook 17 asks its learners: tasks of any way and shot, a submission's file, own pictures, a budget."""

import ast
import itertools
from pathlib import Path

import pytest
import torch
from scipy import stats

from mlcourse import datasets
from mlcourse.evaluation import depends_on_company
from mlcourse.learners import PixelNeighbours
from mlcourse.lessons.capstone import checks, drawn, exam, submission


@pytest.fixture(scope="module")
def characters():
    return exam.domains()["characters"]


def test_tasks_have_any_way_and_shot_and_are_the_same_for_all(characters):
    first, again = (list(exam.tasks(characters, 30, seed=1)) for _ in range(2))
    assert all(torch.equal(a.query_index, b.query_index) for a, b in zip(first, again, strict=True))
    ways = {task.way for task in first}
    shots = {task.support_x.shape[1] // task.way for task in first}
    assert min(ways) >= exam.WAYS[0]
    assert max(ways) <= exam.WAYS[1]
    assert len(ways) > 8
    assert shots == set(range(exam.SHOTS[0], exam.SHOTS[1] + 1))


def test_the_score_is_that_of_the_exercise_and_the_parts_add_up_to_it(characters):
    answers = exam.examine(PixelNeighbours(), characters, number=20, seed=2)
    by_hand = float(checks.normalised.reference(answers.accuracy, answers.way))
    assert answers.over_tasks[0] == pytest.approx(by_hand)
    top, bottom = answers.parts.sum(0).tolist()
    assert top / bottom == pytest.approx(by_hand)
    assert bottom == pytest.approx(20)
    assert answers.over_data > answers.over_tasks[1] / 2
    assert exam.lead(answers, answers).difference == 0


@pytest.mark.parametrize("number", [8, 100])
def test_few_tasks_have_an_interval_by_students_t(characters, number):
    """With 8 tasks the factor is 2.36, not 1.96: an interval that is too narrow would name a winner too often."""
    a, b = (exam.examine(one, characters, number=number, seed=4) for one in (submission.Edges(), PixelNeighbours()))
    factor = 1.96 if number == 100 else stats.t.ppf(0.975, number - 1)
    gap = (a.normalised - b.normalised).double().numpy()
    lead, (_, half) = exam.lead(a, b), a.over_tasks
    assert lead.difference - lead.lower == pytest.approx(factor * stats.sem(gap), rel=1e-5)
    assert half == pytest.approx(factor * stats.sem(a.normalised.double().numpy()), rel=1e-5)


def test_too_few_clusters_have_no_interval(characters):
    one = exam.examine(PixelNeighbours(), characters, number=3, seed=0)
    alike = exam.Answers(one.accuracy, one.way, one.parts, torch.zeros_like(one.clusters))
    assert alike.over_data != alike.over_data  # nan


def test_the_learner_that_is_handed_in_leaks_and_the_mended_one_does_not():
    given = checks.alone.problems(0)[0][1]
    arguments = given["support"], given["labels"], given["queries"]
    alone = given["support"], given["labels"], given["queries"][:1]
    assert not torch.allclose(exam.together(*arguments)[:1], exam.together(*alone))
    mended = checks.alone.reference
    assert torch.allclose(mended(*arguments)[:1], mended(*alone))
    assert not checks.alone.run(exam.together).passed


def test_the_submission_is_short_answers_alone_and_beats_pixels(characters):
    source = Path(submission.__file__).read_text(encoding="utf-8")
    (learner,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    assert learner.end_lineno - learner.lineno < 20
    task = next(exam.tasks(characters, 1, seed=3))
    assert not depends_on_company(submission.Edges(), task)
    a, b = (exam.examine(one, characters, number=40, seed=4) for one in (submission.Edges(), PixelNeighbours()))
    assert exam.lead(a, b).lower > 0


def test_unequal_shots_are_means_of_each_class():
    x = torch.rand(1, 4, 1, 28, 28)
    learner = submission.Edges()
    state = learner.adapt(x, torch.tensor([[0, 1, 0, 0]]))
    of_first = learner.features(x)[0, [0, 2, 3]].sum(0)
    assert torch.allclose(state["prototypes"][0, 0], of_first / of_first.norm(), atol=1e-6)


def test_the_file_is_written_once(tmp_path):
    path, new = exam.begin(tmp_path / "work")
    assert new
    assert path.read_bytes() == Path(submission.__file__).read_bytes()
    path.write_text("mine", encoding="utf-8")
    assert exam.begin(tmp_path / "work") == (path, False)
    assert path.read_text(encoding="utf-8") == "mine"


def test_the_file_as_it_came_is_asked_only_where_it_was_changed(tmp_path):
    asked, how = [], {"seed": 0, "episodes": 2, "track": "closed"}

    def run(path, **how):
        asked.append((Path(path).name, how))
        return "the card of the course's copy"

    path, _ = exam.begin(tmp_path)
    assert exam.as_it_came(path, "mine", run, **how) == "mine"
    assert not asked
    path.write_text("changed", encoding="utf-8")
    assert exam.as_it_came(path, "mine", run, **how) == "the card of the course's copy"
    assert asked == [("submission.py", how)]


# ------------------------------------------------------------------ own pictures


def test_fifteen_pictures_are_drawn_once_and_the_same_each_time(tmp_path):
    folder = drawn.write(tmp_path / "a")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert len(files) == 15
    other = drawn.write(tmp_path / "b")
    assert all((folder / name).read_bytes() == (other / name).read_bytes() for name in files)
    (folder / files[0]).write_bytes(b"mine")
    drawn.write(folder)
    assert (folder / files[0]).read_bytes() == b"mine"
    photos = datasets.load(other, "all")
    assert photos.counts.tolist() == [5, 5, 5]
    assert photos.names == ("cup", "key", "leaf")


class Tells(PixelNeighbours):
    """Right about class 0 only."""

    def predict(self, state, query_x):
        logits = super().predict(state, query_x)
        return torch.zeros_like(logits) + torch.tensor([1.0, 0, 0])


def test_each_choice_of_the_support_is_asked(tmp_path):
    photos = datasets.load(drawn.write(tmp_path), "all").in_shape(exam.SHAPE)
    answers = exam.every_support(Tells(), photos)
    assert answers.accuracy.tolist() == pytest.approx([1 / 3] * 125)
    assert answers.normalised.tolist() == pytest.approx([0.0] * 125, abs=1e-9)
    assert answers.right.tolist() == [1.0] * 5 + [0.0] * 10


def test_two_methods_are_compared_choice_by_choice():
    a, b = (exam.Own(torch.tensor(shares), 3, torch.ones(9)) for shares in ([0.5, 0.7, 0.4, 0.9], [0.4, 0.7, 0.6, 0.8]))
    assert a.against(b) == (2, 1)
    assert b.against(a) == (1, 2)


def test_many_pictures_have_a_number_of_choices_that_ends(characters):
    some = characters.select(range(12))
    answers = exam.every_support(PixelNeighbours(), some)
    assert len(answers.accuracy) == exam.MOST_DRAWS
    assert len(set(answers.accuracy.tolist())) > 10


# ------------------------------------------------------------------ a budget


def test_the_cost_of_steps_is_counted_and_grows():
    costs = [exam.cost_of_tuning(steps) for steps in (0, 1, 2, 3)]
    steps = [b - a for a, b in itertools.pairwise(costs)]
    assert steps[0] > 0
    assert steps[1] == steps[2]
    within = checks.steps_within.reference(exam.cost_of_tuning, costs[2], 8)
    assert within == 2
