"""The picture of notebook 06: what it says is true, it follows its values, and it is fast enough to drag."""

import torch
from picture_helpers import assert_follows

from mlcourse.lessons.maml.pictures import GRID, PLACES, WavePictures, wave

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
