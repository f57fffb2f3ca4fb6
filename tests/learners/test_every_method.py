"""What must hold for every method: orders, threads, annealing, precision, distances."""

import concurrent.futures
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core_helpers import random_episode, squares
from torch import nn
from torch.nn import functional as F

from mlcourse import learners, training
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import FineTune, Learner, PrototypicalNetwork, squared_distances
from mlcourse.networks import Conv4

README = Path(learners.__file__).with_name("README.md")
SMALL = {"channels": 4}
TRAINED = [name for name, one in learners.METHODS.items() if one.recipes and one.learner.trains_on == "episodes"]
PRETRAINED = ["simpleshot", "rfs", "pretrained-ridge", "baseline++"]  # trained on images
VARIANTS = [
    *((method, {}) for method in TRAINED),
    ("pixels", {}),
    ("maml", {"one_by_one": True}),
    ("maml", {"normalisation": "support"}),
    ("maml", {"zero_head": True, "one_by_one": True}),
    ("anil", {"normalisation": "running"}),
    ("anil", {"one_by_one": True, "zero_head": True}),
    ("imaml", {"one_by_one": True}),
    ("hypernet", {"writes": "network"}),
    ("prototypical", {"scaled": True}),
    ("finetune", {"inner_steps": 3}),
    ("finetune", {"inner_steps": 3, "head_only": True}),
    *((method, {}) for method in PRETRAINED),
]


def made(method: str, way: int = 3, **options) -> nn.Module:
    """A small learner in float64, after a step of its statistics, so that running ones are not at their start."""
    if method == "pixels":
        return learners.build(method, way=way)
    torch.manual_seed(0)
    if method == "finetune":
        network = Conv4(channels=4, size=16, normalisation="running", downsample="stride")
        return FineTune(network, classes=7, **options).double()
    if method in PRETRAINED:
        learner = learners.build(method, way=way, size=16, seed=0, channels=4, classes=12, **options).double()
        images = training.Images(squares()).sample(32, torch.Generator().manual_seed(0))
        learner.train().outer_loss((images[0].double(), images[1]))
        return learner
    small = dict(SMALL) if method != "incontext" else SMALL | {"width": 8, "heads": 2}
    learner = learners.build(method, way=way, size=16, seed=0, **small | options).double()
    learner.train().outer_loss(random_episode(2, way, size=16, seed=5), generator=torch.Generator().manual_seed(0))
    return learner


# ------------------------------------------------------------------ the order of images means nothing


@pytest.mark.parametrize(("method", "options"), VARIANTS)
def test_the_order_of_support_and_queries_permutes_the_answers_and_changes_nothing_else(method, options):
    learner, batch = made(method, way=5, **options).eval(), random_episode(3, way=5, shot=2, query=3, size=16)
    answers = learner(batch.support_x, batch.support_y, batch.query_x)
    generator, task = torch.Generator().manual_seed(1), torch.arange(3).unsqueeze(1)
    support, queries = (torch.rand(y.shape, generator=generator).argsort(1) for y in (batch.support_y, batch.query_y))
    if method == "metanet":  # its examples stand at places of the support set; see the next test
        support = torch.arange(support.shape[1]).expand_as(support)
    again = learner(batch.support_x[task, support], batch.support_y[task, support], batch.query_x[task, queries])
    torch.testing.assert_close(again, answers[task, queries], rtol=1e-7, atol=1e-9)


def test_a_meta_network_reads_examples_in_the_order_of_the_support_set_and_says_so():
    from mlcourse.learners import metanet

    assert "the order of the support set changes an answer a little" in metanet.__doc__
    learner, batch = made("metanet", way=5).eval(), random_episode(2, way=5, shot=2, size=16)
    state = learner.adapt(batch.support_x, batch.support_y)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    other = learner.adapt(batch.support_x[:, order], batch.support_y[:, order])
    # what is written for each image by itself only changes its place; Q* is another one
    for name in ("memory_fc", "memory_head"):
        torch.testing.assert_close(other[name], state[name][:, order], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(other["fast_u"], state["fast_u"])


# ------------------------------------------------------------------ threads


@pytest.mark.parametrize("training_mode", [True, False])
@pytest.mark.parametrize(("method", "options"), VARIANTS)
def test_threads_that_share_a_learner_get_the_answers_that_they_would_get_alone(method, options, training_mode):
    learner = made(method, **options).train(training_mode)
    batches = [random_episode(2, size=16, seed=seed) for seed in range(8)]
    with torch.no_grad():
        alone = [learner(b.support_x, b.support_y, b.query_x) for b in batches]
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    held = [id(value) for value in learner.state_dict(keep_vars=True).values()]
    together = threading.Barrier(len(batches))

    def ask(index: int) -> list[torch.Tensor]:
        b, found = batches[index], []
        together.wait()
        with torch.no_grad():
            for _ in range(3):
                state = learner.adapt(b.support_x, b.support_y)
                found.append(learner.predict(state, b.query_x))
        return found

    with concurrent.futures.ThreadPoolExecutor(len(batches)) as pool:
        answers = list(pool.map(ask, range(len(batches))))
    for index, found in enumerate(answers):
        for one in found:
            torch.testing.assert_close(one, alone[index], rtol=1e-9, atol=1e-10)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    assert [id(value) for value in learner.state_dict(keep_vars=True).values()] == held
    assert learner.training == training_mode


@pytest.mark.parametrize(("method", "options"), VARIANTS)
def test_evaluation_moves_no_parameter_and_no_buffer(method, options):
    class Source:
        def sample(self, tasks, generator):
            return random_episode(tasks, size=16)

    learner = made(method, **options)
    for mode in (True, False):
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        evaluate(learner.train(mode), Source(), episodes=3)
        assert learner.training == mode
        assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())


def test_every_method_that_trains_on_images_is_tried_here():
    recipes = {name for name, one in learners.METHODS.items() if one.recipes}
    assert recipes - set(TRAINED) == set(PRETRAINED)


# ------------------------------------------------------------------ annealing


def gradient(learner, batch, **settings) -> torch.Tensor:
    learner.zero_grad()
    learner.train().outer_loss(batch, generator=torch.Generator().manual_seed(3), **settings)[0].backward()
    each = [p for p in learner.parameters() if p.requires_grad]
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in each])


ANNEALED = {"every_step_until": 100, "first_order_until": 50, "inner_steps": 2}


@pytest.mark.parametrize(
    ("method", "options"),
    [*((m, {}) for m in TRAINED), ("maml", ANNEALED), ("anil", ANNEALED)],
)
def test_without_a_step_the_annealing_is_over_to_the_bit(method, options):
    batch = random_episode(2, size=16)
    default, late = (gradient(made(method, **options), batch, **more) for more in ({}, {"step": 10**7}))
    assert torch.equal(default, late)


@pytest.mark.parametrize(
    ("method", "options"), [("maml++", {"inner_steps": 2}), ("maml", ANNEALED), ("anil", ANNEALED)]
)
def test_the_default_is_second_order_and_the_first_step_is_not(method, options):
    batch = random_episode(2, size=16)
    exact = gradient(made(method, **options | {"every_step_until": 0, "first_order_until": 0}), batch)
    cut = gradient(made(method, **options | {"every_step_until": 0, "first_order_until": 10}), batch, step=0)
    assert torch.equal(gradient(made(method, **options), batch), exact)
    assert (cut - exact).norm() > 1e-3 * exact.norm()
    assert not torch.equal(gradient(made(method, **options), batch, step=0), exact)


# ------------------------------------------------------------------ mixed precision


def table() -> dict[str, bool]:
    """Of the README: whether a method works in bfloat16."""
    rows = [line.split("|")[1:3] for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {name.strip().strip("`"): verdict.strip() == "works" for name, verdict in rows}


def works(method: str, **options) -> bool:
    """Whether the outer loss on glyphs is finite under autocast, and its gradient has a cosine above 0.9."""
    sampler = EpisodeSampler(learners_data(), 5, 2, 5)
    batch, found = sampler.sample(4, torch.Generator().manual_seed(0)), []
    for precision in (False, True):
        learner = learners.build(method, way=5, seed=0, channels=16, **options)
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision):
                found.append(gradient(learner, batch))
        except CourseError:
            return False
    return bool(found[1].isfinite().all()) and F.cosine_similarity(*found, 0).item() > 0.9


def learners_data():
    from mlcourse import datasets

    return datasets.load("glyphs", "train")


MIXED = [
    ("prototypical", {"normalisation": "none"}),
    ("r2d2", {"normalisation": "none"}),
    ("r2d2", {"normalisation": "group"}),
    ("anil", {"normalisation": "running"}),
    ("anil", {"one_by_one": True}),
    ("hypernet", {"writes": "network"}),
    ("metanet", {"second_order": True}),
    ("maml", {"one_by_one": True}),
    ("fomaml", {"one_by_one": True}),
    ("imaml", {"one_by_one": True}),
]


@pytest.mark.parametrize(("method", "options"), [*((m, {}) for m in TRAINED), *MIXED])
def test_the_table_of_mixed_precision_is_what_happens(method, options):
    learner = learners.build(method, way=5, seed=0, channels=16, **options)
    allowed = getattr(learner, "mixed_precision", True)
    assert works(method, **options) == allowed
    if not options:
        row = f"| `{method}` | {'works' if allowed else 'refuses'} |"
        assert table().get(method) == allowed, f"the table of {README.name} in learners needs the row {row}"
    settings = {"steps": 1, "tasks": 2, "precision": "bfloat16", "progress": False}
    sampler = EpisodeSampler(learners_data(), 5, 2, 5)
    if allowed:
        assert math.isfinite(training.train(learner, sampler, **settings).losses[0])
    else:
        with pytest.raises(CourseError, match="loses too many digits in mixed precision"):
            training.train(learner, sampler, **settings)


def test_every_method_stands_in_the_table():
    assert set(table()) == set(TRAINED)


@pytest.mark.parametrize("method", ["fine-tune", *PRETRAINED])
def test_pre_training_works_in_mixed_precision(method):
    data, found = learners_data(), []
    batch = training.Images(data).sample(64, torch.Generator().manual_seed(0))
    for precision in (False, True):
        options = {"normalisation": "running", "channels": 16, "classes": data.classes}
        learner = learners.build(method, way=5, seed=0, **options)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision):
            found.append(gradient(learner, batch))
    assert F.cosine_similarity(*found, 0) > 0.9


# ------------------------------------------------------------------ squared distances


def direct(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)


@pytest.mark.parametrize("offset", [0.0, 1.0, 100.0, 1e4, -1e4])
@pytest.mark.parametrize("dimensions", [1, 64, 256])
def test_squared_distances_keep_their_digits_far_from_zero(offset, dimensions):
    torch.manual_seed(0)
    a, b = (torch.randn(3, n, dimensions) + offset for n in (7, 5))
    expected = direct(a.double(), b.double())  # of the very numbers that float32 has there
    found = squared_distances(a, b).double()
    assert (found - expected).abs().max() <= 1e-6 * expected.max()


def test_one_far_axis_and_a_far_query_change_nothing():
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 8), torch.randn(2, 5, 8)
    near = squared_distances(a, b)
    axis = torch.zeros(8)
    axis[3] = 2.0**13  # so that float32 adds it almost without a loss
    expected = direct((a + axis).double(), (b + axis).double())
    assert (squared_distances(a + axis, b + axis).double() - expected).abs().max() <= 1e-6 * expected.max()
    far = torch.cat([a, torch.full((2, 1, 8), 1e6)], 1)
    assert torch.equal(squared_distances(far, b)[:, :6], near)  # no query sees another


def test_squared_distances_have_exact_first_and_second_derivatives():
    torch.manual_seed(0)
    a, b = (torch.randn(2, n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 3))
    assert torch.autograd.gradcheck(squared_distances, (a, b))
    assert torch.autograd.gradgradcheck(squared_distances, (a, b))
    weight = torch.randn(2, 4, 3, dtype=torch.float64)

    def slopes(f):
        first = torch.autograd.grad((weight * f(a, b)).sin().sum(), (a, b), create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), (a, b))]

    for ours, theirs in zip(slopes(squared_distances), slopes(direct), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_scaled_distances_are_divided_by_the_root_of_their_dimension():
    batch, found = random_episode(2), {}
    for scaled in (False, True):
        torch.manual_seed(0)
        learner = PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(64, 16)).double(), scaled=scaled)
        found[scaled] = learner(batch.support_x, batch.support_y, batch.query_x)
    torch.testing.assert_close(found[True], found[False] / 4)
    assert learners.options_of("prototypical")["scaled"] is False  # stored figures are the paper's
    with pytest.raises(CourseError, match="scaled is for Euclidean distances"):
        PrototypicalNetwork(nn.Identity(), distance="cosine", scaled=True)


# ------------------------------------------------------------------ randomness


@pytest.mark.parametrize(
    ("method", "options"),
    [*((m, {}) for m in TRAINED), ("reptile", {"inner_batch": 2, "inner_steps": 2})],
)
def test_no_method_draws_from_the_global_generator(method, options):
    """What a notebook draws next must not depend on which learner it has looked at."""
    learner = made(method, **options)
    batch = random_episode(tasks=2, way=3, shot=2, query=2, size=16)
    before = torch.random.get_rng_state()
    for mode in (True, False):
        learner.train(mode)
        losses = [learner.outer_loss(batch)[0].item() for _ in range(2)]
        learner(batch.support_x, batch.support_y, batch.query_x)
        if not mode:
            assert losses[0] == losses[1], "without a generator of the caller's, draws are the same each time"
    assert torch.equal(torch.random.get_rng_state(), before)


# ------------------------------------------------------------------ networks by name


@pytest.mark.parametrize("method", [m for m in TRAINED if m not in ("film", "relation")])
def test_every_method_takes_a_network_of_the_table_trains_and_comes_back(tmp_path, method):
    small = {"channels": 2} | ({"inner_steps": 1} if "inner_steps" in learners.options_of(method) else {})
    learner = learners.build(method, way=3, size=16, seed=0, network="resnet12", **small)
    assert learner.config["network"] == "resnet12"
    source = EpisodeSampler(squares(), 3, 1, 2)
    training.train(learner, source, steps=2, tasks=2, out=tmp_path / "run", progress=False)
    back = learners.load(tmp_path / "run")
    batch = source.sample(2, torch.Generator().manual_seed(0))
    given = (batch.support_x, batch.support_y, batch.query_x)
    assert torch.equal(back(*given), learner.eval()(*given))


@pytest.mark.parametrize("method", ["film", "relation"])
def test_a_method_that_needs_more_of_its_network_says_so(method):
    if method == "relation":  # it needs maps of 4 x 4, which 64 x 64 pixels leave
        assert learners.build(method, way=3, size=64, seed=0, network="resnet12", channels=2)
        size = 16
    else:
        size = 64
    with pytest.raises(CourseError):
        learners.build(method, way=3, size=size, seed=0, network="resnet12", channels=2)


def test_an_unknown_network_and_an_option_of_another_one_are_one_line():
    with pytest.raises(CourseError, match="network 'vgg' is unknown; use one of conv4, resnet12"):
        learners.build("maml", way=3, network="vgg")
    with pytest.raises(CourseError, match="has no option 'downsample'"):
        learners.build("maml", way=3, network="resnet12", downsample="pool")


# ------------------------------------------------------------------ what no task may hold

WRONG = {
    "padded": lambda x, y: (x, torch.where(torch.arange(6) % 2 == 1, -100, y)),
    "below nought": lambda x, y: (x, y - 1),
    "of one task": lambda x, y: (x, y[:1]),
    "in a row": lambda x, y: (x, y.flatten()),
    "bool": lambda x, y: (x, y > 0),
    "values": lambda x, y: (x, y.double()),
    "no image": lambda x, y: (x[:, :0], y[:, :0]),
    "uint8": lambda x, y: ((255 * x).byte(), y),
}


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("method", [*TRAINED, *PRETRAINED, "finetune", "pixels"])
def test_what_is_no_task_is_one_line(method, wrong):
    x = torch.rand(2, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([[0, 0, 1, 1, 2, 2]]).expand(2, -1).clone()
    with pytest.raises(CourseError, match=r"; give|have one$"):
        made(method).adapt(*WRONG[wrong](x, y))


@pytest.mark.parametrize("method", [*TRAINED, *PRETRAINED, "finetune", "pixels"])
def test_small_whole_labels_are_labels(method):
    x = torch.rand(2, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([[0, 0, 1, 1, 2, 2]]).expand(2, -1)
    learner, answers = made(method).eval(), []
    for one in (y, y.int(), y.byte()):
        state = learner.adapt(x, one, generator=torch.Generator().manual_seed(0))
        answers.append(learner.predict(state, x).detach())
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("method", TRAINED)
def test_labels_of_another_form_are_refused_in_training_too(method):
    learner, batch = made(method), random_episode(2, 3, 2, size=16)
    for spoiled in (
        replace(batch, support_y=batch.support_y[:1]),
        replace(batch, query_y=batch.query_y[:1]),
        replace(batch, query_y=batch.query_y.flatten()),
        replace(batch, query_x=(255 * batch.query_x).byte()),
    ):
        with pytest.raises(CourseError, match="; give "):
            learner.outer_loss(spoiled)


@pytest.mark.parametrize("method", TRAINED)
def test_small_whole_labels_train(method):
    batch, losses = random_episode(2, 3, 2, size=16), []
    for kind in (torch.int64, torch.int32, torch.uint8):
        one = replace(batch, support_y=batch.support_y.to(kind), query_y=batch.query_y.to(kind))
        losses.append(made(method).outer_loss(one, generator=torch.Generator().manual_seed(0))[0].item())
    assert losses[0] == losses[1] == losses[2]


class OfTokens(Learner):
    """Whole numbers in, a dictionary, a flag for each image: what the form of images and labels does not fit."""

    def inner_process(self, support_x, support_y, **_):
        return {"seen": support_y}

    def predict(self, state, query_x, **_):
        return query_x


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64)),
        ({"image": torch.zeros(2, 3)}, torch.zeros(2, 3, dtype=torch.int64)),
        (torch.zeros(2, 3, 1, 4, 4), torch.zeros(2, 3, dtype=torch.bool)),
        (torch.zeros(2, 3, 1, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int64)),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1)),
    ],
)
def test_a_learner_of_ones_own_takes_other_tasks(x, y):
    assert OfTokens().adapt(x, y)["seen"] is y


def test_a_learner_of_ones_own_may_label_tasks():
    class OfTasks(OfTokens):
        labels_images = False

    y = torch.zeros(2, dtype=torch.int64)
    assert OfTasks().adapt(torch.zeros(2, 3, 1, 4, 4), y)["seen"] is y
    with pytest.raises(CourseError, match="; give images"):
        OfTokens().adapt(torch.zeros(2, 3, 1, 4, 4), y)
