"""Shared memory for the batches of a data rank, or why there is none: the same answer on all ranks.

Everything that can be known is asked before the memory is touched or even made: MPI may hang, and
a page without room ends the process.
"""

import os

import torch

from hpc_bnn.data.batch_layout import BatchLayout
from hpc_bnn.group import Group
from hpc_bnn.parallel.control import completes
from hpc_bnn.parallel.launcher import node_name, split_by_node
from hpc_bnn.parallel.mpi_group import MPIGroup
from hpc_bnn.parallel.shared_memory import (
    OwnMemory,
    SharedMemory,
    claim,
    free_bytes,
    shared_folder,
)
from hpc_bnn.parallel.world import World
from hpc_bnn.train.feed.ring import Ring

MOST_SHARE = 0.9  # of what is free: MPI and others on the node need some, too
APART = "the sample ranks are on several nodes"
PATIENCE_S = 30.0  # for ranks whose MPI does not return from making the memory


def make_ring(world: World, layout: BatchLayout, *, slots: int) -> Ring | str:
    """Collective over the world: return slots for the batches of the sample axis, or why there are
    none.

    Raises
    ------
    MemoryError
        If MPI fails on some ranks of a node and never returns on the others.
    """
    node, _ = split_by_node(world.sample_axis, node_name(os.environ))
    apart = "" if node.size == world.sample_axis.size else APART
    size = Ring.bytes_needed(layout, ranks=node.size, slots=slots)
    reason = _first(world.all_ranks, apart) or _first(world.all_ranks, _no_room(world, size))
    if reason:
        return reason
    memory: SharedMemory | None = None
    failure: Exception | None = None
    try:
        memory = node.shared_memory(size) if isinstance(node, MPIGroup) else OwnMemory(size)
    except Exception as error:  # of MPI, which has no class for a lack of memory
        failure = error
    if not all_arrive(node, within_s=PATIENCE_S):
        raise MemoryError(
            f"data.share: shared memory of {size} bytes cannot be made ({failure or 'elsewhere'}); "
            "set data.share = allgather"
        ) from failure
    said = "" if failure is None else f"MPI cannot make it ({failure})"
    on_node = _first(node, said)
    reason = _first(world.all_ranks, on_node)
    if memory is not None and not on_node:
        reason = reason or _first(world.all_ranks, _unclaimed(memory) if node.rank == 0 else "")
        if not reason:
            return Ring(memory, layout, node, slots=slots)
        memory.free()
    return reason


def _no_room(world: World, size: int) -> str:
    """Collective over the world: say where a node has no room for all of its data ranks."""
    mine = torch.tensor([size if world.grid.sample_rank == 0 else 0])
    machine, _ = split_by_node(world.all_ranks, node_name(os.environ))
    wanted = int(machine.all_reduce(mine, reduction="sum", name="shared memory"))
    free = free_bytes()
    if wanted <= MOST_SHARE * free:
        return ""
    return (
        f"{shared_folder()} has {free >> 20} MiB free, of which at most {MOST_SHARE:.0%} are "
        f"used, and the batches take {wanted >> 20} MiB"
    )


def _unclaimed(memory: SharedMemory) -> str:
    try:
        claim(memory.array)
    except MemoryError as error:
        return str(error)
    return ""


def all_arrive(group: Group, *, within_s: float) -> bool:
    """Collective: wait for the other ranks; False: some rank did not call this in time."""
    return not isinstance(group, MPIGroup) or completes(group.comm.Ibarrier(), within_s=within_s)


def _first(channel: Group, reason: str) -> str:
    """Collective: return the reason of the first rank that has one."""
    reasons = channel.gather(reason, name="shared memory")
    return next(filter(None, reasons), "")
