"""The world of one run: grid, channels, device and gradient reduction of this rank."""

import os
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from hpc_bnn.losses.axis import LocalAxis, SampleAxis
from hpc_bnn.parallel.axis import RankAxis
from hpc_bnn.parallel.channel import SOLO, Channel
from hpc_bnn.parallel.comms import LaunchError, connect, limited, require_threads, together
from hpc_bnn.parallel.engine import Compression, Engine, GradientReduction, load_horovod
from hpc_bnn.parallel.grid import Grid, Mode, choose_sample_ranks
from hpc_bnn.parallel.node_rank import node_name, node_rank_of, split_by_node
from hpc_bnn.parallel.reducer import NoReducer, Reducer


@dataclass(frozen=True)
class World:
    """What one rank knows of all: made by ``start``.

    Attributes
    ----------
    grid
        Sizes of the axes and this rank's place.
    world, sample, data
        Host channels over all ranks and along each axis.
    sample_axis
        What joint losses exchange through.
    node_rank, node_size
        This rank's place among the ranks of its node, and their number.
    num_nodes
        Number of nodes of the world.
    """

    grid: Grid
    device: torch.device
    world: Channel = SOLO
    sample: Channel = SOLO
    data: Channel = SOLO
    sample_axis: SampleAxis = field(default_factory=LocalAxis)
    node_rank: int = 0
    node_size: int = 1
    num_nodes: int = 1
    engine: Engine | None = None

    @property
    def is_first(self) -> bool:
        """True on world rank 0, which writes files and log lines."""
        return self.grid.world_rank == 0

    def broadcast_parameters(
        self, state: dict[str, Tensor], *, axis: Literal["world", "data"] = "world"
    ) -> None:
        """Collective: overwrite the tensors of ``state`` with those of the axis' first rank."""
        if self.engine is not None:
            self.engine.broadcast_parameters(state, axis=axis)

    def reducer(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        passes: int,
        reduction: GradientReduction = "world",
        compression: Compression = "none",
        per_sample: Collection[str] = (),
    ) -> Reducer:
        """Collective: return what reduces gradients over this grid; nothing on one rank.

        ``per_sample``: the names of parameters that other sample ranks hold other rows of.
        """
        if self.engine is None:
            return NoReducer()
        return self.engine.reducer(
            named_parameters,
            passes=passes,
            reduction=reduction,
            compression=compression,
            per_sample=per_sample,
        )

    def stop(self) -> None:
        """Collective: end Horovod; only needed to start another grid in the same processes."""
        if self.engine is not None:
            self.engine.stop()


def start(
    *,
    sample_ranks: int | Literal["auto"] = "auto",
    mode: Mode = "hybrid",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    stall_timeout_s: float = 0.0,
) -> World:
    """Collective: split COMM_WORLD into the grid's axes, start Horovod and pick this rank's device.

    Parameters
    ----------
    sample_ranks
        Number S of sample ranks, a divisor of the world; ``"auto"``: by ``mode``.
    mode
        ``hybrid`` S = ranks per node, ``sample`` S = world, ``data`` S = 1, ``local`` one rank.
    stall_timeout_s
        Seconds after which a collective that some rank never joined ends the job, naming it; more
        than a checkpoint takes. 0: only warn.

    Raises
    ------
    ValueError
        If the grid does not fit the world.
    LaunchError
        If ranks do not find each other, Horovod is missing or devices are too few.
    """
    world = connect()
    return split(
        world, sample_ranks=sample_ranks, mode=mode, device=device, stall_timeout_s=stall_timeout_s
    )


def split(
    world: Channel,
    *,
    sample_ranks: int | Literal["auto"] = "auto",
    mode: Mode = "hybrid",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    stall_timeout_s: float = 0.0,
) -> World:
    """Collective: as ``start``, on a world that is already connected."""
    require_threads(world)
    world = limited(world, stall_timeout_s)
    node, nodes = split_by_node(world, node_name(os.environ))
    if mode == "hybrid" and sample_ranks == "auto":
        _require_equal_nodes(nodes)
    chosen = choose_sample_ranks(world.size, node.size, mode=mode, sample_ranks=sample_ranks)
    grid = Grid(chosen, world.size // chosen, world.rank)
    node_rank = node_rank_of(node, os.environ)
    picked, uuid = together(
        world, lambda: _own_device(device, world.rank, node_rank, node.size), name="device"
    )
    _refuse_shared_device(world.gather_objects((nodes[world.rank], uuid), name="device uuids"))
    together(world, lambda: _use(picked), name="device")
    if world.size == 1:
        return World(grid, picked)
    together(world, lambda: load_horovod(world.size), name="Horovod")
    sample = world.split(grid.data_rank, grid.sample_rank)
    data = world.split(grid.sample_rank, grid.data_rank)
    engine = Engine(grid, world, sample, data, stall_timeout_s=stall_timeout_s)
    axis: SampleAxis = RankAxis(sample, engine) if sample.size > 1 else LocalAxis()
    return World(
        grid, picked, world, sample, data, axis, node_rank, node.size, len(set(nodes)), engine
    )


def _require_equal_nodes(nodes: Sequence[int]) -> None:
    """Refuse a world whose nodes hold different numbers of ranks, each of which names another grid.

    nodes: of each world rank.
    """
    counts = Counter(nodes)
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"grid.mode = hybrid: the nodes hold {', '.join(map(str, counts.values()))} ranks, "
            "expected the same number on each; start so many on each, or set grid.sample_ranks"
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


def _own_device(
    wish: str, rank: int, node_rank: int, node_size: int
) -> tuple[torch.device, str | None]:
    """Return the device of this rank, and its UUID if it is a GPU."""
    try:
        device = _pick_device(wish, node_rank, node_size)
        if device.type == "cpu":
            return device, None
        return device, str(torch.cuda.get_device_properties(device).uuid)
    except LaunchError:
        raise
    except Exception as error:  # drivers fail in many ways
        raise LaunchError(
            f"device = {wish}: rank {rank} cannot use its GPU on {socket.gethostname()} ({error}); "
            "look at nvidia-smi there, and leave the node out if the GPU is broken"
        ) from error


def _use(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _pick_device(wish: str, node_rank: int, node_size: int) -> torch.device:
    """Return the GPU of this rank: the only visible one, or the one of its node rank."""
    count = torch.cuda.device_count() if wish != "cpu" else 0
    if count == 0:
        if wish == "cuda":
            raise LaunchError(
                "device = cuda: torch sees no GPU; check CUDA_VISIBLE_DEVICES and hpc-bnn doctor"
            )
        return torch.device("cpu")
    if count > 1 and count <= node_rank:
        raise LaunchError(
            f"node rank {node_rank} of {node_size} has no GPU: {count} are visible; start one "
            "rank per GPU "
            f"(srun --ntasks-per-node={count})"
        )
    return torch.device("cuda", 0 if count == 1 else node_rank)
