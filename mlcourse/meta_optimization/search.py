"""Search for hyper-parameters without gradients: Bayesian search (TPE) and random search, through Optuna.

    space = {"rate": LogUniform(1e-4, 1.0), "layers": Integer(1, 4), "norm": Choice(["batch", "none"])}

    def objective(values, report):
        for step in range(100):
            ...
            if step % 20 == 19:
                report(loss, cost=20)          # 20 inner steps more are spent; here a pruner may stop the trial
        return final_loss                      # what is minimised

    found = minimise(objective, space, "work/rates.sqlite3", trials=30, seed=0)
    found.best.values, found.best.value        # the best trial
    spent, best = found.curve()                # best loss so far against the cost spent

A *trial* is one call of the objective with one choice of values. **Cost is counted, not timed**: the sum of what the
objective reports, in inner steps or gradient evaluations, whatever unit the comparison has. A minute depends on the
machine, and on who else uses it.

**A study is a file** (SQLite). Stop the process however you like, call `minimise` with the same file again, and it
goes on: finished trials are kept, a trial that was cut off does not count and is not gone on with. Several processes
may call it with one file at the same time. Each looks at the number of finished trials before it starts a new one, so P
processes end with at most P − 1 trials more than asked for; one process ends with exactly as many. `MEMORY` in place of
a file keeps nothing. In place of a file one may give the URL of a database that Optuna speaks to, such as
`postgresql://user@host/search`, for processes on several machines; `sqlite:///rates.sqlite3` is that file.

**Seeds.** The draws of a trial depend on the seed, on its number in the file and, for TPE, on the trials finished
before it. So one process that is not interrupted gives the same trials for the same seed.

Bergstra, Bengio, *Random Search for Hyper-Parameter Optimization*, 2012, https://jmlr.org/papers/v13/bergstra12a.html;
Bergstra, Bardenet, Bengio, Kégl, *Algorithms for Hyper-Parameter Optimization*, 2011,
https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization (TPE, the tree-structured Parzen
estimator); Falkner, Klein, Hutter, *BOHB: Robust and Efficient Hyperparameter Optimization at Scale*, 2018,
https://arxiv.org/abs/1807.01774 (TPE on all parameters together); Jamieson, Talwalkar, *Non-stochastic Best Arm
Identification and Hyperparameter Optimization*, 2016, https://arxiv.org/abs/1502.07943 (successive halving); Akiba,
Sano, Yanase, Ohta, Koyama, *Optuna: A Next-generation Hyperparameter Optimization Framework*, 2019,
https://arxiv.org/abs/1907.10902.
"""

from __future__ import annotations

import itertools
import json
import math
import numbers
import random
import re
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcourse.errors import CourseError, check_number

if TYPE_CHECKING:  # Optuna and its database take half a second to import, so that happens where a search begins
    import optuna

MEMORY = ":memory:"
SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "halving")
STUDY = "mlcourse"  # the name of the one study in a file
STARTUP = 10  # random trials before TPE begins; Optuna's own number
BROKEN = (RuntimeError, OSError, ImportError, ValueError)  # what else a database that is none may raise
STARTS = 8  # how often a process tries to open a database that others are opening
WAIT = 60  # seconds that a process waits while another one writes


# ------------------------------------------------------------------ the space


@dataclass(frozen=True)
class Uniform:
    """A real number from low to high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high)

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high)


@dataclass(frozen=True)
class LogUniform:
    """A real number whose logarithm is uniform, for quantities that act by factors: rates, strengths."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self, self.low, self.high)
        _check_positive(self, self.low)

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=True)


@dataclass(frozen=True)
class Integer:
    """A whole number from low to high, both included; log: small ones are tried as often as large ones."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        if any(isinstance(end, bool) or not isinstance(end, int) for end in (self.low, self.high)):
            raise CourseError(f"{self} needs whole numbers; use Uniform for real ones")
        _check_range(self, self.low, self.high)
        if self.log:
            _check_positive(self, self.low)

    def suggest(self, trial: optuna.Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of several words, numbers, truth values or None, without an order."""

    options: tuple

    def __init__(self, options: Sequence) -> None:
        if isinstance(options, str) or not isinstance(options, Sequence) or not options:
            raise CourseError(f"Choice({options!r}) has nothing to choose from; pass a list of one option or more")
        if any(one is not None and not isinstance(one, str | int | float) for one in options):
            raise CourseError(
                f"Choice({list(options)!r}): options are words, numbers, True, False or None; name others"
            )
        if len(set(options)) < len(options):
            raise CourseError(f"Choice({list(options)!r}) has an option twice; take one of them out")
        object.__setattr__(self, "options", tuple(options))

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.options)


Space = Mapping[str, Uniform | LogUniform | Integer | Choice]


def _check_range(one: Any, low: float, high: float) -> None:
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high)):
        raise CourseError(f"{one} needs two finite numbers")
    if not low < high:
        raise CourseError(f"{one} is empty: low must be below high; a value that is fixed belongs in the objective")


def _check_positive(one: Any, low: float) -> None:
    if low <= 0:
        raise CourseError(f"{one} has no logarithm at {low}: low must be above 0, or take a uniform scale")


def _check_space(space: Space) -> None:
    if not isinstance(space, Mapping) or not space:
        raise CourseError(f"the space is {space!r}: give one parameter or more by name, such as LogUniform(1e-4, 1)")
    for name, one in space.items():
        if not isinstance(name, str) or not name or not isinstance(one, Uniform | LogUniform | Integer | Choice):
            raise CourseError(f"the space has {name!r}: {one!r}; give Uniform, LogUniform, Integer or Choice by name")


def _in_words(space: Space) -> str:
    """The space as text that is kept in the file: two spaces are the same when their texts are."""
    return json.dumps({name: repr(space[name]) for name in sorted(space)}, ensure_ascii=False)


# ------------------------------------------------------------------ what comes out


@dataclass(frozen=True)
class Trial:
    """One finished call of the objective.

    value: what it returned, inf when that was not finite; None when a pruner stopped it. cost: the sum of its reports.
    reports: cost spent in this trial → the loss reported then.
    """

    number: int
    values: dict[str, Any]
    value: float | None
    cost: int
    reports: dict[int, float] = field(default_factory=dict)

    @property
    def pruned(self) -> bool:
        return self.value is None


@dataclass(frozen=True)
class Found:
    """The finished trials of a study, in the order in which they finished."""

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the lowest value. Raises CourseError when no trial came to its end."""
        ended = [trial for trial in self.trials if not trial.pruned]
        if not ended:
            raise CourseError(f"none of {len(self.trials)} finished trials came to its end; run more, or do not prune")
        return min(ended, key=lambda trial: trial.value)

    @property
    def cost(self) -> int:
        """What all finished trials cost together, those of a pruner included."""
        return sum(trial.cost for trial in self.trials)

    def curve(self) -> tuple[list[int], list[float]]:
        """After each finished trial: the cost spent so far, and the lowest value so far (see `best_so_far`)."""
        values = [math.inf if trial.pruned else trial.value for trial in self.trials]
        return best_so_far(values, [trial.cost for trial in self.trials])


def best_so_far(values: Sequence[float], costs: Sequence[float]) -> tuple[list[float], list[float]]:
    """The cost spent after each trial, and the lowest value found until then; both as long as the two inputs.

    A value that is not a number counts as infinite. Minus the best possible value, the curve is called *simple regret*.
    """
    if len(values) != len(costs):
        raise CourseError(f"{len(values)} values and {len(costs)} costs; give one cost for each value")
    for cost in costs:
        check_number("a cost", cost, least=0)
    losses = [math.inf if math.isnan(value) else float(value) for value in values]
    return list(itertools.accumulate(costs)), list(itertools.accumulate(losses, min))


def at_costs(spent: Sequence[float], best: Sequence[float], grid: Sequence[float]) -> list[float]:
    """The curve of `best_so_far` at the costs of `grid`: the best that was *finished* by then, inf before the first.

    So curves whose trials cost different amounts can be compared, and averaged over seeds, at equal cost.
    """
    if len(spent) != len(best):
        raise CourseError(f"{len(spent)} costs and {len(best)} values; give both lists of `best_so_far`")
    return [min((value for cost, value in zip(spent, best) if cost <= limit), default=math.inf) for limit in grid]


# ------------------------------------------------------------------ the search


Objective = Callable[[dict[str, Any], Callable[..., None]], float]


def minimise(
    objective: Objective,
    space: Space,
    file: str | Path,
    *,
    trials: int | None = None,
    cost: int | None = None,
    sampler: str = "tpe",
    pruner: str | None = None,
    seed: int = 0,
    startup: int = STARTUP,
    first: Mapping[str, Any] | None = None,
    of: str = "",
) -> Found:
    """Search until the study in `file` has `trials` finished trials, or has spent `cost`, whichever comes first.

    objective(values, report) → a loss; values: one value by name for each parameter of the space. report(loss, cost=n)
        says what the loss is now, and that n units (a whole number of 1 or more) were spent since the last report. Each
        report is written to the file, which takes some milliseconds: report in steps that are worth it.
    space: Uniform, LogUniform, Integer, Choice by name. The file remembers it and takes no other.
    file: where the study is kept, or the URL of a database; MEMORY keeps it nowhere.
    trials, cost: at least one of the two. The trial that crosses `cost` still ends, so at most one trial more is spent.
    sampler: "tpe" (the first `startup` trials are random; then all parameters are drawn together, so that it sees which
        values go with which), or "random".
    pruner: None; "median" stops a trial whose best report so far is worse than the median of the others' at the same
        cost, after 5 trials; "halving" lets only the best quarter go on whenever the cost has grown fourfold.
        A pruned trial is a finished trial, and its cost counts. Both compare at equal cost in a trial, so let all
        trials report in the same steps.
    seed: a whole number of 0 or more.
    first: the values of the first trial of a new study, such as what one used until now; None leaves it to the sampler.
        Where that trial was cut off before any other ended, it is done again.
    of: what is searched for, in words. A study that was made for something else is refused.

    A loss that is not finite counts as infinite: training that ran away is a result. An exception of the objective
    comes through; its trial does not count. Raises CourseError for what it cannot search, and for a file that is
    damaged, is no study, or holds a study of another space or of something else.
    """
    _check_space(space)
    _check_wishes(trials, cost, sampler, pruner, seed, startup)
    _check_first(first, space)
    with _opened(file, space) as study:
        _check_same(study, file, of)
        if first is not None and _first_is_due(study):
            study.enqueue_trial(dict(first))
        study.pruner = _pruner(pruner)
        study.sampler = _sampler(sampler, seed, startup)  # before a trial is asked for: TPE draws all values together
        while not _enough(found := _found(study), trials, cost):
            _one_trial(study, objective, space, cost)
    return found


def load(file: str | Path) -> Found:
    """The finished trials in a file, without running any. Raises CourseError as `minimise` does."""
    file = _file_of(file)
    if str(file) == MEMORY or not (_is_url(file) or Path(file).exists()):
        raise CourseError(f"there is no study {file}; `minimise` makes one")
    with _opened(file, None) as study:
        return _found(study)


def _check_same(study: Any, file: str | Path, of: str) -> None:
    """Raise CourseError where a study was made for something else; a new one keeps what it is made for."""
    kept = study.user_attrs.get("of")
    if kept is None and not study.get_trials(deepcopy=False):
        study.set_user_attr("of", kept := of)
    if (kept or "") != of:
        where = _without_password(str(file))
        raise CourseError(
            f"{where} holds a search of {kept or 'something else'}, this is one of {of or 'nothing named'}; "
            "take another file or database"
        )


def _check_wishes(trials, cost, sampler, pruner, seed, startup) -> None:
    for name, number in (("trials", trials), ("cost", cost), ("startup", startup)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise CourseError(f"{name} is {number!r}; give a whole number of 1 or more")
    if trials is None and cost is None:
        raise CourseError("a search needs an end: give trials=, cost= or both")
    if sampler not in SAMPLERS:
        raise CourseError(f"sampler {sampler!r} is unknown; use {' or '.join(SAMPLERS)}")
    if pruner is not None and pruner not in PRUNERS:
        raise CourseError(f"pruner {pruner!r} is unknown; use None, {' or '.join(PRUNERS)}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise CourseError(f"seed is {seed!r}; give a whole number of 0 or more")


def _check_first(first: Mapping[str, Any] | None, space: Space) -> None:
    if first is None:
        return
    if not isinstance(first, Mapping) or set(first) != set(space):
        raise CourseError(f"first is {first!r}; give a value for each of {', '.join(space)}, and for nothing else")
    for name, one in space.items():
        if not _inside(first[name], one):
            raise CourseError(f"first has {name} = {first[name]!r}, which is not in {one}; choose a value inside")


def _inside(value: Any, one: Uniform | LogUniform | Integer | Choice) -> bool:
    if isinstance(one, Choice):
        return value in one.options
    kind = numbers.Integral if isinstance(one, Integer) else numbers.Real
    return isinstance(value, kind) and not isinstance(value, bool) and one.low <= value <= one.high


def _enough(found: Found, trials: int | None, cost: int | None) -> bool:
    return (trials is not None and len(found.trials) >= trials) or (cost is not None and found.cost >= cost)


def _first_is_due(study) -> bool:
    """Whether no trial came to its end yet, and none waits."""
    from optuna.trial import TrialState

    states = {one.state for one in study.get_trials(deepcopy=False)}
    return not states & {TrialState.COMPLETE, TrialState.PRUNED, TrialState.WAITING}


def _one_trial(study, objective: Objective, space: Space, cost: int | None) -> None:
    """Ask for values, call the objective, write down what came out."""
    import optuna

    trial = study.ask()
    report = _Report(trial)
    try:
        value = _number(objective({name: one.suggest(trial, name) for name, one in space.items()}, report), "gave")
        state, value = optuna.trial.TrialState.COMPLETE, value if math.isfinite(value) else math.inf
        if cost is not None and report.cost == 0:
            raise CourseError("the objective reported no cost, so its budget is never spent; call report(loss, cost=n)")
    except optuna.TrialPruned:
        state, value = optuna.trial.TrialState.PRUNED, None
    except BaseException:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        raise
    trial.set_user_attr("cost", report.cost)  # before the trial is finished: what is finished has its cost
    study.tell(trial, value, state=state)


def _number(loss: Any, what: str) -> float:
    """A loss as a float. Raises CourseError for what is no number; nan and infinity are numbers here."""
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        if not isinstance(loss, str | bool):
            return float(loss)
    raise CourseError(f"the objective {what} a {type(loss).__name__} that is no number; give a loss, one number")


class _Report:
    """What an objective calls as report(loss, cost=n). It adds the costs up, and stops a trial that is not worth it."""

    def __init__(self, trial: optuna.Trial):
        self.trial, self.cost = trial, 0

    def __call__(self, loss: float, *, cost: int) -> None:
        import optuna

        if isinstance(cost, bool) or not isinstance(cost, int) or cost < 1:
            raise CourseError(f"report was told cost={cost!r}; give a whole number of 1 or more, in steps or gradients")
        self.cost += cost
        loss = _number(loss, "reported")
        self.trial.report(loss if math.isfinite(loss) else math.inf, self.cost)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def _sampler(name: str, seed: int, startup: int):
    """A sampler that begins anew at each trial, with a seed mixed of the study's seed and the trial's number.

    With one stream of draws for the whole run, a run that is gone on with would begin the same draws again.
    """
    from optuna import samplers

    def one(number: int) -> samplers.BaseSampler:
        own = random.Random(f"{seed}/{number}").getrandbits(32)
        if name == "random":
            return samplers.RandomSampler(seed=own)
        # said aloud because Optuna's own defaults changed from version 4 to 5
        with _quiet():
            return samplers.TPESampler(seed=own, n_startup_trials=startup, multivariate=True, constant_liar=False)

    class EachTrial(samplers.BaseSampler):
        """Optuna calls `before_trial` first, with the number: where processes share a file, nobody knows it sooner."""

        def before_trial(self, study, trial) -> None:
            self.one = one(trial.number)
            self.one.before_trial(study, trial)

        def infer_relative_search_space(self, study, trial):
            return self.one.infer_relative_search_space(study, trial)

        def sample_relative(self, study, trial, search_space):
            return self.one.sample_relative(study, trial, search_space)

        def sample_independent(self, study, trial, param_name, param_distribution):
            return self.one.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study, trial, state, values) -> None:
            self.one.after_trial(study, trial, state, values)

    return EachTrial()


def _pruner(name: str | None):
    from optuna import pruners

    if name is None:
        return pruners.NopPruner()
    return pruners.MedianPruner() if name == "median" else pruners.SuccessiveHalvingPruner(reduction_factor=4)


def _found(study) -> Found:
    """The trials that came to an end. Running ones are another process's, or were cut off: they do not count."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    ended = sorted(ended, key=lambda one: (one.datetime_complete, one.number))
    return Found(
        tuple(
            Trial(
                one.number,
                dict(one.params),
                one.value if one.state == TrialState.COMPLETE else None,
                one.user_attrs.get("cost", 0),
                dict(sorted(one.intermediate_values.items())),
            )
            for one in ended
        )
    )


# ------------------------------------------------------------------ the file


@contextmanager
def _opened(file: str | Path, space: Space | None) -> Iterator[optuna.Study]:
    """The study in a file, which is made if it is not there; `space` None takes the one that is in it."""
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line for each trial is too much for a lesson
    if str(file) == MEMORY:
        yield optuna.create_study(storage=optuna.storages.InMemoryStorage())
        return
    file = _file_of(file)
    path = _without_password(file) if _is_url(file) else Path(file).expanduser()
    try:
        storage, study = _open_url(file, space) if _is_url(file) else _open_file(path, space)
    except CourseError:
        raise
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error, *BROKEN) as error:
        reason = " ".join(str(error).split())[:150]
        remedy = "look at the URL, and at the database" if _is_url(file) else "delete it, or take another file"
        raise CourseError(f"{path} cannot be read as a study ({reason}); {remedy}") from error
    try:
        yield study
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = " ".join(str(error).split())[:150]
        raise CourseError(
            f"{path} could not be read or written ({reason}); is the disk full, or the file gone?"
        ) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()  # Windows deletes no file that is open


def _open_file(path: Path, space: Space | None):
    import optuna
    from filelock import FileLock

    if path.is_dir():
        raise CourseError(f"{path} is a folder; give the name of a file in it, such as {path / 'study.sqlite3'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock"), timeout=WAIT):  # two processes would make the tables twice
        _check_file(path)
        # the URL says only that it is a file: in one that held the path, "?", "%20" and "{x}" would mean something else
        connect = partial(sqlite3.connect, path, timeout=WAIT, check_same_thread=False)
        with _quiet():
            storage = optuna.storages.RDBStorage(f"sqlite:///{STUDY}", engine_kwargs={"creator": connect})
        return storage, _study_in(storage, path, space)


def _study_in(storage: Any, where: Path | str, space: Space | None):
    """The one study, which is made if it is not there. Raises CourseError where it is of another space."""
    import optuna

    study = optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True)
    kept = study.user_attrs.get("space")
    if kept is None and space is not None:
        study.set_user_attr("space", kept := _in_words(space))
    if space is not None and kept != _in_words(space):
        storage.engine.dispose()
        raise CourseError(
            f"{where} holds a study of another space, {kept}; take another file, or the space it was made for"
        )
    return study


def _is_url(file: str | Path) -> bool:
    return isinstance(file, str) and "://" in file


def _file_of(file: str | Path) -> str | Path:
    """The file of an SQLite URL: it is opened as a file is, so that several processes may begin at once."""
    if not (_is_url(file) and file.startswith("sqlite://")):
        return file
    path = file.removeprefix("sqlite:///")
    if path == file or not path or "?" in path:
        raise CourseError(f"{file} names no file; give sqlite:///FOLDER/NAME.sqlite3, or the path by itself")
    return path


def _without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"((?:password|passwd|pwd)=)[^&]*", r"\1…", re.sub(r"://([^:/@]*):[^@]*@", r"://\1:…@", url))


def _open_url(url: str, space: Space | None):
    """A study in a database on a server.

    Where several processes begin at once, one of them makes the tables and the study, and the others may stumble over
    it; they try again.
    """
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    for left in reversed(range(STARTS)):
        try:
            with _quiet():
                storage = optuna.storages.RDBStorage(url)
            return storage, _study_in(storage, _without_password(url), space)
        except (ArgumentError, NoSuchModuleError):
            raise
        except (StorageInternalError, SQLAlchemyError, AssertionError):
            if not left:
                raise
            time.sleep(random.uniform(0.2, 1.0))
    raise AssertionError("unreachable")


def _check_file(path: Path) -> None:
    """Refuse what is no SQLite file, what is damaged, and what holds other tables than Optuna's."""
    if not path.exists() or path.stat().st_size == 0:
        return
    if path.read_bytes()[:16] != b"SQLite format 3\x00":
        raise CourseError(f"{path} is no study (no SQLite file); take another file")
    with closing(sqlite3.connect(path, timeout=WAIT)) as connection:
        (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if said != "ok":
        raise CourseError(f"{path} is damaged ({said.splitlines()[0]}); delete it, or take it from a backup")
    if tables and not tables & {"studies", "trials", "version_info"}:
        raise CourseError(f"{path} is no study: it holds the tables {', '.join(sorted(tables)[:3])}; take another file")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that an argument is experimental, or will be renamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
