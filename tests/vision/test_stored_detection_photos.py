"""The stored figures of detection in photos: `python data/make_detection_photos.py` makes them."""

import pytest

from mlcourse import files, places
from mlcourse.datasets import boxes

KEPT = files.read_json(places.data() / "results" / "detection_photos.json")
SYSTEMS = KEPT["systems"]
SHOTS = [f"{count} shots" for count in (1, 3, 10)]


def test_three_folds_share_no_new_rank():
    new = [rank for fold in KEPT["folds"] for rank in fold]
    assert len(KEPT["folds"]) == 3
    assert len(set(new)) == len(new) == 6


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("shot", SHOTS)
def test_each_figure_stands_with_its_interval(system, shot):
    for kind in ("new", "known"):
        row = SYSTEMS[system][shot][kind]
        value, low, high = row["AP50"]
        assert low < value < high
        assert value == pytest.approx(sum(row["by fold"]) / 3, abs=2e-4)
        if system != "frozen":
            ours = SYSTEMS["frozen"][shot][kind]["AP50"][0]
            assert row["frozen minus this"][0] == pytest.approx(ours - value, abs=2e-4)


@pytest.mark.parametrize("rival", ["fine-tuning", "logistic"])
@pytest.mark.parametrize("shot", SHOTS)
def test_new_ranks_are_found_better_than_by_a_tuned_layer_paired(shot, rival):
    assert SYSTEMS[rival][shot]["new"]["frozen minus this"][1] > 0


@pytest.mark.parametrize("shot", SHOTS)
def test_alike_with_fine_tuning_the_lead_stays_on_new_ranks_and_turns_on_known_ones(shot):
    """With as few examples of the known ranks as fine-tuning has: what notebook 14 says."""
    rival = SYSTEMS["fine-tuning"][shot]
    for kind in ("new", "known"):
        gap = SYSTEMS["alike"][shot][kind]["AP50"][0] - rival[kind]["AP50"][0]
        assert rival[kind]["alike minus this"][0] == pytest.approx(gap, abs=2e-4)
    assert rival["new"]["alike minus this"][0] > 0 > rival["known"]["alike minus this"][0]


@pytest.mark.parametrize("shot", SHOTS)
def test_on_known_ranks_logistic_regression_is_ahead_and_that_is_said(shot):
    """It has all boxes of the known ranks, and a weight for each feature."""
    assert SYSTEMS["logistic"][shot]["known"]["frozen minus this"][2] < 0


@pytest.mark.parametrize("shot", SHOTS)
def test_pre_training_is_worth_something_beside_random_features_on_the_same_boxes(shot):
    assert SYSTEMS["random"][shot]["new"]["frozen minus this"][1] > 0


def test_the_program_and_the_data_belong_together():
    names = {name for fold in KEPT["folds"] for name in fold}
    assert names == {"ace", "jack", "king", "nine", "queen", "ten"}
    assert "playing_cards" in boxes.NAMES
