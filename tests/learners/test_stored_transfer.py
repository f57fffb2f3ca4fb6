"""The stored figures of transfer and distillation, and their sentences: `python data/make_transfer.py` makes them."""

import pytest
import torch
from programs import program

from mlcourse import files, places

STORED = files.read_json(places.data() / "results" / "transfer.json")
CURVES = [(name, row) for name in ("glyphs", "omniglot", "caltech101") for row in STORED[name]["budgets"]]
STRONGEST = [(name, row) for name in STORED["strongest"] for row in STORED["strongest"][name]["budgets"]]
CURVES += STRONGEST
NAMED = [f"{name}-{row['FLOP']:g}" for name, row in CURVES]


@pytest.fixture(scope="module")
def maker():
    return program("data/make_transfer.py")


def made_up(means: list[float], spread: float = 0.1, episodes: int = 200) -> list[list[float]]:
    """Accuracies [seeds][episodes] around these means, of the same episodes, whose difficulty differs."""
    hard = 0.2 * torch.randn(episodes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(round(1e6 * sum(means)))
    return [
        (mean + hard + spread * torch.randn(episodes, generator=generator, dtype=torch.float64)).tolist()
        for mean in means
    ]


# ------------------------------------------------------------------ the sentence, on made-up results


def test_the_sentence_names_the_winner_whichever_side_it_is_on(maker):
    high, low = made_up([0.71, 0.70, 0.72]), made_up([0.60, 0.61, 0.605])
    for first, second in ((high, low), (low, high)):
        pair = maker.compared(first, second)
        told = maker.sentence("here", "transfer", "meta", pair)
        winner, loser = ("transfer", "meta") if first is high else ("meta", "transfer")
        assert told.startswith(f"here: {winner} wins against {loser} by d = ")
        assert f"d = {abs(pair['d']):.2f}; the paired difference is 10." in told
        assert "-" not in told, "a winner's difference is above 0"


def test_another_budget_can_turn_the_sentence_round(maker):
    small = maker.sentence("5e10", "a", "b", maker.compared(made_up([0.4, 0.41, 0.40]), made_up([0.5, 0.51, 0.50])))
    large = maker.sentence("5e12", "a", "b", maker.compared(made_up([0.9, 0.91, 0.90]), made_up([0.8, 0.81, 0.80])))
    assert "b wins against a" in small
    assert "a wins against b" in large


@pytest.mark.parametrize(
    ("first", "second", "spread"),
    [
        ([0.61, 0.60, 0.605], [0.60, 0.61, 0.605], 0.1),  # nothing between them
        ([0.80, 0.60, 0.70], [0.60, 0.61, 0.60], 0.1),  # sure over episodes, not over seeds
        ([0.603, 0.603, 0.603], [0.6, 0.6, 0.6], 0.5),  # not over episodes
        ([0.7], [0.6], 0.1),  # one seed says nothing of others
    ],
)
def test_without_a_clear_difference_there_is_no_winner_and_that_is_said(maker, first, second, spread):
    pair = maker.compared(made_up(first, spread), made_up(second, spread))
    told = maker.sentence("here", "transfer", "meta", pair)
    assert told.startswith("here: no winner between transfer and meta; the paired difference is ")
    assert "wins" not in told


def test_a_pair_is_the_mean_over_seeds_and_its_intervals_are_those_of_the_statistics(maker):
    first, second = made_up([0.7, 0.72, 0.68]), made_up([0.6, 0.61, 0.62])
    gap = torch.tensor(first).double().mean(0) - torch.tensor(second).double().mean(0)
    pair = maker.compared(first, second)
    assert pair["difference"] == pytest.approx(gap.mean().item(), abs=1e-5)
    assert pair["ci95 over episodes"] == pytest.approx(1.96 * gap.std().item() / len(gap) ** 0.5, abs=1e-5)
    assert pair["d"] == pytest.approx((gap.mean() / gap.std()).item(), abs=1e-3)
    seeds = torch.tensor(first).double().mean(1) - torch.tensor(second).double().mean(1)
    assert pair["ci95 over seeds"] == pytest.approx(4.303 * seeds.std().item() / 3**0.5, abs=1e-4)


# ------------------------------------------------------------------ what is stored


@pytest.mark.parametrize(("name", "row"), CURVES, ids=NAMED)
def test_every_way_spends_the_budget_and_no_more(name, row):
    for method, told in row["methods"].items():
        assert 0.9 * row["FLOP"] < told["FLOP of training"] <= row["FLOP"], method
        assert len(told["accuracy of each seed"]) == len(STORED["seeds"]) >= 3
        mean = sum(told["accuracy of each seed"]) / len(told["accuracy of each seed"])
        assert told["accuracy"] == pytest.approx(mean, abs=2e-5)


@pytest.mark.parametrize(("name", "row"), CURVES, ids=NAMED)
def test_the_stored_sentences_are_those_of_the_stored_pairs(name, row, maker):
    where = f"{name}, 5-way 1-shot, {row['FLOP']:.3g} FLOP of training"
    expected = [maker.sentence(where, *pair.split(" minus "), told) for pair, told in row["pairs"].items()]
    assert row["sentences"] == expected
    for pair, told in row["pairs"].items():
        first, second = (row["methods"][method]["accuracy"] for method in pair.split(" minus "))
        assert told["difference"] == pytest.approx(first - second, abs=3e-5)
    validation = {method: told["validation accuracy"] for method, told in row["methods"].items()}
    chosen = row["head chosen on validation classes"]
    assert validation[chosen] == max(validation[one] for one in (*maker.HEADS, "baseline++"))


@pytest.mark.parametrize(("name", "row"), STRONGEST, ids=NAMED[-len(STRONGEST) :])
def test_the_strongest_of_both_kinds_meet_at_the_same_budget(name, row, maker):
    """Pre-training on some of the classes: its head is chosen as the others are; both were tuned on a wider grid."""
    validation = {method: told["validation accuracy"] for method, told in row["methods"].items()}
    heads = [head + maker.FEW for head in maker.HEADS]
    fewer, chosen = (row[f"head chosen on validation classes{which}"] for which in (maker.FEW, ""))
    assert validation[fewer] == max(validation[head] for head in heads)
    for head in heads:
        assert row["methods"][head]["trained as"] == maker.FEWER
    assert set(row["pairs"]) == {f"{fewer} minus {other}" for other in ("prototypical", chosen)}
    before = next(one for one in STORED[name]["budgets"] if one["FLOP"] == row["FLOP"])["methods"]
    assert row["methods"][chosen] == before[chosen], "pre-training on all classes is the same in both parts"
    assert row["methods"]["prototypical"]["accuracy"] > before["prototypical"]["accuracy"]


def test_the_fewer_classes_are_drawn_anew_for_each_seed(maker):
    data = maker.split("glyphs", "val")
    maker.SOME, before = 20, maker.SOME
    try:
        each = [set(maker.some_of(data, seed).names) for seed in (0, 0, 1)]
    finally:
        maker.SOME = before
    assert each[0] == each[1] != each[2]
    assert len(each[0]) == 20
    assert before == 300


def test_the_settings_are_the_best_of_what_was_tried(maker):
    """Or an earlier one, from which the best cannot be told."""
    assert set(STORED["tuned"]) == set(maker.GRIDS)
    for way, told in STORED["tuned"].items():
        best = maker.chosen(way, told["tried"])
        assert {name: told[name] for name in best} == best
        assert told["accuracy"] > max(one["accuracy"] for one in told["tried"]) - maker.WORTH - 1e-9
        sizes, rates = maker.GRIDS[way]
        assert {(one["size"], one["rate"]) for one in told["tried"]} == {(s, r) for s in sizes for r in rates}
    assert (STORED["channels"], STORED["episodes"]) == (maker.CHANNELS, maker.EPISODES)


def test_a_setting_at_the_edge_of_the_grid_says_so(maker, monkeypatch):
    monkeypatch.setattr(maker, "GRIDS", {"x": ((8, 16, 32), (1e-3, 2e-3, 5e-3))})
    rows = [{"size": s, "rate": r, "accuracy": 0.5} for s in (8, 16, 32) for r in (1e-3, 2e-3, 5e-3)]
    for place, edges in ((4, []), (1, ["size"]), (3, ["rate"]), (8, ["size", "rate"])):
        tried = [row | {"accuracy": 0.6} if place == k else row for k, row in enumerate(rows)]
        assert maker.chosen("x", tried)["at the edge of the grid"] == edges


def test_each_curve_says_at_which_settings_it_was_trained(maker):
    for name in maker.CURVES:
        assert STORED[name]["settings"] == maker.FIRST
    for told in STORED["strongest"].values():
        for way, settings in told["settings"].items():
            assert settings == {one: value for one, value in STORED["tuned"][way].items() if one != "tried"}
            assert settings["at the edge of the grid"] == maker.at_edge(way, settings)


@pytest.mark.parametrize(("gain", "moves"), [(0.005, False), (0.02, True)])
def test_an_earlier_setting_moves_only_for_a_gain_above_the_noise(maker, gain, moves):
    rows = [{"size": 64, "rate": 2e-3, "accuracy": 0.5}, {"size": 32, "rate": 1e-3, "accuracy": 0.5 + gain}]
    assert (maker.chosen("pre-trained", rows)["size"] == 32) == moves


@pytest.mark.parametrize("data", ["glyphs", "omniglot"])
def test_distillation_says_what_came_of_it(maker, data):
    told = STORED["distillation"][data]
    names = [(name, name) for name in maker.STUDENTS[data]]
    expected = [
        maker.sentence(
            f"{data}, {maker.EQUAL_STEPS}",
            f"{name}: distillation",
            "plain training",
            told["pairs"][f"{pair}, distilled minus {pair}, plain"],
        )
        for name, pair in names
    ]
    assert told["sentences"] == expected
    for pair, values in told["pairs"].items():
        first, second = (told["learners"][name]["accuracy of each seed"] for name in pair.split(" minus "))
        assert len(first) == len(second) == values["seeds"] >= 3
        gaps = torch.tensor(first).double() - torch.tensor(second).double()
        assert values["difference"] == pytest.approx(gaps.mean().item(), abs=3e-5)
        assert values["ci95 over seeds"] == pytest.approx(4.303 * gaps.std().item() / 3**0.5, abs=1e-4)
    weights = {name: one["weights"] for name, one in told["learners"].items()}
    assert weights["quarter, distilled"] < 0.27 * weights["teacher"]
    if "born-again, distilled" in weights:
        assert weights["born-again, distilled"] == weights["teacher"]


def test_ten_learnt_pictures_teach_better_than_ten_real_ones():
    told = STORED["learnt"]
    assert told["initialisations"] == 20
    pair = told["pairs"]["learnt minus real"]
    assert pair["difference"] - pair["ci95"] > 0
    assert pair["difference"] == pytest.approx(told["accuracy"]["learnt"] - told["accuracy"]["real"], abs=2e-5)
