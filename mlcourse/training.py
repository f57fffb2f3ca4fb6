"""One meta-training loop for all learners. It counts steps, never minutes.

    θ_outer ← θ_outer − β · dL_outer/dθ_outer

It knows nothing of methods: a learner has `outer_loss(batch, step=…, generator=…)`, a source has
`sample(tasks, generator)`, and what a validation measures is the learner's own metric, or an evaluator's.
"""

import functools
import inspect
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mlcourse import distributed, files
from mlcourse.datasets import ClassImages
from mlcourse.episodes import Episode, check_seed
from mlcourse.errors import CourseError, CourseWarning, RanAway
from mlcourse.evaluation import Episodes, Evaluator, Source, home_of, own_draws
from mlcourse.learners import CHECKPOINT, PREVIOUS, WEIGHTS, check_saving, completed, most_ways, restore, save
from mlcourse.learners.saving import first_difference, shortened
from mlcourse.statistics import Metric, Ratio

LOG = "log.jsonl"
LAST = 20  # steps that a mean is shown of
# settings that runs of earlier versions do not tell
TOLD_SINCE = ("classes", "began_with", "source", "validation_source")


class Images:
    """Single images with their global class, for learners that train on "images" (pre-training)."""

    gives = "images"

    def __init__(self, data: ClassImages, *, device: torch.device | str = "cpu"):
        self.data = data.to(device)
        self.labels = torch.arange(data.classes).repeat_interleave(data.counts.cpu()).to(device)

    def sample(self, tasks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`tasks` images: float32 [tasks, C, H, W] in [0, 1], and their classes [tasks]."""
        index = torch.randint(len(self.labels), (tasks,), generator=generator).to(self.labels.device)
        return self.data.images[index].float() / 255, self.labels[index]


@dataclass
class History:
    """What happened in training: one entry per step in `losses` and `values`, one per validation in `validations`.

    values: of the learner's metric in each step (nan where it has none). A step whose line of the log was lost is nan.
    others: the other metrics of a step, such as `indefinite` of implicit MAML: their means over the last steps.
    """

    losses: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)  # (steps done, the metric on validation classes)
    best_step: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    others: dict[str, float] = field(default_factory=dict)


def cosine(step: int, steps: int) -> float:
    """The share of the outer rate at a step: from 1 down to 0 along half a cosine
    (Loshchilov & Hutter, *SGDR*, 2017, https://arxiv.org/abs/1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def halving(step: int, steps: int) -> float:
    """The share of the outer rate at a step: half as much after every 2,000 (Snell et al. 2017, section 3.1)."""
    return 0.5 ** (step // 2000)


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "cosine": cosine,
    "constant": lambda step, steps: 1.0,
    "halving": halving,
}


# By name, as functions of (parameters, rate). One's own may be given as such a function.
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
    "adamw": lambda parameters, rate: torch.optim.AdamW(parameters, lr=rate),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
}
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    learner: nn.Module,
    source: Source,
    *,
    steps: int,
    tasks: int,
    rate: float = 1e-3,
    schedule: str = "cosine",
    seed: int = 0,
    optimizer: str | Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer] = "adam",
    accumulate: int = 1,
    precision: str = "float32",
    validation: Source | Evaluator | None = None,
    validate_every: int = 100,
    validation_episodes: int = 200,
    out: Path | str | None = None,
    resume: bool = False,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Meta-train a learner in place by gradients of its outer loss; afterwards it holds its best parameters.

    steps: outer steps. tasks: the meta-batch. rate: β, which follows `schedule` (one of SCHEDULES).
    optimizer: one of OPTIMIZERS, or a function of (parameters, rate) that makes one. accumulate: in how many parts the
    meta-batch goes through the learner, one after another: less memory, the same mean over tasks (but a learner with
    `running` statistics sees each part by itself). precision: of the forward pass, one of PRECISIONS: automatic mixed
    precision, where the learner allows it.
    validation: a sampler over validation classes, or an evaluator of one's own; every `validate_every` steps the
    learner is evaluated on the same `validation_episodes` episodes, and the parameters with the best metric are kept.
    Without it the last ones are.
    out: a folder for `learner.safetensors`, `config.json` (with `settings`), `log.jsonl` (a line per step) and the
    checkpoint; resume: go on from that checkpoint, to the same numbers as without the stop (nothing there: start).
    An interrupt (Ctrl-C, the stop button) ends the training early, after the step at hand, and keeps what was learnt.
    Where several processes train together (`mlcourse.distributed`), each takes a part of the tasks of a step.

    Raises CourseError for a bad setting, a source that does not fit the learner, a learner that a file could not bring
    back, a folder that holds another run, and an outer loss or a gradient that is not finite.
    """
    _check_source(learner, source)
    _check_ways(learner, source, validation)
    check_seed(seed)
    _check(steps=steps, tasks=tasks, validate_every=validate_every, validation_episodes=validation_episodes)
    _check(accumulate=accumulate)
    if accumulate > tasks:
        raise CourseError(f"accumulate is {accumulate}, more than the {tasks} tasks of a step; give {tasks} or less")
    if accumulate > 1 and not getattr(learner, "accumulates", True):
        raise CourseError(
            f"{type(learner).__name__} takes its tasks in one go, since each outer loss is a step of theirs; leave "
            "accumulate at 1"
        )
    if not 0 < rate < math.inf:
        raise CourseError(f"rate is {rate}; an outer rate is finite and above 0")
    if schedule not in SCHEDULES:
        raise CourseError(f"schedule {schedule!r} is unknown; use one of {', '.join(SCHEDULES)}")
    if out is not None:
        files.check_named(out, "out")
        check_saving(learner)
    settings = (settings or {}) | {"tasks": tasks, "schedule": schedule}
    settings |= _told_of(source) if out is not None else {}  # a digest of all pictures: only where it is kept
    settings |= _named(optimizer=(_name_of(optimizer), "adam"), accumulate=(accumulate, 1))
    settings |= _named(precision=(precision, "float32"))
    if validation is not None:  # the best step depends on these
        settings |= {"validate_every": validate_every}
        if hasattr(validation, "evaluate"):
            settings |= {"evaluator": type(validation).__name__}  # `save` tells its result as "validation"
        elif not hasattr(validation, "sample"):
            what = type(validation).__name__
            raise CourseError(f"validation is a {what}; give a source of episodes, or what can `evaluate` a learner")
        else:
            settings |= {"validation_episodes": validation_episodes}
            if out is not None:
                settings |= {f"validation_{name}": told for name, told in _told_of(validation).items()}
            validation = Episodes(validation, episodes=validation_episodes, seed=(seed + 10**6) % 2**64)
    if out is not None:
        _check_written(settings)
    together = distributed.current()
    together.check(learner, tasks, accumulate)
    run = Run(learner, rate, seed, None if out is None else Path(out), settings, steps, optimizer, precision)
    run.open(resume)
    together.agree(learner, run.step, run.settings)
    if not together.first:
        run.out = None  # one process writes
    if run.finished:
        learner.eval()
        return run.history
    started = run.step
    bar = tqdm(
        total=steps,
        initial=run.step,
        disable=not (progress and together.first),
        file=sys.stdout,
        mininterval=0.5,
        ncols=100,
    )
    with _InterruptsWait() as interrupts, bar:
        try:
            while run.step < steps:
                interrupts.check(together)
                for group, first in zip(run.optimizer.param_groups, run.rates, strict=True):
                    group["lr"] = first * SCHEDULES[schedule](run.step, steps)
                run.outer_step(source, tasks, accumulate)
                if out is not None and run.step == started + 1:
                    check_saving(learner)  # what a step changes is told after one step, not after all
                bar.set_postfix(run.shown(), refresh=False)
                bar.update()
                if run.step % validate_every == 0 or run.step == steps:
                    run.validate(validation)
                    run.checkpoint()
        except KeyboardInterrupt:
            run.history.interrupted = True
        finally:
            run.close_log()
        run.close()
    return run.history


def _check_source(learner: nn.Module, source: Source) -> None:
    name, wanted = type(learner).__name__, getattr(learner, "trains_on", "episodes")
    if not hasattr(source, "sample"):
        raise CourseError(f"a {type(source).__name__} gives no tasks; give a source, such as EpisodeSampler(data)")
    if wanted == "nothing":
        raise CourseError(f"{name} has nothing to train; evaluate it as it is")
    given = getattr(source, "gives", wanted)
    if given != wanted:
        other = "training.Images" if wanted == "images" else "an EpisodeSampler"
        raise CourseError(f"{name} trains on {wanted}, but {type(source).__name__} gives {given}; use {other}")


def _check_ways(learner: nn.Module, *sources: Any) -> None:
    """Raise CourseError for tasks of more classes than a learner tells apart, before the first step."""
    most = most_ways(learner)
    for way in (getattr(source, "way", None) for source in sources):
        if most is not None and isinstance(way, int) and way > most:
            name = type(learner).__name__
            raise CourseError(
                f"tasks have {way} classes, but {name} tells {most} apart at most; build it with way={way}"
            )


def _told_of(source: Source) -> dict[str, Any]:
    """What a source says of its episodes, so that no run goes on with others; names of data may change."""
    if not hasattr(source, "describe"):
        return {}
    told = {name: value for name, value in source.describe().items() if name not in ("data", "split")}
    return {"source": json.loads(json.dumps(told, default=lambda value: type(value).__name__))}


def _check_written(settings: dict[str, Any]) -> None:
    """Raise CourseError for a setting that no file takes: the first checkpoint would fail."""
    for name, value in settings.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise CourseError(f"the setting {name} is a {type(value).__name__}; give numbers, text or lists") from None


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CourseError(f"{name} is {value!r}; give 1 or more")


def _named(**given_and_default: tuple[Any, Any]) -> dict[str, Any]:
    """The settings that are not at their defaults: older runs know nothing of them, and can go on."""
    return {name: given for name, (given, default) in given_and_default.items() if given != default}


def _name_of(optimizer: str | Callable) -> str:
    """What a run says of its optimizer: the same for the same one in another process."""
    if isinstance(optimizer, str):
        return optimizer
    if isinstance(optimizer, functools.partial):
        return f"{_name_of(optimizer.func)} {dict(sorted(optimizer.keywords.items()))}"
    return getattr(optimizer, "__qualname__", type(optimizer).__name__)


def _parts(batch: Any, count: int) -> list[tuple[Any, float]]:
    """The batch in `count` parts, each with its share of the tasks (or of the images, for a tuple of tensors)."""
    if count == 1:
        return [(batch, 1.0)]
    if isinstance(batch, tuple):
        total = len(batch[0])
        parts = list(zip(*(tensor.split(math.ceil(total / count)) for tensor in batch), strict=True))
        return [(part, len(part[0]) / total) for part in parts]
    if not (hasattr(batch, "tasks") and hasattr(batch, "split")):
        kind = type(batch).__name__
        raise CourseError(f"a batch of type {kind} cannot be taken in parts; leave accumulate at 1")
    return [(part, part.tasks / batch.tasks) for part in batch.split(math.ceil(batch.tasks / count))]


def _of_all(parts: list[tuple[dict[str, float], float]]) -> dict[str, float]:
    """The metrics of a meta-batch from those of its parts and their shares: means, and ratios of the sums."""
    found = {}
    for name in dict.fromkeys(name for metrics, _ in parts for name in metrics):
        values = [(metrics[name], share) for metrics, share in parts if name in metrics]
        if all(isinstance(value, Ratio) for value, _ in values):
            found[name] = float(Ratio.of_sums([value for value, _ in values]))
        else:
            found[name] = sum(share * float(value) for value, share in values) / sum(share for _, share in values)
    return found


def _value_of(result: Any) -> tuple[float, Metric]:
    """What a training keeps of a validation."""
    return result.value, Metric(*result.metric)


class _InterruptsWait:
    """While it is open, an interrupt is only noted, and `check` raises it: no step is left half done.

    In the middle of a step the generator has moved on and the parameters have not: a checkpoint of that would resume to
    other numbers.
    """

    def __enter__(self):
        self.asked, self.before = False, None
        # Python allows handlers in the main thread only, where alone interrupts arrive. An ignored one stays ignored.
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: Any) -> None:
        self.asked = True

    def check(self, together: distributed.Alone) -> None:
        if together.any(self.asked):
            raise KeyboardInterrupt

    def __exit__(self, *_: Any) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)


class Run:
    """The state of one training run: what a checkpoint holds is exactly what the next step depends on."""

    def __init__(
        self,
        learner: nn.Module,
        rate: float,
        seed: int,
        out: Path | None,
        settings: dict,
        steps: int,
        optimizer: str | Callable = "adam",
        precision: str = "float32",
    ):
        self.learner, self.out, self.steps = learner, out, steps
        self.settings = settings | {"seed": seed, "steps": steps, "rate": rate}
        self.seed, self.together = seed, distributed.current()
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        if not self.parameters:
            name = type(learner).__name__
            raise CourseError(f"{name} has no parameter that asks for a gradient; nothing can be trained")
        if isinstance(optimizer, str) and optimizer not in OPTIMIZERS:
            raise CourseError(f"optimizer {optimizer!r} is unknown; use one of {', '.join(OPTIMIZERS)}, or a function")
        self.optimizer = (OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer)(self.parameters, rate)
        try:
            inspect.signature(self.optimizer.step).bind()
        except TypeError:  # as of LBFGS, whose step takes a closure
            raise CourseError(
                f"{type(self.optimizer).__name__} computes the loss several times per step, and an outer loss is "
                "computed once here; take another optimizer, such as Adam"
            ) from None
        mine = {id(one) for one in self.parameters}
        if not any(id(one) in mine for group in self.optimizer.param_groups for one in group["params"]):
            raise CourseError(
                "the optimizer has no parameter of the learner; make it of the parameters that it is given"
            )
        self.rates = [group["lr"] for group in self.optimizer.param_groups]  # groups keep their ratios
        self.told = _told(self.optimizer)
        self.mixed, self.scaler = self._precision(precision)
        self.generator = torch.Generator().manual_seed(seed)
        self.history = History()
        self.step, self.resumes = 0, 0
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.metric: str | None = None  # of the validation
        self.shown_metric: str | None = None  # of the steps
        self.recent: dict[str, deque[float]] = {}
        self.log = None
        self.finished = False
        self.doubted = False

    def _precision(self, name: str) -> tuple[Callable, torch.amp.GradScaler | None]:
        """What the forward pass runs under, and for float16 what keeps its small gradients."""
        if name not in PRECISIONS:
            raise CourseError(f"precision {name!r} is unknown; use one of {', '.join(PRECISIONS)}")
        dtype, device = PRECISIONS[name], self.parameters[0].device.type
        if dtype is None:
            return nullcontext, None
        if dtype == torch.float16 and device != "cuda":
            raise CourseError(f"precision float16 needs a GPU, and the learner is on {device}; use bfloat16 or float32")
        if not getattr(self.learner, "mixed_precision", True):
            name = type(self.learner).__name__
            raise CourseError(f"{name} loses too many digits in mixed precision; use precision float32")
        scaler = torch.amp.GradScaler(device) if dtype == torch.float16 else None
        return functools.partial(torch.autocast, device, dtype=dtype), scaler

    # ------------------------------------------------------------------ one step

    def outer_step(self, source: Source, tasks: int, accumulate: int = 1) -> None:
        started = time.perf_counter()
        self.learner.train()
        batch, own_share = self.together.part(source.sample(tasks, self.generator))
        batch, draws = self._at_home(batch), self.together.draws(self.generator, accumulate)
        self.optimizer.zero_grad()
        total, of_parts = 0.0, []
        with self.together.apart(self.learner):
            for part, share in _parts(batch, accumulate):
                with self.mixed(), own_draws(self.seed + self.step + self.together.noise, self.parameters[0].device):
                    loss, of_part = self.learner.outer_loss(part, step=self.step, generator=draws)
                self._check_loss(loss)
                share = own_share * share
                loss = loss if share == 1 else share * loss
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
                total += loss.item()
                of_parts.append((of_part, share))
        total, of_parts = self.together.added(self.parameters, total, of_parts)
        if not math.isfinite(total):
            raise self._ran_away(f"the outer loss is {total}")
        metrics = _of_all(of_parts)
        self._move()
        self.step += 1
        self._say_doubt(metrics)
        seconds = time.perf_counter() - started
        self.history.seconds += seconds
        self.history.losses.append(total)
        self.history.values.append(self._value_in(metrics))
        self._remember(metrics)
        logged = {f"{name} (metric)" if name in ("step", "loss", "seconds") else name: v for name, v in metrics.items()}
        self._write_log({"step": self.step, "loss": total, **logged, "seconds": round(seconds, 4)})

    def _say_doubt(self, metrics: dict[str, float]) -> None:
        """Warn once in a training of what the learner itself says of its steps."""
        word = None if self.doubted else getattr(self.learner, "doubt", lambda _: None)(metrics)
        if word:
            self.doubted = True
            warnings.warn(f"step {self.step}: {word}", CourseWarning, stacklevel=4)

    def _at_home(self, batch: Any) -> Any:
        """The batch on the learner's device, its images in the learner's number format."""
        device, dtype = home_of(self.learner)
        if isinstance(batch, Episode):
            return batch.to(device, dtype)
        if isinstance(batch, tuple):
            return tuple(part.to(device, dtype if part.is_floating_point() else None) for part in batch)
        return batch

    def _check_loss(self, loss: Tensor) -> None:
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            given = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise CourseError(f"the outer loss of {type(self.learner).__name__} is {given}; give one number, a mean")
        if not loss.requires_grad:
            raise CourseError(
                f"the outer loss of {type(self.learner).__name__} has no graph, so nothing would be learned: it was "
                "computed under no_grad or inference_mode, or from detached tensors; compute it with gradients on"
            )
        if self.together.world == 1 and not torch.isfinite(loss):  # several processes look at their sum, all of them
            raise self._ran_away(f"the outer loss is {loss.item()}")

    def _move(self) -> None:
        """One step of the optimizer, unless a gradient is not finite: it would make the weights so, for good."""
        if self.scaler is not None:  # it looks at the gradients itself, and skips the first steps until its scale fits
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        norms = torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None])
        if norms and not torch.isfinite(torch.stack([norm.float() for norm in norms])).all():
            raise self._ran_away("the outer loss is finite but its gradient is not (as that of a root at 0)")
        self.optimizer.step()

    def _ran_away(self, what: str) -> CourseError:
        kept = "earlier checkpoints are kept" if self.out is not None else "the parameters are those of the step before"
        return RanAway(f"{what} at step {self.step}; lower the outer rate or the inner rate, then start again ({kept})")

    def shown(self) -> dict[str, str]:
        """The metrics beside the progress bar: means over the last steps, and the last validation."""
        last, name = self.history.values[-LAST:], self.shown_metric
        if name is None or math.isnan(sum(last)):
            last, name = self.history.losses[-LAST:], "loss"
        shown = {name: f"{sum(last) / len(last):.3f}"}
        shown |= {name: f"{value:.3f}" for name, value in self.others().items()}
        if self.history.validations:
            shown["val"] = f"{self.history.validations[-1][1]:.3f}"
        return shown

    def _remember(self, metrics: dict[str, float]) -> None:
        """Keep the metrics beside the first one for `others`."""
        for name in metrics.keys() - {self.shown_metric} if self.shown_metric else ():
            self.recent.setdefault(name, deque(maxlen=LAST)).append(metrics[name])

    def others(self) -> dict[str, float]:
        """What a learner measures beside its metric, such as implicit MAML's `indefinite`: means of the last steps."""
        return {name: sum(values) / len(values) for name, values in sorted(self.recent.items())}

    def validate(self, validation: Evaluator | None) -> None:
        if validation is None:
            return
        started = time.perf_counter()
        value, metric = self.together.from_first(lambda: _value_of(validation.evaluate(self.learner)))
        self.history.seconds += time.perf_counter() - started
        self.history.validations.append((self.step, value))
        if not math.isfinite(value):
            raise CourseError(f"the validation's {metric.name} is {value} at step {self.step}; no step can be the best")
        self.metric = metric.name
        if self.best is None or metric.better * value > metric.better * self.best[0]:
            self.history.best_step = self.step
            self.best = (value, {name: value.clone() for name, value in self.learner.state_dict().items()})

    # ------------------------------------------------------------------ files

    def open(self, resume: bool) -> None:
        """Prepare the folder: start afresh, or go on from the checkpoint."""
        if self.out is None:
            return
        there = [name for name in ("config.json", CHECKPOINT, PREVIOUS, WEIGHTS, LOG) if (self.out / name).exists()]
        if there and not resume:
            raise CourseError(f"{self.out} already holds a run ({there[0]}); use --resume to go on, or another --out")
        if resume and ((self.out / CHECKPOINT).exists() or (self.out / PREVIOUS).exists()):
            self._restore()
        elif (self.out / "config.json").exists() or (self.out / WEIGHTS).exists():
            raise CourseError(f"{self.out} holds a learner but no {CHECKPOINT}; it cannot go on, use another --out")
        self._trim_log()

    def checkpoint(self) -> None:
        """Write all that the next step depends on, in one file, in one piece; the one before stays beside it."""
        if self.out is None:
            return
        for name, value in self.learner.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise self._ran_away(f"{name} is no longer finite")
        check_saving(self.learner)
        if self.log is not None and not self.log.closed:
            self.log.flush()
            os.fsync(self.log.fileno())  # the log must hold what the checkpoint counts
        tensors = {f"learner/{name}": value for name, value in self.learner.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            known = {name: value for name, value in state.items() if value is not None}
            tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in known.items()}
        if self.best:
            tensors |= {f"best/{name}": value for name, value in self.best[1].items()}
        tensors["generator"] = self.generator.get_state()
        history = {"validations": self.history.validations, "best_step": self.history.best_step}
        path = self.out / CHECKPOINT
        _keep_beside(path, self.out / PREVIOUS)
        files.save_tensors(
            path,
            tensors,
            {
                "step": self.step,
                "resumes": self.resumes,
                "seconds": self.history.seconds,
                "best": self.best[0] if self.best else None,
                "metric": self.metric,
                "scaler": self.scaler.state_dict() if self.scaler else None,
                "history": history,
                "learner": self.learner.recorded(),
                "settings": self.settings,
                "optimizer": self.told,
            },
        )

    def _restore(self) -> None:
        path, tensors, about = self._newest()
        theirs_and_mine = {
            "learner": (completed(about.get("learner") or {}), self.learner.recorded()),
            "settings": (about.get("settings"), self._settings_told_by(about.get("settings") or {})),
        }
        for name, (theirs, mine) in theirs_and_mine.items():
            if difference := _difference(theirs, mine):
                raise CourseError(f"{path} is of another run: its {name} {difference}; use another --out")
        part = {
            prefix: {name.split("/", 1)[1]: value for name, value in tensors.items() if name.startswith(prefix + "/")}
            for prefix in ("learner", "optimizer", "best")
        }
        restore(self.learner, part["learner"], path)
        self._check_optimizer(about.get("optimizer") or {}, path)
        self._restore_optimizer(part["optimizer"])
        if self.scaler and about.get("scaler"):
            self.scaler.load_state_dict(about["scaler"])
        self.generator.set_state(tensors["generator"])
        history = about.get("history") or {}  # runs of earlier versions kept none
        self.step, self.resumes = about["step"], about.get("resumes", 0) + 1
        self.history.seconds, self.history.best_step = about.get("seconds", 0.0), history.get("best_step", 0)
        self.history.validations = [(step, value) for step, value in history.get("validations", [])]
        self.best = (about["best"], part["best"]) if part["best"] and about.get("best") is not None else None
        self.metric = about.get("metric") or ("accuracy" if self.best else None)
        self.finished = self.step >= self.steps and (self.out / "config.json").exists()
        if self.finished and self.best:
            restore(self.learner, self.best[1], path)

    def _settings_told_by(self, theirs: dict[str, Any]) -> dict[str, Any]:
        """The settings, without those that runs of earlier versions do not tell: they can go on without."""
        return {name: value for name, value in self.settings.items() if name in theirs or name not in TOLD_SINCE}

    def _check_optimizer(self, theirs: dict[str, Any], path: Path) -> None:
        """Raise CourseError where the checkpoint is of another optimizer (older ones do not tell of which)."""
        for name, value in theirs.items():
            if name in self.told and self.told[name] != value:
                raise CourseError(
                    f"{path} is of another run: its optimizer has {name} = {value!r}, not {self.told[name]!r}; give "
                    "the same optimizer to go on, or use another --out"
                )

    def _newest(self) -> tuple[Path, dict[str, Tensor], dict]:
        """The newest checkpoint that can be read, with a word where that is not the last one."""
        first = None
        for path in (self.out / CHECKPOINT, self.out / PREVIOUS):
            try:
                tensors, about = files.load_tensors(path)
                if "step" not in about or "generator" not in tensors:
                    raise CourseError(f"{path} is no checkpoint of a training; use another --out")
            except (CourseError, OSError) as error:
                first = first or error
                continue
            if first is not None:
                warnings.warn(f"{first}; going on from {path.name}, step {about['step']}", stacklevel=2)
            return path, tensors, about
        raise first

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split("/")
            parameter = self.parameters[int(index)]
            if value.shape == parameter.shape and key != "step":
                # the moments lie in memory as their parameter does (channels last), files know no layout
                value = torch.empty_like(parameter).copy_(value)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})

    def _trim_log(self) -> None:
        """Drop the lines of steps that the checkpoint does not hold: they will be done again.

        A log that was damaged or lost is no reason to stop: the steps whose lines are missing are nan in the history.
        """
        path, kept = self.out / LOG, {}
        text = path.read_bytes().decode("utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            entry = _entry_of(line)
            if entry is not None and entry["step"] <= self.step and entry["step"] not in kept:
                kept[entry["step"]] = (line, float(entry["loss"]), self._value_in(entry))
        missing = self.step - len(kept)
        if missing:
            warnings.warn(
                f"{path} lacks {missing} of the {self.step} steps of its checkpoint; the training goes on without them",
                stacklevel=2,
            )
        for step in range(1, self.step + 1):
            _, loss, value = kept.get(step, ("", math.nan, math.nan))
            self.history.losses.append(loss)
            self.history.values.append(value)
        if path.exists():
            files.write_text(path, "".join(kept[step][0] + "\n" for step in sorted(kept)))

    def _value_in(self, entry: dict) -> float:
        """The learner's metric among the metrics of a step, or in a line of the log: the first after the loss."""
        if not hasattr(self.learner, "metric"):  # as of a learned optimizer: it has a loss only
            return math.nan
        self.shown_metric = next((name for name in entry if name not in ("step", "loss", "seconds", "resumes")), None)
        value = entry.get(self.shown_metric)
        return _number(value)

    def _write_log(self, entry: dict) -> None:
        if self.out is None:
            return
        if self.log is None:  # from the first step on: a request that fails in it leaves no run behind
            self.out.mkdir(parents=True, exist_ok=True)
            self.log = (self.out / LOG).open("a", encoding="utf-8", newline="\n")
        finite = {name: value if math.isfinite(value) else None for name, value in entry.items()}  # JSON knows no NaN
        self.log.write(json.dumps(finite | {"resumes": self.resumes}) + "\n")
        self.log.flush()

    def close_log(self) -> None:
        if self.log is not None:
            self.log.flush()
            os.fsync(self.log.fileno())
            self.log.close()

    def close(self) -> None:
        """Keep the best parameters; write the learner when the run is finished or interrupted."""
        if self.history.interrupted:
            self.checkpoint()
        if self.best is not None:
            restore(self.learner, self.best[1], "the best checkpoint")
        self.history.others = self.others()
        self.learner.eval()
        if self.out is not None:
            save(
                self.learner,
                self.out,
                **self.settings,
                finished=self.step >= self.steps,
                steps_done=self.step,
                best_step=self.history.best_step,
                validation={self.metric: self.best[0]} if self.best else None,
                seconds=round(self.history.seconds, 1),
            )


def _keep_beside(path: Path, previous: Path) -> None:
    """Let the file at `path`, if there is one, also be called `previous`. Its own name stays until it is replaced."""
    if not path.exists():
        return
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # some disks know no second name for a file
        shutil.copyfile(path, previous)


def _difference(theirs: Any, mine: Any) -> str | None:
    """Which setting differs, in words; None where they are the same."""
    if not isinstance(theirs, dict):
        return "are missing"
    found = first_difference(theirs, json.loads(json.dumps(mine)))
    return found and f"have {found[0]} = {shortened(found[1])}, not {shortened(found[2])}"


def _told(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer is, as a file keeps it: its class, and the settings of its groups of parameters."""
    told: dict[str, Any] = {"class": type(optimizer).__qualname__, "groups": len(optimizer.param_groups)}
    for number, group in enumerate(optimizer.param_groups):
        which = f" of group {number}" if number else ""
        told |= {name + which: value for name, value in group.items() if name != "params"}
        told |= {"parameters" + which: len(group["params"])}
    told |= getattr(optimizer, "told", dict)()
    return json.loads(json.dumps(told, default=lambda value: type(value).__name__))


def _entry_of(line: str) -> dict[str, Any] | None:
    """A line of the log; None for one that was cut when the process was killed, or damaged."""
    try:
        entry = json.loads(line)
        step, loss = entry["step"], float(entry["loss"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return entry if type(step) is int and step >= 1 and not math.isnan(loss) else None


def _number(value: Any) -> float:
    """A number of the log as a float; nan for whatever else stands there."""
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan
