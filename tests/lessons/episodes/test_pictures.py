"""The picture of notebook 02: it shows the task that it names, its words are true, and it is fast enough to drag."""

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.episodes.pictures import TILE, TaskPictures

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
