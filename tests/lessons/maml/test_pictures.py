"""The picture of notebook 06: what it says is true, it follows its values, and it is fast enough to drag."""

from types import SimpleNamespace

import torch
from picture_helpers import assert_follows

from mlcourse.lessons.maml.pictures import GRID, PLACES, WavePictures, both_halves, both_halves_text, wave
from mlcourse.teaching import figures

VALUES = [(2.0, 1.0, 10, 1, False), (5.0, 3.0, 4, 10, True), (0.5, 0.0, 20, 0, False)]


def forward(params, x):
    for layer in (1, 2):
        x = torch.relu(x @ params[f"w{layer}"] + params[f"b{layer}"])
    return x @ params["w3"] + params["b3"]


def start(seed):
    generator = torch.Generator().manual_seed(seed)
    theta = {}
    for layer, (a, b) in enumerate(((1, 40), (40, 40), (40, 1)), start=1):
        theta[f"w{layer}"] = (2 * torch.rand(a, b, generator=generator) - 1) / a**0.5
        theta[f"b{layer}"] = (2 * torch.rand(b, generator=generator) - 1) / a**0.5
    return theta


def made():
    names = ("MAML", "joint", "scratch")
    return WavePictures(forward, {n: start(s) for s, n in enumerate(names)}, dict.fromkeys(names, 0.01))


def test_the_picture_follows_its_controls():
    def the_words_hold_the_caption(values, caption, alt):
        assert caption.split(": ")[1] in alt

    pictures = made()
    assert_follows(pictures.draw, pictures.text, VALUES, says=the_words_hold_the_caption)


def test_the_picture_shows_what_gradient_descent_does():
    pictures = made()
    amplitude, phase, points = VALUES[0][:3]
    x = -5 + 10 * PLACES[:points]
    y = wave(x, amplitude, phase)
    theta = {name: value.clone().requires_grad_() for name, value in start(0).items()}
    (forward(theta, x) - y).square().mean().backward()
    with torch.no_grad():
        after = forward({name: value - 0.01 * value.grad for name, value in theta.items()}, GRID)
    fig, text = pictures.draw(amplitude, phase, points, 1, False)
    truth, dots, _, adapted = fig.axes[0].lines
    assert torch.allclose(torch.as_tensor(adapted.get_ydata()), after[:, 0], atol=1e-6)
    assert torch.allclose(torch.as_tensor(truth.get_ydata()), amplitude * torch.sin(GRID[:, 0] - phase))
    assert len(dots.get_xdata()) == points
    assert f"MAML {(after - wave(GRID, amplitude, phase)).square().mean():.2f}" in text


def test_points_stay_in_the_left_half_when_asked():
    fig, _ = made().draw(2.0, 1.0, 20, 1, True)
    assert max(fig.axes[0].lines[1].get_xdata()) < 0


def test_both_halves_show_and_say_the_results():
    errors = {"MAML": torch.tensor([[4.0, 2.0], [1.0, 0.5]]), "joint": torch.tensor([[3.0, 3.0], [2.5, 2.0]])}
    places = ("training classes", "new scripts")
    found = {
        (labels, where, steps): SimpleNamespace(accuracy=0.2 + 0.3 * steps + 0.1 * k, ci95=0.01)
        for k, (labels, where) in enumerate((a, b) for a in ("shuffled labels", "fixed labels") for b in places)
        for steps in (0, 1)
    }
    fig = both_halves(errors, found)
    left, right = fig.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["MAML", "joint"]
    shown = [[round(y) for y in bars[0].get_ydata()] for bars in right.containers]
    assert shown == [[20, 50], [30, 60], [40, 70], [50, 80]]
    assert [bars[0].get_linestyle() for bars in right.containers] == ["-", "--", "-", "--"]
    text = both_halves_text(errors, found)
    assert figures.check_text(text, fig) == text
    assert "after one step: MAML 0.75, joint 2.25." in text
    assert "before any step: shuffled labels 20 %, fixed labels 40 %." in text
