"""States of members kept while training goes on: rows of a buffer for each weight, on the host.

The number of snapshots is bounded. Where one more would not fit, every second one is dropped, and
from then on every second is not taken: what is kept lies evenly over all that was offered.

Letters: S members held here, n places for snapshots.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from hpc_bnn.bayes.counter import Counter


class Snapshots(nn.Module):
    """The snapshots of members.

    Parameters
    ----------
    rows
        The weights (S, *shape) of which states are kept, by names without dots.
    most
        n, at least 2.

    Attributes
    ----------
    offered
        Number of states that ``take`` was called with, the same for all members.
    kept
        A buffer (S, n, *shape) by each name; one number seen so many times until ``allocate``.
    """

    offered: Tensor

    def __init__(self, rows: Mapping[str, Tensor], *, most: int) -> None:
        super().__init__()
        self._most = most
        self.register_buffer("offered", torch.zeros((), dtype=torch.int64))
        self._counter = Counter()
        self.kept = nn.Module()
        for name, tensor in rows.items():
            nothing = torch.zeros((), dtype=tensor.dtype)
            shape = (len(tensor), most, *tensor.shape[1:])
            self.kept.register_buffer(name, nothing.expand(shape))

    def allocate(self) -> None:
        """Make the places of the members that are held."""
        for kept in self.kept.buffers():
            if not kept.is_contiguous():
                kept.data = kept.contiguous()

    @property
    def count(self) -> int:
        """The number of snapshots of each member; 0 where tensors have no numbers."""
        return (
            0
            if isinstance(self.offered, FakeTensor)
            else self._count(self._counter.read(self.offered))
        )

    def _count(self, offered: int) -> int:
        return -(-offered // self._stride(offered))

    def _stride(self, offered: int) -> int:
        """Return the distance of those kept of so many offered: the smallest power of two at which
        they fit.
        """
        stride = 1
        while -(-offered // stride) > self._most:
            stride *= 2
        return stride

    @torch.no_grad()
    def take(self, rows: Mapping[str, Tensor]) -> None:
        """Offer the states ``rows`` (S, *shape) of all members."""
        self.allocate()
        number = self._counter.read(self.offered)
        stride = self._stride(number + 1)
        for name, kept in self.kept.named_buffers():
            if stride != self._stride(number):
                every_second = kept[:, ::2].clone()
                kept.zero_()[:, : every_second.shape[1]] = every_second
            if number % stride == 0:
                kept[:, number // stride] = rows[name].to(kept.device)
        self._counter.write(self.offered, number + 1)

    def per_sample(self) -> Iterable[str]:
        """Return the names of the buffers with a row for each member."""
        return [f"kept.{name}" for name, _ in self.kept.named_buffers()]

    def states(self, places: Sequence[int], ages: Sequence[int]) -> dict[str, Tensor]:
        """Return by name the snapshots (len(places), *shape) of the members at ``places``, each of
        its age; 0: the newest.
        """
        at = [self.count - 1 - age for age in ages]
        return {name: kept[list(places), at] for name, kept in self.kept.named_buffers()}

    def draws(self) -> dict[str, Tensor]:
        """Return by name all snapshots (S, count, *shape), the oldest first."""
        return {name: kept[:, : self.count] for name, kept in self.kept.named_buffers()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Snapshots":
        """Follow the network into another type, but not onto a GPU."""
        for kept in self.kept.buffers():
            dtype = fn(kept.new_empty(0)).dtype
            if dtype != kept.dtype:
                kept.data = kept.to(dtype)
        return self
