"""The picture of notebook 02: it shows the task that it names, its words are true, and it is fast enough to drag."""

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.episodes import pictures as module
from mlcourse.lessons.episodes.pictures import TILE, TaskPictures
from mlcourse.teaching import figures

WAYS, SHOTS, QUERY = (2, 3, 10), (1, 5), 5
VALUES = [(3, 1, False), (3, 1, True), (2, 5, False), (10, 5, True)]


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    measured, drawn = {}, {}
    for way in WAYS:
        for shot in SHOTS:
            for leak in (False, True):
                measured[way, shot, leak] = (100 / way + 10 * leak + shot, 1.25)
                support = torch.rand(way * shot, 1, 28, 28, generator=generator)
                queries = torch.rand(way * QUERY, 1, 28, 28, generator=generator)
                drawn[way, shot, leak] = (torch.arange(way * QUERY) % 2 == 0, support, queries)
    return TaskPictures(measured, drawn, tasks=100)


def test_the_picture_follows_its_controls(pictures):
    def both_say_what_was_measured(values, caption, alt):
        mean, half = pictures.measured[values]
        for said in (caption, alt):
            assert f"{mean:.1f} ± {half:.1f} %" in said
            assert "100" in said

    assert_follows(pictures.draw, pictures.text, VALUES, says=both_say_what_was_measured, exact=True)


def test_paper_shows_support_then_queries_with_crosses_and_frames(pictures):
    way, shot = 3, 1
    honest, leaky = (pictures.paint(way, shot, leak) for leak in (False, True))
    assert honest.shape == leaky.shape == (TILE * way, TILE * (shot + QUERY), 3)
    _, support, queries = pictures.drawn[way, shot, False]
    for row in range(way):
        inside = slice(TILE * row + 1, TILE * (row + 1) - 1)
        grey = torch.from_numpy(honest[inside, 1 : TILE - 1, 0])
        assert torch.equal(grey, 1 - support[row, 0]), "the support stands first"
        for column in range(QUERY):
            corner = honest[inside, TILE * (shot + column) + 1][0]
            right = (QUERY * row + column) % 2 == 0
            ink = 1 - queries[QUERY * row + column, 0, 0, 0]
            assert (corner[0] == corner[2] == ink) == right, "a cross, and only on a query that pixels get wrong"
        assert not (leaky[inside, TILE * shot + 1 + 3][0] == leaky[inside, TILE * shot + 1 + 3][0][0]).all(), "a frame"


def test_the_chart_has_a_band_of_the_interval_and_moves_it(pictures):
    fig, _ = pictures.draw(3, 1, False)
    for shot in (1, 5):
        pictures.draw(3, shot, False, fig=fig)
        honest, leaky = fig.axes[1].collections
        for band, leak in ((honest, False), (leaky, True)):
            mean, half = pictures.measured[3, shot, leak]
            heights = [y for x, y in band.get_paths()[0].vertices if x == 3]
            assert (min(heights), max(heights)) == pytest.approx((mean - half, mean + half))


def test_images_that_a_view_cuts():
    fig = module.cut_images()
    left, right = fig.axes
    assert [text.get_text() for text in left.texts] == ["image 0", "image 1", "image 2"]
    assert right.texts[1].get_text() == "a quarter of image 0"
    assert figures.check_text(module.CUT_TEXT, fig) == module.CUT_TEXT
    assert figures.png(fig)


def test_the_exam_marks_the_queries_that_are_wrong():
    right = torch.ones(5, 5, dtype=torch.bool)
    right[1, 3] = False
    marks = {"a": right, "b": torch.ones(5, 5, dtype=torch.bool)}
    results = {"pixels": (40.0, 2.0), "a": (60.0, 2.0), "b": (80.0, 1.5)}
    fig = module.exam(torch.rand(30, 1, 28, 28), marks, results, how="a few episodes")
    left, chart = fig.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in left.lines if "wrong" in line.get_label()}
    assert lines == {"wrong: a": [[38 * 4 + 18, 38 + 43]], "wrong: b": []}
    assert [text.get_text() for text in chart.texts] == ["40.0 ± 2.0", "60.0 ± 2.0", "80.0 ± 1.5", "guessing"]
    assert figures.png(fig)
