"""What ranks of one communicator can exchange on the host, and the channel of a process alone.

A ``Channel`` has the few operations that are needed, each named after what it moves. A process
alone uses ``SOLO``, which needs no MPI. Tensors are CPU tensors; small ones take microseconds here,
where Horovod's cycle would add a millisecond.
"""

from typing import Any, Protocol, TypeVar

from torch import Tensor

from hpc_bnn.losses.axis import LocalAxis, SampleAxis

T = TypeVar("T")


class Channel(SampleAxis, Protocol):
    """One communicator. Every method is collective over its ranks."""

    def gather_objects(self, value: T, *, name: str) -> list[T]:
        """Collective: return the value of every rank, in rank order."""

    def broadcast(self, value: T, *, name: str) -> T:
        """Collective: return the value of rank 0."""

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        """Collective: overwrite ``x``, contiguous and of the same shape on every rank, with that of
        rank 0. However large it is, it takes no memory but its own.
        """

    def split(self, color: int, key: int) -> "Channel":
        """Collective: return the channel of the ranks with the same color, ordered by key."""

    def split_by_node(self) -> "Channel":
        """Collective: return the channel of the ranks that share this node's memory."""

    def native(self) -> Any:
        """Return the mpi4py communicator, or None for a process alone."""


class Solo(LocalAxis):
    """The channel of a process alone: every exchange is the identity."""

    def gather_objects(self, value: T, *, name: str) -> list[T]:
        return [value]

    def broadcast(self, value: T, *, name: str) -> T:
        return value

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        return

    def split(self, color: int, key: int) -> "Channel":
        return self

    def split_by_node(self) -> "Channel":
        return self

    def native(self) -> Any:
        return None


SOLO = Solo()
