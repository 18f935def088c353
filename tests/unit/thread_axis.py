"""A sample axis whose ranks are threads: *distributed equals local* without MPI.

It is a complete implementation of ``hpc_bnn.losses.axis.SampleAxis``. Beyond what the protocol
asks, it refuses what would hang or corrupt a run under MPI: ranks that meet in different
collectives, or with tensors that do not fit.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from threading import Barrier, BrokenBarrierError
from typing import TypeVar

import torch
from torch import Tensor

from hpc_bnn.losses.axis import Reduction, SampleAxis

T = TypeVar("T")

PATIENCE_S = 20.0  # a rank that never comes is an error, not a test run that hangs


class Meeting:
    """Where the ranks of one axis hand each other what they hold."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._table: list[object] = [None] * size
        self._barrier = Barrier(size)

    def exchange(self, rank: int, item: T) -> list[T]:
        """Collective: return the items of all ranks in rank order."""
        self._table[rank] = item
        self._barrier.wait(PATIENCE_S)
        everyone = list(self._table)
        self._barrier.wait(PATIENCE_S)  # nobody writes the next item before all have read this one
        return everyone

    def leave(self) -> None:
        """Release the ranks that wait: this one will not come."""
        self._barrier.abort()


class ThreadAxis:
    """One rank of the axis; made by ``on_ranks``.

    Attributes
    ----------
    calls
        Name of every collective so far, in order.
    """

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self.size, self.rank = meeting, meeting.size, rank
        self.calls: list[str] = []

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        tensors = self._meet(f"all_reduce {reduction}", name, x)
        return reduce(torch.add if reduction == "sum" else torch.maximum, tensors).clone()

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        return torch.cat(self._meet("all_gather", name, x))

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        if len(x) != self.size:
            raise ValueError(f"{name}: {len(x)} parts for {self.size} ranks")
        return torch.stack([sent[self.rank] for sent in self._meet("all_to_all", name, x)])

    def _meet(self, what: str, name: str, x: Tensor) -> list[Tensor]:
        if not x.is_contiguous() or (torch.is_grad_enabled() and x.requires_grad):
            raise ValueError(
                f"{name}: MPI takes contiguous memory, and gives it back with no graph"
            )
        self.calls.append(name)
        mine = (what, name, tuple(x.shape), x.dtype)
        labels, tensors = zip(
            *self._meeting.exchange(self.rank, (mine, x.detach().clone())), strict=True
        )
        if len(set(labels)) > 1:
            raise ValueError(f"the ranks meet in different collectives: {labels}")
        return list(tensors)


def on_ranks(size: int, work: Callable[[SampleAxis], T]) -> list[T]:
    """Run ``work(axis)`` on ``size`` ranks at once and return their results in rank order.

    The error of the first rank that failed is raised; ranks that waited for it are released.
    """
    meeting = Meeting(size)

    def run(rank: int) -> T:
        try:
            return work(ThreadAxis(meeting, rank))
        except BaseException:
            meeting.leave()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in sorted(errors, key=lambda e: isinstance(e, BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def own(tensor: Tensor, axis: SampleAxis) -> Tensor:
    """Return this rank's samples of ``tensor`` (K, ...), as a leaf that wants a gradient."""
    return tensor.chunk(axis.size)[axis.rank].clone().requires_grad_()


def cotangent(shape: Sequence[int]) -> Tensor:
    """Return fixed numbers by which to weigh outputs, so that none can hide in a sum."""
    count = int(torch.Size(shape).numel())
    return (1.0 + torch.sin(torch.arange(count, dtype=torch.float64))).reshape(list(shape))
