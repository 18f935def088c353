"""What ranks of one group exchange: one protocol for every set of ranks, and a process by itself.

The samples of a step are spread over the ranks of the sample axis, equally many on each, in rank
order; examples and files are shared out among others. Whatever joins them is written against
``Group``: it gives the same numbers with ``ALONE``, on threads and over MPI
(``hpc_bnn.parallel.mpi_group``).

Every exchange has a name, which errors and the watchdog say.
"""

import traceback
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, Protocol, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")
Reduction = Literal["sum", "max"]


class RankError(RuntimeError):
    """Another rank failed: the message names it and says why."""


class Group(Protocol):
    """Ranks that exchange something. Every method is collective: all ranks of the group call it,
    in the same order, and none calls it inside something that may fail on one rank only.

    Attributes
    ----------
    size, rank
        Number of ranks, and the place of this one among them.
    """

    __slots__ = ()
    size: int
    rank: int

    @abstractmethod
    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        """Collective: return the elementwise sum or maximum of ``x`` over the ranks, as a new
        tensor.
        """

    @abstractmethod
    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        """Collective: return (size * n, ...) from the (n, ...) of each rank, in rank order."""

    @abstractmethod
    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        """Collective: send ``x[r]`` of (size, ...) to rank r; return (size, ...) with what each
        rank sent here.
        """

    @abstractmethod
    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        """Collective: overwrite ``x``, contiguous on the host and of the same shape on every rank,
        with that of rank 0. However large it is, it takes no memory but its own.
        """

    def gather_tensor(self, x: Tensor, *, name: str) -> Tensor | None:
        """Collective: return (size, ...) with ``x``, contiguous on the host and of the same shape
        on every rank, of each rank in rank order: on rank 0, None elsewhere.
        """
        everyone = self.all_gather(x.unsqueeze(0), name=name)
        return everyone if self.rank == 0 else None

    @abstractmethod
    def gather(self, value: T, *, name: str) -> list[T]:
        """Collective: return the value of every rank, in rank order."""

    def gather_objects(self, value: T, *, name: str) -> list[T]:
        """Collective: ``gather``, as scripts for version 0.1 call it."""
        return self.gather(value, name=name)

    @abstractmethod
    def broadcast(self, value: T, *, name: str) -> T:
        """Collective: return the value of rank 0."""

    @abstractmethod
    def split(self, color: int, key: int) -> "Group":
        """Collective: return the group of the ranks with the same color, ordered by key."""

    def first_text(self, text: str | None, *, name: str) -> tuple[int, str] | None:
        """Collective: return the lowest rank that has something to say, and what; None where none
        has, which costs a reduction of one number.
        """
        mine = torch.tensor([0 if text is None else self.size - self.rank])
        rank = self.size - int(self.all_reduce(mine, reduction="max", name=name))
        if rank == self.size:
            return None
        return rank, str(self.gather(text if rank == self.rank else None, name=name)[rank])

    def together(self, action: Callable[[], T], *, name: str) -> T:
        """Collective: run ``action`` and return its result; if it fails on any rank, raise on every
        rank: its own error where it failed, else ``RankError`` that names the first that did.
        """
        result: T | None = None
        failure: Exception | SystemExit | None = None
        try:
            result = action()
        except (Exception, SystemExit) as error:  # whatever it is, the other ranks must hear of it
            failure = error
        first = self.first_text(None if failure is None else _in_one(failure), name=name)
        if failure is not None:
            raise failure
        if first is not None:
            raise RankError(f"{name}: rank {first[0]} failed: {first[1]}")
        return cast(T, result)

    def on_first(self, action: Callable[[], T], *, name: str) -> T:
        """Collective: run ``action`` on rank 0 only and return its result, or raise its failure, on
        every rank.
        """
        result: T | None = None
        failure: Exception | SystemExit | None = None
        if self.rank == 0:
            try:
                result = action()
            except (Exception, SystemExit) as error:
                failure = error
        text = None if failure is None else _in_one(failure)
        result, text = self.broadcast((result, text), name=name)
        if failure is not None:
            raise failure
        if text is not None:
            raise RankError(f"{name}: rank 0 failed: {text}")
        return cast(T, result)


def _in_one(error: BaseException) -> str:
    """Return type and message of an error."""
    return "".join(traceback.format_exception_only(error)).strip()


class Alone(Group):
    """A process by itself: every exchange is the identity. It has no state that could change."""

    __slots__ = ()
    size = 1
    rank = 0

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        return x.clone()

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        return x

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        return x

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        return

    def gather(self, value: T, *, name: str) -> list[T]:
        return [value]

    def broadcast(self, value: T, *, name: str) -> T:
        return value

    def split(self, color: int, key: int) -> Group:
        return self


ALONE = Alone()
