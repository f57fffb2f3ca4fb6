"""The README's picture of the tasks of vision: its words are what the networks answer today, in light and in dark."""

import re

import numpy as np
import pytest
from PIL import Image
from programs import program

from mlcourse import places

ROOT = places.repository()


@pytest.fixture(scope="module")
def script():
    return program("docs/make_vision_picture.py")


@pytest.fixture(scope="module")
def panels(script):
    return [task() for task in script.TASKS]


def test_the_readme_tells_what_the_networks_answer(script, panels):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script.with_block(readme, script.block(panels)) == readme, "run: python docs/make_vision_picture.py"
    (alt,) = re.findall(r'<img alt="([^"]+)" src="docs/vision-light\.png">', readme)
    assert all(panel.words in alt for panel in panels)


def test_each_task_says_what_teaches_it_and_what_it_answers(panels):
    assert len({panel.task for panel in panels}) == len(panels)
    for panel in panels:
        assert all((panel.asked, panel.said, len(panel.words) > 40))
        for picture in (panel.support, panel.answer):
            assert picture.shape[2] == 3
            assert 0 <= picture.min() < picture.max() <= 1


def test_both_pictures_are_there_one_on_light_paper_and_one_on_dark(script):
    sizes, papers = set(), {}
    for theme, (paper, _) in script.THEMES.items():
        with Image.open(ROOT / "docs" / f"vision-{theme}.png") as picture:
            sizes.add(picture.size)
            pixels = np.asarray(picture.convert("RGB"))
        papers[theme] = tuple(pixels[0, 0].tolist())
        assert papers[theme] == tuple(int(paper[start : start + 2], 16) for start in (1, 3, 5))
    assert len(sizes) == 1


def test_the_words_on_the_picture_can_be_read_on_their_paper(script, panels):
    """A contrast of 7 or more (WCAG 2.2, AAA), and words in the ink of the theme."""
    for theme, (paper, ink) in script.THEMES.items():
        light, dark = sorted((luminance(paper), luminance(ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 7
        fig = script.figure(panels, theme)
        assert {text.get_color() for ax in fig.axes for text in (ax.title, ax.xaxis.label) if text.get_text()} == {ink}


def luminance(colour):
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_readme_without_the_marks_is_refused(script, panels):
    with pytest.raises(ValueError, match="0 times; put them there once"):
        script.with_block("# nothing", script.block(panels))
