"""Tensor reductions by Horovod (NCCL on GPUs, MPI on CPUs): the only file that imports horovod.

There is one Horovod world over all ranks. An axis of the grid is the global process set where it
spans the world, no set at all where it has one rank, and a process set of its own in between:
Horovod refuses duplicate sets.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from hpc_bnn.losses.axis import Reduction
from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.comms import LaunchError, watchdog_of
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.watchdog import Watchdog

log = logging.getLogger(__name__)

GradientReduction = Literal["world", "two_stage"]
Compression = Literal["none", "fp16"]

WARN_AFTER_S = 60


class Reducer(Protocol):
    """Sums gradients over the sample axis and averages them over the data axis while backward still
    runs.
    """

    # What a rank must multiply its share of the objective by.
    scale: float

    def wait(self) -> None:
        """Collective: return when every gradient is reduced. The tensors are those in
        ``parameter.grad``.
        """


class NoReducer:
    """Nothing to reduce on one rank."""

    scale = 1.0

    def wait(self) -> None:
        return


class Engine:
    """Collective: start Horovod on the world and make the process sets of the grid's axes.

    Parameters
    ----------
    stall_timeout_s
        Seconds after which Horovod's warnings name tensor and ranks of a collective that some rank
        never joined, before the watchdog of ``world`` ends the job; 0: a minute.

    Raises
    ------
    LaunchError
        If Horovod is missing, was built without MPI, or sees another world.
    """

    def __init__(
        self, grid: Grid, world: Channel, sample: Channel, data: Channel, *, stall_timeout_s: float
    ) -> None:
        limits = {
            "HOROVOD_STALL_CHECK_TIME_SECONDS": _warn_after(stall_timeout_s),
            "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": 0,  # the watchdog ends the job, with its status
        }
        for name, seconds in limits.items():
            if stall_timeout_s or name not in os.environ:  # a job script's word, unless the user's
                os.environ[name] = str(seconds)
        try:
            import horovod.torch as hvd
        except ImportError as error:
            raise LaunchError(
                f"{grid.world_size} ranks need Horovod, which cannot be imported ({error}); "
                "build the environment with "
                "cmake (README, On your cluster), or run one rank"
            ) from error
        if not hvd.mpi_built():
            raise LaunchError("Horovod was built without MPI; rebuild it with HOROVOD_WITH_MPI=1")
        self._hvd = hvd
        strict = [c for c in (data, sample) if 1 < c.size < world.size]
        own = {id(c): hvd.ProcessSet(c.native()) for c in strict}
        hvd.init(comm=world.native(), process_sets=list(own.values()))
        if hvd.size() != grid.world_size or hvd.rank() != grid.world_rank:
            raise LaunchError(
                f"Horovod is rank {hvd.rank()} of {hvd.size()}, MPI is rank {grid.world_rank} "
                f"of {grid.world_size}: they "
                "use different MPI libraries; hpc-bnn doctor shows both"
            )
        self._grid = grid
        self._watchdog = watchdog_of(world)
        whole = hvd.global_process_set
        self._sample_set = own.get(id(sample), whole if sample.size > 1 else None)
        self._data_set = own.get(id(data), whole if data.size > 1 else None)

    def stop(self) -> None:
        """Collective: end Horovod, so that another grid can be started in the same processes."""
        self._watchdog.stop()
        self._hvd.shutdown()

    def broadcast_parameters(self, state: dict[str, Tensor]) -> None:
        """Collective: overwrite the tensors of ``state`` with those of world rank 0."""
        with self._watchdog.watching("broadcast of parameters"):
            self._hvd.broadcast_parameters(state, root_rank=0)

    def reducer(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        passes: int,
        reduction: GradientReduction,
        compression: Compression,
    ) -> Reducer:
        """Collective: return what reduces the gradients of ``passes`` backward passes a step."""
        named = [(name, p) for name, p in named_parameters if p.requires_grad]
        codec = {"none": self._hvd.Compression.none, "fp16": self._hvd.Compression.fp16}[
            compression
        ]
        if reduction == "world":
            ranks = self._grid.sample_ranks
            return _Watched(_WorldReducer(self._hvd, named, passes, codec, ranks), self._watchdog)
        if reduction == "two_stage":
            sets = self._sample_set, self._data_set
            return _Watched(
                _TwoStageReducer(self._hvd, named, passes, codec, *sets), self._watchdog
            )
        raise ValueError(f"train.reduction = {reduction!r}: expected world or two_stage")

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        """Collective over the sample axis, for tensors on GPUs."""
        op = self._hvd.Sum if reduction == "sum" else self._hvd.Max
        with self._watchdog.watching(name):
            result: Tensor = self._hvd.allreduce(x, op=op, name=name, process_set=self._sample_set)
        return result

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        """Collective over the sample axis, for tensors on GPUs."""
        with self._watchdog.watching(name):
            result: Tensor = self._hvd.allgather(x, name=name, process_set=self._sample_set)
        return result

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        """Collective over the sample axis, for tensors on GPUs."""
        with self._watchdog.watching(name):
            result: Tensor = self._hvd.alltoall(x, name=name, process_set=self._sample_set)
        return result


class _Watched:
    """A reducer whose wait ends the job when it takes too long."""

    def __init__(self, reducer: Reducer, watchdog: Watchdog) -> None:
        self._reducer, self._watchdog = reducer, watchdog
        self.scale = reducer.scale

    def wait(self) -> None:
        with self._watchdog.watching("a reduction of gradients"):
            self._reducer.wait()


class _WorldReducer:
    """One reduction over the world: the average of S * share is the sum over samples, averaged over
    data.

    Horovod's DistributedOptimizer is used for what it does to gradients (hooks, fusion, overlap
    with backward); the user's own optimizer keeps its class, its state and its step.
    """

    def __init__(
        self,
        hvd: Any,
        named: Sequence[tuple[str, nn.Parameter]],
        passes: int,
        codec: Any,
        sample_ranks: int,
    ) -> None:
        self.scale = float(sample_ranks)
        self._optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD([p for _, p in named], lr=0.0),
            named_parameters=named,
            compression=codec,
            backward_passes_per_step=passes,
            op=hvd.Average,
        )

    def wait(self) -> None:
        self._optimizer.synchronize()


class _TwoStageReducer:
    """Sum on the sample sub-communicator as gradients become ready, then average on the data
    sub-communicator.
    """

    scale = 1.0

    def __init__(
        self,
        hvd: Any,
        named: Sequence[tuple[str, nn.Parameter]],
        passes: int,
        codec: Any,
        sample_set: Any,
        data_set: Any,
    ) -> None:
        self._hvd, self._named, self._passes, self._codec = hvd, named, passes, codec
        self._stages = [
            (stage, process_set, op)
            for stage, process_set, op in (
                ("samples", sample_set, hvd.Sum),
                ("data", data_set, hvd.Average),
            )
            if process_set is not None
        ]
        self._left = {name: passes for name, _ in named}
        self._started: dict[str, tuple[Any, Any]] = {}
        for name, parameter in named:
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda p, name=name: self._ready(name, p)
            )

    def _ready(self, name: str, parameter: nn.Parameter) -> None:
        self._left[name] -= 1
        if self._left[name] == 0:
            self._started[name] = self._start(name, parameter, 0)

    def _start(self, name: str, parameter: nn.Parameter, stage: int) -> tuple[Any, Any]:
        if parameter.grad is None:  # unused in this step: the other ranks still expect a tensor
            parameter.grad = torch.zeros_like(parameter)
        what, process_set, op = self._stages[stage]
        tensor, context = self._codec.compress(parameter.grad)
        handle = self._hvd.allreduce_async_(
            tensor, name=f"gradient.{what}.{name}", op=op, process_set=process_set
        )
        return handle, context

    def wait(self) -> None:
        for stage in range(len(self._stages)):
            for name, parameter in self._named:
                if name not in self._started:
                    self._started[name] = self._start(name, parameter, stage)
            started, self._started = self._started, {}
            for name, parameter in self._named:
                handle, context = started[name]
                reduced = self._codec.decompress(self._hvd.synchronize(handle), context)
                if reduced is not parameter.grad:
                    parameter.grad.copy_(reduced)  # type: ignore[union-attr]
                if stage + 1 < len(self._stages):
                    self._started[name] = self._start(name, parameter, stage + 1)
        self._left = {name: self._passes for name, _ in self._named}


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
