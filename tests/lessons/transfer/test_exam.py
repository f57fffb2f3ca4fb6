"""What notebook 16 trains and compares, held against the package and against made-up results."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from mlcourse import datasets, training
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.learners.distillation import DistilledClassifier, soft_cross_entropy
from mlcourse.learners.transfer import PretrainedBody
from mlcourse.lessons.transfer import checks, exam
from mlcourse.protocols.flop import counted_flops


@pytest.fixture(scope="module")
def data():
    return datasets.load("glyphs", "test").select(range(12))


def body(channels=4, seed=0, **more):
    torch.manual_seed(seed)
    return PretrainedBody(exam.network(channels), **more)


# ------------------------------------------------------------------ the price


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
@pytest.mark.parametrize("tasks", [3, 8])
def test_the_formula_of_16_2_is_what_pytorch_counts_for_a_step(data, classifier, tasks):
    learner = body(classes=data.classes, classifier=classifier)
    layers = exam.layers_of(learner.network, data.classes)
    counted = exam.step_of(learner, training.Images(data), tasks)
    assert checks.training_flop.reference([(layers, tasks)]) == counted
    x, y = training.Images(data).sample(tasks, torch.Generator().manual_seed(0))
    assert counted_flops(lambda: learner.outer_loss((x, y))[0].backward()) == counted


def test_counting_changes_nothing(data):
    learner = body(classes=data.classes)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    exam.step_of(learner, training.Images(data), 4)
    exam.layers_of(learner.network, data.classes)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(one.grad is None for one in learner.parameters())


@pytest.mark.parametrize("images", [7, 12])
def test_a_centre_is_paid_from_the_price(data, images):
    """Forward passes alone, on the body without its last layer; what is left pays for steps."""
    learner, source = body(classes=data.classes, classifier="cosine"), training.Images(data)
    layers = exam.layers_of(learner.network, data.classes)[:-1]
    forward = images * sum(2 * a * b * s**2 * h * w for a, b, s, h, w in layers)
    step = exam.step_of(learner, source, 4)
    assert exam.centring_of(learner, data.images[:images]) == forward
    assert not learner.centre.any()  # counted on a copy
    assert exam.steps_for(3 * step, learner, source, 4) == 3
    for price, steps in ((3 * step, 3 - math.ceil(forward / step)), (3 * step + forward, 3)):
        assert exam.steps_for(price, learner, source, 4, centre=data.images[:images]) == steps
    with pytest.raises(CourseError, match="pays for no step"):
        exam.steps_for(step + forward - 1, learner, source, 4, centre=data.images[:images])


def test_weights_are_counted_with_the_last_layer(data):
    learner = body(classes=data.classes)
    last = learner.network.embedding_size * 12 + 12
    assert exam.weights_of(learner) == exam.weights_of(learner.network) + last


def test_some_classes_are_different_ones(data):
    some = exam.some_classes(data, 5, torch.Generator().manual_seed(0))
    assert some.classes == len(set(some.names)) == 5
    assert exam.some_classes(data, 99, torch.Generator().manual_seed(0)).classes == 12


# ------------------------------------------------------------------ a head of one's own


def test_a_head_of_ones_own_answers_as_the_package_does(data):
    learner = body().centre_on(data.images)
    batch = EpisodeSampler(data, 5, 2, 3).sample(4, torch.Generator().manual_seed(0))
    ours = exam.WithHead(learner, checks.transfer_head.reference).eval()
    with torch.no_grad():
        package = learner.eval()(batch.support_x, batch.support_y, batch.query_x)
    scores = ours(batch.support_x, batch.support_y, batch.query_x)
    torch.testing.assert_close(scores * learner.scale, package, rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------ who wins


def made_up(difference, spread, n=600):
    """Accuracies of n tasks whose differences have this mean and this spread."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, generator=generator, dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    b = 0.5 + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    return b + difference + spread * noise, b


@pytest.mark.parametrize(
    ("difference", "winner", "words"),
    [
        (
            0.05,
            "meta-trained",
            "Here meta-trained wins against pre-trained by d = 0.50: the paired difference is 5.0 p",
        ),
        (
            -0.05,
            "pre-trained",
            "Here pre-trained wins against meta-trained by d = 0.50: the paired difference is 5.0 p",
        ),
        (0.004, "", "Here nobody is shown to win: meta-trained minus pre-trained is +0.4 points"),
        (-0.004, "", "Here nobody is shown to win: meta-trained minus pre-trained is -0.4 points"),
    ],
)
def test_another_result_turns_the_sentence_round(difference, winner, words):
    said = exam.verdict(*made_up(difference, 0.1), "meta-trained", "pre-trained")
    assert said.winner == winner
    assert words in said.sentence
    low, high = sorted(
        (said.gap.lower, said.gap.upper) if winner != "pre-trained" else (-said.gap.upper, -said.gap.lower)
    )
    assert f"{100 * low:+.1f} to {100 * high:+.1f} over 600 tasks" in said.sentence


def test_nothing_is_said_of_equal_results_and_of_one():
    a, _ = made_up(0.1, 0.1)
    assert exam.verdict(a, a, "x", "y").winner == ""
    assert exam.verdict(a[:1], a[1:2], "x", "y").winner == ""


@pytest.mark.parametrize(("pairs", "told"), [(3, False), (9, False), (10, True), (40, True)])
@pytest.mark.parametrize("difference", [0.001, 0.2])
def test_d_is_told_of_enough_pairs_only(pairs, told, difference):
    """Three differences that are alike by luck would give a d of 12."""
    said = exam.verdict(*made_up(difference, 0.01, pairs), "x", "y", of="trainings")
    assert bool(said.winner) == (difference > 0.1)
    assert ("d = " in said.sentence) == told


def test_stored_results_are_read_where_they_are(tmp_path, monkeypatch):
    row = {"accuracy of each seed": [0.5, 0.75], "FLOP of training": 1e11}
    budget = {"methods": dict.fromkeys(("prototypical", "simpleshot", "meta-baseline"), row), "sentences": ["A wins."]}
    more = {"methods": dict.fromkeys(("prototypical", "simpleshot, 300 classes"), row), "sentences": ["C wins."]}
    kept = {"glyphs": {"budgets": [budget]}}
    pair = {"difference": 0.051, "ci95": 0.02}
    kept["learnt"] = {"data": "digits", "initialisations": 20, "pairs": {"learnt minus real": pair}}
    each = {"glyphs": {"sentences": ["Nobody wins."]}, "omniglot": {"sentences": ["B wins."]}}
    kept["distillation"] = {"temperature": 4.0, "recipe": {}} | each
    monkeypatch.setattr(exam.places, "data", lambda: tmp_path)
    assert exam.stored_points() == {}
    assert exam.stored_sentences("learnt") == ["This copy of the course has no stored results of learnt."]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "transfer.json").write_text(json.dumps(kept), encoding="utf-8")
    assert exam.stored_points() == {name: {1e11: [50.0, 75.0]} for name in exam.STORED_WAYS.values()}
    assert exam.stored_sentences("glyphs") == ["A wins."]
    assert exam.stored_block("glyphs") == ["--- glyphs, all classes, first settings, largest price ---", "A wins."]
    missing = "This copy of the course has no stored results of caltech101."
    assert exam.stored_block("caltech101")[1:] == [missing]
    kept["caltech101"] = {"budgets": [{"sentences": ["not this"]}, {"sentences": ["D wins."]}]}
    (tmp_path / "results" / "transfer.json").write_text(json.dumps(kept), encoding="utf-8")
    assert exam.stored_block("caltech101")[1:] == ["D wins."]
    assert exam.stored_recipe() == []
    kept["glyphs"]["settings"] = {"pre-trained": {"size": 64, "rate": 0.002}}
    edge = {"size": 10, "rate": 0.005, "at the edge of the grid": ["size"]}
    kept["strongest"] = {"glyphs": {"settings": {"prototypical": edge}, "budgets": [more]}}
    (tmp_path / "results" / "transfer.json").write_text(json.dumps(kept), encoding="utf-8")
    assert set(exam.stored_points()) == {*exam.STORED_WAYS.values(), *exam.STRONGEST.values()}
    assert exam.stored_sentences("strongest") == ["C wins."]
    assert exam.stored_recipe() == [
        "How the grey ones were trained: pre-training on all classes, 64 pictures in a step, rate 0.002.",
        "How those of the wider search were trained: meta-training, 10 classes in a task, rate 0.005 (at the edge of "
        "what was tried).",
    ]
    assert exam.stored_sentences("distillation") == ["Nobody wins.", "B wins."]
    (told,) = exam.stored_sentences("learnt")
    assert told == "digits: ten learnt pictures minus ten real ones: +5.1 ± 2.0 points over 20 fresh networks."


# ------------------------------------------------------------------ a teacher and its students


def test_letters_keep_fonts_apart(data):
    letters = exam.Letters(data, learn=14)
    assert letters.x.shape == (12 * 14, 1, 28, 28)
    assert letters.test_x.shape == (12 * 6, 1, 28, 28)
    assert torch.equal(letters.x[14], data.of_class(1)[0].float() / 255)
    assert torch.equal(letters.test_x[0], data.of_class(0)[14].float() / 255)
    x, y = letters.sample(5, torch.Generator().manual_seed(0))
    assert any(torch.equal(x[0], one) for one in letters.x[letters.y == y[0]])


def test_a_taught_classifier_is_the_packages(data):
    """The same loss, once with the learner's function and once by the package."""
    letters, teacher = exam.Letters(data, learn=14), body(classes=12, seed=1)
    batch = letters.sample(6, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    how = {"teacher": teacher, "loss": checks.soft_loss.reference, "temperature": 4.0, "weight": 0.9}
    ours = exam.student(exam.network(4), 12, **how)
    torch.manual_seed(0)
    package = DistilledClassifier(exam.network(4), teacher=teacher, temperature=4.0, weight=0.9)
    losses = [one.outer_loss(batch)[0].item() for one in (ours, package)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    torch.manual_seed(0)
    alone = exam.student(exam.network(4), 12)
    logits = torch.randn(6, 12)
    assert float(alone.class_loss(logits, batch)) == pytest.approx(float(F.cross_entropy(logits, batch[1])))
    assert exam.weights_of(ours) == exam.weights_of(alone), "a teacher's weights are not trained"


def test_a_teacher_is_frozen(data):
    letters, teacher = exam.Letters(data, learn=14), body(classes=12, seed=1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = exam.student(exam.network(4), 12, teacher=teacher, loss=soft_cross_entropy)
    training.train(student, letters, steps=2, tasks=4, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    kept = student.teacher.learner
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    assert sum(one.requires_grad for one in student.parameters()) == len(list(teacher.parameters()))


def test_an_interval_over_trainings_has_one_value_for_each():
    """Many pictures of few trainings are few values: the sentence counts trainings, and its interval is wide."""
    generator = torch.Generator().manual_seed(0)
    taught, alone = (
        [(torch.rand(470, generator=generator) < share).double() for share in shares]
        for shares in ((0.9, 0.5, 0.9), (0.6, 0.6, 0.6))
    )
    each = [exam.of_trainings(one) for one in (taught, alone)]
    assert each[0].tolist() == [float(one.mean()) for one in taught]
    said = exam.verdict(*each, "taught", "alone", of="trainings")
    assert said.winner == ""
    assert "over 3 trainings" in said.sentence


def test_stored_ways_are_in_the_stored_file():
    assert set(exam.stored_points()) == {*exam.STORED_WAYS.values(), *exam.STRONGEST.values()}
    assert len(exam.stored_recipe()) == 2
    assert len(exam.stored_sentences("glyphs")) == len(exam.stored_sentences("omniglot")) == 3
    said = exam.stored_sentences("strongest")
    assert len(said) == sum(len(one["budgets"]) for one in exam.stored("strongest").values()) >= 3
    assert all("simpleshot, 300 classes" in one and "prototypical" in one for one in said)
    assert len(exam.stored_sentences("distillation")) == 4


def test_a_heading_says_what_its_block_holds():
    """Of the file, not by counting: data sets in their order, which settings, which prices."""
    for part in exam.HEADINGS:
        heading, *said = exam.stored_block(part)
        assert exam.HEADINGS[part] in heading
        if part == "strongest":
            order = [one.split(",")[0] for one in said]
            assert list(dict.fromkeys(order)) == ["glyphs", "omniglot"], "the heading says: glyphs, then Omniglot"
        elif found := exam.stored(part):
            assert all(part in one.split(",")[0] for one in said)
            assert all(f"{found['budgets'][-1]['FLOP']:.3g}" in one for one in said)


def test_a_copy_without_the_frozen_networks_figures_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(exam.places, "data", lambda: tmp_path)
    assert exam.near_and_far() == exam.ways() == {}
    assert exam.backbone_sentences() == ["This copy of the course has no stored results of a frozen network."]


def test_the_frozen_networks_figures_are_those_of_the_file():
    kept = json.loads((exam.places.data() / "results" / "backbone.json").read_text(encoding="utf-8"))
    shown, said = exam.near_and_far(), exam.backbone_sentences()
    assert list(shown) == list(kept["places"])
    for where, told in kept["places"].items():
        row = told["methods"][kept["head"]["chosen"]]
        assert shown[where]["frozen network"][0] == pytest.approx(100 * row["accuracy"])
        low, high = shown[where]["frozen network"][1:]
        assert low < shown[where]["frozen network"][0] < high
        assert set(told["sentences"]) & set(said), where
    assert exam.ways() == {where: told["way"] for where, told in kept["places"].items()}
    assert "1-shot, 15 queries per class, 1,000 tasks. BCCD, blood cells: 3-way; all others: 5-way." in said[1]
    assert "not the effect of having been seen" in " ".join(said)
    assert "not ours, and not counted" in said[0]
    assert f"{kept['seen']['groups']['seen']['classes']} classes seen: " in " ".join(said)
    assert f"{100 * kept['copies']['without the surest']['accuracy']:.1f} % without the surest" in said[-1]


# ------------------------------------------------------------------ ten pictures that teach


def test_a_film_keeps_what_it_was_told_to(data):
    letters = exam.Letters(data.select(range(3)), learn=14)
    torch.manual_seed(0)
    learnt = exam.Filmed(exam.small_network(3), keep=(0, 2), classes=3, inner_steps=2, rate=0.3)
    learnt.start_from(letters.x[::14])
    training.train(learnt, letters, steps=3, tasks=8, rate=0.01, progress=False)
    assert set(learnt.film) == {0, 2}
    assert torch.equal(learnt.film[0], letters.x[::14])
    assert not torch.equal(learnt.film[2], learnt.images)


def test_the_best_rate_is_one_of_those_tried(data):
    letters = exam.Letters(data.select(range(3)), learn=14)
    torch.manual_seed(0)
    learnt = exam.Filmed(exam.small_network(3), classes=3, inner_steps=3, rate=0.3)
    rate = exam.best_rate(learnt, letters.x[::14], letters, (1e-6, 0.3), seeds=3)
    assert rate == 0.3
    pair = [exam.taught_by(learnt, letters.x[::14], r, letters.x, letters.y, 3) for r in (0.3, 0.3)]
    assert torch.equal(*pair)


def test_more_than_one_picture_of_each_class_teaches_with_its_labels(data):
    """The rate of a hundred pictures is chosen on them, and not that of ten others."""
    letters = exam.Letters(data.select(range(3)), learn=14)
    torch.manual_seed(0)
    learnt = exam.Filmed(exam.small_network(3), classes=3, inner_steps=3, rate=0.3)
    each = {
        rate: exam.taught_by(learnt, letters.x, rate, letters.x, letters.y, range(100, 103), letters.y).mean()
        for rate in (1e-6, 0.1, 100.0)
    }
    assert exam.best_rate(learnt, letters.x, letters, tuple(each), 3, letters.y) == max(each, key=each.get)
    plain = learnt.accuracy(letters.x, letters.y, seeds=3, images=letters.x, labels=letters.y, rate=torch.tensor(0.1))
    assert torch.equal(exam.taught_by(learnt, letters.x, 0.1, letters.x, letters.y, 3, letters.y), plain)


def test_linear_accuracy_is_that_of_one_step():
    weights, pictures = torch.zeros(4, 2), torch.eye(4)[:2]
    labels, x = torch.tensor([0, 1]), torch.eye(4)[[0, 1, 1]]
    assert exam.linear_accuracy(weights, pictures, labels, torch.tensor(1.0), x, torch.tensor([0, 1, 0])) == 2 / 3
