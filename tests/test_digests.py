"""What must stay the same to the bit does: drawn episodes everywhere, trained parameters on the machine of the list."""

import json

import pytest
import torch
from digests import LIST, episodes, machine, trained

KEPT = json.loads(LIST.read_text(encoding="utf-8"))


def test_the_same_episodes_are_drawn():
    assert episodes() == KEPT["episodes"]


@pytest.mark.parametrize("method", KEPT["trained"])
def test_the_same_parameters_are_trained(method):
    if machine() != KEPT["machine"]:
        pytest.skip(f"the bits of a training were recorded on another machine: {KEPT['machine']}")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert trained(method) == KEPT["trained"][method]
    finally:
        torch.set_num_threads(before)
