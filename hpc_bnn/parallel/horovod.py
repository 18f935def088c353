"""The engine over Horovod (NCCL on GPUs, MPI on CPUs): the only file that imports horovod.

There is one Horovod world over all ranks. An axis of the grid is the global process set where it
spans the world, no set at all where it has one rank, and a process set of its own in between:
Horovod refuses duplicate sets.
"""

import os
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.group import Reduction
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

        groups = (ranks.all_ranks, ranks.sample_axis, ranks.data_axis)
        world, *axes = (getattr(group, "comm", None) for group in groups)
        grid = ranks.grid
        sizes = grid.sample_ranks, grid.data_ranks
        sets: list[Any] = [hvd.ProcessSet(comm) for comm in axes] if min(sizes) > 1 else []
        hvd.init(comm=world, process_sets=sets)
        if hvd.size() != grid.world_size or hvd.rank() != grid.world_rank:
            raise LaunchError(
                f"Horovod is rank {hvd.rank()} of {hvd.size()}, "
                f"MPI is rank {grid.world_rank} of {grid.world_size}: "
                "they use different MPI libraries; hpc-bnn doctor shows both"
            )
        whole = hvd.global_process_set
        samples, data = sets or [whole if size > 1 else None for size in sizes]
        self._hvd, self._ranks = hvd, ranks
        self._sets: dict[Axis, Any] = {"world": whole, "samples": samples, "data": data}

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
