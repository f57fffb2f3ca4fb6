"""Photos in notebook 14: the stored figures are told as they are, in lines and in the picture."""

import matplotlib.pyplot as plt
import pytest

from mlcourse import files, places
from mlcourse.lessons.detection import photos

KEPT = files.read_json(places.data() / "results" / photos.STORED)


def test_the_lines_are_the_stored_figures():
    first, *lines = photos.stored().splitlines()
    assert "AP50 of new ranks, 1, 3, 10 examples" in first
    assert len(lines) == len(photos.SYSTEMS) == len(KEPT["systems"])
    for line, system in zip(lines, photos.SYSTEMS, strict=True):
        value, low, high = KEPT["systems"][system]["10 shots"]["new"]["AP50"]
        assert line.endswith(f"{value:.2f} ± {(high - low) / 2:.2f}")
    head, *rows = photos.far().splitlines()
    assert "10 examples ± standard deviation over the draws (no interval)" in head
    for line, boxes in zip(rows, ("boxes of the head", "true boxes"), strict=True):
        for system in ("frozen", "random"):
            value, spread = KEPT["blood cells"][boxes][system]["10 shots"]
            assert f"{system} {value:.2f} ± {spread:.2f}" in line


def test_leads_are_the_stored_pairs():
    *lines, last = photos.leads().splitlines()
    assert last == photos.undecided()
    assert len(lines) == 2 * (len(photos.SYSTEMS) - 1)
    value, low, high = KEPT["systems"]["random"]["1 shots"]["new"]["frozen minus this"]
    assert f"{value:+.2f} ({low:+.2f} to {high:+.2f})" in lines[0]


def test_the_fair_comparison_with_fine_tuning_is_the_stored_pair():
    said = photos.alike()
    for kind in photos.KINDS:
        value, low, high = KEPT["systems"]["fine-tuning"]["10 shots"][kind]["alike minus this"]
        assert f"{value:+.2f} ({low:+.2f} to {high:+.2f})" in said.split("fine-tuned: ")[1].split(f"{kind} ranks ")[1]


def test_where_a_lead_holds_0_is_said(monkeypatch):
    assert "fine-tuned last layer, known ranks, with 3 and 10 examples." in photos.undecided()
    made = files.read_json(places.data() / "results" / photos.STORED)
    for kind in photos.KINDS:
        for one in made["systems"].values():
            for row in one.values():
                row[kind]["frozen minus this"] = [0.2, 0.1, 0.3]
    monkeypatch.setattr(photos, "kept", lambda: made)
    assert photos.undecided().endswith("ahead): nowhere.")
    made["systems"]["random"]["1 shots"]["new"]["frozen minus this"] = [0.0, -0.1, 0.1]
    assert photos.undecided().endswith("ahead): random network, prototypes, new ranks, with 1 example.")


def test_the_picture_has_a_curve_for_each_system_and_kind_and_its_text_says_the_same():
    fig = photos.picture()
    for ax, kind in zip(fig.axes, photos.KINDS, strict=True):
        curves = {line.get_label(): line.get_ydata() for line in ax.lines if not line.get_label().startswith("_")}
        for system, name in photos.SYSTEMS.items():
            wanted = [KEPT["systems"][system][f"{shot} shots"][kind]["AP50"][0] for shot in (1, 3, 10)]
            assert list(curves[name]) == pytest.approx(wanted)
    words = photos.text()
    assert f"{KEPT['systems']['random']['1 shots']['new']['AP50'][0]:.2f}" in words
    assert len(words) > 40
    plt.close(fig)
