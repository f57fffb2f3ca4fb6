"""Figures: one style, text with every picture, images tiled into one array."""

import io
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from mlcourse.errors import CourseError
from mlcourse.teaching import figures, output

TEXT = "A line that rises from nought to nine in equal steps"


@pytest.fixture
def shown(monkeypatch):
    """What was put under the cell."""
    seen = []
    monkeypatch.setattr(output, "display", seen.append)
    return seen


def line(title=""):
    fig, ax = figures.subplots()
    ax.plot(range(10))
    ax.set_title(title)
    return fig


def test_show_gives_one_output_with_the_text_in_every_form(shown):
    figures.show(line(), alt=f'{TEXT}, "quoted" & <marked>\n in two lines')
    (one,) = shown
    forms, metadata = one._repr_mimebundle_()
    text = f'{TEXT}, "quoted" & <marked> in two lines'
    assert forms["text/plain"] == f"Picture: {text}"
    assert metadata["image/png"]["alt"] == text
    (alt,) = re.findall(r'alt="([^"]*)"', forms["text/html"])
    assert alt == f"{TEXT}, &quot;quoted&quot; &amp; &lt;marked&gt; in two lines"
    assert forms["text/html"].count("<img ") == 1


def test_show_closes_pyplot_figures_even_when_it_refuses_them(shown):
    plt.close("all")
    fig, _ = plt.subplots()
    with pytest.raises(CourseError, match="40 or more"):
        figures.show(fig, alt="too short")
    assert plt.get_fignums() == []
    assert shown == []


@pytest.mark.parametrize("alt", ["", "a curve", " " * 60, None, 3])
def test_a_text_is_needed(alt):
    with pytest.raises(CourseError, match="alternative text"):
        figures.show(line(), alt=alt)


def test_a_title_is_no_text():
    title = "Accuracy against the number of inner steps, five-way one-shot"
    with pytest.raises(CourseError, match="repeats the title"):
        figures.show(line(title), alt=title)


def test_pictures_are_small_white_and_as_large_as_they_say():
    fig = line()
    data = figures.png(fig)
    image = Image.open(io.BytesIO(data))
    assert image.size == figures.pixel_size(fig)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert len(data) < 60_000
    assert figures.png(fig) == data


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_colours_and_markers_are_different_and_visible_on_white():
    assert len(figures.COLOURS) == len(figures.MARKERS) == len(set(figures.MARKERS)) == 7
    # contrast with white (WCAG 2.1, https://www.w3.org/TR/WCAG21/) of the first three, which most figures use
    assert all(1.05 / (luminance(colour) + 0.05) > 3 for colour in figures.COLOURS[:3])
    cycle = plt.rcParams["axes.prop_cycle"].by_key()
    assert [f"#{colour}".replace("##", "#") for colour in cycle["color"]] == list(figures.COLOURS)
    assert cycle["marker"] == list(figures.MARKERS)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [0, 1, 3])
def test_tile_puts_every_image_in_its_place(dtype, channels):
    shape = (7, 4, 5) if channels == 0 else (7, channels, 4, 5)
    images = torch.arange(7).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    images = (images * 20).to(torch.uint8) if dtype is torch.uint8 else images * 20 / 255.0
    canvas = figures.tile(images, 3, gap=1, shade=1.0)
    assert canvas.shape == (3 * 5 + 1, 3 * 6 + 1, *([3] if channels == 3 else []))
    for place in range(7):
        top, left = 1 + place // 3 * 5, 1 + place % 3 * 6
        np.testing.assert_allclose(canvas[top : top + 4, left : left + 5], place * 20 / 255, atol=1e-6)
    assert (canvas[0] == 1).all()


def test_tile_and_grid_refuse_what_they_cannot_draw():
    for images in (torch.zeros(3, 2, 4, 4), torch.zeros(4, 4)):
        with pytest.raises(CourseError, match="shape"):
            figures.grid(images)
    with pytest.raises(CourseError, match="n = 0"):
        figures.tile(torch.zeros(0, 1, 4, 4))
    with pytest.raises(CourseError, match="3 images and 2 labels"):
        figures.grid(torch.zeros(3, 1, 4, 4), labels=["a", "b"])


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_draws_all_images_at_once(channels):
    fig = figures.grid(torch.rand(12, channels, 8, 8), 4, labels=[str(i) for i in range(12)], title="twelve")
    (ax,) = fig.axes
    assert len(ax.images) == 1
    assert [text.get_text() for text in ax.texts] == [str(i) for i in range(12)]
    figures.png(fig)


def small_episode(way=3, shot=2, query=4):
    labels = torch.arange(way)
    support_y = labels.repeat_interleave(shot).repeat(2, 1)
    query_y = labels.repeat_interleave(query).repeat(2, 1)
    images = {"support_x": support_y, "query_x": query_y}
    images = {name: (y / way)[..., None, None, None].expand(*y.shape, 1, 6, 6) for name, y in images.items()}
    return SimpleNamespace(support_y=support_y, query_y=query_y, **images)


def test_episode_shows_each_label_in_its_row():
    fig = figures.episode(small_episode(), 1, queries=3, names=["a", "b", "c"])
    support, queries = fig.axes
    assert [label.get_text() for label in support.get_yticklabels()] == ["label 0\na", "label 1\nb", "label 2\nc"]
    assert support.images[0].get_array().shape == (3 * 8 + 2, 2 * 8 + 2)
    picture = queries.images[0].get_array()
    assert picture.shape == (3 * 8 + 2, 3 * 8 + 2)
    for label in range(3):
        np.testing.assert_allclose(picture[8 * label + 4, [4, 12, 20]], label / 3, atol=1e-6)
    with pytest.raises(CourseError, match="task 2 does not exist"):
        figures.episode(small_episode(), 2)


def test_curves_bars_and_words():
    fig = figures.lines(
        {"a": ([0, 1], [1, 2]), "b": ([0, 1], [1, 3], [0.1, 0.2])}, xlabel="steps", ylabel="loss (nats)"
    )
    (ax,) = fig.axes
    assert [one.get_marker() for one in ax.lines] == ["o", "s"]
    assert len({one.get_color() for one in ax.lines}) == 2
    fig = figures.interval_bars(["MAML", "scratch"], [93.12, 41], [0.41, 2], xlabel="accuracy (%)", chance=20)
    words = [text.get_text() for text in fig.axes[0].texts]
    assert words == ["93.1 ± 0.4", "41.0 ± 2.0", "chance"]
    assert figures.interval_words(["MAML"], [93.12], [0.41]) == "MAML 93.1 ± 0.4 %"
    with pytest.raises(CourseError, match="2 names, 1 means"):
        figures.interval_bars(["a", "b"], [1], [1], xlabel="x")
    _, ax = figures.subplots()
    figures.arrows(ax, [[0, 0], [1, 1]], [[1, 0], [1, 2]])


def test_figures_made_here_are_unknown_to_pyplot():
    plt.close("all")
    line(), figures.grid(torch.rand(2, 1, 4, 4)), figures.episode(small_episode())
    assert plt.get_fignums() == []
