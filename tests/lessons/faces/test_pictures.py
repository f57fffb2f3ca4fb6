"""The pictures of notebook 15: what they say is true, they follow their values, and they are fast enough to drag."""

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.faces import exam, pictures
from mlcourse.teaching import figures
from mlcourse.vision import faces as recognition
from mlcourse.vision.verification import drift

DATA = exam.people("test", samples=3, most=20)
PAIRS = recognition.pairs_of(recognition.pixels(DATA), DATA)
GATE = pictures.Gate(DATA, PAIRS)


def test_the_picture_follows_its_control():
    assert_follows(GATE.draw, GATE.text, [(-0.2,), (0.2,), (0.5,), (0.9,)])


@pytest.mark.parametrize("threshold", [-0.3, 0.1, 0.4, 0.7, 1.0])
def test_the_faces_that_are_shown_are_decided_wrongly(threshold):
    first, second = torch.triu_indices(len(DATA.images), len(DATA.images), 1)
    where = {(int(a), int(b)): k for k, (a, b) in enumerate(zip(first, second, strict=True))}
    errors = GATE.errors(threshold)
    for kind, wanted in (("impostor", False), ("genuine", True)):
        wrong = (PAIRS.genuine == wanted) & ((PAIRS.scores >= threshold) != wanted)
        assert len(errors[kind]) == min(pictures.SHOWN, int(wrong.sum()))
        assert len(set(errors[kind])) == len(errors[kind])
        assert all(wrong[where[pair]] for pair in errors[kind])


def test_the_words_say_the_rates_and_the_counts():
    threshold = 0.4
    impostors, genuine = PAIRS.scores[~PAIRS.genuine], PAIRS.scores[PAIRS.genuine]
    in_, out = int((impostors >= threshold).sum()), int((genuine < threshold).sum())
    said = GATE.draw(threshold)[1]
    assert f"{in_:,} of {len(impostors):,} impostor pairs let in" in said
    assert f"{out:,} of {len(genuine):,} genuine pairs shut out" in said
    assert f"FNMR {100 * out / len(genuine):.1f} %" in said


def test_pictures_of_results_and_their_words():
    curves = {"pixels": PAIRS.curve(), "turned": recognition.pairs_of(recognition.eigenfaces(DATA, 3), DATA).curve()}
    measured = {0.01: [0.01, 0.09, 0.5], 0.001: [0.0, 0.01, 0.09]}
    rates = {"nothing": 0.0, "glasses": 0.351, "light": 1.0}
    drawn = [
        pictures.some_people(DATA, pictures=3),
        pictures.det(curves),
        pictures.margins(16.0, 0.2, 0.3),
        pictures.drifts((1, 10, 100), measured),
        pictures.bars(rates, xlabel="shut out (%)"),
    ]
    assert len({figures.png(fig) for fig in drawn}) == 5
    texts = [
        pictures.some_people_text(DATA, pictures=3),
        pictures.det_text(curves),
        pictures.margins_text(16.0, 0.2, 0.3),
        pictures.drifts_text((1, 10, 100), measured),
        pictures.bars_text(rates, what="Shut out by one thing"),
    ]
    for text in texts:
        assert figures.check_text(text) == text
    assert f"pixels {100 * float(PAIRS.curve().fnmr_at(0.01)):.0f} %" in texts[1]
    assert "16.0 without a margin, 12.8 with CosFace" in texts[2]
    assert f"to 50 % (formula {100 * float(drift(0.01, 100)):.0f} %)" in texts[3]
    assert texts[4].endswith("nothing 0 %; glasses 35 %; light 100 %.")
    assert "a 0.71 %" in pictures.bars_text({"a": 0.0071, "b": 0.02}, what="FMR of two")
