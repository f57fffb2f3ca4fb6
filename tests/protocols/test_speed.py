"""How long a thousand episodes take, and ten thousand."""

import time
from dataclasses import replace

import pytest

from mlcourse import learners, protocols


@pytest.mark.parametrize(("episodes", "bar"), [(1000, 20), (10_000, 60)])
def test_many_episodes_of_a_prototypical_network(episodes, bar):
    """Processor time, data and temperature included. The bar is of two quiet cores; a busy machine doubles it."""
    protocol = protocols.read("glyphs-5way-1shot")
    assert (protocol.way, protocol.shot, protocol.query) == (5, 1, 15)
    protocol = replace(protocol, episodes=episodes).completed()
    learner = learners.build("prototypical", way=5, seed=0)
    began = time.process_time()
    protocols.evaluate(protocol, learner, name="net")
    assert time.process_time() - began < 2 * 2 * bar
