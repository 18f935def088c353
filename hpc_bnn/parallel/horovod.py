"""The engine over Horovod (NCCL on GPUs, MPI on CPUs): the only file that imports horovod.

There is one Horovod world over all ranks. An axis of the grid is the global process set where it
spans the world, no set at all where it has one rank, and a process set of its own in between:
Horovod refuses duplicate sets.

S + D sets would be made by all ranks, and each adds to the work of every cycle of a millisecond, so
there are none but of axes that are used. Horovod takes sets when it starts: where more are needed
it starts again (dynamic sets would cost an exchange in every cycle).
"""

import os
from collections.abc import Collection, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.group import Group, Reduction
from hpc_bnn.parallel.engine import Axis, Compression, Engine, Ranks
from hpc_bnn.parallel.launcher import SHARED_GPU, LaunchError

WARN_AFTER_S = 60
BUILD = "build the environment with cmake (README, On your cluster)"


class HorovodEngine(Engine):
    """Collective: start Horovod on the world and make the process sets of the grid's axes.

    Before the watchdog ends a job, Horovod's own warnings name the tensor and the ranks of a
    collective that some rank never joined.
    """

    name, title = "horovod", "Horovod"
    compressions = frozenset[Compression](("none", "fp16"))  # it knows no bfloat16

    def __init__(self, ranks: Ranks) -> None:
        limits = {
            "HOROVOD_STALL_CHECK_TIME_SECONDS": _warn_after(ranks.stall_timeout_s),
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": 0,  # the watchdog ends the job, with its status
        }
        for name, seconds in limits.items():
            # A job script's word, unless the user's.
            if ranks.stall_timeout_s or name not in os.environ:
                os.environ[name] = str(seconds)
        # Gradients come in buckets: to copy them into a buffer of Horovod's would gain nothing.
        os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
        import horovod.torch as hvd

        self._hvd, self._ranks = hvd, ranks
        # On GPUs the exchanges of joint losses go along the sample axis, too.
        on_gpu: tuple[Axis, ...] = ("samples", "data") if ranks.device.type == "cuda" else ()
        self._start(on_gpu)

    def prepare(self, axes: Iterable[Axis]) -> None:
        more = [axis for axis in axes if axis not in self._sets]
        if more:
            self._hvd.shutdown()
            self._start({*self._sets, *more})

    def _start(self, axes: Collection[Axis]) -> None:
        """Collective: start Horovod, with sets for ``axes`` that are part of the world."""
        hvd, ranks = self._hvd, self._ranks
        grid, comm = ranks.grid, getattr(ranks.all_ranks, "comm", None)
        self._sets: dict[Axis, Any] = {"world": hvd.global_process_set}
        parts: dict[Axis, Group] = {"samples": ranks.sample_axis, "data": ranks.data_axis}
        made = []
        for axis, group in parts.items():
            if group.size == grid.world_size:
                self._sets[axis] = hvd.global_process_set
            elif group.size > 1 and axis in axes:
                self._sets[axis] = hvd.ProcessSet(getattr(group, "comm", None))
                made.append(self._sets[axis])
            elif group.size == 1:
                self._sets[axis] = None
        hvd.init(comm=comm, process_sets=made)
        if hvd.size() != grid.world_size or hvd.rank() != grid.world_rank:
            raise LaunchError(
                f"Horovod is rank {hvd.rank()} of {hvd.size()}, "
                f"MPI is rank {grid.world_rank} of {grid.world_size}: "
                "they use different MPI libraries; hpc-bnn doctor shows both"
            )

    @staticmethod
    def is_installed() -> bool:
        return find_spec("horovod") is not None

    @staticmethod
    def missing(device: torch.device) -> str:
        try:
            import horovod.torch as hvd
        except Exception as error:  # a broken build fails in many ways
            return f"Horovod cannot be imported ({_one_line(error)}): {BUILD}"
        if not hvd.mpi_built():
            return f"Horovod was built without MPI: {BUILD}, or with HOROVOD_WITH_MPI=1"
        if device.type == "cuda" and SHARED_GPU not in os.environ and not hvd.nccl_built():
            return f"Horovod was built without NCCL: {BUILD}, or with HOROVOD_GPU_OPERATIONS=NCCL"
        return ""

    @staticmethod
    def describe() -> tuple[str, bool]:
        try:
            import horovod.torch as hvd
        except Exception as error:
            return f"cannot be imported ({_one_line(error)})", False
        nccl = hvd.nccl_built()
        mpi, gloo = ("yes" if built else "no" for built in (hvd.mpi_built(), hvd.gloo_built()))
        built = f"{version('horovod')}, MPI {mpi}, NCCL {nccl or 'no'}, gloo {gloo}"
        return built, bool(hvd.mpi_built())

    def all_reduce_async(self, x: Tensor, *, axis: Axis, name: str) -> "_Begun":
        hvd = self._hvd
        handle = hvd.allreduce_async_(x, name=name, op=hvd.Sum, process_set=self._sets[axis])
        return _Begun(hvd, handle)

    def all_reduce(self, x: Tensor, *, reduction: Reduction, axis: Axis, name: str) -> Tensor:
        op = self._hvd.Sum if reduction == "sum" else self._hvd.Max
        result: Tensor = self._hvd.allreduce(x, op=op, name=name, process_set=self._sets[axis])
        return result

    def all_gather(self, x: Tensor, *, axis: Axis, name: str) -> Tensor:
        result: Tensor = self._hvd.allgather(x, name=name, process_set=self._sets[axis])
        return result

    def all_to_all(self, x: Tensor, *, axis: Axis, name: str) -> Tensor:
        result: Tensor = self._hvd.alltoall(x, name=name, process_set=self._sets[axis])
        return result

    def broadcast(self, x: Tensor, *, axis: Axis, name: str) -> None:
        root = self._ranks.of(axis)[0]
        self._hvd.broadcast_(x, root_rank=root, name=name, process_set=self._sets[axis])

    def stop(self) -> None:
        self._hvd.shutdown()


class _Begun:
    """A collective that Horovod's thread carries out."""

    def __init__(self, hvd: Any, handle: Any) -> None:
        self._hvd, self._handle = hvd, handle

    def wait(self) -> None:
        self._hvd.synchronize(self._handle)


def _warn_after(stall_timeout_s: float) -> int:
    """Horovod names a tensor that it had reduced before at the fourth check, before the limit."""
    return (
        int(min(WARN_AFTER_S, max(1.0, stall_timeout_s / 5))) if stall_timeout_s else WARN_AFTER_S
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
