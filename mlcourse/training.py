"""One meta-training loop for all learners. It counts steps, never minutes.

    θ_outer ← θ_outer − β · dL_outer/dθ_outer

It knows nothing of methods: a learner has `outer_loss(batch, step=…, generator=…)`, a source has
`sample(tasks, generator)`.
"""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mlcourse import files
from mlcourse.datasets import ClassImages
from mlcourse.episodes import check_seed
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import completed, restore, save

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"


class Source(Protocol):
    """Where meta-batches come from: an EpisodeSampler, `Images`, or one's own.

    A source may say what it `gives`, "episodes" or "images"; `train` then refuses learners that train on the other.
    """

    def sample(self, tasks: int, generator: torch.Generator) -> Any: ...


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
    """What happened in training: one entry a step in `losses` and `accuracies`, one a validation in `validations`."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)  # (steps done, accuracy on validation classes)
    best_step: int = 0
    seconds: float = 0.0
    interrupted: bool = False


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


def train(
    learner: nn.Module,
    source: Source,
    *,
    steps: int,
    tasks: int,
    rate: float = 1e-3,
    schedule: str = "cosine",
    seed: int = 0,
    validation: Source | None = None,
    validate_every: int = 100,
    validation_episodes: int = 200,
    out: Path | str | None = None,
    resume: bool = False,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Meta-train a learner in place by Adam on its outer loss; afterwards it holds its best parameters.

    steps: outer steps. tasks: the meta-batch. rate: β, which follows `schedule` (one of SCHEDULES).
    validation: a sampler over validation classes; every `validate_every` steps the learner is evaluated on the same
    `validation_episodes` episodes, and the best parameters are kept. Without it the last ones are.
    out: a folder for `learner.safetensors`, `config.json` (with `settings`), `log.jsonl` (a line a step) and the
    checkpoint; resume: go on from that checkpoint, to the same numbers as without the stop (nothing there: start).
    An interrupt (Ctrl-C, the stop button) ends the training early, after the step at hand, and keeps what was learnt.

    Raises CourseError for a bad setting, a source that does not fit the learner, a folder that holds another run, and
    an outer loss that is not finite.
    """
    _check_source(learner, source)
    check_seed(seed)
    _check(steps=steps, tasks=tasks, validate_every=validate_every, validation_episodes=validation_episodes)
    if schedule not in SCHEDULES:
        raise CourseError(f"schedule {schedule!r} is unknown; use one of {', '.join(SCHEDULES)}")
    settings = (settings or {}) | {"tasks": tasks, "schedule": schedule}
    if validation is not None:  # the best step depends on these
        settings |= {"validate_every": validate_every, "validation_episodes": validation_episodes}
    run = Run(learner, rate, seed, Path(out) if out else None, settings, steps)
    run.open(resume)
    if run.finished:
        learner.eval()
        return run.history
    bar = tqdm(total=steps, initial=run.step, disable=not progress, file=sys.stdout, mininterval=0.5, ncols=100)
    with _InterruptsWait() as interrupts, bar:
        try:
            while run.step < steps:
                interrupts.check()
                for group in run.optimizer.param_groups:
                    group["lr"] = rate * SCHEDULES[schedule](run.step, steps)
                run.outer_step(source, tasks)
                bar.set_postfix(run.shown(), refresh=False)
                bar.update()
                if run.step % validate_every == 0 or run.step == steps:
                    run.validate(validation, validation_episodes)
                    run.checkpoint()
        except KeyboardInterrupt:
            run.history.interrupted = True
        finally:
            run.close_log()
        run.close()
    return run.history


def _check_source(learner: nn.Module, source: Source) -> None:
    name, wanted = type(learner).__name__, getattr(learner, "trains_on", "episodes")
    if wanted == "nothing":
        raise CourseError(f"{name} has nothing to train; evaluate it as it is")
    given = getattr(source, "gives", wanted)
    if given != wanted:
        other = "training.Images" if wanted == "images" else "an EpisodeSampler"
        raise CourseError(f"{name} trains on {wanted}, but {type(source).__name__} gives {given}; use {other}")


def _check(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise CourseError(f"{name} is {value}; give 1 or more")


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

    def check(self) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def __exit__(self, *_: Any) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)


class Run:
    """The state of one training run: what a checkpoint holds is exactly what the next step depends on."""

    def __init__(self, learner: nn.Module, rate: float, seed: int, out: Path | None, settings: dict, steps: int):
        self.learner, self.out, self.steps = learner, out, steps
        self.settings = settings | {"seed": seed, "steps": steps, "rate": rate}
        self.seed = seed
        self.parameters = [p for p in learner.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.history = History()
        self.step, self.resumes = 0, 0
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.log = None
        self.finished = False

    # ------------------------------------------------------------------ one step

    def outer_step(self, source: Source, tasks: int) -> None:
        started = time.perf_counter()
        self.learner.train()
        batch = source.sample(tasks, self.generator)
        loss, metrics = self.learner.outer_loss(batch, step=self.step, generator=self.generator)
        if not torch.isfinite(loss):
            raise CourseError(
                f"the outer loss is {loss.item()} at step {self.step}; lower the outer rate or the inner rate, "
                "then start again (earlier checkpoints are kept)"
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        seconds = time.perf_counter() - started
        self.history.seconds += seconds
        self.history.losses.append(loss.item())
        self.history.accuracies.append(metrics.get("accuracy", float("nan")))
        self._write_log({"step": self.step, "loss": loss.item(), **metrics, "seconds": round(seconds, 4)})

    def shown(self) -> dict[str, str]:
        """The metric beside the progress bar: a mean over the last steps, and the last validation."""
        last, name = self.history.accuracies[-20:], "accuracy"
        if math.isnan(last[-1]):
            last, name = self.history.losses[-20:], "loss"
        shown = {name: f"{sum(last) / len(last):.3f}"}
        if self.history.validations:
            shown["val"] = f"{self.history.validations[-1][1]:.3f}"
        return shown

    def validate(self, validation: Source | None, episodes: int) -> None:
        if validation is None:
            return
        started = time.perf_counter()
        accuracy = evaluate(self.learner, validation, episodes=episodes, seed=(self.seed + 10**6) % 2**64).accuracy
        self.history.seconds += time.perf_counter() - started
        self.history.validations.append((self.step, accuracy))
        if self.best is None or accuracy > self.best[0]:
            self.history.best_step = self.step
            self.best = (accuracy, {name: value.clone() for name, value in self.learner.state_dict().items()})

    # ------------------------------------------------------------------ files

    def open(self, resume: bool) -> None:
        """Prepare the folder: start afresh, or go on from the checkpoint."""
        if self.out is None:
            return
        there = [name for name in ("config.json", CHECKPOINT, LOG) if (self.out / name).exists()]
        if there and not resume:
            raise CourseError(f"{self.out} already holds a run ({there[0]}); use --resume to go on, or another --out")
        if resume and (self.out / CHECKPOINT).exists():
            self._restore()
        elif (self.out / "config.json").exists():
            raise CourseError(f"{self.out} holds a learner but no {CHECKPOINT}; it cannot go on, use another --out")
        self._trim_log()

    def checkpoint(self) -> None:
        """Write all that the next step depends on, in one file, in one piece."""
        if self.out is None:
            return
        tensors = {f"learner/{name}": value for name, value in self.learner.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
        if self.best:
            tensors |= {f"best/{name}": value for name, value in self.best[1].items()}
        tensors["generator"] = self.generator.get_state()
        history = {"validations": self.history.validations, "best_step": self.history.best_step}
        files.save_tensors(
            self.out / CHECKPOINT,
            tensors,
            {
                "step": self.step,
                "resumes": self.resumes,
                "seconds": self.history.seconds,
                "best": self.best[0] if self.best else None,
                "history": history,
                "learner": self.learner.config,
                "settings": self.settings,
            },
        )

    def _restore(self) -> None:
        path = self.out / CHECKPOINT
        tensors, about = files.load_tensors(path)
        theirs_and_mine = {
            "learner": (completed(about.get("learner") or {}), self.learner.config),
            "settings": (about.get("settings"), self.settings),
        }
        for name, (theirs, mine) in theirs_and_mine.items():
            if theirs != json.loads(json.dumps(mine)):
                raise CourseError(
                    f"{path} is of another run: its {name} {_difference(theirs, mine)}; use another --out"
                )
        part = {
            prefix: {name.split("/", 1)[1]: value for name, value in tensors.items() if name.startswith(prefix + "/")}
            for prefix in ("learner", "optimizer", "best")
        }
        restore(self.learner, part["learner"], path)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in part["optimizer"].items():
            index, key = name.split("/")
            if key != "step":  # the moments lie in memory as their parameter does (channels last), files know no layout
                value = torch.empty_like(self.parameters[int(index)]).copy_(value)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.generator.set_state(tensors["generator"])
        self.step, self.resumes = about["step"], about["resumes"] + 1
        self.history.seconds, self.history.best_step = about["seconds"], about["history"]["best_step"]
        self.history.validations = [(step, value) for step, value in about["history"]["validations"]]
        self.best = (about["best"], part["best"]) if part["best"] else None
        self.finished = self.step >= self.steps and (self.out / "config.json").exists()
        if self.finished and self.best:
            restore(self.learner, self.best[1], path)

    def _trim_log(self) -> None:
        """Drop the lines of steps that the checkpoint does not hold: they will be done again."""
        path = self.out / LOG
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a process that was killed while it wrote
                break
            if entry["step"] > self.step:
                break
            kept.append(line)
            self.history.losses.append(entry["loss"])
            self.history.accuracies.append(entry.get("accuracy", float("nan")))
        if len(kept) != self.step:
            raise CourseError(f"{path} has {len(kept)} of the {self.step} steps of its checkpoint; use another --out")
        if path.exists():
            files.write_text(path, "".join(line + "\n" for line in kept))

    def _write_log(self, entry: dict) -> None:
        if self.out is None:
            return
        if self.log is None:  # from the first step on: a request that fails in it leaves no run behind
            self.out.mkdir(parents=True, exist_ok=True)
            self.log = (self.out / LOG).open("a", encoding="utf-8", newline="\n")
        self.log.write(json.dumps(entry | {"resumes": self.resumes}) + "\n")
        self.log.flush()

    def close_log(self) -> None:
        if self.log is not None:
            self.log.close()

    def close(self) -> None:
        """Keep the best parameters; write the learner when the run is finished or interrupted."""
        if self.history.interrupted:
            self.checkpoint()
        if self.best is not None:
            restore(self.learner, self.best[1], "the best checkpoint")
        self.learner.eval()
        if self.out is not None:
            accuracy = self.best[0] if self.best else None
            save(
                self.learner,
                self.out,
                **self.settings,
                finished=self.step >= self.steps,
                steps_done=self.step,
                best_step=self.history.best_step,
                validation_accuracy=accuracy,
                seconds=round(self.history.seconds, 1),
            )


def _difference(theirs: Any, mine: Any) -> str:
    """Which setting differs, in words."""
    if not isinstance(theirs, dict):
        return "are missing"
    mine = json.loads(json.dumps(mine))
    for name in sorted(theirs.keys() | mine.keys()):
        if theirs.get(name) != mine.get(name):
            if isinstance(theirs.get(name), dict) and isinstance(mine.get(name), dict):
                return _difference(theirs[name], mine[name])
            return f"have {name} = {theirs.get(name)!r}, not {mine.get(name)!r}"
    return "differ"
