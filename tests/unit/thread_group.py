"""A group whose ranks are threads of one process: *distributed equals local* without MPI.

It is a complete ``hpc_bnn.group.Group``. Beyond what the protocol asks, it refuses what would hang
or corrupt a run under MPI: ranks that meet in different collectives, or with tensors that do not
fit. Objects are pickled on their way, as mpi4py does it, so no rank gets an object of another to
change.
"""

import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from threading import Condition
from typing import TypeVar

import torch
from torch import Tensor

from hpc_bnn.group import Group, Reduction

T = TypeVar("T")

PATIENCE_S = 20.0  # a rank that never comes is an error, not a test run that hangs


class NeverCame(Exception):
    """A rank waited for another one that had ended."""


class Meeting:
    """Where the ranks of one group hand each other what they hold."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed = Condition()
        self._turns = [0] * size
        self._tables: dict[int, dict[int, object]] = {}
        self._ended: set[int] = set()

    def exchange(self, rank: int, item: T) -> list[T]:
        """Collective: return the items of all ranks in rank order."""
        with self._changed:
            turn = self._turns[rank]
            self._turns[rank] += 1
            table = self._tables.setdefault(turn, {})
            table[rank] = item
            if len(table) == self.size:
                del self._tables[turn]
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: len(table) == self.size or self._ended - set(table), PATIENCE_S
            )
            if len(table) < self.size:
                raise NeverCame(f"ranks {set(range(self.size)) - set(table)}")
            return [table[other] for other in range(self.size)]  # type: ignore[misc]

    def leave(self, rank: int) -> None:
        """Release the ranks that wait for this one: it will not come any more."""
        with self._changed:
            self._ended.add(rank)
            self._changed.notify_all()


class ThreadGroup(Group):
    """One rank of a group of threads; made by ``on_ranks`` or ``outcomes``.

    Attributes
    ----------
    calls
        Name of every collective so far, in order.
    """

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self.size, self.rank = meeting, meeting.size, rank
        self.calls: list[str] = []
        self._parts: list[ThreadGroup] = []

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        tensors = self._meet_with_tensors(f"all_reduce {reduction}", name, x)
        return reduce(torch.add if reduction == "sum" else torch.maximum, tensors).clone()

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        return torch.cat(self._meet_with_tensors("all_gather", name, x))

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        if len(x) != self.size:
            raise ValueError(f"{name}: {len(x)} parts for {self.size} ranks")
        everyone = self._meet_with_tensors("all_to_all", name, x)
        return torch.stack([parts[self.rank] for parts in everyone])

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        x.copy_(self._meet_with_tensors("broadcast_tensor", name, x)[0])

    def gather(self, value: T, *, name: str) -> list[T]:
        items = self._meet("gather", name, pickle.dumps(value))
        return [pickle.loads(item) for item in items]

    def broadcast(self, value: T, *, name: str) -> T:
        content = pickle.dumps(value if self.rank == 0 else None)
        result: T = pickle.loads(self._meet("broadcast", name, content)[0])
        return result

    def split(self, color: int, key: int) -> Group:
        everyone = self._meeting.exchange(self.rank, (color, key, self.rank))
        members = [rank for c, _, rank in sorted(everyone) if c == color]
        # The first member makes the meeting; everyone picks up that of its own color.
        mine = Meeting(len(members)) if members[0] == self.rank else None
        meeting = self._meeting.exchange(self.rank, mine)[members[0]]
        assert meeting is not None
        self._parts.append(ThreadGroup(meeting, members.index(self.rank)))
        return self._parts[-1]

    def leave(self) -> None:
        """Release the ranks that wait for this one."""
        for group in (self, *self._parts):
            group._meeting.leave(group.rank)

    def _meet_with_tensors(self, what: str, name: str, x: Tensor) -> list[Tensor]:
        if not x.is_contiguous() or (torch.is_grad_enabled() and x.requires_grad):
            raise ValueError(
                f"{name}: MPI takes contiguous memory, and gives it back with no graph"
            )
        return self._meet(f"{what} {tuple(x.shape)} {x.dtype}", name, x.detach().clone())

    def _meet(self, what: str, name: str, item: T) -> list[T]:
        self.calls.append(name)
        everyone = self._meeting.exchange(self.rank, ((what, name), item))
        labels = [label for label, _ in everyone]
        if len(set(labels)) > 1:
            raise ValueError(f"the ranks meet in different collectives: {labels}")
        return [item for _, item in everyone]


def outcomes(size: int, work: Callable[[ThreadGroup], T]) -> list[T | Exception]:
    """Run ``work(group)`` on ``size`` ranks at once; return the result or the error of each.

    A rank that fails leaves the others on their own: they must fail by themselves.
    """
    meeting = Meeting(size)

    def run(rank: int) -> T | Exception:
        group = ThreadGroup(meeting, rank)
        try:
            return work(group)
        except Exception as error:
            return error
        finally:
            group.leave()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def on_ranks(size: int, work: Callable[[ThreadGroup], T]) -> list[T]:
    """Run ``work(group)`` on ``size`` ranks at once and return their results in rank order; raise
    the error of the first rank that failed by itself.
    """
    results = outcomes(size, work)
    errors = [result for result in results if isinstance(result, Exception)]
    for error in sorted(errors, key=lambda error: isinstance(error, NeverCame)):
        raise error
    return results  # type: ignore[return-value]


def own(tensor: Tensor, axis: Group) -> Tensor:
    """Return this rank's samples of ``tensor`` (K, ...), as a leaf that wants a gradient."""
    return tensor.chunk(axis.size)[axis.rank].clone().requires_grad_()


def cotangent(shape: Sequence[int]) -> Tensor:
    """Return fixed numbers by which to weigh outputs, so that none can hide in a sum."""
    count = int(torch.Size(shape).numel())
    return (1.0 + torch.sin(torch.arange(count, dtype=torch.float64))).reshape(list(shape))
