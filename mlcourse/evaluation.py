"""One evaluation for all learners: a metric over episodes, its 95 % interval, the worst tenth, paired comparison.

What it does not trust a learner with: the order of the queries (each task's images are shuffled before the learner
sees them, by a generator of the evaluation's own), its own word on being inductive (queries are asked alone and in
company), that it takes each task by itself (tasks, too, are asked alone and in company), and answers that are not
finite (argmax finds a class in NaN, too).
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mlcourse.episodes import Episode, check_positive, check_seed
from mlcourse.errors import CourseError, RanAway
from mlcourse.learners.base import detached, evaluation_mode, takes_inner_steps
from mlcourse.statistics import Metric, Paired

BLOCK = 20  # tasks that are drawn at once, whatever is answered at once: one seed, the same episodes


class Source(Protocol):
    """Where episodes come from: an EpisodeSampler, a SinusoidSampler, or one's own.

    A source may `describe` what its episodes are, and say what it `gives`, "episodes" or "images": `train` then refuses
    learners that train on the other.
    """

    def sample(self, tasks: int, generator: torch.Generator) -> Any: ...


class Evaluator(Protocol):
    """What measures a learner: `train` takes one for its validation. `Episodes` is the usual one."""

    def evaluate(self, learner: nn.Module) -> "Result": ...


@dataclass(frozen=True)
class Result:
    """A metric over episodes. `value ± ci95` is the 95 % interval over episodes; shares lie in [0, 1]."""

    metric: Metric
    value: float
    ci95: float
    worst_tenth: float  # the mean over the tenth of the episodes where the metric is worst
    episodes: int
    normalisation: str
    transductive: bool | None  # measured: whether a query is answered otherwise alone; None: not measured
    source: dict[str, Any]  # what the episodes are: the source's own description
    seed: int
    digest: str  # of the indices of all pictures: equal for the same episodes, which alone make a pair
    scores: dict[str, Tensor]  # float64 [episodes] each: what the metric is made of

    @property
    def per_episode(self) -> Tensor:
        """The metric of each episode: float64 [episodes]."""
        return self.metric.per_episode(self.scores)

    @property
    def accuracy(self) -> float:
        """`value`, where the metric is the accuracy. Raises CourseError elsewhere."""
        if self.metric.name != "accuracy":
            raise CourseError(f"this result holds the metric {self.metric.name}, no accuracy; read .value")
        return self.value

    def __str__(self) -> str:
        mode = {True: ", transductive", False: ", inductive", None: ""}[self.transductive]
        tasks = [f"{self.source['way']}-way"] if "way" in self.source else []
        tasks += [f"{self.source['shot']}-shot"] if "shot" in self.source else []
        what = f"{' '.join(tasks)}, " if tasks else ""
        told = self.metric.told(self.value, self.ci95)
        return f"{told} ({what}{self.episodes} episodes, normalisation {self.normalisation}{mode})"

    def as_json(self) -> dict[str, Any]:
        """Everything but the single episodes, for `--json` and for data/results. No interval (one episode) is None."""
        names = ("ci95", "worst_tenth", "episodes", "normalisation", "transductive", "seed", "digest")
        values = {"metric": self.metric.name, self.metric.name: self.value}
        values |= {name: getattr(self, name) for name in names} | self.source
        return values | {"ci95": None if math.isnan(self.ci95) else self.ci95}  # JSON knows no NaN


@dataclass(frozen=True)
class Episodes:
    """The evaluator on episodes of a source: always the same ones. The arguments are those of `evaluate`."""

    source: Source
    episodes: int = 1000
    seed: int = 0
    tasks_at_once: int = BLOCK

    def evaluate(self, learner: nn.Module) -> Result:
        """The learner's result."""
        settings = {"episodes": self.episodes, "seed": self.seed, "tasks_at_once": self.tasks_at_once}
        return evaluate(learner, self.source, **settings)


def evaluate(
    learner: nn.Module,
    source: Source,
    *,
    episodes: int = 1000,
    seed: int = 0,
    tasks_at_once: int = BLOCK,
    inner_steps: int | None = None,
    queries_at_once: int | None = None,
    watch: Callable[[Any, Episode], None] | None = None,
) -> Result:
    """Adapt to and predict `episodes` episodes of the source; the same seed gives the same episodes.

    tasks_at_once: how many are answered together; it changes memory and speed, not the episodes.
    inner_steps: for learners that have them (None: the learner's own). The learner keeps its mode
    (training or evaluation) and no parameter of it changes. Batches come to the learner's device and number format.
    queries_at_once: how many queries of a task are asked together (None: all). watch: is called with the predictions
    and their episodes, for whoever wants more than the scores.

    Raises CourseError for a request that makes no sense (`inner_steps` of a learner without them is one), for answers
    that are not finite, and for a learner that answers a task otherwise beside other tasks: its result would depend on
    `tasks_at_once`. (A learner that does so on purpose has `mixes_tasks = True`.)
    """
    if isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 1:
        raise CourseError(f"episodes is {episodes!r}; give 1 or more (1,000 for a figure to report)")
    check_positive("tasks_at_once", tasks_at_once)
    check_seed(seed)
    _check_fit(learner, source)
    adapt = _adapt(learner, inner_steps)
    about = source.describe() if hasattr(source, "describe") else {"data": type(source).__name__, "split": "all"}
    generator = torch.Generator().manual_seed(seed)
    shuffler = torch.Generator().manual_seed((seed + 0x5EED) % 2**64)  # its own: the episodes stay as they were drawn
    parts: list[dict[str, Tensor]] = []
    digest = _opened(about)
    transductive = metric = None
    with torch.no_grad(), evaluation_mode(learner), unchanged(learner), own_draws(seed, home_of(learner)[0]):
        for batch in _batches(source, episodes, tasks_at_once, generator, digest):
            _check_apart(batch)
            batch = batch.shuffled(shuffler).to(*home_of(learner))
            state = adapt(batch.support_x, batch.support_y)
            prediction = _finite(learner, _asked(learner, state, batch.query_x, queries_at_once))
            if metric is None:
                metric = learner.metric_for(batch)
                transductive = depends_on_company(learner, batch, inner_steps=inner_steps)
                _check_tasks_apart(learner, batch, inner_steps, seed)
            scores = learner.score(prediction, batch)
            parts.append({name: torch.as_tensor(value).double().cpu() for name, value in scores.items()})
            if watch is not None:
                watch(prediction, batch)
    scores = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    _check_scores(scores, episodes, type(learner).__name__)
    value, ci95 = metric.interval(scores)
    return Result(
        metric=metric,
        value=value,
        ci95=ci95,
        worst_tenth=_worst_tenth(metric, scores),
        episodes=episodes,
        normalisation=learner.normalisation,
        transductive=transductive,
        source=about,
        seed=seed,
        digest=digest.hexdigest()[:16],
        scores=scores,
    )


def digest_of(source: Source, *, episodes: int, seed: int) -> str:
    """The digest that a result on these episodes has, without a learner; the arguments are those of `evaluate`."""
    digest, generator = _opened(source.describe()), torch.Generator().manual_seed(seed)
    for _ in _batches(source, episodes, BLOCK, generator, digest):
        pass
    return digest.hexdigest()[:16]


def compare(a: Result, b: Result) -> Paired:
    """a − b on the same episodes. Pairing removes what is hard or easy for both: the interval shrinks.

    Raises CourseError when the two were not evaluated on the same episodes, or by another metric.
    """
    theirs = [{"metric": one.metric.name, "episodes": one.episodes, "seed": one.seed} | one.source for one in (a, b)]
    for name in theirs[0] | theirs[1]:
        mine, other = (one.get(name) for one in theirs)
        if mine != other and name not in ("data", "split", "content"):
            raise CourseError(
                f"a pair needs the same episodes, but {name} is {mine} and {other}; "
                "use the same sampler and seed for both"
            )
    if a.digest != b.digest or theirs[0].get("content") != theirs[1].get("content"):
        raise CourseError("a pair needs the same episodes, but other pictures were drawn; use the same data and split")
    return a.metric.compare(a.scores, b.scores)


# ------------------------------------------------------------------ what a learner is not trusted with


@contextmanager
def unchanged(learner: nn.Module) -> Iterator[None]:
    """Raise CourseError when a parameter or buffer of the learner has changed inside, after giving its values back."""
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    yield
    after = learner.state_dict()
    moved = [name for name, value in before.items() if not _equal(value, after[name])]
    if moved:
        learner.load_state_dict(before)
        raise CourseError(
            f"{type(learner).__name__} changes {moved[0]} while it is evaluated, so that its answers depend on those "
            "before; let adapt and predict change nothing (normalise with statistics that stay as they are)"
        )


@contextmanager
def own_draws(seed: int, device: torch.device | None) -> Iterator[None]:
    """What a learner draws from the global generators, as dropout does, follows from `seed`; they stay as they were."""
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed % 2**64)
        if gpus:
            torch.cuda.manual_seed(seed % 2**64)
        yield


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def depends_on_company(learner: nn.Module, batch: Episode, *, inner_steps: int | None = None, queries: int = 3) -> bool:
    """Whether the first queries of the first two tasks are answered otherwise when they are asked one by one.

    A difference counts above 0.01 % of how much an answer differs from query to query: rounding depends on the company,
    too. A learner that cannot answer one query alone depends on its company. Each time it adapts anew, so that nothing
    is remembered from the queries before.
    """
    few, adapt = batch.some(slice(0, 2)), _adapt(learner, inner_steps)

    def answers(x: Tensor) -> list[Tensor]:
        return _flat(learner.predict(adapt(few.support_x, few.support_y), x))

    with torch.no_grad(), evaluation_mode(learner):
        together = answers(few.query_x)
        for index in range(min(queries, few.query_x.shape[1])):
            try:
                alone = answers(few.query_x[:, index : index + 1])
            except (CourseError, RuntimeError, ValueError, IndexError, ZeroDivisionError):
                return True
            for one, all_of_them in zip(alone, together, strict=True):
                if all_of_them.dim() > 1 and not _alike(one, all_of_them[:, index : index + 1], all_of_them):
                    return True
    return False


def depends_on_other_tasks(learner: nn.Module, batch: Episode, *, inner_steps: int | None = None) -> bool:
    """Whether one of the first two tasks is answered otherwise alone than beside the other one.

    Differences are measured as in `depends_on_company`. One that is gone in float64 was rounding, which an inner
    process may blow up. A learner that draws, and never gives the same answers twice, counts as independent.
    """
    pair = batch.some(slice(0, 2))
    if pair.tasks < 2 or _apart(learner, pair, inner_steps):
        return False
    try:
        exact = copy.deepcopy(learner).double()
        return not _apart(exact, pair.to(None, torch.float64), inner_steps)
    except Exception:  # it cannot be copied, or knows one number format, and says so in its own way
        return not _apart(learner, pair, inner_steps, share=0.05)


def _apart(learner: nn.Module, pair: Episode, inner_steps: int | None, share: float = 1e-4) -> bool:
    """Whether both tasks of a pair are answered alone as they are together, or twice the same pair is not."""
    adapt = _adapt(learner, inner_steps)

    def answers(tasks: Episode) -> list[Tensor]:
        return _flat(learner.predict(adapt(tasks.support_x, tasks.support_y), tasks.query_x))

    def same(some: list[Tensor], task: slice) -> bool:
        pairs = zip(some, together, strict=True)
        return all(x.dim() < 2 or len(x) != 2 or _alike(one, x[task], x, share) for one, x in pairs)

    with torch.no_grad(), evaluation_mode(learner):
        together = answers(pair)
        for index in range(2):
            task = slice(index, index + 1)
            try:
                alone = answers(pair.some(task))
            except (CourseError, RuntimeError, ValueError, IndexError, ZeroDivisionError):
                return False
            if not same(alone, task):
                return not same(answers(pair), slice(0, 2))
    return True


def _check_tasks_apart(learner: nn.Module, batch: Episode, inner_steps: int | None, seed: int) -> None:
    if getattr(learner, "mixes_tasks", False):
        return
    with own_draws(seed, home_of(learner)[0]):  # the draws of the evaluation stay as they are without this look
        mixed = depends_on_other_tasks(learner, batch, inner_steps=inner_steps)
    if mixed:
        raise CourseError(
            f"{type(learner).__name__} answers a task otherwise beside other tasks, so that its result would depend on "
            "tasks_at_once; let adapt and predict take each task by itself (or set mixes_tasks = True if it is on "
            "purpose)"
        )


def _adapt(learner: nn.Module, inner_steps: int | None) -> Callable[..., Any]:
    """`learner.adapt`, with so many inner steps. Raises CourseError for a learner that has none."""
    if inner_steps is None:
        return learner.adapt
    if not takes_inner_steps(learner):
        raise CourseError(f"{type(learner).__name__} has no inner steps to choose; leave inner_steps out")
    return partial(learner.adapt, inner_steps=inner_steps)


def _alike(alone: Tensor, in_company: Tensor, all_answers: Tensor, share: float = 1e-4) -> bool:
    if alone.shape != in_company.shape:
        return False
    answers, here = all_answers.double(), in_company.double()
    spread = (answers - answers.mean((0, 1))).abs().amax((0, 1))  # of each number over the queries
    rounding = 32 * torch.finfo(alone.dtype).eps if alone.is_floating_point() else 0.0
    return bool(((alone.double() - here).abs() <= share * spread + rounding * here.abs()).all())


def _flat(prediction: Any) -> list[Tensor]:
    """All tensors in a prediction."""
    if isinstance(prediction, Tensor):
        return [prediction]
    parts = prediction.values() if isinstance(prediction, dict) else prediction
    return [tensor for part in parts if isinstance(part, (Tensor, dict, list, tuple)) for tensor in _flat(part)]


def _finite(learner: nn.Module, prediction: Any) -> Any:
    for tensor in _flat(prediction):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise RanAway(
                f"{type(learner).__name__}'s answers are not finite: the images or the parameters are not, or the "
                "inner process ran away; look at both, lower the inner rate, or train again with a lower outer rate"
            )
    return detached(prediction)


def _asked(learner: nn.Module, state: Any, query_x: Tensor, at_once: int | None) -> Any:
    """The predictions of all queries, asked `at_once` at a time. Raises CourseError where parts of them do not join."""
    if at_once is None:
        return learner.predict(state, query_x)
    check_positive("queries_at_once", at_once)
    parts = [learner.predict(state, some) for some in query_x.split(at_once, 1)]
    if not all(isinstance(part, Tensor) for part in parts):
        raise CourseError(f"{type(learner).__name__} predicts no single tensor; leave queries_at_once out")
    return torch.cat(parts, 1)


def _check_fit(learner: nn.Module, source: Source) -> None:
    name = type(learner).__name__
    if not all(hasattr(learner, part) for part in ("adapt", "predict", "score", "metric_for")):
        raise CourseError(f"{name} is no learner; derive it from mlcourse.learners.Learner")
    if not hasattr(source, "sample"):
        raise CourseError(f"a {type(source).__name__} gives no episodes; give a source, such as EpisodeSampler(data)")
    if getattr(source, "gives", "episodes") != "episodes":
        raise CourseError(
            f"{type(source).__name__} gives {source.gives}; evaluate on episodes, as of an EpisodeSampler"
        )


def _check_apart(batch: Episode) -> None:
    """Raise CourseError where a query is a picture of its task's support set: to know it again is no learning."""
    support, query = batch.support_index, batch.query_index
    if support.numel() and query.numel() and (support.unsqueeze(1) == query.unsqueeze(2)).any():
        raise CourseError(
            "a query of a task is one of its support pictures; draw the two apart, as EpisodeSampler does"
        )


def _check_scores(scores: dict[str, Tensor], episodes: int, name: str) -> None:
    for what, value in scores.items():
        if value.shape != (episodes,):
            given = f"{name}.score gives {what!r} of shape {tuple(value.shape)}"
            raise CourseError(f"{given} for {episodes} tasks; give one number per task")
        if not value.isfinite().all():
            raise CourseError(f"{name}.score gives a {what!r} that is not finite; give a finite number per task")


def _worst_tenth(metric: Metric, scores: dict[str, Tensor]) -> float:
    values = metric.per_episode(scores)
    values = values[~values.isnan()]  # of a ratio: an episode with nothing to divide by
    worst = (metric.better * values).sort().indices[: max(1, len(values) // 10)]
    return values[worst].mean().item()


# ------------------------------------------------------------------ episodes


def _opened(about: dict[str, Any]) -> "hashlib._Hash":
    """A digest of what the episodes are of; their indices follow."""
    return hashlib.sha256(f"{about.get('data')} {about.get('split')}".encode())


def _batches(
    source: Source, episodes: int, at_once: int, generator: torch.Generator, digest: "hashlib._Hash"
) -> Iterator[Episode]:
    for start in range(0, episodes, BLOCK):
        count = min(BLOCK, episodes - start)
        batch = source.sample(count, generator)
        if batch.support_index.numel():
            _add(digest, batch.support_index, batch.query_index)
        else:
            _add(digest, batch.support_x, batch.query_x)
        yield from batch.split(at_once)


def _add(digest: "hashlib._Hash", *tensors: Tensor) -> None:
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())


def home_of(learner: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the number format of a learner's parameters; without parameters batches stay as they are."""
    first = next((value for value in learner.parameters() if value.is_floating_point()), None)
    return (None, None) if first is None else (first.device, first.dtype)
