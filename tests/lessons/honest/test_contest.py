"""What notebook 12 compares: the six networks are one method, the logs are theirs, trials count what they say."""

import json

import pytest
import torch
from programs import program

from mlcourse import datasets, files, learners, places, protocols, statistics
from mlcourse.errors import CourseError
from mlcourse.lessons.honest import contest

RESULTS = places.data() / "results" / "honest"


@pytest.fixture(scope="module")
def maker():
    """data/make_honest.py, read."""
    return program("data/make_honest.py")


@pytest.fixture
def forgetful():
    """Nothing that was read before is remembered, before and after the test."""
    for one in (contest.logs, contest.under_shift):
        one.cache_clear()
    yield
    for one in (contest.logs, contest.under_shift):
        one.cache_clear()


# ------------------------------------------------------------------ the six


def test_the_six_are_one_method_and_one_recipe_with_six_seeds(maker):
    plan, options = maker.PLANS["prototypical"]
    told = [learners.load_run(contest.folder(seed)) for seed in range(6)]
    configs = [learner.config for learner, _ in told]
    assert all(one == configs[0] for one in configs)
    assert configs[0]["method"] == "prototypical"
    assert configs[0]["options"]["channels"] == maker.CHANNELS
    assert {name: configs[0]["options"][name] for name in options} == options == {"scaled": True}
    assert [about["seed"] for _, about in told] == list(range(6))
    for _, about in told:
        assert {name: about[name] for name in plan} == plan
        assert about["steps_done"] == plan["steps"]
        assert about["dataset"] == "glyphs"
    weights = [next(learner.parameters()) for learner, _ in told]
    assert all(not torch.equal(weights[0], other) for other in weights[1:])


def test_the_names_of_the_table_name_each_once_and_in_no_order():
    assert sorted(contest.ORDER) == list(range(6))
    assert list(contest.ORDER) != sorted(contest.ORDER)
    told = contest.who_they_are()
    assert list(told) == list(contest.NAMES)
    for name, seed in zip(contest.NAMES, contest.ORDER):
        assert told[name] == f"prototypical, 500 steps, seed {seed}"


def test_the_checkpoints_are_small():
    size = sum(path.stat().st_size for seed in range(6) for path in contest.folder(seed).iterdir())
    assert size < 2 * 2**20


# ------------------------------------------------------------------ the exam and the logs


def test_the_stored_logs_are_what_the_networks_answer():
    """Two of the six, the first 100 episodes again; an answer at the edge may differ on another machine."""
    sampler = contest.exam(datasets.load("glyphs", "test"))
    stored = contest.logs()
    for seed in (0, 4):
        learner, _ = learners.load_run(contest.folder(seed))
        log = contest.examine(learner, sampler, 100, contest.SEED)
        assert torch.equal(log.script, stored.script[:100])
        apart = (log.right - stored.right["prototypical"][seed][:100]).abs() * contest.WAY * contest.QUERY / 100
        assert apart.sum() <= 3


def test_the_logs_are_of_the_episodes_that_the_exam_draws():
    from mlcourse import evaluation

    sampler = contest.exam(datasets.load("glyphs", "test"))
    found = evaluation.digest_of(sampler, episodes=contest.EPISODES, seed=contest.SEED)
    assert contest.logs().digest == found


def test_all_classes_of_a_task_are_of_one_script():
    data = datasets.load("glyphs", "test")
    log = contest.examine(learners.build("pixels", way=5), contest.exam(data), 40, 7)
    batch = contest.exam(data).sample(20, torch.Generator().manual_seed(7))
    groups = list(dict.fromkeys(data.groups))
    for script, classes in zip(log.script, batch.classes):
        assert {data.groups[k] for k in classes.tolist()} == {groups[int(script)]}
    assert log.logits.shape == (40 * 25, 5)
    assert log.right.min() >= 0
    assert log.right.max() <= 100


def test_damaged_logs_are_told(tmp_path, monkeypatch, forgetful):
    """A file that lacks a part, and one whose episodes do not match."""
    monkeypatch.setattr(places, "data", lambda: tmp_path)
    place = tmp_path / "results" / "honest"
    place.mkdir(parents=True)
    whole = json.loads((RESULTS / "logs.json").read_text())
    (place / "logs.json").write_text(json.dumps({name: whole[name] for name in whole if name != "script"}))
    with pytest.raises(CourseError, match="is damaged"):
        contest.logs()
    (place / "logs.json").write_text(json.dumps(whole | {"script": whole["script"][:-1]}))
    with pytest.raises(CourseError, match="same episodes"):
        contest.logs()
    (place / "shift.json").write_text(json.dumps({"protocols": {}}))
    with pytest.raises(CourseError, match="is damaged"):
        contest.under_shift()


# ------------------------------------------------------------------ under shift


def test_the_results_under_shift_are_of_todays_protocols():
    found = files.read_json(RESULTS / "shift.json")["protocols"]
    assert list(found) == list(contest.PROTOCOLS.values())
    for name, one in found.items():
        protocol = protocols.read(name)
        assert one["index_digest"] == protocol.index_digest
        assert list(one["methods"]) == list(contest.TITLES)
        for method, row in one["methods"].items():
            assert row["queries"] == protocol.way * protocol.query
            assert {len(right) for right in row["right"]} == {protocol.episodes}
            assert len(row["right"]) == (1 if method == "pixels" else 3)


def test_a_stored_result_is_made_again_from_its_checkpoint():
    protocol = protocols.read("glyphs-5way-1shot")
    learner, about = learners.load_run(contest.folder(1))
    again = protocols.evaluate(protocol, learner, name="again", about=about)
    kept = files.read_json(RESULTS / "shift.json")["protocols"][protocol.name]["methods"]["prototypical"]
    apart = (torch.tensor(again.right) - torch.tensor(kept["right"][1])).abs().sum()
    assert apart <= 20  # of 75,000 answers, on another machine
    assert kept["flop"] == {what: again.flop[what] for what in kept["flop"]}


def test_ranks_are_shared_by_those_that_cannot_be_told_apart():
    generator = torch.Generator().manual_seed(0)
    hard = 10 * torch.randn(200, generator=generator, dtype=torch.float64)

    def method(level, noise):
        own = noise * torch.randn(1, 200, generator=generator, dtype=torch.float64)
        return contest.Shifted(level + hard + own, None, 1)

    results = {"a": method(50.0, 1.0), "b": method(70.0, 8.0), "c": method(70.0, 8.0), "d": method(60.0, 1.0)}
    found = contest.ranks(results)
    assert found == {"a": 4, "b": 1, "c": 1, "d": 3}


def test_neighbours_that_the_seeds_cannot_tell_apart_are_named():
    def method(*means):
        return contest.Shifted(torch.tensor(means, dtype=torch.float64)[:, None].expand(-1, 50), None, 1)

    results = {"a": method(50.0, 51.0, 52.0), "b": method(60.0, 64.0, 68.0), "c": method(66.0, 63.0, 66.0)}
    ((better, worse, gap, half),) = contest.untold(results)
    assert (better, worse) == ("c", "b")
    assert gap == pytest.approx(1.0)
    assert half == pytest.approx(4.3027 * torch.tensor([6.0, -1.0, -2.0]).std().item() / 3**0.5, rel=1e-4)


# ------------------------------------------------------------------ promises


def test_trials_count_how_often_an_interval_holds_the_mean_of_all():
    script = torch.arange(8).repeat_interleave(10)
    right = 50 + 5.0 * script.double()
    how = {"scripts": 4, "count": 30, "generator": torch.Generator().manual_seed(0)}
    table, holds = contest.trials(right, script, lambda values, clusters: (0.0, 100.0), **how)
    assert holds.all()
    assert table.shape == (30, 3)
    _, never = contest.trials(right, script, lambda values, clusters: (99.0, 100.0), **how)
    assert not never.any()
    seen = []

    def interval(values, clusters):
        seen.append((len(values), clusters.unique().tolist()))
        return statistics.mean_interval(values)

    contest.trials(right, script, interval, **how)
    assert seen == [(40, [0, 1, 2, 3])] * 30
    with pytest.raises(CourseError, match="some are unseen"):
        contest.trials(right, script, interval, **(how | {"scripts": 8}))


def test_a_cluster_interval_of_clusters_drawn_afresh_covers_and_one_over_tasks_does_not():
    """The claim of the notebook where the truth is known: scripts from a normal distribution, many people."""
    from mlcourse.lessons.honest import checks

    generator = torch.Generator().manual_seed(1)
    covered = {"scripts": 0, "tasks": 0}
    for _ in range(200):
        levels = 70 + 8 * torch.randn(12, generator=generator, dtype=torch.float64)
        script = torch.arange(12).repeat_interleave(40)
        right = levels[script] + 12 * torch.randn(480, generator=generator, dtype=torch.float64)
        lower, upper = checks.cluster_interval.reference(right, script, contest.draws_of(script, 400, generator))
        covered["scripts"] += bool(lower <= 70 <= upper)
        mean, half = statistics.mean_interval(right)
        covered["tasks"] += abs(mean - 70) <= half
    assert covered["scripts"] >= 170  # 12 clusters: a little below 95 %
    assert covered["tasks"] <= 100


def test_the_maker_says_what_it_wants(maker):
    assert set(maker.PLANS) == set(contest.TITLES) - {"pixels", "untrained-prototypical"}
    assert "make_honest.py runs/honest --write" in maker.__doc__
