"""What an evaluation costs beside the bare forward passes of its network."""

from dataclasses import replace

import pytest
import speed
import torch

from mlcourse import learners, protocols


@pytest.mark.parametrize(("episodes", "bar"), [(300, 1.5), (3000, 2.5)])
def test_many_episodes_of_a_prototypical_network(episodes, bar):
    """Data and temperature included, as multiples of one forward pass of the pictures of 300 episodes.

    It can be below one: pictures that several episodes share are embedded once. Ten times the episodes cost far less
    than ten times as much, for the same reason.
    """
    protocol = protocols.read("glyphs-5way-1shot")
    assert (protocol.way, protocol.shot, protocol.query) == (5, 1, 15)
    protocol = replace(protocol, episodes=episodes).completed()
    learner = learners.build("prototypical", way=5, seed=0)
    pictures = torch.rand(800, 1, 28, 28)

    @torch.no_grad()
    def passes() -> None:
        learner.network.eval()
        for _ in range(300 * 5 * (1 + 15) // len(pictures)):
            learner.network(pictures)

    times = speed.ratio(lambda: protocols.evaluate(protocol, learner, name="net"), passes, tries=2)
    assert times < bar
