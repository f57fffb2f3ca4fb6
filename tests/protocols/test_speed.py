"""How long a thousand episodes take."""

import time

from mlcourse import learners, protocols


def test_a_thousand_episodes_of_a_prototypical_network():
    """Processor time, data and temperature included. The bar is 20 s on two quiet cores; a busy machine doubles it."""
    protocol = protocols.read("glyphs-5way-1shot")
    assert (protocol.episodes, protocol.way, protocol.shot, protocol.query) == (1000, 5, 1, 15)
    learner = learners.build("prototypical", way=5, seed=0)
    began = time.process_time()
    protocols.evaluate(protocol, learner, name="net")
    assert time.process_time() - began < 2 * 2 * 20
