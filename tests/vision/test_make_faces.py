"""data/make_faces.py: which networks are joined is chosen on training people only."""

import pytest
import torch
from programs import program

from mlcourse import files, places
from mlcourse.datasets import faces
from mlcourse.vision import faces as recognition


@pytest.fixture(scope="module")
def maker():
    """The script, read."""
    return program("data/make_faces.py")


def test_forward_selection_stops_where_nothing_helps(maker):
    rates = {"a": 0.3, "b": 0.2, "c": 0.4, "ba": 0.15, "bc": 0.25, "bac": 0.15}
    kept, best = maker.forward(["a", "b", "c"], lambda names: rates["".join(names)])
    assert (kept, best) == (["b", "a"], 0.15)
    assert maker.forward(["a"], lambda names: 0.5) == (["a"], 0.5)


def test_the_choice_sees_no_person_to_test_on(maker, monkeypatch, tmp_path):
    """Neither as somebody to learn from, nor as somebody held out; and these two share nobody."""
    everyone = faces.load("val", samples=3, size=maker.SIZE)
    learned, compared = [], []

    def divided(data, number):
        return data.select(torch.arange(20)), data.select(torch.arange(20, 40))

    def untrained(seed):
        def make(learn, out):
            learned.append(set(learn.names))
            return recognition.build("cosface", learn, seed=seed, network={"channels": 4}), {"cpu_seconds": 0}

        return make

    pairs_of = recognition.pairs_of

    def watched(model, data, **more):
        compared.append(set(data.names))
        return pairs_of(model, data, **more)

    monkeypatch.setattr(maker, "everyone", lambda: everyone)
    monkeypatch.setattr(maker.people, "divided", divided)
    monkeypatch.setattr(recognition, "pairs_of", watched)
    monkeypatch.setattr(maker, "systems", lambda runs: {"pixels": None, "cosface": untrained(0), "edges": untrained(1)})
    found = maker.choose(tmp_path)
    assert set(found["networks"]) <= {"cosface", "edges"}
    assert found["networks"]
    assert found["single"].keys() == {"cosface", "edges"}
    assert found["eer of people held out"] <= min(found["single"].values())
    test = set(everyone.names[20:])
    assert all(len(names) == 14 and not names & test for names in learned)
    assert all(len(names) == maker.HELD and not names & test for names in compared)
    assert len(learned) == 2 * len(maker.CHOOSING)
    for number in maker.CHOOSING:
        inner, held = maker.held_out(divided(everyone, number)[0], number)
        assert not set(inner.names) & set(held.names)
        assert set(inner.names) in learned
        assert set(held.names) in compared


def test_every_network_is_every_one_that_is_trained_on_photos(maker, tmp_path):
    """Joined without a choice: a network that is trained, and left out, would be one."""
    alone = {"pixels", maker.RIVAL, "drawn", "three cosface", "six networks", maker.EVERY}
    assert set(maker.systems(tmp_path)) - alone == set(maker.TRAINED)


def test_stored_figures_say_which_system_meets_the_bar():
    """Mean EER over five splits: 7 % or less, and below fisherfaces on the same splits, paired over people."""
    kept = files.read_json(places.data() / "results" / "faces.json")["systems"]
    rival = kept["fisherfaces"]["eer"]["mean"]
    row = kept["every network"]["eer"]
    assert row["mean"] <= 0.07 < rival
    assert row["minus fisherfaces"]["ci95 over people"][1] < 0
    assert len(row["by split"]) == 5
    assert kept["every network"].keys() >= {"fnmr at fmr 0.01"}
