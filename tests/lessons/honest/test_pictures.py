"""The pictures of notebook 12: what they say is true, they follow their values, and they are fast enough to drag."""

import math

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse import statistics
from mlcourse.lessons.honest import checks, contest, pictures
from mlcourse.teaching import figures

NAMES = ("Abc", "Def", "Ghi", "Jkl")


def some_log(tasks=2000):
    generator = torch.Generator().manual_seed(0)
    script = torch.randint(4, (tasks,), generator=generator)
    right = 60 + 8.0 * script + 10 * torch.randn(tasks, generator=generator, dtype=torch.float64)
    return right, script


def shown():
    return pictures.Intervals(*some_log(), NAMES)


ONE = shown()


def test_the_picture_follows_its_slider():
    assert ONE.counts == [n for n in pictures.COUNTS if n <= 2000]
    assert_follows(ONE.draw, ONE.text, [(8,), (32,), (1000,), (2000,)])


def test_one_interval_shrinks_and_the_other_stays():
    rows = dict(zip(ONE.counts, ONE.rows))
    assert rows[128][1] / rows[2000][1] == pytest.approx(math.sqrt(2000 / 128), rel=0.15)
    widths = [rows[n][3] - rows[n][2] for n in (128, 2000)]
    assert widths[1] > 0.7 * widths[0]


def test_its_numbers_are_those_of_the_exercises():
    right, script = some_log()
    mean, half, lower, upper = ONE.rows[-1]
    assert (mean, half) == pytest.approx(statistics.mean_interval(right))
    draws = contest.draws_of(script, 4000, torch.Generator().manual_seed(1))
    low, high = map(float, checks.cluster_interval.reference(right, script, draws))
    assert (lower, upper) == pytest.approx((low, high), abs=0.8)
    assert f"{mean:.1f} ± {half:.2f} %" in ONE.draw(2000)[1]
    means = [right[script == k].mean().item() for k in range(4)]
    assert ONE.of_scripts(2000) == pytest.approx(means)
    assert ONE.scripts == list(NAMES)


def test_a_script_without_tasks_is_no_stroke():
    right, script = some_log()
    few = pictures.Intervals(right[:40], torch.cat([torch.zeros(32, dtype=torch.long), script[32:40]]), NAMES, (8, 32))
    assert sum(math.isnan(one) for one in few.of_scripts(8)) > 0
    figures.png(few.draw(8)[0])


def test_the_other_pictures_and_their_words():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(300, 5, generator=generator), torch.randint(5, (300,), generator=generator)
    tables = {"before": statistics.reliability(logits, labels), "after": statistics.reliability(logits / 9, labels)}
    assert "before: mean confidence" in pictures.reliability_text(tables)
    good = contest.Shifted(torch.full((2, 50), 80.0) + torch.rand(2, 50, generator=generator), 10**12, 10**8)
    bad = contest.Shifted(torch.full((2, 50), 40.0) + torch.rand(2, 50, generator=generator), None, 10**6)
    results = {"glyphs": {"A": good, "B": bad}, "photos": {"A": bad, "B": good}}
    words = pictures.slope_text(results)
    assert "glyphs: 1. A 80.5 %, 2. B" in words
    assert "photos: 1. B 80.5 %, 2. A" in words
    told = pictures.price_text(results["glyphs"], title="glyphs")
    assert "A 80.5 % for 1e+12 FLOP" in told
    assert "B" not in told.split(":")[1]
    table = torch.tensor([[60.0, 55.0, 65.0], [70.0, 69.0, 71.0]], dtype=torch.float64)
    tried = {"wide": (table, torch.tensor([True, False])), "narrow": (table, torch.tensor([False, False]))}
    assert "wide: 1 of 2 intervals hold it, mean width 6.0 points" in pictures.promises_text(tried, 61.0)
    drawn = [
        pictures.reliability(tables),
        pictures.slope(results),
        pictures.price(results["glyphs"], title="glyphs"),
        pictures.promises(tried, 61.0),
    ]
    assert len({figures.png(fig) for fig in drawn}) == 4
    assert "\n50 % hold it" in drawn[3].axes[0].get_title(loc="left")
    error = 100 * statistics.calibration_error(tables["before"])
    assert drawn[0].axes[0].get_title(loc="left") == f"before: error {error:.1f} points"


def test_a_line_of_the_forest_plot_has_both_intervals():
    right, script = some_log()
    log = contest.Log(right, script, torch.zeros(1), torch.zeros(1), None)
    line = pictures.line("X", log, lambda values, clusters: (50.0, 90.0))
    assert line.over_data == pytest.approx((right.mean().item() / 100, 0.5, 0.9))
    mean, half = statistics.mean_interval(right)
    assert line.over_episodes == pytest.approx(((mean) / 100, (mean - half) / 100, (mean + half) / 100))


def test_the_forest_plot_has_a_band_of_the_seeds_and_no_line_under_its_legend():
    lines = [pictures.Line(name, (m, m - 0.01, m + 0.01), (m, m - 0.1, m + 0.05), None)
             for name, m in (("A", 0.8), ("B", 0.75), ("yours", 0.7))]  # fmt: skip
    fig = pictures.seeds(lines, ["A", "B"], title="three")
    png = figures.png(fig)
    (ax,) = fig.axes
    assert ax.get_legend() is None
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["over tasks", "over scripts", "means of 2 seeds"]
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((75, 80))
    assert {bar.get_marker() for bar in ax.lines if len(bar.get_xdata()) == 2} <= {"", "None"}
    words = pictures.seeds_text(lines, ["A", "B"], title="three")
    assert "A 80.0 %, 70.0 to 85.0 over scripts" in words
    assert "from 75.0 to 80.0 % holds the means of 2 of them" in words
    assert png


def test_the_hardest_task_has_a_frame_around_each_wrong_answer():
    from mlcourse import datasets

    block = contest.exam(datasets.load("glyphs", "test")).sample(2, torch.Generator().manual_seed(0))
    right = torch.ones(25, dtype=torch.bool)
    labels = block.query_y[1]
    (third,) = (labels == 3).nonzero()[2]
    right[third] = False
    (frame,) = pictures.hardest(block, 1, right).axes[1].patches
    size = block.query_x.shape[-1]
    assert frame.get_xy() == (1 + 2 * (size + 2), 1 + 3 * (size + 2))
    assert not pictures.hardest(block, 1, torch.ones(25, dtype=torch.bool)).axes[1].patches
