"""A host channel whose ranks are threads of one process: every method of the ``Channel`` protocol.

Like ``thread_axis``, it refuses what would hang or corrupt a run under MPI. Objects are pickled on
their way, as mpi4py does it, so no rank gets an object of another to change.
"""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from thread_axis import Meeting, ThreadAxis
from torch import Tensor

from hpc_bnn.losses.axis import Reduction
from hpc_bnn.parallel.channel import Channel

T = TypeVar("T")


class ThreadChannel:
    """One rank of a world of threads; made by ``outcomes`` or ``on_world``.

    Attributes
    ----------
    calls
        Name of every collective so far, in order.
    """

    def __init__(self, meeting: Meeting, rank: int, ranks_per_node: int) -> None:
        self._meeting, self._ranks_per_node = meeting, ranks_per_node
        self._tensors = ThreadAxis(meeting, rank)
        self.rank, self.size, self.calls = rank, meeting.size, self._tensors.calls

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        return self._tensors.all_reduce(x, reduction=reduction, name=name)

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        return self._tensors.all_gather(x, name=name)

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        return self._tensors.all_to_all(x, name=name)

    def gather_objects(self, value: T, *, name: str) -> list[T]:
        return [pickle.loads(item) for item in self._meet("gather", name, pickle.dumps(value))]

    def broadcast(self, value: T, *, name: str) -> T:
        sent = pickle.dumps(value if self.rank == 0 else None)
        result: T = pickle.loads(self._meet("broadcast", name, sent)[0])
        return result

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        x.copy_(self.broadcast(x, name=name))

    def split(self, color: int, key: int) -> Channel:
        asked = self._meeting.exchange(self.rank, (color, key, self.rank))
        members = [rank for c, _, rank in sorted(asked) if c == color]
        # The first member makes the meeting; everyone picks up that of its own color.
        made = Meeting(len(members)) if members[0] == self.rank else None
        meeting = self._meeting.exchange(self.rank, made)[members[0]]
        assert meeting is not None
        return ThreadChannel(meeting, members.index(self.rank), self._ranks_per_node)

    def split_by_node(self) -> Channel:
        return self.split(self.rank // self._ranks_per_node, self.rank)

    def native(self) -> Any:
        return None

    def _meet(self, what: str, name: str, sent: bytes) -> list[bytes]:
        self.calls.append(name)
        labels, items = zip(*self._meeting.exchange(self.rank, ((what, name), sent)), strict=True)
        if len(set(labels)) > 1:
            raise ValueError(f"the ranks meet in different collectives: {labels}")
        return list(items)


def outcomes(
    size: int, work: Callable[[Channel], T], *, ranks_per_node: int | None = None
) -> list[T | Exception]:
    """Run ``work(channel)`` on ``size`` ranks at once; return the result or the error of each."""
    meeting = Meeting(size)

    def run(rank: int) -> T | Exception:
        try:
            return work(ThreadChannel(meeting, rank, ranks_per_node or size))
        except Exception as error:  # the other ranks go on: they must fail by themselves
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def on_world(
    size: int, work: Callable[[Channel], T], *, ranks_per_node: int | None = None
) -> list[T]:
    """Run ``work(channel)`` on ``size`` ranks at once; raise the first error."""
    results = outcomes(size, work, ranks_per_node=ranks_per_node)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results  # type: ignore[return-value]


def rank_tensor(channel: Channel, count: int) -> Tensor:
    """Return (count,) float64 numbers that differ on every rank."""
    return torch.arange(count, dtype=torch.float64) + 100.0 * channel.rank
