"""The bars of `speed` and of the pictures: a slow work does not pass them, however fast the machine is."""

import time

import matplotlib.pyplot as plt
import picture_helpers
import speed


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_the_ratio_is_of_processor_time():
    assert 2.5 < speed.ratio(lambda: busy(0.12), lambda: busy(0.04)) < 3.5
    assert speed.ratio(lambda: time.sleep(0.2), lambda: busy(0.1), tries=1) < 0.5


def test_a_picture_that_draws_too_much_is_too_slow():
    def draw(lines, fig=None):
        fig = fig or plt.figure(figsize=(8, 3.5))
        fig.clear()
        axes = fig.subplots(1, 3)
        for ax in axes:
            for k in range(lines):
                ax.plot([0, 1, 2], [k, k + 1, k], label=str(k))
            ax.legend()
        return fig, ""

    quick, slow = picture_helpers.drawing_ratios(draw, str, [(1,), (60,)])
    assert quick < picture_helpers.SLOWEST < slow
