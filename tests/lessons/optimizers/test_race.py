"""The sentences of notebook 10 follow their results, whichever way these go."""

import math

import scipy.stats
import torch

from mlcourse.lessons.optimizers import race

ONE = torch.tensor([1.0, 2.0, 3.0, 4.0])
NOISE = torch.tensor([0.1, -0.1, 0.1, -0.1])


def test_a_result_is_told_whichever_way_it_goes():
    assert race.told(ONE, ONE + 1 + NOISE, "A", "B").endswith("median -1.1000, lower in 4 of 4 tasks: A is lower")
    assert race.told(ONE + 1 + NOISE, ONE, "A", "B").endswith("lower in 0 of 4 tasks: A is higher")
    assert race.told(ONE, ONE, "A", "B").endswith("lower in 0 of 4 tasks: no difference is shown")
    half = scipy.stats.t(3).ppf(0.975) * NOISE.double().std().item() / 2
    text = race.told(ONE + NOISE, ONE, "A", "B")
    assert text.startswith(f"A minus B: +0.0000 ± {half:.4f} (mean of 4 paired differences of losses, 95 %)")
    assert text.endswith("lower in 2 of 4 tasks: no difference is shown")


def test_a_training_that_diverged_counts_as_very_bad():
    text = race.told(torch.tensor([1.0, 1.0]), torch.tensor([math.nan, math.inf]), "A", "B")
    assert "-9999" in text
    assert "lower in 2 of 2 tasks: A is lower" in text


def test_places_are_sorted_by_their_interval():
    found = {"home": (ONE, 2 * ONE + NOISE), "far": (2 * ONE + NOISE, ONE), "near": (ONE + NOISE, ONE)}
    assert race.sorted_places(found, "R") == "R: ahead: home (0.5); behind: far (2); not shown: near (1)"
    assert race.sorted_places({"far": found["far"]}, "R") == "R: ahead: nowhere; behind: far (2); not shown: nowhere"
