"""The pad on which the support mask is painted, without a browser: a mask goes in, the learner's answer comes out."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mlcourse import datasets
from mlcourse.lessons.segmentation import mask_pad, pictures
from mlcourse.lessons.segmentation.mask_pad import MaskPad
from mlcourse.teaching import stacks
from mlcourse.vision.segmentation import ColourGroups, EveryCharacter, SceneTasks


@pytest.fixture(scope="module")
def batch():
    return SceneTasks(datasets.load("glyphs", "test")).sample(3, torch.Generator().manual_seed(0))


@pytest.fixture
def pad(batch):
    return MaskPad(pictures.Painting(ColourGroups(nn.Flatten()), batch))


def signs(mask):
    return "".join("1" if one else "0" for one in mask.flatten().tolist())


def seen(pad):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(pad.answer["picture"]))).convert("RGB"))


def test_it_begins_with_the_ink_of_the_first_drawing(pad, batch):
    assert pad.mask == signs(batch.support_y[0, 0])
    assert pad.inks == [signs(mask) for mask in batch.support_y]
    assert (pad.side, len(pad.drawings)) == (32, 3)
    drawing = np.frombuffer(base64.b64decode(pad.drawings[1]), dtype=np.uint8).reshape(32, 32, 3)
    assert np.abs(drawing / 255 - batch.support_x[1, 0].permute(1, 2, 0).numpy()).max() < 0.003
    assert pad.answer["kind"] == "answer"
    assert seen(pad).shape == (288, 288, 3)


def test_the_answer_is_the_learner_s_for_the_painted_mask(pad, batch):
    blob = torch.zeros(32, 32, dtype=torch.bool)
    blob[4:20, 6:24] = True
    for task, mask in ((2, batch.support_y[2, 0]), (1, batch.support_y[1, 0]), (1, blob)):
        with pad.hold_trait_notifications():
            pad.task, pad.mask, pad.number = task, signs(mask), pad.number + 1
        with torch.no_grad():
            wanted = pad.painting.learner(batch.support_x[[task]], mask[None, None], batch.query_x[[task]])[0, 0] > 0
        target = batch.query_y[task, 0]
        made = pictures.overlay(batch.query_x[task, 0], wanted, target)
        assert np.abs(seen(pad)[1::3, 1::3] / 255 - made).max() < 0.003
        assert (
            f"The mask holds {int(mask.sum())} pixels. The answer marks {int(wanted.sum())} pixels"
            in pad.answer["message"]
        )
        assert pad.answer["number"] == pad.number
        assert pad.answer["message"] in pad.answer["alt"]


def test_a_question_is_answered_once(pad, monkeypatch):
    asked, answer = [], pad.painting.answer
    monkeypatch.setattr(pad.painting, "answer", lambda *given: asked.append(given) or answer(*given))
    with pad.hold_trait_notifications():  # as a message of the browser does
        pad.task, pad.mask, pad.number = 1, pad.inks[1], 7
    assert len(asked) == 1


def test_an_empty_mask_is_a_hint_and_shows_the_scene_without_an_answer(pad, batch):
    pad.mask = "0" * 1024
    assert (pad.answer["kind"], pad.answer["message"]) == ("hint", mask_pad.HINT)
    scene = batch.query_x[0, 0].permute(1, 2, 0).numpy()
    assert np.abs(seen(pad)[1::3, 1::3] / 255 - scene).max() < 0.003
    pad.mask = pad.inks[0]
    assert pad.answer["kind"] == "answer"


@pytest.mark.parametrize(
    ("traits", "said"),
    [
        ({"mask": "01"}, "a mask has 32 · 32 signs, each 0 or 1, row by row; this one has 2"),
        ({"mask": "2" * 1024}, "a mask has 32 · 32 signs"),
        ({"task": 3}, "there is no task 3: choose 0 to 2"),
        ({"task": -1}, "there is no task -1"),
    ],
)
def test_what_is_no_mask_is_said_in_place(pad, traits, said):
    for name, value in traits.items():
        setattr(pad, name, value)
    assert pad.answer["kind"] == "error"
    assert said in pad.answer["message"]
    pad.task, pad.mask = 0, pad.inks[0]
    assert pad.answer["kind"] == "answer", "and it goes on"


def test_a_learner_that_fails_is_said_in_place(batch):
    class Broken(EveryCharacter):
        def predict(self, state, query_x):
            raise RuntimeError("out of\nideas")

    pad = MaskPad(pictures.Painting(Broken(), batch))
    assert (pad.answer["kind"], pad.answer["message"]) == ("error", "RuntimeError: out of ideas")


def test_where_no_widget_is_shown_a_picture_with_a_text_is(pad):
    forms, metadata = pad._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in forms
    assert "a support drawing with a painted mask" in forms["text/plain"]
    assert forms["text/html"].startswith("<img ")
    assert metadata["image/png"]["alt"] in forms["text/plain"]


def test_on_the_site_the_line_below_says_what_is_missing(pad, monkeypatch):
    monkeypatch.setenv(stacks.VARIABLE, "1")
    page = pad._repr_mimebundle_()[0]["text/html"]
    assert page.count("<img") == 1
    assert f"Recorded: 1 picture. {mask_pad.RECORDED}" in page


def test_both_halves_agree_on_the_colour_of_the_mask():
    script = Path(mask_pad.__file__).with_name("mask_pad.js").read_text(encoding="utf-8")
    red, green, blue = (int(pictures.MASK[start : start + 2], 16) for start in (1, 3, 5))
    assert f"const MASK = [{red}, {green}, {blue}];" in script
