"""Count the bytes that autograd keeps for backward: exact and the same on every run, unlike the memory of a process."""

import weakref

import torch
from torch import Tensor


class saved_bytes:
    """Count what graphs keep while the block runs, a recomputation inside backward included.

        with saved_bytes() as saved:
            learner.outer_loss(batch)[0].backward()
        print(saved.peak)

    peak: the most bytes kept at one moment. now: the bytes kept at present. total: all bytes that were ever kept.
    A storage that several nodes keep counts once while it is kept. It counts on every device.
    """

    def __init__(self) -> None:
        self.now = self.peak = self.total = 0
        self._users: dict[int, int] = {}  # how many nodes keep a storage, by its address

    def __enter__(self) -> "saved_bytes":
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> "_Kept":
        kept = _Kept(tensor.detach())
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        users = self._users.get(key, 0)
        self._users[key] = users + 1
        if users == 0:
            self.now += size
            self.total += size
            self.peak = max(self.peak, self.now)
        weakref.finalize(kept, self._release, key, size)
        return kept

    def _release(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            del self._users[key]
            self.now -= size


class _Kept:
    """What a node holds in place of its tensor. When the graph is freed, so is this."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


def _unpack(kept: _Kept) -> Tensor:
    return kept.tensor
