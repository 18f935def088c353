"""The contract of what moves tensors between ranks where they lie, on GPUs or on the host.

An engine is a file, such as ``horovod`` or ``torch_dist``, and a line in ``engines.ENGINES``. What
is written over this contract, the reduction of gradients (``reducer``) and the broadcast of
parameters (``broadcast``), is written once and gives the same answer over each. mpi4py starts the
ranks, splits them into groups and carries messages of the host under all of them (``mpi_group``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from hpc_bnn.group import Group, Reduction
from hpc_bnn.parallel.grid import Grid

GradientReduction = Literal["world", "two_stage"]
Compression = Literal["none", "fp16", "bf16"]
Axis = Literal["world", "samples", "data"]


@dataclass(frozen=True)
class Ranks:
    """What an engine is started on.

    Attributes
    ----------
    all_ranks, sample_axis, data_axis
        The groups of the grid, over MPI; how long all ranks wait for each other is not limited.
    device
        Where this rank computes.
    stall_timeout_s
        Seconds after which the watchdog ends a job some rank of which never joined an exchange; an
        engine waits longer than that, or for ever (0).
    """

    grid: Grid
    all_ranks: Group
    sample_axis: Group
    data_axis: Group
    device: torch.device
    stall_timeout_s: float

    def size(self, axis: Axis) -> int:
        """Return the number of ranks of an axis."""
        return {
            "world": self.grid.world_size,
            "samples": self.grid.sample_ranks,
            "data": self.grid.data_ranks,
        }[axis]

    def of(self, axis: Axis) -> list[int]:
        """Return the world ranks of this rank's axis, in rising order."""
        return {
            "world": list(range(self.grid.world_size)),
            "samples": self.grid.sample_axis,
            "data": self.grid.data_axis,
        }[axis]


class Handle(Protocol):
    """An exchange that was begun."""

    def wait(self) -> Any:
        """Return when the tensor holds the result, for what this rank computes next.

        Raises
        ------
        RankError
            If the exchange broke off.
        """


class Engine(Protocol):
    """Moves tensors that lie on the device of this rank.

    Every method is collective: all ranks of the axis call it in the same order, under the same
    name, with tensors of one shape and dtype. Axes of one rank are left to the caller.

    Attributes
    ----------
    name, title
        As in ``grid.engine``, and in sentences.
    compressions
        What gradients may be compressed to.
    """

    name: str
    title: str
    compressions: frozenset[Compression]

    def __init__(self, ranks: Ranks) -> None:
        """Collective over the world: connect the ranks along each axis.

        Raises
        ------
        LaunchError
            On every rank, if they do not find each other.
        """

    @staticmethod
    def is_installed() -> bool:
        """Tell whether the engine is there at all, whatever it is good for; imports nothing."""

    @staticmethod
    def missing(device: torch.device) -> str:
        """Return why several ranks cannot use the engine on this machine; empty: they can."""

    @staticmethod
    def describe() -> tuple[str, bool]:
        """Return version and what it was built with of an engine that is installed, and whether
        that is enough for several ranks.
        """

    def prepare(self, axes: Iterable[Axis]) -> None:
        """Collective over the world, with nothing on its way: get ready for exchanges along
        ``axes``; before the first one, unless the ranks compute on GPUs.
        """

    def all_reduce_async(self, x: Tensor, *, axis: Axis, name: str) -> Handle:
        """Collective: begin to overwrite contiguous ``x`` with its sum over the axis."""

    def all_reduce(self, x: Tensor, *, reduction: Reduction, axis: Axis, name: str) -> Tensor:
        """Collective: return the elementwise sum or maximum over the axis as a new tensor."""

    def all_gather(self, x: Tensor, *, axis: Axis, name: str) -> Tensor:
        """Collective: return (size * n, ...) from the (n, ...) of each rank, in rank order."""

    def all_to_all(self, x: Tensor, *, axis: Axis, name: str) -> Tensor:
        """Collective: send ``x[r]`` of (size, ...) to rank r; return what each rank sent here."""

    def broadcast(self, x: Tensor, *, axis: Axis, name: str) -> None:
        """Collective: overwrite contiguous ``x`` with that of the first rank of the axis."""

    def stop(self) -> None:
        """Collective over the world: disconnect, so that another grid can be started."""
