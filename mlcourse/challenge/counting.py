"""FLOP, counted while they are spent, so that a budget ends a computation and not only blames it.

What PyTorch's own counter knows is counted: convolutions, products of matrices and attention, forward and backward.
What is computed outside of PyTorch (NumPy), or in another thread, is not seen; the limit of processor time bounds it.
"""

import math

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class OverBudget(BaseException):
    """The budget is spent. No `except Exception` of a submission stops it."""


class Counter(TorchDispatchMode):
    """`with Counter(limit) as counter:` counts until `limit`, then raises OverBudget. `counter.flop` is the count."""

    def __init__(self, limit: float = math.inf):
        super().__init__()
        self.limit = limit
        self._counted = FlopCounterMode(display=False)

    @property
    def flop(self) -> int:
        """Floating-point operations so far; a multiplication and an addition are two."""
        return self._counted.get_total_flops()

    def __enter__(self) -> "Counter":
        self._counted.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._counted.__exit__(*error)

    def __torch_dispatch__(self, call, types, arguments=(), more=None):
        result = call(*arguments, **(more or {}))
        if self.flop > self.limit:
            raise OverBudget
        return result
