"""Search: what is asked for is what is run, cost is what was reported, and a study survives whatever happens to it."""

import collections
import itertools
import math
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
import warnings

import optuna
import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.meta_optimization import search
from mlcourse.meta_optimization.search import MEMORY, Choice, Integer, LogUniform, Uniform

SPACE = {"x": Uniform(-1.0, 1.0), "rate": LogUniform(1e-4, 1.0), "n": Integer(1, 3), "kind": Choice(["a", "b"])}
LINE = {"x": Uniform(-1.0, 1.0)}


def bowl(values, report):
    """(x − 0.3)² and what the others add; the value is known after 4 reports of 5 units each."""
    loss = (values["x"] - 0.3) ** 2 + 0.1 * abs(math.log10(values.get("rate", 1e-2)) + 2)
    for k in range(4):
        report(loss + 1 / (k + 1), cost=5)
    return loss


# ------------------------------------------------------------------ what is run


@pytest.mark.parametrize("sampler", search.SAMPLERS)
def test_as_many_trials_as_asked_for_inside_the_space(sampler):
    found = search.minimise(bowl, SPACE, MEMORY, trials=14, sampler=sampler, startup=5)
    assert len(found.trials) == 14
    assert found.cost == 14 * 20
    for trial in found.trials:
        values = trial.values
        assert list(values) == list(SPACE)
        assert -1 <= values["x"] <= 1
        assert 1e-4 <= values["rate"] <= 1
        assert values["n"] in (1, 2, 3)
        assert isinstance(values["n"], int)
        assert values["kind"] in ("a", "b")
        assert trial.value == bowl(values, lambda loss, cost: None)
        assert list(trial.reports) == [5, 10, 15, 20]
    assert found.best.value == min(trial.value for trial in found.trials)


@pytest.mark.parametrize("sampler", search.SAMPLERS)
def test_a_seed_is_a_run(sampler):
    def run(seed):
        found = search.minimise(bowl, SPACE, MEMORY, trials=12, sampler=sampler, seed=seed, startup=4)
        return [(trial.values, trial.value) for trial in found.trials]

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_a_file_and_memory_give_the_same_trials(tmp_path):
    file = tmp_path / "new folder" / "study.sqlite3"
    kept = search.minimise(bowl, SPACE, file, trials=8, startup=4)
    assert kept == search.load(file)
    gone = search.minimise(bowl, SPACE, MEMORY, trials=8, startup=4)
    assert [one.values for one in kept.trials] == [one.values for one in gone.trials]


def test_tpe_comes_nearer_than_random_search():
    """On a smooth bowl in three dimensions, the best of 40, mean over 6 seeds: a sampler that does not learn fails."""
    space = {name: Uniform(-1.0, 1.0) for name in "abc"}

    def far(values, report):
        return sum((value - 0.4) ** 2 for value in values.values())

    def mean(sampler):
        runs = [search.minimise(far, space, MEMORY, trials=40, sampler=sampler, seed=seed) for seed in range(6)]
        return sum(run.best.value for run in runs) / 6

    assert mean("tpe") < 0.5 * mean("random")


def test_random_search_is_uniform_and_independent():
    """Kolmogorov and Smirnov's distance at the level of 1 in 10,000; whole numbers and choices by their counts."""
    space = SPACE | {"m": Integer(1, 1000, log=True)}
    found = search.minimise(lambda values, report: 0.0, space, MEMORY, trials=600, sampler="random", seed=5)
    n = len(found.trials)
    bound = 2.23 / math.sqrt(n)
    x = sorted((trial.values["x"] + 1) / 2 for trial in found.trials)
    rate = sorted(1 + math.log10(trial.values["rate"]) / 4 for trial in found.trials)
    for sample in (x, rate):
        assert max(max((k + 1) / n - value, value - k / n) for k, value in enumerate(sample)) < bound
    for name, options in (("n", 3), ("kind", 2)):
        counts = collections.Counter(trial.values[name] for trial in found.trials)
        assert len(counts) == options
        assert all(abs(count - n / options) < 4 * math.sqrt(n / options) for count in counts.values())
    below_32 = sum(trial.values["m"] < 32 for trial in found.trials)  # half of the logarithms
    assert abs(below_32 - n / 2) < 4 * math.sqrt(n) / 2
    together = sum(a.values["x"] * b.values["x"] for a, b in itertools.pairwise(found.trials)) / n
    assert abs(together) < 4 * (1 / 3) / math.sqrt(n)  # neighbours in time do not resemble each other


def test_the_first_trial_can_be_given(tmp_path):
    given = {"x": 0.25, "rate": 1e-4, "n": 3, "kind": "b"}
    for sampler in search.SAMPLERS:
        found = search.minimise(bowl, SPACE, MEMORY, trials=4, sampler=sampler, first=given)
        assert [trial.values == given for trial in found.trials] == [True, False, False, False]
    file = tmp_path / "study.sqlite3"
    search.minimise(bowl, SPACE, file, trials=1, sampler="random")
    kept = search.minimise(bowl, SPACE, file, trials=3, sampler="random", first=given)
    assert given not in [trial.values for trial in kept.trials]  # the study had begun already


@pytest.mark.parametrize("killed", [False, True])
def test_a_first_trial_that_was_cut_off_is_done_again(tmp_path, monkeypatch, killed):
    file, tried = tmp_path / "study.sqlite3", []

    def cut_off_once(values, report):
        tried.append(values["x"])
        if len(tried) == 1:
            raise KeyboardInterrupt
        return values["x"] ** 2

    wish = {"trials": 3, "sampler": "random", "first": {"x": 0.25}}
    with monkeypatch.context() as patch:
        if killed:  # who is killed writes no more: the trial seems to run for ever
            patch.setattr(optuna.Study, "tell", lambda *arguments, **options: None)
        with pytest.raises(KeyboardInterrupt):
            search.minimise(cut_off_once, LINE, file, **wish)
    found = search.minimise(cut_off_once, LINE, file, **wish)
    assert tried[:2] == [0.25, 0.25]
    assert [trial.values["x"] for trial in found.trials] == tried[1:]
    assert tried.count(0.25) == 2


def test_a_loss_that_is_not_finite_is_the_worst_result():
    def runs_away(values, report):
        report(math.nan, cost=1)
        return math.nan if values["x"] < 0 else values["x"]

    found = search.minimise(runs_away, LINE, MEMORY, trials=12, sampler="random")
    lost = [trial for trial in found.trials if trial.value == math.inf]
    assert len(found.trials) == 12
    assert len(lost) == sum(trial.values["x"] < 0 for trial in found.trials) > 0
    assert 0 <= found.best.value < math.inf


def test_an_exception_comes_through_and_does_not_count(tmp_path):
    file, calls = tmp_path / "study.sqlite3", []

    def third_fails(values, report):
        calls.append(values)
        report(1.0, cost=2)
        if len(calls) == 3:
            raise ZeroDivisionError("on purpose")
        return 1.0

    with pytest.raises(ZeroDivisionError):
        search.minimise(third_fails, LINE, file, trials=5)
    assert len(search.load(file).trials) == 2
    found = search.minimise(third_fails, LINE, file, trials=5)
    assert (len(found.trials), len(calls), found.cost) == (5, 6, 10)
    assert search.minimise(third_fails, LINE, file, trials=5) == found  # nothing is left to do
    assert len(calls) == 6


# ------------------------------------------------------------------ cost and curves


def test_a_budget_of_cost_ends_the_search():
    def of_size(values, report):
        report(0.0, cost=values["n"])
        return float(values["n"])

    found = search.minimise(of_size, {"n": Integer(1, 9)}, MEMORY, cost=50, sampler="random")
    spent, best = found.curve()
    assert spent[-1] == found.cost >= 50 > spent[-2]
    assert spent == [sum(trial.cost for trial in found.trials[: k + 1]) for k in range(len(spent))]
    assert best == [min(trial.value for trial in found.trials[: k + 1]) for k in range(len(best))]
    both = search.minimise(of_size, {"n": Integer(1, 9)}, MEMORY, cost=50, trials=2, sampler="random")
    assert len(both.trials) == 2


def test_best_so_far_by_hand():
    spent, best = search.best_so_far([3.0, 5.0, math.nan, 1.0], [2, 1, 4, 1])
    assert spent == [2, 3, 7, 8]
    assert best == [3.0, 3.0, 3.0, 1.0]
    assert search.at_costs(spent, best, [1, 2, 7, 7.9, 8, 100]) == [math.inf, 3.0, 3.0, 3.0, 1.0, 1.0]
    assert search.best_so_far([], []) == ([], [])
    assert search.best_so_far([math.nan, 2.0], [1, 1])[1] == [math.inf, 2.0]
    with pytest.raises(CourseError, match="2 values and 1 costs"):
        search.best_so_far([1.0, 2.0], [1])


@pytest.mark.parametrize("pruner", search.PRUNERS)
def test_a_pruner_stops_bad_trials_and_saves_cost(pruner):
    def slow(values, report):
        for _ in range(16):
            report(values["x"] ** 2, cost=1)
        return values["x"] ** 2

    options = {"trials": 30, "sampler": "random", "seed": 1}
    found = search.minimise(slow, LINE, MEMORY, pruner=pruner, **options)
    whole = search.minimise(slow, LINE, MEMORY, **options)
    pruned = [trial for trial in found.trials if trial.pruned]
    assert len(found.trials) == len(whole.trials) == 30
    assert not any(trial.pruned for trial in whole.trials)
    assert 5 <= len(pruned) < 30
    assert all(trial.cost < 16 for trial in pruned)
    assert found.cost == sum(trial.cost for trial in found.trials) < 0.8 * whole.cost == 0.8 * 30 * 16
    assert found.best.value == whole.best.value
    assert math.isfinite(found.best.value)
    bad = [abs(trial.values["x"]) for trial in pruned]
    good = [abs(trial.values["x"]) for trial in found.trials if not trial.pruned]
    assert sum(bad) / len(bad) > sum(good) / len(good)


# ------------------------------------------------------------------ interrupted, resumed, shared

CHILD = """
import os, sys, time
from mlcourse.meta_optimization import search

def objective(values, report):
    report(values["x"] ** 2, cost=3)
    time.sleep({pause})
    return values["x"] ** 2

found = search.minimise(objective, {{"x": search.Uniform(-1.0, 1.0)}}, sys.argv[1], trials={trials}, seed=2)
print(len(found.trials))
"""


def start(file, *, trials, pause):
    code = CHILD.format(trials=trials, pause=pause)
    return subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)


def wait_for(file, trials):
    """Until so many trials are finished in the file, and one more is running."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with sqlite3.connect(file, timeout=10) as connection:
                states = [state for (state,) in connection.execute("SELECT state FROM trials")]
            connection.close()
            if states.count("COMPLETE") >= trials and "RUNNING" in states:
                return
        except sqlite3.Error:
            pass
        time.sleep(0.02)
    raise AssertionError("the search did not get on")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_in_the_middle_and_gone_on_with(tmp_path):
    file = tmp_path / "study.sqlite3"
    child = start(file, trials=9, pause=0.2)
    wait_for(file, 3)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    before = search.load(file)
    assert 3 <= len(before.trials) < 9

    def objective(values, report):
        report(values["x"] ** 2, cost=3)
        return values["x"] ** 2

    found = search.minimise(objective, LINE, file, trials=9, seed=2)
    assert len(found.trials) == 9  # the trial that was cut off is in the file, and does not count
    assert found.trials[: len(before.trials)] == before.trials
    assert found.cost == 27
    assert found.trials[-1].number == 9
    assert len({trial.values["x"] for trial in found.trials}) == 9  # going on does not draw the same values again


def test_two_processes_share_a_study(tmp_path):
    file = tmp_path / "study.sqlite3"
    both = [start(file, trials=8, pause=0.1) for _ in range(2)]
    assert [child.wait(timeout=120) for child in both] == [0, 0]
    for child in both:
        child.stdout.close()
    found = search.load(file)
    assert len(found.trials) in (8, 9)  # two processes: at most one more than asked for
    assert len({trial.number for trial in found.trials}) == len(found.trials)
    assert len({trial.values["x"] for trial in found.trials}) == len(found.trials)
    # both worked: somewhere a trial began before the one before it had ended
    with sqlite3.connect(file) as connection:
        rows = sorted(connection.execute("SELECT datetime_start, datetime_complete FROM trials"))
    connection.close()
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(rows))


# ------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Uniform(1.0, 1.0), "low must be below high"),
        (lambda: LogUniform(2.0, 1.0), "low must be below high"),
        (lambda: LogUniform(0.0, 1.0), "no logarithm at 0.0"),
        (lambda: Integer(-1, 5, log=True), "no logarithm at -1"),
        (lambda: Integer(1.5, 3), "needs whole numbers"),
        (lambda: Uniform(0.0, math.inf), "two finite numbers"),
        (lambda: Uniform("a", 2), "two finite numbers"),
        (lambda: Choice([]), "nothing to choose from"),
        (lambda: Choice("sgd"), "nothing to choose from"),
        (lambda: Choice(["a", "a"]), "an option twice"),
        (lambda: Choice([[1], [2]]), "words, numbers"),
    ],
)
def test_spaces_that_are_none(make, words):
    with pytest.raises(CourseError, match=words):
        make()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {}}, "one parameter or more"),
        ({"space": {"x": 3}}, "give Uniform"),
        ({"trials": 0}, "trials is 0"),
        ({"trials": None}, "needs an end"),
        ({"cost": -1}, "cost is -1"),
        ({"sampler": "grid"}, "sampler 'grid' is unknown"),
        ({"pruner": "axe"}, "pruner 'axe' is unknown"),
        ({"seed": -1}, "seed is -1"),
        ({"first": {"y": 0.0}}, "a value for each of x"),
        ({"first": {"x": 1.5}}, "x = 1.5, which is not in Uniform"),
        ({"objective": lambda values, report: report(1.0, cost=0)}, "cost=0"),
        ({"objective": lambda values, report: 0.0, "trials": None, "cost": 5}, "reported no cost"),
    ],
)
def test_wishes_that_cannot_be_met(change, words):
    wish = {"objective": bowl, "space": LINE, "trials": 2} | change
    with pytest.raises(CourseError, match=words):
        search.minimise(wish.pop("objective"), wish.pop("space"), MEMORY, **wish)


def test_a_file_of_another_space(tmp_path):
    file = tmp_path / "study.sqlite3"
    search.minimise(bowl, LINE, file, trials=1)
    for other in (LINE | {"y": Uniform(0.0, 1.0)}, {"x": Uniform(-1.0, 2.0)}, {"x": Integer(-1, 1)}):
        with pytest.raises(CourseError, match="study of another space"):
            search.minimise(bowl, other, file, trials=1)
    assert len(search.minimise(bowl, LINE, file, trials=2).trials) == 2


def test_files_that_are_no_study(tmp_path):
    file = tmp_path / "study.sqlite3"
    search.minimise(bowl, LINE, file, trials=3)
    whole = file.read_bytes()
    for name, content in {
        "text": b"a letter to somebody",
        "half": whole[: len(whole) // 2],
        "torn": whole[:8192] + bytes(len(whole) - 8192),
    }.items():
        broken = tmp_path / f"{name}.sqlite3"
        broken.write_bytes(content)
        with pytest.raises(CourseError, match=broken.name):
            search.minimise(bowl, LINE, broken, trials=4)
        assert broken.read_bytes() == content
    with sqlite3.connect(tmp_path / "other.sqlite3") as connection:
        connection.execute("CREATE TABLE addresses (name TEXT)")
    connection.close()
    with pytest.raises(CourseError, match="tables addresses"):
        search.minimise(bowl, LINE, tmp_path / "other.sqlite3", trials=1)
    with pytest.raises(CourseError, match="is a folder"):
        search.minimise(bowl, LINE, tmp_path, trials=1)
    with pytest.raises(CourseError, match="there is no study"):
        search.load(tmp_path / "nothing.sqlite3")
    (tmp_path / "empty.sqlite3").touch()  # what a process leaves that is killed while it makes the file
    assert len(search.minimise(bowl, LINE, tmp_path / "empty.sqlite3", trials=1).trials) == 1


def test_a_file_that_is_lost_on_the_way(tmp_path):
    file = tmp_path / "study.sqlite3"

    def thief(values, report):
        file.write_bytes(bytes(len(file.read_bytes())))
        return 0.0

    with pytest.raises(CourseError, match="could not be read or written"):
        search.minimise(thief, LINE, file, trials=3)


def test_no_trial_came_to_its_end():
    with pytest.raises(CourseError, match="none of 0"):
        _ = search.Found(()).best


def test_importing_it_is_cheap():
    heavy = "{'torch', 'optuna', 'sqlalchemy'}"
    code = f"import sys, mlcourse.meta_optimization.search; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# ------------------------------------------------------------------ parameters that only count together


def two_valleys(values, report=None):
    """Three parameters, all near 1 or all near −1: each by itself says nothing, only together are they good."""
    return min(sum((value - side) ** 2 for value in values.values()) for side in (1, -1))


def one_by_one(seed, space, trials, startup):
    """Optuna's TPE that draws each parameter by itself, with the same seeds: what joint draws must beat."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for number in range(trials):
        own = random.Random(f"{seed}/{number}").getrandbits(32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.sampler = optuna.samplers.TPESampler(
                seed=own, n_startup_trials=startup, multivariate=False, constant_liar=False
            )
        trial = study.ask()
        study.tell(trial, two_valleys({name: one.suggest(trial, name) for name, one in space.items()}))
    return [trial.value for trial in study.trials]


def test_tpe_draws_parameters_together():
    """Paired over 24 seeds, mean loss of the trials after the random ones: joint draws win by far more than chance."""
    space, seeds = {name: Uniform(-2.0, 2.0) for name in "abc"}, range(24)
    gains = []
    for seed in seeds:
        found = search.minimise(two_valleys, space, MEMORY, trials=40, seed=seed)
        values, alone = [trial.value for trial in found.trials], one_by_one(seed, space, 40, search.STARTUP)
        assert values[: search.STARTUP] == alone[: search.STARTUP]  # the random ones are the same
        gains.append(statistics.mean(alone[search.STARTUP :]) - statistics.mean(values[search.STARTUP :]))
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    assert statistics.mean(gains) > 3 * error, (statistics.mean(gains), error)


@pytest.mark.parametrize(
    "name",
    ["why?/s.sqlite3", "a%20b.sqlite3", "a#b.sqlite3", "a b", "{x}.sqlite3", "ü%2Fé", "a&b=c;d", "s?mode=ro"],
)
def test_a_study_is_written_to_the_file_that_was_named(tmp_path, name):
    file = tmp_path / name
    kept = search.minimise(bowl, SPACE, file, trials=2)
    assert file.read_bytes()[:6] == b"SQLite"
    assert search.load(file) == kept
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    lock = (file.parent / f".{file.name}.lock").relative_to(tmp_path).as_posix()
    assert [path for path in found if path != lock] == [name]


@pytest.mark.parametrize("first", [{"x": "left"}, {"x": None}, {"x": math.nan}, {"x": math.inf}, {"x": True}])
def test_a_first_value_that_is_no_number_of_the_space_is_refused(first):
    with pytest.raises(CourseError, match="first has x"):
        search.minimise(bowl, LINE, MEMORY, trials=1, first=first)


def test_curves_refuse_what_they_would_drop_or_walk_backwards():
    for cost in (-1, math.nan, math.inf):
        with pytest.raises(CourseError, match=f"a cost is {cost}"):
            search.best_so_far([1.0, 2.0], [1, cost])
    with pytest.raises(CourseError, match="2 costs and 1 values"):
        search.at_costs([1, 2], [0.5], [3])


@pytest.mark.parametrize("wrong", [None, "0.3", True, 10**400, torch.zeros(2), torch.tensor(1j)])
def test_a_loss_is_one_number(wrong):
    space = {"x": Uniform(0, 1)}
    with pytest.raises(CourseError, match=r"the objective gave a \w+ that is no number; give a loss"):
        search.minimise(lambda values, report: wrong, space, MEMORY, trials=1)
    with pytest.raises(CourseError, match=r"the objective reported a \w+ that is no number; give a loss"):
        search.minimise(lambda values, report: report(wrong, cost=1), space, MEMORY, trials=1)
