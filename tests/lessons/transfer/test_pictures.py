"""The pictures of notebook 16: what they say is true, they follow their values, and they are fast enough to drag."""

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.transfer import exam, pictures
from mlcourse.teaching import figures

NAMES = [f"Latin/small {letter}" for letter in "abcdefghijkl"]


def bars():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 12, generator=generator)
    logits[torch.arange(4), torch.tensor([0, 3, 5, 7])] += 4
    return pictures.Bars(torch.rand(4, 1, 28, 28, generator=generator), logits, torch.tensor([0, 3, 5, 7]), NAMES)


BARS = bars()


def test_the_bars_follow_the_letter_and_the_temperature():
    assert_follows(BARS.draw, BARS.text, [(0, 1.0), (0, 4.0), (0, 20.0), (2, 1.0), (3, 0.5)])


def test_the_bars_are_the_softmax_of_the_logits():
    p = (BARS.logits[1] / 4).softmax(0)
    shares = BARS.shares(1, 4.0)
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(100 * float(p.max()))
    assert f"small d {100 * float(p[3]):.1f} %" in BARS.draw(1, 4.0)[1]
    assert BARS.choices() == {"small a": 0, "small d": 1, "small f": 2, "small h": 3}
    # a high temperature makes all classes alike
    assert BARS.shares(0, 1e6)[0] == pytest.approx(100 / 12, abs=0.01)


def test_telling_pictures_are_right_fairly_sure_and_of_different_classes():
    p = torch.tensor([[0.75, 0.2, 0.05], [0.99, 0.005, 0.005], [0.1, 0.5, 0.4], [0.01, 0.98, 0.01], [0.8, 0.1, 0.1]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert pictures.telling(p.log(), labels, 2) == [0, 3]
    assert pictures.telling(p.log(), labels) == [0, 3, 4]  # the last one is wrong


def test_letters_are_told_by_themselves():
    names = ["Latin/capital q", "Latin/small q", "Latin/small sharp s", "Greek/capital omega"]
    assert [pictures.letter(name) for name in names] == ["Q", "q", "small sharp s", "capital omega"]


def test_the_legend_of_stored_trainings_hides_no_line():
    points = {f"pre-trained, {k} classes": {2e10: [30.0 + k], 7e10: [40.0 + k]} for k in range(3)}
    stored = {f"stored {k} (pre-trained, all)": {5e10: [35.0 + 9 * k], 5e11: [70.0 + 9 * k]} for k in range(3)}
    fig = pictures.prices(points, stored)
    fig.draw_without_rendering()
    (legend,), (ax,) = fig.legends, fig.axes
    assert ax.get_legend() is None
    assert len(legend.get_texts()) == 6
    assert not legend.get_window_extent().overlaps(ax.get_window_extent())


def test_pictures_of_results_and_their_words():
    points = {"meta-trained": {1e10: [60.0, 62.0], 4e10: [70.0, 71.0]}, "pre-trained": {1e10: [50.0]}}
    stored = {"prototypical": {1e11: [75.0, 76.0], 1e12: [90.0, 91.0]}}
    rows = {"real": torch.rand(10, 1, 28, 28), "learnt": torch.rand(10, 1, 28, 28) * 3 - 1}
    drawn = [pictures.prices(points), pictures.prices(points, stored), pictures.film(rows, NAMES[:10])]
    assert len({figures.png(fig) for fig in drawn}) == 3
    told = pictures.prices_text(points, stored)
    assert "meta-trained reaches 60.0, 62.0 % at 1e+10 FLOP; 70.0, 71.0 % at 4e+10 FLOP. pre-trained" in told
    assert "in grey, stored, prototypical reaches 75.0, 76.0 %" in told
    assert "(a, b, c" in pictures.film_text(rows, NAMES[:10])
    assert "real, learnt" in pictures.film_text(rows, NAMES[:10])


def test_the_legend_of_all_stored_ways_lies_in_the_picture():
    points = {way: {1e10: [40.0], 7e10: [50.0]} for way in ("meta-trained", "pre-trained, all classes")}
    stored = {name: {5e10: [50.0], 5e11: [80.0]} for name in (*exam.STORED_WAYS.values(), *exam.STRONGEST.values())}
    fig = pictures.prices(points, stored)
    figures.png(fig)
    (legend,) = fig.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= fig.bbox.width
    assert box.y1 <= fig.bbox.height


def test_the_legend_of_near_and_far_lies_in_the_picture():
    fig = pictures.near_and_far(exam.near_and_far(), exam.ways())
    fig.canvas.draw()
    box = fig.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= fig.bbox.width


def test_the_picture_of_near_and_far_shows_each_method_with_its_interval():
    places = {
        "photos, near": {"frozen network": (90.0, 88.0, 92.0), "pixels": (30.0, 29.0, 31.0)},
        "letters, far": {"frozen network": (60.0, 55.0, 65.0), "meta-trained here": (90.0, 85.0, 95.0)},
    }
    ways = {"photos, near": 5, "letters, far": 3}
    fig = pictures.near_and_far(places, ways)
    (ax,) = fig.axes
    drawn = {box.get_label(): box for box in ax.containers}
    assert set(drawn) == {"frozen network", "pixels", "meta-trained here"}
    assert drawn["frozen network"].lines[0].get_xdata().tolist() == [90.0, 60.0]
    (bars,) = drawn["frozen network"].lines[2]
    assert [segment[:, 0].tolist() for segment in bars.get_segments()] == [[88.0, 92.0], [55.0, 65.0]]
    assert drawn["meta-trained here"].lines[0].get_ydata()[0] > 0.5, "it stands in the row of its place"
    (chance,) = [line for line in ax.lines if line.get_label() == "chance"]
    assert chance.get_xdata().tolist() == pytest.approx([20.0, 100 / 3])
    assert chance.get_ydata().tolist() == [0, 1]
    assert [one.get_text() for one in ax.get_yticklabels()] == ["photos,\nnear (5-way)", "letters,\nfar (3-way)"]
    told = pictures.near_and_far_text(places, ways)
    assert "photos, near (5-way, chance 20.0 %): frozen network 90.0 %, pixels 30.0 %; letters, far (3-way" in told
    assert "chance 33.3 %" in told
    figures.check_text(told, fig)
