"""A sample axis on one process that counts what its exchanges would move."""

import torch
from torch import Tensor

from hpc_bnn.group import Alone, Reduction


class CountingAxis(Alone):
    """A sample axis of ``size`` ranks that moves nothing and counts what it would.

    Attributes
    ----------
    calls, received_bytes
        Exchanges of tensors, and the bytes that each rank would receive in them.
    """

    def __init__(self, size: int) -> None:
        self.size, self.calls, self.received_bytes = size, 0, 0.0

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        self._count(2 * (self.size - 1) / self.size, x)
        return x.clone()

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        self._count(self.size - 1, x)
        return torch.cat([x] * self.size)

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        self._count((self.size - 1) / self.size, x)
        return x.clone()

    def _count(self, share: float, x: Tensor) -> None:
        if self.size > 1:
            self.calls += 1
            self.received_bytes += share * x.numel() * x.element_size()
