"""Pre-trained bodies: heads against scikit-learn, what is refused, the commands."""

import math

import pytest
import torch
from core_helpers import random_episode, squares
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.nn import functional as F

from mlcourse import datasets, files, learners, training
from mlcourse.commands import app
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.learners import PretrainedBody, choose_rate, load_body
from mlcourse.learners.transfer import HEADS, logistic_regression
from mlcourse.networks import Conv4
from mlcourse.protocols import flop, results


def body(**settings) -> PretrainedBody:
    torch.manual_seed(0)
    network = Conv4(channels=4, size=16, normalisation="group", downsample="stride")
    return PretrainedBody(network, **settings).double()


def features(learner: PretrainedBody, x: torch.Tensor) -> torch.Tensor:
    """What a head sees, written out: float64 [tasks, images, D]."""
    with torch.no_grad():
        z = torch.stack([learner.network(images).flatten(1) for images in x])
    z = z - learner.centre if learner.centred else z
    return z / z.square().sum(-1, keepdim=True).sqrt()


def answers(learner: PretrainedBody, batch) -> torch.Tensor:
    return learner(batch.support_x, batch.support_y, batch.query_x).detach()


# ------------------------------------------------------------------ heads against scikit-learn


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("way", "shot"), [(3, 1), (5, 4), (10, 2)])
def test_logistic_regression_is_scikit_learns(way, shot, strength):
    learner, batch = body(head="logistic", strength=strength), random_episode(2, way, shot, size=16)
    support, query = features(learner, batch.support_x), features(learner, batch.query_x)
    found = answers(learner, batch).softmax(-1)
    for task in range(2):
        theirs = LogisticRegression(C=1 / strength, solver="newton-cg", tol=1e-12, max_iter=1000)
        theirs.fit(support[task].numpy(), batch.support_y[task].numpy())
        expected = torch.from_numpy(theirs.predict_proba(query[task].numpy()))
        torch.testing.assert_close(found[task], expected, rtol=0, atol=1e-8)


def test_of_two_classes_it_is_scikit_learns_with_twice_the_c():
    """There one vector w tells two classes apart, here W and −W = −w/2: ‖W‖² + ‖−W‖² is half of ‖w‖²."""
    learner, batch = body(head="logistic"), random_episode(1, 2, 3, size=16)
    support, query = features(learner, batch.support_x)[0], features(learner, batch.query_x)[0]
    theirs = LogisticRegression(C=2.0, solver="newton-cg", tol=1e-12, max_iter=1000).fit(
        support.numpy(), batch.support_y[0].numpy()
    )
    expected = torch.from_numpy(theirs.predict_proba(query.numpy()))
    torch.testing.assert_close(answers(learner, batch)[0].softmax(-1), expected, rtol=0, atol=1e-8)


def test_logistic_regression_ends_where_the_gradient_is_zero():
    torch.manual_seed(0)
    z, y = torch.randn(3, 12, 30, dtype=torch.float64), torch.arange(4).repeat(3).expand(3, -1)
    weights, bias = (value.requires_grad_() for value in logistic_regression(z, F.one_hot(y, 4), 0.3))
    entropy = F.cross_entropy((z @ weights + bias.unsqueeze(1)).flatten(0, 1), y.flatten(), reduction="sum")
    (0.15 * weights.square().sum() + entropy).backward()
    assert weights.grad.abs().max() < 1e-8
    assert bias.grad.abs().max() < 1e-8


def test_logistic_regression_that_does_not_arrive_says_so():
    z, y = torch.eye(2, dtype=torch.float64).unsqueeze(0), torch.eye(2).unsqueeze(0)
    with pytest.raises(CourseError, match=r"not arrived after 5000 steps at strength 1e-09; take a larger one"):
        logistic_regression(z, y, 1e-9)


@pytest.mark.parametrize("shot", [1, 4])
@pytest.mark.parametrize("centred", [True, False])
def test_nearest_centroids_are_scikit_learns(shot, centred):
    learner, batch = body(head="centroid", centred=centred), random_episode(3, 5, shot, 10, size=16)
    learner.centre_on(torch.rand(50, 1, 16, 16, generator=torch.Generator().manual_seed(1)))
    support, query = features(learner, batch.support_x), features(learner, batch.query_x)
    found = answers(learner, batch).argmax(-1)
    for task in range(3):
        theirs = NearestCentroid().fit(support[task].numpy(), batch.support_y[task].numpy())
        assert found[task].tolist() == theirs.predict(query[task].numpy()).tolist()


@pytest.mark.parametrize("strength", [0.01, 1.0, 50.0])
def test_ridge_is_scikit_learns(strength):
    learner, batch = body(head="ridge", strength=strength, scale=3.0), random_episode(2, 5, 3, size=16)
    support, query = features(learner, batch.support_x), features(learner, batch.query_x)
    found = answers(learner, batch)
    for task in range(2):
        theirs = Ridge(alpha=strength, fit_intercept=False, solver="svd")
        theirs.fit(support[task].numpy(), F.one_hot(batch.support_y[task]).numpy())
        expected = 3 * torch.from_numpy(theirs.predict(query[task].numpy()))
        torch.testing.assert_close(found[task], expected, rtol=1e-9, atol=1e-10)


def test_a_cosine_head_is_descent_on_the_support_set_from_the_means():
    learner, batch = body(head="cosine", inner_steps=7, rate=0.3, scale=5.0), random_episode(2, 4, 3, size=16)
    support, query = features(learner, batch.support_x), features(learner, batch.query_x)
    for task in range(2):
        w = torch.stack([support[task][batch.support_y[task] == k].mean(0) for k in range(4)]).requires_grad_()
        for _ in range(7):
            logits = 5 * F.cosine_similarity(support[task].unsqueeze(1), w.unsqueeze(0), dim=-1)
            (slope,) = torch.autograd.grad(F.cross_entropy(logits, batch.support_y[task]), w)
            w = (w - learner.rate * slope).detach().requires_grad_()
        expected = 5 * F.cosine_similarity(query[task].unsqueeze(1), w.unsqueeze(0), dim=-1)
        torch.testing.assert_close(answers(learner, batch)[task], expected.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_a_task_is_answered_as_if_it_were_alone_to_the_last_digits(head):
    learner, batch = body(head=head), random_episode(4, 5, 2, size=16)
    whole = answers(learner, batch)
    for task in range(4):
        torch.testing.assert_close(answers(learner, batch.task(task)), whole[task : task + 1], rtol=1e-10, atol=1e-11)


# ------------------------------------------------------------------ the rate of a cosine head


def test_the_validated_rate_is_the_best_one_and_is_saved(tmp_path):
    learner = learners.build("baseline++", way=4, size=16, channels=4, seed=0, classes=12)
    source = EpisodeSampler(squares(split="val"), 4, 2, 5)
    found = choose_rate(learner, source, rates=(1e-9, 0.3, 30.0), episodes=50)
    assert list(found) == [1e-9, 0.3, 30.0]
    assert learner.rate.item() == pytest.approx(max(found, key=found.get))
    batch = source.sample(50, torch.Generator().manual_seed(0))
    for rate, accuracy in found.items():  # each is what the learner itself gives at that rate
        learner.rate.fill_(rate)
        logits = learner.eval()(batch.support_x, batch.support_y, batch.query_x)
        assert (logits.argmax(-1) == batch.query_y).double().mean().item() == pytest.approx(accuracy, abs=2e-3)
    learner.rate.fill_(0.07)
    learners.save(learner, tmp_path)
    assert learners.load(tmp_path).rate.item() == pytest.approx(0.07)


def test_of_equal_rates_the_first_is_kept_and_only_a_cosine_head_has_one():
    learner, source = body(head="cosine", inner_steps=0), EpisodeSampler(squares(), 4, 1, 5)
    assert len(set(choose_rate(learner, source, rates=(0.2, 0.1), episodes=5).values())) == 1
    assert learner.rate.item() == pytest.approx(0.2)
    with pytest.raises(CourseError, match="validated for the head 'cosine'"):
        choose_rate(body(head="ridge"), source)
    with pytest.raises(CourseError, match="no rate to try"):
        choose_rate(learner, source, rates=())
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(CourseError, match=r"rate is .*; give a finite number above 0"):
            choose_rate(learner, source, rates=(0.1, wrong))


# ------------------------------------------------------------------ pre-training


@pytest.mark.parametrize("method", ["simpleshot", "rfs", "pretrained-ridge", "baseline++"])
def test_pre_training_in_the_loop_of_all_learners_helps_with_new_classes(method, tmp_path):
    learner = learners.build(method, way=4, size=16, channels=8, seed=0, classes=12)
    history = training.train(
        learner, training.Images(squares()), steps=60, tasks=32, rate=1e-2, out=tmp_path / "run", progress=False
    )
    assert sum(history.values[-5:]) / 5 > 0.8
    batch = EpisodeSampler(squares(split="val"), 4, 1, 10).sample(30, torch.Generator().manual_seed(0))
    given = (batch.support_x, batch.support_y, batch.query_x)
    untrained = learners.build(method, way=4, size=16, channels=8, seed=0, classes=12).eval()
    right, before = ((one(*given).argmax(-1) == batch.query_y).double().mean() for one in (learner, untrained))
    assert right > before
    assert torch.equal(learners.load(tmp_path / "run")(*given), learner(*given))


def test_the_centre_follows_pre_training_and_is_exact_on_demand():
    learner = learners.build("simpleshot", way=4, size=16, channels=8, seed=0, classes=12)
    data = squares()
    training.train(learner, training.Images(data), steps=60, tasks=32, rate=1e-3, progress=False)
    followed = learner.centre.clone()
    with torch.no_grad():
        exact = learner.network(data.images.float() / 255).mean(0)
    for images in (data.images, data.images.float() / 255):
        torch.testing.assert_close(learner.centre_on(images, at_once=7).centre, exact, rtol=1e-4, atol=1e-5)
    assert F.cosine_similarity(followed, exact, 0) > 0.95
    moved = learner.centre.clone()
    learner.eval().outer_loss(training.Images(data).sample(32, torch.Generator().manual_seed(0)))
    assert torch.equal(learner.centre, moved), "in evaluation mode nothing is followed"


def test_a_cosine_classifier_gives_scaled_cosines():
    learner = body(classes=7, classifier="cosine", scale=6.0)
    x = random_episode(1, 2, 3, size=16).support_x[0]
    z, w = learner.network(x), learner.classifier.weight
    expected = 6 * F.cosine_similarity(z.unsqueeze(1), w.unsqueeze(0), dim=-1)
    torch.testing.assert_close(learner.class_logits(x), expected)


# ------------------------------------------------------------------ what is refused, in one line

SETTINGS = {
    "classifier 'round' is unknown; use one of linear, cosine": {"classifier": "round"},
    "head 'svm' is unknown; use one of centroid, logistic, ridge, cosine": {"head": "svm"},
    "strength is 0.0; give a finite number above 0": {"strength": 0.0},
    "scale is nan; give a finite number above 0": {"scale": math.nan},
    "rate is -1; give a finite number above 0": {"rate": -1},
    "inner_steps is -1; give a finite number, 0 or more": {"inner_steps": -1},
    "classes is 1; pre-training tells 2 classes or more apart": {"classes": 1},
    "classes is True; pre-training tells 2 classes or more apart": {"classes": True},
}


@pytest.mark.parametrize("message", SETTINGS)
def test_settings_that_make_no_sense(message):
    with pytest.raises(CourseError) as raised:
        body(**SETTINGS[message])
    assert str(raised.value) == message


def spoiled(**changes):
    batch = random_episode(2, 3, 2, size=16)
    return {"support_x": batch.support_x, "support_y": batch.support_y} | changes


X, Y = spoiled().values()
SUPPORTS = {
    "nan": (spoiled(support_x=X.masked_fill(X > 0.99, math.nan)), "features of the support set are nan or infinite"),
    "a label too few": (spoiled(support_y=Y[:, :-1]), "give images .tasks, images, C, H, W. and whole labels"),
    "one task's labels": (spoiled(support_y=Y[0]), "give images .tasks, images"),
    "values": (spoiled(support_y=Y.double()), r"the support labels are torch.float64 \(2, 6\); give whole numbers"),
    "no image": (spoiled(support_x=X[:, :0], support_y=Y[:, :0]), "one image or more"),
    "below 0": (spoiled(support_y=Y - 1), "a support label is -1; labels of a task are 0"),
    "a class without images": (spoiled(support_y=2 * Y), "no image of some class below 5"),
}


@pytest.mark.parametrize("what", SUPPORTS)
@pytest.mark.parametrize("head", HEADS)
def test_support_sets_that_make_no_sense(head, what):
    given, message = SUPPORTS[what]
    with pytest.raises(CourseError, match=message) as raised:
        body(head=head).adapt(**given)
    assert "\n" not in str(raised.value)


def test_inner_steps_of_a_head_without_them_and_classes_that_there_are_not():
    batch = random_episode(1, 3, 2, size=16)
    with pytest.raises(CourseError, match="the head 'ridge' has a solution and no inner steps"):
        body(head="ridge").adapt(batch.support_x, batch.support_y, inner_steps=3)
    images = (batch.support_x[0], torch.tensor([0, 1, 2, 3, 4, 5]))
    with pytest.raises(CourseError, match="PretrainedBody has no training classes; make it with classes="):
        body().outer_loss(images)
    with pytest.raises(CourseError, match=r"class 5 \(counted from 0\), but pre-training has 5 classes"):
        body(classes=5).outer_loss(images)
    with pytest.raises(CourseError, match="class -1"):
        body(classes=5).outer_loss((images[0], images[1] - 1))
    with pytest.raises(CourseError, match="there are no images"):
        body().centre_on(torch.zeros(0, 1, 16, 16))
    with pytest.raises(CourseError, match="must know how many numbers its network gives"):
        PretrainedBody(nn.Flatten())
    with pytest.raises(CourseError, match="normalisation 'batch' does not fit PretrainedBody"):
        PretrainedBody(Conv4(size=16))


# ------------------------------------------------------------------ beginning with a run


def test_a_body_goes_from_a_run_into_another_learner(tmp_path):
    options = {"way": 4, "size": 16, "channels": 4}
    first = learners.build("rfs", seed=0, classes=12, **options)
    training.train(first, training.Images(squares()), steps=3, tasks=8, out=tmp_path / "run", progress=False)
    for run in (first, tmp_path / "run"):
        for method in ("meta-baseline", "simpleshot"):
            other = learners.build(method, seed=5, **options)
            assert load_body(other, run) is other
            for name, value in first.network.state_dict().items():
                assert torch.equal(other.network.state_dict()[name], value)
            if method == "simpleshot":
                assert torch.equal(other.centre, first.centre)
                assert other.centre.any()
    with pytest.raises(CourseError, match="build the learner with the run's options"):
        load_body(learners.build("rfs", way=4, size=16, channels=8), first)
    with pytest.raises(CourseError, match=r"the networks differ: blocks.* here and None in the run"):
        load_body(learners.build("fomaml", normalisation="batch", **options), first)
    with pytest.raises(CourseError, match="PixelNeighbours has no network to start from"):
        load_body(first, learners.PixelNeighbours())


def test_meta_baseline_is_cosine_prototypes_from_another_start():
    batch = random_episode(2, 4, 3, size=16)
    one, other = (
        learners.build(name, way=4, size=16, channels=4, seed=3).double()
        for name in ("meta-baseline", "cosine-prototypical")
    )
    assert torch.equal(answers(one, batch), answers(other, batch))


def test_the_commands_train_on_images_and_begin_with_a_run(tmp_path, capsys):
    def call(*words) -> str:
        app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    run, meta = tmp_path / "rfs", tmp_path / "meta"
    said = call("train", "rfs", "--recipe", "smoke", "--out", run)
    assert "rfs on glyphs: 5 steps of 16 x 1 image of 3004 classes on" in said
    told = files.read_json(run / "config.json")
    assert (told["train_classes"], told["init"], "train_way" in told) == (3004, "none", False)
    assert "rfs" in call("evaluate", run, "--episodes", 5, "--query", 2)
    begun = call("train", "meta-baseline", "--recipe", "smoke", "--start", run, "--steps", 1, "--out", meta)
    alone = call("train", "meta-baseline", "--recipe", "smoke", "--steps", 1, "--out", tmp_path / "alone")
    said = "from random weights it is cosine-prototypical"
    assert (said in begun, said in alone) == (False, True)
    assert files.read_json(meta / "config.json")["init"] == run.as_posix()
    begun, about = learners.load_run(meta)
    batch = EpisodeSampler(datasets.load("glyphs", "val"), 5, 1, 2).sample(1, torch.Generator().manual_seed(0))
    assert flop.count(begun, batch, about)["training"] is None, (
        "the FLOP of the run that it began with would be missing"
    )
    assert results.made_by(about, begun) is None
    for option, value in (("--train-way", 5), ("--distort", 1), ("--within-groups", None)):
        words = [option] if value is None else [option, value]
        app(
            ["train", "rfs", "--recipe", "smoke", "--out", str(tmp_path / "no"), *map(str, words)],
            standalone_mode=False,
        )
        assert f"{option} is for training on episodes, and rfs trains on images" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_one_bad_batch_does_not_spoil_the_centre():
    learner = body(classes=3).train()
    bad = torch.full((2, 1, 16, 16), math.nan).double(), torch.tensor([0, 1])
    before = learner.centre.clone()
    learner.outer_loss(bad)
    assert torch.equal(learner.centre, before)
    with pytest.raises(CourseError, match="mean feature is nan"):
        learner.centre_on(bad[0])


@pytest.mark.parametrize("labels", [torch.tensor([0, 1], dtype=torch.int32), torch.zeros(0, dtype=torch.int64)])
def test_labels_of_pre_training_are_int64_and_one_or_more(labels):
    with pytest.raises(CourseError, match="give int64"):
        body(classes=3).train().outer_loss((torch.rand(len(labels), 1, 16, 16).double(), labels))


def test_small_whole_labels_of_a_task_are_labels():
    learner = body(classes=3).eval()
    x, y = torch.rand(1, 4, 1, 16, 16).double(), torch.tensor([[0, 1, 0, 1]])
    answers = [learner.predict(learner.adapt(x, one), x) for one in (y, y.int(), y.byte())]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def norms(learner, step):
    """Gains and biases of the normalisation that φ_t answers with."""
    return torch.cat([value[step] for name, value in sorted(learner.gains.items())])


def test_the_normalisation_goes_along_from_one_for_all_to_one_for_each_step_and_back():
    options = {"way": 4, "size": 16, "channels": 4, "inner_steps": 2}
    one = learners.build("maml", seed=0, **options, normalisation="support")
    each = learners.build("maml++", seed=1, **options, normalisation="support")
    names = [name for name in dict(one.network.named_parameters()) if ".norm." in name]
    with torch.no_grad():
        for name, value in one.network.named_parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))))
    trained = torch.cat([dict(one.network.named_parameters())[name].flatten() for name in sorted(names)])
    load_body(each, one)
    for step in range(3):
        assert torch.equal(norms(each, step), trained)
    x, y = torch.rand(1, 8, 1, 16, 16), torch.arange(4).repeat(1, 2)
    logits = [two.predict(two.adapt(x, y, inner_steps=0), x) for two in (one, each)]
    torch.testing.assert_close(*logits)
    back = load_body(learners.build("maml", seed=2, **options, normalisation="support"), each)
    torch.testing.assert_close(back.predict(back.adapt(x, y, inner_steps=0), x), logits[0])
    other = load_body(learners.build("maml++", seed=3, **options, normalisation="support"), each)
    assert torch.equal(norms(other, 1), trained)
    with torch.no_grad():
        next(iter(each.gains.values()))[1] += 0.5
    assert torch.equal(norms(load_body(other, each), 1), norms(each, 1))
    before = {name: value.clone() for name, value in one.state_dict().items()}
    with pytest.raises(CourseError, match="a normalisation for each of 2 inner steps, and the learner has one for all"):
        load_body(one, each)
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())  # refused as a whole
    with pytest.raises(CourseError, match="each of 2 inner steps, and the learner has 3 inner steps"):
        load_body(learners.build("maml++", **options | {"inner_steps": 3}, normalisation="support"), each)
