"""The pictures of notebook 01: what they say is true, they follow their values, and they are fast enough to drag."""

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.losses import pictures
from mlcourse.meta_gradients import quadratics
from mlcourse.teaching import figures
from mlcourse.teaching.widgets import Explorer

PICTURES = {
    "two_losses": [(0.5, 1, 0.2), (-1.2, 5, 0.45), (2.0, 0, 0.2), (-2.0, 6, 0.6)],
    "meta_loss": [(1, 0.2), (0, 0.2), (3, 0.25), (6, 0.6), (1, 0.0)],
    "three_slopes": [(-0.2,), (2.0,), (0.0,)],
}


def no_minus_zero(values, caption, alt):
    assert "-0.00" not in caption


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_follows_its_controls(name):
    draw, words = getattr(pictures, name), getattr(pictures, f"{name}_text")
    assert_follows(draw, words, PICTURES[name], says=no_minus_zero)


def test_slopes_are_the_derivatives():
    for start in (-1.3, -0.2, 0.7):
        theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        loss = quadratics.meta_loss(theta) + 0.5 * pictures.DECAY * theta**2
        slopes = pictures.slopes(start)
        assert slopes["total"] == pytest.approx(torch.autograd.grad(loss, theta)[0].item(), abs=1e-12)
        assert slopes["direct term only"] == pytest.approx(pictures.DECAY * start, abs=1e-15)
        pulls = [task.a * (task.path(start)[-1] - task.c) for task in quadratics.TASKS]
        assert slopes["first-order"] - slopes["direct term only"] == pytest.approx(sum(pulls) / 2, abs=1e-12)


def test_the_words_say_the_numbers():
    assert "L_outer(0.50) = 0.370" in pictures.two_losses(0.5, 1, 0.2)[1]
    text = pictures.meta_loss_text(1, 0.2)
    assert "joint +0.60, first-order MAML +0.00, MAML -0.60, Reptile +0.60" in text
    assert "Reptile stays where it began" in pictures.meta_loss_text(0, 0.2)
    assert "first-order MAML runs away" in pictures.meta_loss_text(1, 0.3)
    assert "total +0.12" in pictures.three_slopes_text(-0.2)


def test_in_the_widget():
    one = Explorer(
        pictures.meta_loss,
        alt=pictures.meta_loss_text,
        inner_steps=(0, 6, 1, 1),
        inner_rate=(0.0, 0.6, 0.05, 0.2),
    )
    before = one.image.value
    one.controls["inner_steps"].value = 3
    assert one.image.value != before
    assert "cannot be drawn" not in one.image.value
    assert "after 3 inner steps" in one.image.value


def test_where_methods_stop_stands_on_the_curves():
    fig, ax = figures.subplots()
    pictures.draw_stops(ax, {"joint": 0.6, "MAML": -0.6})
    points = dict(line.get_xydata()[0].tolist() for line in ax.lines if len(line.get_xydata()) == 1)
    assert points == pytest.approx({0.6: quadratics.meta_loss(0.6, steps=0), -0.6: quadratics.meta_loss(-0.6, steps=1)})
    assert {"+0.6", "-0.6", "T = 0", "T = 1"} == {text.get_text() for text in ax.texts}
    assert figures.png(fig)
