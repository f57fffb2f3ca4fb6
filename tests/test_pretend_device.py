"""Nothing of the library is made on the wrong device: every learner, estimator, sampler and loss, without a GPU.

What is tried is read from the registries and the modules, so that a new method or estimator is tried by itself; what
cannot be made without help is listed here, and a class that nobody tried fails the last test of its part.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from core_helpers import squares
from pretend_device import DEVICE, Pretended, WrongDevice, elsewhere, pretending
from torch import nn
from torch.nn import functional as F

from mlcourse import datasets, inner, learners, training
from mlcourse.datasets import faces
from mlcourse.datasets.label_maps import LabelMaps
from mlcourse.episodes import Episode, EpisodeSampler, WithinGroups
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import Learner, metanet
from mlcourse.learners.transfer import HEADS
from mlcourse.meta_gradients import curvature, estimators, hypergradients, linear_solvers
from mlcourse.meta_optimization import evolution, learned_optimizers, optimizer_training, rate_tuning, small_tasks
from mlcourse.networks import NETWORKS, Conv4
from mlcourse.networks.normalisation import NORMALISATIONS
from mlcourse.vision import detection, frozen, photos, segmentation
from mlcourse.vision import faces as recognition

CPU = torch.device("cpu")
# `load_state_dict` believes that a copy to "meta" does nothing; here it does.
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def library() -> list:
    """All modules of the library, and none of the lessons and the tools around them."""
    rooms = ("learners", "meta_gradients", "meta_optimization", "networks", "vision", "datasets")
    files = ("episodes", "training", "evaluation", "inner")
    found = [importlib.import_module(f"mlcourse.{name}") for name in (*rooms, *files)]
    for room in rooms:
        package = importlib.import_module(f"mlcourse.{room}")
        found += [
            importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
        ]
    return found


def classes_with(wanted: Callable[[type], bool]) -> set[type]:
    return {
        one
        for module in library()
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__.startswith("mlcourse.") and wanted(one)
    }


# ------------------------------------------------------------------ the pretended device itself

ON_BOTH = [
    ("arithmetic", lambda there, here: there + here),
    ("a number on the device and several here", lambda there, here: there.sum() * here),
    ("a product of matrices", lambda there, here: there @ here.T),
    ("cat", lambda there, here: torch.cat([there, here])),
    ("stack of single numbers", lambda there, here: torch.stack([there.sum(), here.sum()])),
    ("where", lambda there, here: torch.where(there > 0, there, here)),
    ("a mask", lambda there, here: there.masked_fill(here > 0, 0.0)),
    ("places on the device, of a tensor here", lambda there, here: here[(there[:, 0] > 2).long()]),
    ("gather", lambda there, here: there.gather(1, here.long())),
    ("a layer that stayed here", lambda there, here: nn.Linear(3, 2)(there)),
    ("in place", lambda there, here: torch.zeros_like(there).add_(here)),
    ("one-hot labels", lambda there, here: F.cross_entropy(there, torch.zeros(2, dtype=torch.int64))),
    ("vmap", lambda there, here: torch.func.vmap(lambda row, scale: row * scale)(there, here[:, 0])),
    ("a random number of a generator here", lambda there, here: torch.rand(3, generator=drawn(), device=there.device)),
    ("numpy", lambda there, here: there.numpy()),
]
IN_ONE = [
    ("a single number here", lambda there, here: there * here.sum()),
    ("places here, of a tensor there", lambda there, here: there[torch.tensor([1, 0])]),
    ("copy_", lambda there, here: torch.zeros_like(there).copy_(here)),
    ("to", lambda there, here: there + here.to(there.device)),
    ("numbers of Python", lambda there, here: there + torch.tensor([1.0, 2.0, 3.0], device=there.device)),
    ("new_tensor", lambda there, here: there + there.new_tensor([1.0, 2.0, 3.0])),
    ("as they are", lambda there, here: there + torch.as_tensor(there)),
    ("zeros", lambda there, here: there + torch.zeros(3, device=there.device)),
    ("in place", lambda there, here: torch.ones_like(there).mul_(there)),
    ("views", lambda there, here: there.clone()[0].fill_(1.0) + there),
    ("vmap of grad", lambda there, here: torch.func.vmap(torch.func.grad(lambda row: row.square().sum()))(there)),
]


@pytest.mark.parametrize(("what", "meet"), ON_BOTH)
def test_what_a_gpu_refuses_is_refused(what, meet):
    with pretending(), pytest.raises(WrongDevice):
        meet(torch.arange(6.0).view(2, 3).to(DEVICE), torch.ones(2, 3))


@pytest.mark.parametrize(("what", "compute"), IN_ONE)
def test_what_a_gpu_takes_is_computed_there_to_the_same_numbers(what, compute):
    values, here = torch.arange(6.0).view(2, 3), torch.ones(2, 3)
    with pretending():
        found = compute(values.to(DEVICE), here)
        assert isinstance(found, Pretended)
        assert found.device == DEVICE
        found = found.cpu()
    assert torch.equal(found, compute(values, here))


def test_gradients_lie_there_too_and_twice():
    def twice(device):
        x = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
        (slope,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        slope.square().sum().backward()
        return x.grad

    with pretending():
        found = twice(DEVICE)
        assert found.device == DEVICE
        assert found.tolist() == twice(CPU).tolist()


# ------------------------------------------------------------------ learners

TASK = {"way": 3, "size": 16}


def variants(method: str) -> Iterator[dict]:
    """The options of a method that choose between a few ways, each once at another value than its default."""
    has = learners.options_of(method)
    yield {}
    yield from ({name: not value} for name, value in has.items() if isinstance(value, bool))
    yield from ({"normalisation": one} for one in NORMALISATIONS if has.get("normalisation", one) != one)
    if "downsample" in has:
        yield {"downsample": "pool"}
    yield from ({"writes": one} for one in ["network"] if "writes" in has)


def built(method: str, **options) -> Learner:
    has = learners.options_of(method)
    small = {"channels": 4, "inner_steps": 2, "width": 8, "heads": 2}
    small = {name: value for name, value in small.items() if name in has}
    if learners.METHODS[method].learner.trains_on == "images":
        small["classes"] = 12
    return learners.build(method, **TASK, seed=0, **small | options)


def course_of(learner: Learner, train_batch: Callable, test_batch: Callable, device: torch.device) -> list:
    """A learner's whole life on a device: learner, what it trains on, state, predictions, scores."""
    learner = learner.to(device)
    made = [learner]
    if any(p.requires_grad for p in learner.parameters()):
        loss, _ = learner.train().outer_loss(train_batch(device), step=0, generator=drawn())
        loss.backward()
        made.append(loss)
    batch = test_batch(device)
    learner.eval()
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        prediction = learner.predict(state, batch.query_x)
        learner.score(prediction, batch)
    return [*made, batch, state, prediction]


def check(make: Callable[[], Learner], train_batch: Callable, test_batch: Callable) -> bool:
    """Whether there is such a learner; if so, all of it must lie on the device, with the numbers that the CPU finds."""
    try:
        here = course_of(make(), train_batch, test_batch, CPU)
    except CourseError:  # no such variant
        return False
    with pretending():
        there = course_of(make(), train_batch, test_batch, DEVICE)
        assert elsewhere(there) == []
        pairs = zip(numbers(here[-1]), numbers(there[-1]), strict=True)
        assert all(torch.allclose(one, other.cpu(), rtol=1e-4, atol=1e-5, equal_nan=True) for one, other in pairs)
    return True


def numbers(prediction) -> list[torch.Tensor]:
    if isinstance(prediction, torch.Tensor):
        return [prediction.detach()]
    parts = prediction.values() if isinstance(prediction, dict) else prediction
    return [one for part in parts for one in numbers(part)]


def episodes_on(shot: int, device: torch.device) -> Episode:
    return EpisodeSampler(squares(), 3, shot, 2, device=device).sample(2, drawn())


def images_on(device: torch.device) -> tuple:
    return training.Images(squares(), device=device).sample(6, drawn())


@pytest.mark.parametrize("method", learners.METHODS)
def test_every_method_in_every_variant_makes_nothing_elsewhere(method):
    train_batch = images_on if learners.METHODS[method].learner.trains_on == "images" else partial(episodes_on, 1)
    tried = [
        check(partial(built, method, **options), train_batch, partial(episodes_on, 2)) for options in variants(method)
    ]
    assert tried[0]  # the default at least


@pytest.mark.parametrize("method", [name for name, one in learners.METHODS.items() if one.recipes])
def test_every_method_trains_goes_on_and_is_evaluated_there(method, tmp_path):
    def run(**more):
        learner = built(method).to(DEVICE)
        of_images = learner.trains_on == "images"
        source = (training.Images if of_images else partial(EpisodeSampler, way=3, shot=1, query=2))(
            squares(), device=DEVICE
        )
        settings = {"steps": 2, "tasks": 2, "validate_every": 1, "validation_episodes": 2, "progress": False}
        training.train(learner, source, validation=validation, out=tmp_path, **settings, **more)
        return learner

    with pretending():
        validation = EpisodeSampler(squares(split="val"), 3, 1, 2, device=DEVICE)
        learner = run()
        evaluate(learner, validation, episodes=2)
        (tmp_path / "config.json").unlink()  # as if it had been killed before its end
        assert elsewhere([learner, run(resume=True)]) == []
    assert all(value.isfinite().all() for value in learners.load(tmp_path).state_dict().values())


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_by_name_lies_there(network):
    make = partial(learners.build, "prototypical", way=3, size=16, seed=0, network=network, channels=2)
    assert check(make, partial(episodes_on, 1), partial(episodes_on, 2))


# ------------------------------------------------------------------ learners that no registry of `learners` has


def characters():
    return datasets.load("glyphs", "test")


def scenes_on(make: Callable, device: torch.device, **about) -> Episode:
    return make(characters(), characters_per_scene=3, size=64, device=device, **about).sample(2, drawn())


@cache
def some_people():
    return faces.load("val", samples=4).select(range(6))


def people(device: torch.device = CPU):
    return some_people().to(device)


def face_source(learner: Learner, device: torch.device):
    return recognition.source(learner, people(), recognition.recipe("prototypes", "smoke"), device=device)


def maps_on(device: torch.device, features: bool = False) -> photos.PhotoTasks:
    generator = drawn()
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 2, (6, 16, 16), generator=generator, dtype=torch.uint8)
    maps = LabelMaps(images, labels, {1: "thing"}, tuple("abcdef"), "noise")
    some = torch.rand(6, 4, 4, 4, generator=generator) if features else None
    return photos.PhotoTasks(maps, features=some, device=device)


def photos_on(device: torch.device, features: bool = False) -> Episode:
    return maps_on(device, features).sample(2, drawn())


def small_network(**about) -> Conv4:
    torch.manual_seed(0)
    return Conv4(**{"channels": 4, "size": 16, "normalisation": "running", "downsample": "stride"} | about)


def distilled_classifier() -> Learner:
    teacher = built("simpleshot")
    return learners.DistilledClassifier(small_network(), teacher=teacher, classes=12, head="centroid")


OTHERS: dict[str, tuple[Callable, Callable, Callable]] = {
    "distilled classifier": (distilled_classifier, images_on, partial(episodes_on, 2)),
    "distilled learner": (
        lambda: learners.DistilledLearner(built("prototypical"), teacher=built("maml")),
        partial(episodes_on, 1),
        partial(episodes_on, 2),
    ),
    "constant mask": (partial(frozen.ConstantMask, size=16), photos_on, photos_on),
    "other episode": (
        lambda: metanet.OtherEpisode(built("metanet")),
        partial(episodes_on, 1),
        partial(episodes_on, 2),
    ),
    "frozen prototypes": (partial(frozen.FrozenPrototypes, pretrained=False), photos_on, photos_on),
    "trained prototypes": (partial(frozen.TrainedPrototypes, width=4), photos_on, photos_on),
    "map prototypes": (frozen.MapPrototypes, partial(photos_on, features=True), partial(photos_on, features=True)),
}
for _name in segmentation.METHODS:
    _scenes = partial(scenes_on, segmentation.SceneTasks)
    OTHERS[f"segmentation {_name}"] = (partial(segmentation.build, _name, seed=0), _scenes, _scenes)
for _name, _one in detection.METHODS.items():
    OTHERS[f"detection {_name}"] = (
        lambda name=_name: detection.build(name, known=characters(), seed=0),
        partial(scenes_on, detection.CrowdTasks if _one.crowd else detection.DetectionTasks),
        partial(scenes_on, detection.DetectionTasks),
    )
for _name in recognition.METHODS:
    _make = partial(recognition.build, _name, people(), network={"channels": 4, "embedding": 8})
    OTHERS[f"faces {_name}"] = (
        _make,
        lambda device, make=_make: face_source(make(), device).sample(2, drawn()),
        lambda device: EpisodeSampler(people(), 3, 1, 2, device=device).sample(2, drawn()),
    )


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_learner_makes_nothing_elsewhere(name):
    assert check(*OTHERS[name])


def test_every_learner_of_the_library_is_tried():
    tried = {about.learner for about in learners.METHODS.values()} | {type(make()) for make, _, _ in OTHERS.values()}
    bases = {base for one in tried for base in one.__mro__}
    assert classes_with(lambda one: issubclass(one, Learner)) - bases == set()


def test_learnt_images_lie_there():
    with pretending():
        network = small_network(normalisation="group", out=12)
        learner = learners.LearntImages(network, classes=12, per_class=1, shape=(1, 16, 16), inner_steps=2).to(DEVICE)
        x, y = images_on(DEVICE)
        loss, _ = learner.outer_loss((x, y), generator=drawn())
        loss.backward()
        assert elsewhere([learner, loss, learner.accuracy(x, y, seeds=2)]) == []


@pytest.mark.parametrize("head", HEADS)
def test_every_head_on_a_pretrained_body_lies_there_and_its_rate_is_chosen_there(head):
    assert check(partial(built, "simpleshot", head=head), images_on, partial(episodes_on, 2))
    with pretending():
        learner = built("baseline++").to(DEVICE)
        learners.choose_rate(learner, EpisodeSampler(squares(), 3, 1, 2, device=DEVICE), episodes=2, rates=(0.01, 0.1))
        assert elsewhere(learner) == []


def test_faces_are_verified_there_to_the_same_rates():
    def compute(device):
        data = people(device)
        trained = recognition.build("prototypes", people(), network={"channels": 4, "embedding": 8}).to(device)
        rivals = [recognition.pixels(people()), recognition.fisherfaces(people(), 3, 0.1)]
        return [recognition.verify(one.to(device), data, draws=10).value for one in (trained, *rivals)]

    here = compute(CPU)
    with pretending():
        assert compute(DEVICE) == pytest.approx(here)


# ------------------------------------------------------------------ a fault that is planted is found


def planted(where: str) -> type[Learner]:
    """A learner like any other, with one line `torch.zeros(n)` in it."""

    class Planted(learners.PrototypicalNetwork):
        def inner_process(self, support_x, support_y, **_):
            state = super().inner_process(support_x, support_y)
            if where == "the state":
                state["bias"] = torch.zeros(3)
            return state

        def predict(self, state, query_x):
            logits = super().predict(state, query_x)
            return logits + torch.zeros(3) if where == "the logits" else logits

        def loss(self, prediction, target):
            loss = super().loss(prediction, target)
            return loss + torch.zeros(3).sum() * 0 + torch.zeros(1).squeeze() if where == "a single number" else loss

        def outer_process(self, batch, step, generator):
            loss, prediction = super().outer_process(batch, step=step, generator=generator)
            if where == "a buffer":
                self.register_buffer("seen", torch.zeros(3))
            return (loss * torch.zeros(3)).sum() if where == "the loss" else loss, prediction

    return Planted


@pytest.mark.parametrize("where", ["the state", "the logits", "a buffer", "the loss"])
def test_a_line_of_zeros_without_a_device_is_found(where):
    with pytest.raises((WrongDevice, AssertionError)):
        check(lambda: planted(where)(small_network()), partial(episodes_on, 1), partial(episodes_on, 2))


@pytest.mark.parametrize("where", ["nowhere", "a single number"])
def test_and_what_a_gpu_takes_is_no_fault(where):
    assert check(lambda: planted(where)(small_network()), partial(episodes_on, 1), partial(episodes_on, 2))


# ------------------------------------------------------------------ samplers


def glyphs_in_groups():
    return datasets.load("glyphs", "train").select(range(12))


SAMPLERS: dict[type, Callable[[torch.device], object]] = {
    EpisodeSampler: lambda device: EpisodeSampler(squares(), 3, 1, 2, device=device, distort=1.0),
    WithinGroups: lambda device: WithinGroups(glyphs_in_groups(), 3, 1, 2, device=device),
    training.Images: lambda device: training.Images(squares(), device=device),
    segmentation.SceneTasks: lambda device: segmentation.SceneTasks(characters(), size=64, device=device),
    detection.DetectionTasks: lambda device: detection.DetectionTasks(characters(), size=64, device=device),
    detection.CrowdTasks: lambda device: detection.CrowdTasks(characters(), size=64, device=device),
    photos.PhotoTasks: maps_on,
}


@pytest.mark.parametrize("kind", SAMPLERS, ids=lambda one: one.__name__)
def test_every_sampler_gives_its_episodes_there_and_the_same_ones(kind):
    with pretending():
        here, there = (SAMPLERS[kind](device).sample(2, drawn(3)) for device in (CPU, DEVICE))
        assert elsewhere(there) == []
        for one, other in zip(fields_of(here), fields_of(there), strict=True):
            assert torch.allclose(one.double(), other.cpu().double(), atol=1e-6, equal_nan=True)


def fields_of(batch) -> list[torch.Tensor]:
    parts = batch if isinstance(batch, tuple) else [getattr(batch, name) for name in batch.__dataclass_fields__]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def test_every_sampler_of_the_library_that_knows_a_device_is_tried():
    def knows_a_device(one: type) -> bool:
        if getattr(one, "_is_protocol", False):
            return False
        taken = inspect.signature(one.__init__).parameters.values()
        return any(p.name == "device" or p.kind is p.VAR_KEYWORD for p in taken)

    assert classes_with(lambda one: hasattr(one, "sample") and knows_a_device(one)) == set(SAMPLERS)


# ------------------------------------------------------------------ estimators of the meta-gradient

# What the functions of a module are called with, beside what they are about; one that needs more fails with its name.
FILL = {
    "steps": 2, "rate": 0.01, "last": 1, "iterations": 2, "terms": 2, "eta": 0.01, "truncation": 2, "sigma": 0.1,
    "particles": 4, "repeats": 2,
}  # fmt: skip


def functions(module, *first: str) -> dict[str, Callable]:
    """The public functions of a module whose first parameters are called so."""
    return {
        name: one
        for name, one in inspect.getmembers(module, inspect.isfunction)
        if one.__module__ == module.__name__ and not name.startswith("_")
        if tuple(inspect.signature(one).parameters)[: len(first)] == first
    }


def filled(one: Callable, given: int) -> dict:
    """Values for the parameters after the first `given` that have no default."""
    needed = list(inspect.signature(one).parameters.values())[given:]
    needed = [p.name for p in needed if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return {name: FILL[name] for name in needed if name != "generator"}


def both(compute: Callable[[torch.device], object]) -> None:
    """Compute on both devices: all of it there, and the same numbers."""
    here = compute(CPU)
    with pretending():
        there = compute(DEVICE)
        assert elsewhere(there) == []
        for one, other in zip(flat(here), flat(there), strict=True):
            torch.testing.assert_close(other.cpu(), one, rtol=1e-6, atol=1e-8)


def flat(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value.detach()]
    if isinstance(value, evolution.Particles):
        return flat([value.state, value.shift])
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [one for part in parts for one in flat(part)]


def one_task(device: torch.device) -> tuple[torch.Tensor, estimators.Task]:
    torch.manual_seed(0)
    forward, theta = estimators.as_function(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().to(device))
    x, y = torch.rand(6, 4, generator=drawn(), dtype=torch.float64).to(device), torch.arange(6, device=device) % 3
    return theta, estimators.Task(
        lambda phi: F.cross_entropy(forward(phi, x), y), lambda phi: F.cross_entropy(forward(phi, x), y), steps=2
    )


@pytest.mark.parametrize("name", functions(estimators, "theta", "task"))
def test_every_estimator_of_one_task(name):
    both(lambda device: getattr(estimators, name)(*one_task(device)))


def test_an_image_task_and_the_curvature_of_its_loss():
    def compute(device):
        batch = episodes_on(2, device)
        torch.manual_seed(0)
        forward, theta = estimators.as_function(estimators.small_network(1, 3).to(device))
        task = estimators.image_task(forward, batch, steps=1, rate=0.1)
        found = curvature.largest_curvature(lambda p: task.inner_loss(p["w"]), {"w": theta}, drawn(), rounds=3)
        return [estimators.first_order(theta, task), torch.tensor(found, device=device)]

    both(compute)


def bilevel(device: torch.device) -> tuple:
    root = torch.randn(4, 4, generator=drawn(), dtype=torch.float64).to(device)
    problem = hypergradients.Bilevel(
        init=torch.zeros_like,
        inner_loss=lambda phi, lam: (root @ phi - lam).square().sum() + phi.square().sum(),
        outer_loss=lambda phi, lam: (phi - 1).square().sum() + lam.square().sum(),
    )
    return problem, None, torch.ones(4, dtype=torch.float64, device=device)


@pytest.mark.parametrize(
    "name", sorted(set(functions(hypergradients, "problem", "phi", "lam")) - {"implicit_gradient"})
)
def test_every_hypergradient(name):
    one = getattr(hypergradients, name)
    both(lambda device: one(*bilevel(device), **filled(one, 3)))


@pytest.mark.parametrize("name", functions(linear_solvers, "product", "b"))
def test_every_linear_solver(name):
    one = getattr(linear_solvers, name)

    def compute(device):
        root = torch.randn(4, 4, generator=drawn(), dtype=torch.float64).to(device)
        matrix = root @ root.T + torch.eye(4, dtype=torch.float64, device=device)
        found = one(lambda p: p @ matrix, torch.ones(2, 4, dtype=torch.float64, device=device), **filled(one, 2))
        return list(found) if inspect.isgenerator(found) else found

    both(compute)


# ------------------------------------------------------------------ long unrolls, and learned optimizers


def unroll(device: torch.device) -> tuple[evolution.Unroll, torch.Tensor]:
    problem = evolution.Unroll(
        init=lambda lam, draw: {"s": draw + 0 * lam.sum()},
        step=lambda state, lam, t: {"s": 0.9 * state["s"] + 0.1 * lam.sin().sum()},
        loss=lambda state, lam, t: state["s"].square(),
        horizon=4,
        draw=lambda n, generator: torch.rand(n, generator=generator, dtype=torch.float64),
    )
    return problem, torch.tensor([0.3, 0.7], dtype=torch.float64, device=device)


OF_UNROLLS = {**functions(evolution, "problem", "lam")}
for _name in ("start", "advance", "draws_of"):  # the pieces of those
    OF_UNROLLS.pop(_name, None)
PERTURBING = dict.fromkeys(("truncated_es", "pes"), ("sigma", "particles"))  # what they hand on as **options


@pytest.mark.parametrize("name", OF_UNROLLS)
def test_every_estimator_of_an_unroll(name):
    one = OF_UNROLLS[name]
    options = filled(one, 2) | {option: FILL[option] for option in PERTURBING.get(name, ())}
    both(lambda device: one(*unroll(device), **options, generator=drawn()))


def test_its_bias_and_variance():
    options = {"repeats": 2, "truncation": 2, "sigma": 0.1, "particles": 4}
    both(lambda device: evolution.measure(evolution.pes, *unroll(device), generator=drawn(), **options))


@pytest.mark.parametrize("estimator", evolution.WINDOWS)
def test_every_window_behind_the_training_loop(estimator):
    def compute(device):
        problem, lam = unroll(device)
        learner = evolution.Estimator(problem, lam.cpu(), estimator=estimator, truncation=2, particles=4).to(device)
        losses = [learner.outer_loss(step=step, generator=drawn(step))[0] for step in range(3)]
        losses[-1].backward()
        wrong = [name for name, value in learner.named_buffers() if value.device != device]
        assert wrong == []  # also those of one number: a checkpoint of them is of one device
        return [learner.state_dict(), losses]

    both(compute)


@pytest.mark.parametrize("way", rate_tuning.WAYS)
def test_every_way_to_tune_a_rate(way):
    def compute(device):
        problem = unroll(device)[0]
        draw = problem.draw
        problem = replace(problem, draw=lambda n, generator: draw(n, generator).to(device))
        lam, options = torch.full((2,), 0.5, dtype=torch.float64, device=device), {"truncation": 2, "pairs": 2}
        _, path = rate_tuning.descend(
            problem, lam, problem.draw(2, drawn()), way, budget=60, **options, generator=drawn()
        )
        found = rate_tuning.estimates(problem, lam[0], way, 3, **options, generator=drawn())
        return [path, found]

    both(compute)


@pytest.mark.parametrize("rule", learned_optimizers.RULES)
def test_every_rule_as_an_optimizer(rule):
    def compute(device):
        torch.manual_seed(0)
        made, net = learned_optimizers.RULES[rule]().to(device), nn.Linear(3, 2).to(device)
        optimizer = learned_optimizers.LearnedOptimizer(net.parameters(), made)
        for _ in range(2):
            optimizer.zero_grad()
            net(torch.ones(2, 3, device=device)).square().sum().backward()
            optimizer.step()
        return [dict(net.named_parameters()), dict(enumerate(optimizer.state.values()))]

    both(compute)


@pytest.mark.parametrize("family", small_tasks.FAMILIES)
@pytest.mark.parametrize("rule", learned_optimizers.RULES)
def test_every_rule_trains_every_family_there(rule, family):
    def compute(device):
        torch.manual_seed(0)
        made, tasks = learned_optimizers.RULES[rule]().to(device), small_tasks.FAMILIES[family]()
        problem = learned_optimizers.inner_training(made, tasks, horizon=2)
        learner = evolution.Estimator(problem, made, estimator="truncated", truncation=1, particles=2).to(device)
        training.train(learner, tasks, steps=2, tasks=2, progress=False)
        there = evolution.map_tree(lambda value: value.to(device), tasks.sample(2, drawn()))
        return [learner.state_dict(), learned_optimizers.curves(made, tasks, there, horizon=2)]

    with pretending():
        assert elsewhere(compute(DEVICE)) == []


def test_baselines_are_tuned_there():
    def compute(device):
        family = small_tasks.quadratics(3)
        tasks = evolution.map_tree(lambda value: value.to(device), family.sample(3, drawn()))
        rule = learned_optimizers.SGD().to(device)
        rates = [1e-4, 0.03, 0.3, 1.0, 1e3]
        _, losses = learned_optimizers.tune_rate(rule, family, tasks, horizon=3, rates=rates)
        adam = optimizer_training.best_adam(family, tasks, horizon=3, rates=[1e-5, 0.3, 1e3], betas=[(0.9, 0.99)])
        return [losses, torch.tensor(adam.loss, device=device)]

    both(compute)


def test_the_inner_process_alone():
    def compute(device):
        torch.manual_seed(0)
        net = nn.Linear(4, 3).to(device)
        forward = partial(inner.call, net)
        x, y = torch.rand(6, 4, generator=drawn()).to(device), torch.arange(6, device=device) % 3
        settings = {"steps": 3, "rate": 0.1}
        return [
            inner.adapt(forward, inner.parameters(net), x, y, **settings),
            inner.adapt_truncated(forward, inner.parameters(net), x, y, last=1, **settings),
            inner.adapt_checkpointed(forward, inner.parameters(net), x, y, every=2, **settings),
        ]

    both(compute)
