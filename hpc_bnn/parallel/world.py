"""The world of one run: grid, groups, device and gradient reduction of this rank."""

import logging
import os
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.broadcast import broadcast_parameters
from hpc_bnn.parallel.engine import (
    Axis,
    Compression,
    Engine,
    GradientReduction,
    Ranks,
)
from hpc_bnn.parallel.engines import ENGINES, agree_on_engine
from hpc_bnn.parallel.grid import Grid, Mode, choose_sample_ranks
from hpc_bnn.parallel.launcher import (
    SHARED_GPU,
    LaunchError,
    node_name,
    node_rank_of,
    require_equal_nodes,
    split_by_node,
)
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.mpi_group import MPIGroup
from hpc_bnn.parallel.placement import placement_problem
from hpc_bnn.parallel.reducer import NoReducer, RankReducer, Reducer
from hpc_bnn.parallel.watchdog import Watchdog


@dataclass(frozen=True)
class World:
    """What one rank knows of all: made by ``start``.

    Attributes
    ----------
    grid
        Sizes of the axes and this rank's place.
    all_ranks, sample_axis, data_axis
        The groups that exchange something; joint losses do along the sample axis.
    node_rank, node_size
        This rank's place among the ranks of its node, and their number.
    num_nodes
        Number of nodes of the world.
    watchdog
        What limits how long exchanges wait for a rank.
    """

    grid: Grid
    device: torch.device
    all_ranks: Group = ALONE
    sample_axis: Group = ALONE
    data_axis: Group = ALONE
    node_rank: int = 0
    node_size: int = 1
    num_nodes: int = 1
    watchdog: Watchdog = field(default_factory=Watchdog)
    engine: Engine | None = None

    @property
    def world(self) -> Group:
        """``all_ranks``, as scripts for version 0.1 call it."""
        return self.all_ranks

    @property
    def engine_name(self) -> str | None:
        """As in ``grid.engine``; None on one rank, which needs none."""
        return None if self.engine is None else self.engine.name

    @property
    def is_first(self) -> bool:
        """True on world rank 0, which writes files and log lines."""
        return self.grid.world_rank == 0

    def broadcast_parameters(
        self, state: dict[str, Tensor], *, axis: Literal["world", "data"] = "world"
    ) -> None:
        """Collective: overwrite the tensors of ``state`` with those of the axis' first rank."""
        if self.engine is not None and state and (axis == "world" or self.grid.data_ranks > 1):
            self.engine.prepare([axis])
            with self.watchdog.watching("broadcast of parameters"):
                broadcast_parameters(self.engine, state, axis=axis)
            increment_version(state.values())  # engines write behind torch's back

    def reducer(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        reduction: GradientReduction = "world",
        compression: Compression = "none",
        per_sample: Collection[str] = (),
    ) -> Reducer:
        """Collective: return what reduces gradients over this grid; nothing on one rank.

        ``per_sample``: the names of parameters that other sample ranks hold other rows of.
        """
        if self.engine is None:
            return NoReducer()
        stages: dict[str, tuple[Axis, ...]] = {
            "world": ("world",),
            "two_stage": ("samples", "data"),
        }
        if reduction not in stages:
            raise ValueError(f"train.reduction = {reduction!r}: expected world or two_stage")
        sizes = {"samples": self.grid.sample_ranks, "data": self.grid.data_ranks}
        axes = [axis for axis in stages[reduction] if sizes.get(axis, self.grid.world_size) > 1]
        self.engine.prepare([*axes, "data"] if per_sample else axes)
        return RankReducer(
            self.engine,
            [(name, p) for name, p in named_parameters if p.requires_grad],
            axes=axes,
            rows=per_sample,
            data_ranks=self.grid.data_ranks,
            compression=compression,
            watchdog=self.watchdog,
        )

    def stop(self) -> None:
        """Collective: end the engine; only needed to start another grid in the same processes."""
        if self.engine is not None:
            self.watchdog.stop()
            self.engine.stop()


def start(
    all_ranks: Group | None = None,
    *,
    sample_ranks: int | Literal["auto"] = "auto",
    mode: Mode = "hybrid",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    engine: str = "auto",
    stall_timeout_s: float = 0.0,
) -> World:
    """Collective: split the ranks into the grid's axes, pick this rank's device, start the engine.

    Parameters
    ----------
    all_ranks
        Ranks that are connected already; None: those of COMM_WORLD are, now.
    sample_ranks
        Number S of sample ranks, a divisor of the world; ``"auto"``: by ``mode``.
    mode
        ``hybrid`` S = ranks per node, ``sample`` S = world, ``data`` S = 1, ``local`` one rank.
    engine
        What moves tensors between ranks: ``horovod``, ``torch`` (torch.distributed), or ``auto``:
        Horovod where it is built, else torch.
    stall_timeout_s
        Seconds after which a collective that some rank never joined ends the job, naming it; more
        than a checkpoint takes. 0: only warn.

    Raises
    ------
    ValueError
        If the grid does not fit the world.
    LaunchError
        If ranks do not find each other, no engine is built or devices are too few.
    """
    unlimited = all_ranks = connect() if all_ranks is None else all_ranks
    if isinstance(all_ranks, MPIGroup):
        all_ranks.require_threads()
        all_ranks = all_ranks.limited(stall_timeout_s)
    node, nodes = split_by_node(all_ranks, node_name(os.environ))
    if mode == "hybrid" and sample_ranks == "auto":
        require_equal_nodes(nodes)
    size, rank = all_ranks.size, all_ranks.rank
    sample_ranks = choose_sample_ranks(size, node.size, mode=mode, sample_ranks=sample_ranks)
    grid = Grid(sample_ranks, size // sample_ranks, rank)
    if rank == 0 and (problem := placement_problem(nodes, sample_ranks)):
        logging.getLogger(__name__).warning("%s", problem)
    node_rank = node_rank_of(node, os.environ)
    own_device, uuid = all_ranks.together(
        lambda: _pick_device(device, node_rank, node.size), name="device"
    )
    devices = all_ranks.gather((nodes[rank], uuid), name="device uuids")
    if SHARED_GPU not in os.environ:
        _refuse_shared_device(devices)
    all_ranks.together(lambda: _use(own_device), name="device")
    if not isinstance(all_ranks, MPIGroup):
        return World(grid, own_device)
    chosen = ENGINES[agree_on_engine(all_ranks, engine, own_device)]
    sample_axis = all_ranks.split(grid.data_rank, grid.sample_rank)
    data_axis = all_ranks.split(grid.sample_rank, grid.data_rank)
    started = chosen(Ranks(grid, unlimited, sample_axis, data_axis, own_device, stall_timeout_s))
    if isinstance(sample_axis, MPIGroup):
        sample_axis = sample_axis.through(started)
    return World(
        grid,
        own_device,
        all_ranks,
        sample_axis,
        data_axis,
        node_rank,
        node.size,
        len(set(nodes)),
        all_ranks.watchdog,
        started,
    )


def _refuse_shared_device(devices: Sequence[tuple[int, str | None]]) -> None:
    """Refuse two ranks on one GPU, which launchers that bind wrongly produce silently.

    devices: node and UUID of the GPU of each world rank.
    """
    for device, count in Counter(devices).items():
        if device[1] is not None and count > 1:
            twins = [rank for rank, other in enumerate(devices) if other == device]
            raise LaunchError(
                f"world ranks {twins} share GPU {device[1]}: start one rank per GPU, or let the "
                "launcher show each its own"
            )


def _use(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _pick_device(wish: str, node_rank: int, node_size: int) -> tuple[torch.device, str | None]:
    """Return the GPU of this rank, the only visible one or that of its node rank, and its UUID; or
    the CPU and None.
    """
    try:
        count = torch.cuda.device_count() if wish != "cpu" else 0
        if count == 0 and wish != "cuda":
            return torch.device("cpu"), None
        if count == 1 or node_rank < count:
            device = torch.device("cuda", 0 if count == 1 else node_rank)
            return device, str(torch.cuda.get_device_properties(device).uuid)
    except Exception as error:  # drivers fail in many ways
        raise LaunchError(
            f"device = {wish}: node rank {node_rank} cannot use its GPU on "
            f"{socket.gethostname()} ({error}); look at nvidia-smi there, and leave the node out "
            "if the GPU is broken"
        ) from error
    if count == 0:
        raise LaunchError(
            "device = cuda: torch sees no GPU; check CUDA_VISIBLE_DEVICES and hpc-bnn doctor"
        )
    raise LaunchError(
        f"node rank {node_rank} of {node_size} has no GPU: {count} are visible; start one rank "
        f"per GPU (srun --ntasks-per-node={count})"
    )
