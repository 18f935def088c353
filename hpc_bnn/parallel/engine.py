"""Tensor reductions by Horovod (NCCL on GPUs, MPI on CPUs): the only file that imports horovod.

There is one Horovod world over all ranks. An axis of the grid is the global process set where it
spans the world, no set at all where it has one rank, and a process set of its own in between:
Horovod refuses duplicate sets.
"""

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hpc_bnn.group import Reduction
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.launcher import LaunchError
from hpc_bnn.parallel.reducer import RankReducer, Reducer, Stage
from hpc_bnn.parallel.watchdog import Watchdog

log = logging.getLogger(__name__)

GradientReduction = Literal["world", "two_stage"]
Compression = Literal["none", "fp16"]

WARN_AFTER_S = 60
# MPI counts bytes of one message in a signed int of 32 bits.
MESSAGE_BYTES = 1 << 30


class Engine:
    """Collective: start Horovod on the world and make the process sets of the grid's axes.

    Parameters
    ----------
    comms
        mpi4py communicators over all ranks, along the sample and along the data axis; None along an
        axis of one rank.
    stall_timeout_s
        Seconds after which Horovod's warnings name tensor and ranks of a collective that some rank
        never joined, before the ``watchdog`` ends the job; 0: a minute.

    Raises
    ------
    LaunchError
        If Horovod is missing, was built without MPI, or sees another world.
    """

    def __init__(
        self, grid: Grid, comms: Sequence[Any], watchdog: Watchdog, *, stall_timeout_s: float
    ) -> None:
        limits = {
            "HOROVOD_STALL_CHECK_TIME_SECONDS": _warn_after(stall_timeout_s),
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": 0,  # the watchdog ends the job, with its status
        }
        for name, seconds in limits.items():
            if stall_timeout_s or name not in os.environ:  # a job script's word, unless the user's
                os.environ[name] = str(seconds)
        hvd = load_horovod(grid.world_size)
        self._hvd = hvd
        world, *axes = comms
        sizes = grid.sample_ranks, grid.data_ranks
        sets: list[Any] = [hvd.ProcessSet(comm) for comm in axes] if min(sizes) > 1 else []
        hvd.init(comm=world, process_sets=sets)
        if hvd.size() != grid.world_size or hvd.rank() != grid.world_rank:
            raise LaunchError(
                f"Horovod is rank {hvd.rank()} of {hvd.size()}, "
                f"MPI is rank {grid.world_rank} of {grid.world_size}: "
                "they use different MPI libraries; hpc-bnn doctor shows both"
            )
        self._grid, self._watchdog = grid, watchdog
        whole = hvd.global_process_set
        self._sample_set, self._data_set = sets or [whole if n > 1 else None for n in sizes]

    def stop(self) -> None:
        """Collective: end Horovod, so that another grid can be started in the same processes."""
        self._watchdog.stop()
        self._hvd.shutdown()

    def broadcast_parameters(
        self, state: dict[str, Tensor], *, axis: Literal["world", "data"] = "world"
    ) -> None:
        """Collective: overwrite the tensors of ``state`` with those of the first rank of the axis.

        They travel as bytes, so that any dtype does; the ranks' tensors have the same shapes.
        """
        root = 0 if axis == "world" else self._grid.data_axis[0]
        ranks = self._hvd.global_process_set if axis == "world" else self._data_set
        if ranks is None:
            return
        handles, copies = [], []
        with self._watchdog.watching("broadcast of parameters"):
            for name, tensor in sorted(state.items()):
                target = _without_repeats(tensor.detach())
                sent = target.resolve_conj().resolve_neg().contiguous()
                if sent is not target:
                    copies.append((target, sent))
                content = sent.view(-1).view(torch.uint8)
                handles += [
                    self._hvd.broadcast_async_(
                        content[first : first + MESSAGE_BYTES],
                        root_rank=root,
                        name=f"{name}.{first}",
                        process_set=ranks,
                    )
                    for first in range(0, len(content), MESSAGE_BYTES)
                ]
            for handle in handles:
                self._hvd.synchronize(handle)
        for target, sent in copies:
            target.copy_(sent)

    def reducer(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        passes: int,
        reduction: GradientReduction,
        compression: Compression,
        per_sample: Collection[str] = (),
    ) -> Reducer:
        """Return what reduces the gradients of ``passes`` backward passes a step."""
        hvd = self._hvd
        if reduction == "world":
            # The average of S * share is the sum over samples, averaged over data.
            stages = [Stage("", hvd.global_process_set, hvd.Average)]
            scale = float(self._grid.sample_ranks)
        elif reduction == "two_stage":
            both = (
                Stage("gradient.samples.", self._sample_set, hvd.Sum),
                Stage("gradient.data.", self._data_set, hvd.Average),
            )
            stages, scale = [stage for stage in both if stage.process_set is not None], 1.0
        else:
            raise ValueError(f"train.reduction = {reduction!r}: expected world or two_stage")
        rows = []
        if self._data_set is not None:
            rows = [Stage("gradient.rows.", self._data_set, hvd.Average)]
        codec = {"none": hvd.Compression.none, "fp16": hvd.Compression.fp16}[compression]
        named = [(name, p) for name, p in named_parameters if p.requires_grad]

        def stages_of(name: str) -> list[Stage]:
            return rows if name in per_sample else stages

        return RankReducer(hvd, named, passes, codec, stages_of, scale, self._watchdog)

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        """Collective over the sample axis, for tensors on GPUs."""
        op = self._hvd.Sum if reduction == "sum" else self._hvd.Max
        result: Tensor = self._hvd.allreduce(x, op=op, name=name, process_set=self._sample_set)
        return result

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        """Collective over the sample axis, for tensors on GPUs."""
        result: Tensor = self._hvd.allgather(x, name=name, process_set=self._sample_set)
        return result

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        """Collective over the sample axis, for tensors on GPUs."""
        result: Tensor = self._hvd.alltoall(x, name=name, process_set=self._sample_set)
        return result


def _without_repeats(tensor: Tensor) -> Tensor:
    """Return the elements of an expanded tensor once, as a view that can be written to."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def load_horovod(ranks: int) -> Any:
    """Return Horovod's module, which several ranks need.

    Raises
    ------
    LaunchError
        If it cannot be imported or was built without MPI.
    """
    try:
        import horovod.torch as hvd
    except ImportError as error:
        raise LaunchError(
            f"{ranks} ranks need Horovod, which cannot be imported ({error}); "
            "build the environment with cmake (README, On your cluster), or run one rank"
        ) from error
    if not hvd.mpi_built():
        raise LaunchError("Horovod was built without MPI; rebuild it with HOROVOD_WITH_MPI=1")
    return hvd


def _warn_after(stall_timeout_s: float) -> int:
    """Horovod names a tensor that it had reduced before at the fourth check, before the limit."""
    return (
        int(min(WARN_AFTER_S, max(1.0, stall_timeout_s / 5))) if stall_timeout_s else WARN_AFTER_S
    )


def describe_horovod() -> tuple[str, bool]:
    """Return what Horovod was built with, and whether that is enough to run several ranks."""
    try:
        import horovod.torch as hvd
    except Exception as error:  # a broken build fails in many ways
        return f"cannot be imported ({' '.join(str(error).split())[:200]})", False
    nccl = hvd.nccl_built()
    mpi, gloo = ("yes" if built else "no" for built in (hvd.mpi_built(), hvd.gloo_built()))
    return f"MPI {mpi}, NCCL {nccl or 'no'}, gloo {gloo}", bool(hvd.mpi_built())
