"""Rows, ranks with ties, and pairs of results that are made up."""

import math
from dataclasses import replace

import pytest
import torch
from protocol_helpers import small

from mlcourse import learners, protocols, statistics
from mlcourse.errors import CourseError
from mlcourse.networks import Conv4
from mlcourse.protocols import comparison, results

EPISODES, QUERIES = 400, 15


@pytest.fixture(scope="module")
def protocol():
    return replace(small(), episodes=EPISODES, rows=("pixels", "prototypical", "maml"))


def result(method, accuracy, seed=0, noise=0, **more):
    """A result whose episodes are hard or easy for all, and for each method by its own noise."""
    hard = torch.rand(EPISODES, generator=torch.Generator().manual_seed(7))
    own = torch.rand(EPISODES, generator=torch.Generator().manual_seed(1000 + noise))
    right = (QUERIES * (accuracy + 0.3 * (hard - 0.5) + 0.1 * (own - 0.5))).round().clamp(0, QUERIES).int()
    left_out = torch.arange(EPISODES) % 6  # of six groups each episode has five, with one class of each
    members = {name: (left_out != number).int() for number, name in enumerate("abcdef")}
    groups = {name: [int(member.sum()), int((member * right).sum())] for name, member in members.items()}
    every = float(EPISODES * QUERIES)
    table = [[0.0, 0.0, 0.0, 0.0]] * 15 + [[every, 0.9 * every, float(right.sum()), 0.5 * every]]
    fields = {
        "protocol": "small", "digest": "d", "content": "c", "learner": f"{method}-{seed}", "method": method,
        "weights": f"{method} {seed} {noise}", "network": "conv4", "normalisation": "running", "transductive": False,
        "trained_on": "glyphs", "seed": seed, "budget": "short", "steps": 10, "shape": (1, 28, 28),
        "settings": {}, "queries": QUERIES,
        "right": tuple(right.tolist()), "groups": groups, "crowding": 5.0, "scale": 1.0,
        "temperature": 2.0, "fitted_on": "glyphs val",
        "reliability": {"before": table, "after": table},
        "flop": {"episode": 10**9, "step": 10**10, "training": 10**11}, "command": "mlcourse evaluate x",
        "made_by": None,
    }  # fmt: skip
    return protocols.Stored(**fields | more)


def test_methods_that_nothing_tells_apart_share_a_rank(protocol):
    some = [result("prototypical", 0.9, noise=1), result("matching", 0.9, noise=2), result("pixels", 0.4, noise=3)]
    rows = protocols.rows(protocol, some)
    assert [row.rank for row in rows] == [1, 1, 3, None]
    assert rows[2].method == "pixels"
    assert not statistics.paired(rows[0].per_episode, rows[2].per_episode).lower <= 0
    assert statistics.paired(rows[0].per_episode, rows[1].per_episode).lower <= 0


def test_a_difference_that_is_small_but_sure_makes_another_rank(protocol):
    """The two intervals overlap by far; on the same episodes there is no doubt."""
    rows = protocols.rows(protocol, [result("prototypical", 0.80, noise=1), result("matching", 0.79, noise=2)])
    assert rows[0].over_episodes.lower < rows[1].over_episodes.upper
    assert [row.rank for row in rows[:2]] == [1, 2]


def test_a_rank_is_measured_against_its_first(protocol):
    """A chain of small steps is no tie of its ends."""
    chain = [result(f"m{i}", 0.9 - 0.003 * i, noise=i) for i in range(12)]
    rows = [row for row in protocols.rows(protocol, chain) if row.run]
    leaders = {row.rank: row for row in reversed(rows)}
    for row in rows:
        assert (
            row is leaders[row.rank]
            or comparison.statistics.paired(leaders[row.rank].per_episode, row.per_episode).lower <= 0
        )
    assert len(leaders) > 1
    places = [row.rank for row in rows]
    assert all(rank == places.index(rank) + 1 for rank in places)


def test_what_nobody_ran_is_in_the_table_and_says_so(protocol):
    rows = protocols.rows(protocol, [result("pixels", 0.4)])
    assert [(row.method, row.run) for row in rows] == [("pixels", True), ("prototypical", False), ("maml", False)]
    assert rows[-1].title == "MAML (second order)"
    assert [row.run for row in protocols.rows(protocol, [])] == [False] * 3


def test_seeds_are_one_row_and_other_settings_another(protocol):
    some = [result("maml", 0.8, seed=s, noise=s) for s in (1, 2, 3)]
    some += [result("maml", 0.85, seed=1, noise=9, normalisation="batch", transductive=True)]
    rows = [row for row in protocols.rows(protocol, some) if row.run]
    assert sorted(len(row.results) for row in rows) == [1, 3]
    three = max(rows, key=lambda row: len(row.results))
    values = [one.per_episode.mean().item() for one in three.results]
    assert three.accuracy == pytest.approx(sum(values) / 3)
    assert three.over_seeds == (min(values), max(values))
    assert three.over_data.value == pytest.approx(three.accuracy)
    assert three.sums.sum() == pytest.approx(5 * three.per_episode.sum().item())


def titles(protocol, some):
    return sorted(row.title for row in protocols.rows(protocol, some) if row.run)


def test_two_trainings_of_one_name_and_seed_are_no_seeds_of_one_row(protocol):
    some = [result("maml", 0.8, seed=1, noise=n, learner="net", weights=str(n)) for n in (1, 2)]
    rows = [row for row in protocols.rows(protocol, some) if row.run]
    assert [len(row.results) for row in rows] == [1, 1]
    assert titles(protocol, some) == ["MAML (second order), net", "MAML (second order), net (2)"]
    some.append(result("maml", 0.8, seed=2, noise=3, learner="net"))
    assert sorted(len(row.results) for row in protocols.rows(protocol, some) if row.run) == [1, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"settings": {"options": {"inner_rate": 0.1}}}, {"budget": "paper"}, {"steps": 11}, {"network": "resnet12"},
        {"normalisation": "batch"}, {"trained_on": "omniglot vinyals"}, {"shape": (1, 32, 32)}, {"seed": None},
        {"seed": 1}, {"weights": "maml 1 0"},
    ],
)  # fmt: skip
def test_a_row_is_one_method_with_one_training_but_for_the_seed(other, protocol):
    one = result("maml", 0.8, seed=1, learner="net")
    two = replace(result("maml", 0.8, seed=2, learner="net", noise=1), **other)
    assert len(titles(protocol, [one, two])) == len(set(titles(protocol, [one, two]))) == 2
    same = result("maml", 0.8, seed=2, learner="net", noise=1)
    assert len(titles(protocol, [one, same])) == 1


def test_results_without_a_seed_are_rows_of_their_own(protocol):
    some = [result("Mine", 0.8, seed=None, noise=n, learner="mine", weights=str(n)) for n in (1, 2, 3)]
    assert titles(protocol, some) == ["Mine, mine", "Mine, mine (2)", "Mine, mine (3)"]


def test_two_folders_of_pictures_with_one_last_name_are_other_data():
    learner = learners.build("prototypical", way=5, seed=0, channels=8)
    told = [
        results.of_training(learner, {"dataset": f"/home/{who}/photos", "classes": {"train": ["a", "b"]}})
        for who in ("ann", "ben", "ann")
    ]
    assert told[0] != told[1]
    assert told[0] == told[2]
    assert not any("home" in str(one) for one in told)


def test_a_class_of_ones_own_tells_its_arguments():
    told = [
        results.of_training(learners.PrototypicalNetwork(Conv4(channels=8, normalisation="running"), scaled=scaled), {})
        for scaled in (True, False)
    ]
    assert told[0]["settings"] != told[1]["settings"]


def test_rows_of_other_settings_are_told_apart_by_their_learners(protocol):
    some = [result("maml", 0.8, learner="narrow"), result("maml", 0.7, learner="wide", settings={"rate": 0.1})]
    rows = [row for row in protocols.rows(protocol, some) if row.run]
    assert [row.title for row in rows] == ["MAML (second order), narrow", "MAML (second order), wide"]


def test_intervals_of_a_row_hold_its_accuracy(protocol):
    row = protocols.rows(protocol, [result("pixels", 0.4)])[0]
    for interval in (row.over_episodes, row.over_data):
        assert interval.lower < row.accuracy < interval.upper
        assert interval.value == pytest.approx(row.accuracy)
    assert row.worst_tenth == pytest.approx(row.per_episode.sort().values[:40].mean().item())
    assert row.calibration_error("before") == pytest.approx(abs(0.9 - row.accuracy))


def test_pairs_by_hand(protocol):
    some = [result("prototypical", 0.8, noise=1), result("matching", 0.79, noise=2), result("pixels", 0.4, noise=3)]
    found = protocols.pairs(protocols.rows(protocol, some))
    assert [(one.a.method, one.b.method) for one in found] == [
        ("prototypical", "matching"), ("prototypical", "pixels"), ("matching", "pixels"),
    ]  # fmt: skip
    first = found[0]
    difference = some[0].per_episode - some[1].per_episode
    assert first.over_episodes.difference == pytest.approx(difference.mean().item())
    assert first.effect == pytest.approx((difference.mean() / difference.std()).item())
    assert first.won == pytest.approx((difference > 0).double().mean().item())
    assert first.tied == pytest.approx((difference == 0).double().mean().item())
    plain = [statistics.p_value(one.over_episodes) for one in found]
    assert [one.p for one in found] == statistics.holm(plain)
    assert first.over_data.value == pytest.approx(first.over_episodes.difference)
    assert first.over_data.lower <= first.over_data.value <= first.over_data.upper


def test_equal_results_are_tied_and_have_no_effect(protocol):
    some = [result("prototypical", 0.8, noise=1), result("matching", 0.8, noise=1)]
    rows = protocols.rows(protocol, some)
    assert [row.rank for row in rows[:2]] == [1, 1]
    pair = protocols.pairs(rows)[0]
    assert (pair.effect, pair.won, pair.tied, pair.p) == (0, 0, 1, 1)


def test_one_row_is_no_pair(protocol):
    with pytest.raises(CourseError, match="needs two rows, but 1 were run"):
        protocols.pairs(protocols.rows(protocol, [result("pixels", 0.4)]))


def test_papers_figures_are_for_their_own_tasks_only(protocol):
    row = protocols.Row("prototypical", "prototypical networks", (result("prototypical", 0.9),))
    assert comparison.published(protocol, row) == ""
    assert comparison.published(protocols.read("omniglot-5way-1shot"), row) == "98.8 (Vinyals split)"
    assert comparison.published(protocols.read("omniglot-5way-5shot"), row) == "99.7 (Vinyals split)"
    assert comparison.published(protocols.read("glyphs-5way-1shot"), row) == ""
    assert comparison.published(protocols.read("omniglot-within-alphabet"), row) == ""


def test_every_published_figure_says_how_it_was_taken():
    for name, method in learners.METHODS.items():
        assert bool(method.setting) == bool(method.published), name
        assert all(50 < figure < 100 for figure in method.published.values())


@pytest.mark.parametrize(
    ("number", "text"), [(None, ""), (0, "0"), (12, "12"), (1500, "1.5 k"), (3.21e12, "3.21 T"), (5e23, "5e+05 E")]
)
def test_large_numbers_as_people_read_them(number, text):
    assert comparison.short(number) == text


def test_math_of_an_infinite_effect_is_no_number_in_json():
    from mlcourse.commands.table import pair_numbers

    a, b = (protocols.Row("m", "m", (result("m", level),)) for level in (0.9, 0.5))
    pair = comparison.Pair(a, b, statistics.Paired(0.4, 0.0, 2), None, math.inf, 1.0, 0.0, 0.0)
    assert pair_numbers(pair)["effect_size"] is None


def test_too_few_groups_have_no_interval_over_the_data(protocol):
    one = result("pixels", 0.4)
    few = dict(list(one.groups.items())[:4])
    row = protocols.Row("pixels", "pixels", (replace(one, groups=few),))
    assert row.over_data is None
    assert comparison.pairs([row, row])[0].over_data is None


def test_groups_in_another_order_are_the_same_groups(protocol):
    """A JSON file keeps an order that nobody asked for; seeds of one row are added up group by group."""
    one = result("pixels", 0.4)
    turned = replace(one, groups=dict(reversed(one.groups.items())))
    alone, both = (protocols.Row("pixels", "pixels", results) for results in ((one,), (one, turned)))
    assert both.over_data == pytest.approx(alone.over_data)
    assert torch.equal(one.counts, turned.counts)


def test_with_few_episodes_intervals_are_students(protocol):
    """Three episodes that happen to agree are no proof: of 1,000 pairs without a difference 5 in 100 are called one."""
    draws, called, held = torch.Generator().manual_seed(0), 0, 0
    one = result("pixels", 0.4)
    for _ in range(400):
        a, b = (
            protocols.Row("pixels", "pixels", (replace(one, right=right.tolist()),))
            for right in torch.randint(0, 16, (2, 3), generator=draws)
        )
        called += (
            not comparison.pairs([a, b])[0].over_episodes.lower <= 0 <= comparison.pairs([a, b])[0].over_episodes.upper
        )
        held += a.over_episodes.lower <= 7.5 / one.queries <= a.over_episodes.upper
    assert called <= 0.08 * 400
    assert held >= 0.92 * 400
