"""Host communication by MPI: the only file that imports mpi4py.

Channels over it, how it starts and ends, and work that all ranks finish or fail together.
"""

import logging
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from hpc_bnn.losses.axis import Reduction
from hpc_bnn.parallel.channel import SOLO, Channel
from hpc_bnn.parallel.shared_memory import SharedMemory, WindowMemory
from hpc_bnn.parallel.stall import watch
from hpc_bnn.parallel.watchdog import Watchdog

T = TypeVar("T")

# What launchers say about the number of ranks they started in this step.
LAUNCHER_SIZES = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

LEAVE_S = 10.0
SPIN_S = 2e-4  # a rank that waits longer leaves the core to others


class LaunchError(RuntimeError):
    """Launcher and MPI, or ranks and devices, do not fit; the message says what to do."""


class RankError(RuntimeError):
    """Another rank failed: the message names it and says why."""


class MPIChannel:
    """A channel over an mpi4py communicator.

    With a ``watchdog`` an exchange that some rank does not join in time ends the job; without, it
    waits for ever.
    """

    def __init__(self, mpi: Any, comm: Any, *, watchdog: Watchdog | None = None) -> None:
        self._mpi, self._comm, self.watchdog = mpi, comm, watchdog
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        op = self._mpi.SUM if reduction == "sum" else self._mpi.MAX
        self._finish(self._comm.Iallreduce(x.numpy(), out.numpy(), op=op), name)
        return out

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        x = x.contiguous()
        out = x.new_empty((self.size * x.shape[0], *x.shape[1:]))
        self._finish(self._comm.Iallgather(x.numpy(), out.numpy()), name)
        return out

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        self._finish(self._comm.Ialltoall(x.numpy(), out.numpy()), name)
        return out

    def gather_objects(self, value: T, *, name: str) -> list[T]:
        mine = np.frombuffer(pickle.dumps(value), dtype=np.uint8)
        sizes = np.empty(self.size, dtype=np.int64)
        own_size = np.array([mine.size], dtype=np.int64)
        self._finish(self._comm.Iallgather(own_size, sizes), name)
        all_bytes = np.empty(int(sizes.sum()), dtype=np.uint8)
        self._finish(self._comm.Iallgatherv(mine, (all_bytes, sizes.tolist())), name)
        ends = sizes.cumsum().tolist()
        return [pickle.loads(part.tobytes()) for part in np.split(all_bytes, ends[:-1])]

    def broadcast(self, value: T, *, name: str) -> T:
        content = np.frombuffer(pickle.dumps(value if self.rank == 0 else None), dtype=np.uint8)
        size = np.array([content.size], dtype=np.int64)
        self._finish(self._comm.Ibcast(size, root=0), name)
        if self.rank != 0:
            content = np.empty(int(size[0]), dtype=np.uint8)
        self._finish(self._comm.Ibcast(content, root=0), name)
        result: T = value if self.rank == 0 else pickle.loads(content.tobytes())
        return result

    def split(self, color: int, key: int) -> "Channel":
        return self._on(self._comm.Split(color, key))

    def split_by_node(self) -> "Channel":
        return self._on(self._comm.Split_type(self._mpi.COMM_TYPE_SHARED))

    def shared_memory(self, size: int) -> SharedMemory:
        return WindowMemory(self._mpi, self._comm, size)

    def native(self) -> Any:
        return self._comm

    def limited(self, stall_timeout_s: float) -> "MPIChannel":
        """Collective: return the same channel with another limit."""
        if not stall_timeout_s:
            return MPIChannel(self._mpi, self._comm)
        hosts = self.gather_objects(socket.gethostname(), name="hosts")
        watchdog = watch(self._mpi, self._comm, hosts, stall_timeout_s)
        return MPIChannel(self._mpi, self._comm, watchdog=watchdog)

    def _on(self, comm: Any) -> "MPIChannel":
        return MPIChannel(self._mpi, comm, watchdog=self.watchdog)

    def _finish(self, request: Any, name: str) -> None:
        if self.watchdog is None:
            request.Wait()
        else:
            with self.watchdog.watching(name):
                request.Wait()


def _completes(request: Any, *, within_s: float) -> bool:
    """Wait for an exchange; False: not in time."""
    began = time.monotonic()
    while not request.Test():
        waited = time.monotonic() - began
        if waited > within_s:
            return False
        if waited > SPIN_S:
            time.sleep(SPIN_S)
    return True


def launched_size(environment: Mapping[str, str]) -> tuple[str, int]:
    """Return the launcher's variable and number of ranks, ("", 1) where no launcher speaks.

    A batch script that starts Python without srun sees the job's SLURM_NTASKS too, but is no step
    of that many ranks.
    """
    in_batch_script = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    for name in LAUNCHER_SIZES:
        if name == "SLURM_NTASKS" and in_batch_script:
            continue
        if environment.get(name, "").isdigit():
            return name, int(environment[name])
    return "", 1


def connect() -> Channel:
    """Collective: return the channel of COMM_WORLD, or ``SOLO`` where one process runs without MPI.

    Raises
    ------
    LaunchError
        If the launcher started more ranks than MPI connects: N worlds of one rank would each train
        alone.
    """
    variable, expected = launched_size(os.environ)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        if expected > 1:
            raise LaunchError(
                f"{variable} = {expected}, but mpi4py cannot be used ({error}); install it "
                "against this machine's MPI"
            ) from error
        return SOLO
    size = MPI.COMM_WORLD.Get_size()
    if expected > size:
        raise LaunchError(
            f"{variable} = {expected}, but MPI connects {size} rank(s): the launcher does not "
            f"speak the protocol of {MPI.Get_library_version().splitlines()[0]}; try srun "
            "--mpi=pmix, or the mpirun of that MPI"
        )
    if size == 1:
        return SOLO
    _abort_on_exception(MPI)
    return MPIChannel(MPI, MPI.COMM_WORLD)


def limited(channel: Channel, stall_timeout_s: float) -> Channel:
    """Collective: return ``channel`` with a limit on how long its exchanges wait for a rank."""
    return channel.limited(stall_timeout_s) if isinstance(channel, MPIChannel) else channel


def watchdog_of(channel: Channel) -> Watchdog:
    """Return what watches the exchanges of a channel: nothing, where it has no limit."""
    watchdog = channel.watchdog if isinstance(channel, MPIChannel) else None
    return watchdog or Watchdog(0.0, lambda waited: None)


def all_arrive(channel: Channel, *, within_s: float) -> bool:
    """Collective: wait for the other ranks; False: some rank did not call this in time."""
    comm = channel.native()
    if comm is None:
        return True
    return _completes(comm.Ibarrier(), within_s=within_s)


def abort(channel: Channel, status: int) -> None:
    """End every rank at once, where this one fails alone."""
    if channel.native() is not None:
        channel.native().Abort(status)


def leave_together(channel: Channel, status: int) -> None:
    """Collective: end MPI in good order and this process with any status.

    Returns where there is no MPI to end.

    ``python -m mpi4py`` aborts all ranks where one exits with an error while MPI is running, and
    srun --kill-on-bad-exit terminates those that are not gone when the first one is: its own status
    would then be 143, so they finish first, and fast.
    """
    mpi = sys.modules.get("mpi4py.MPI")  # a rank alone has it, too
    if mpi is None or not mpi.Is_initialized():
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    all_arrive(channel, within_s=LEAVE_S)
    mpi.Finalize()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def library_version() -> str:
    """Return the name of the MPI library that mpi4py uses, or why there is none."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return f"none ({error})"
    return str(MPI.Get_library_version().splitlines()[0]).strip("\x00 ,")


def _abort_on_exception(mpi: Any) -> None:
    """Make an uncaught exception on this rank end all ranks, also without ``python -m mpi4py``."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        sys.stderr.flush()
        if not mpi.Is_finalized():
            mpi.COMM_WORLD.Abort(1)

    sys.excepthook = hook


def together(channel: Channel, action: Callable[[], T], *, name: str) -> T:
    """Collective: run ``action``; if it fails on any rank, raise on every rank: its own error where
    it failed, else ``RankError`` that names the first that did.
    """
    result: T | None = None
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:  # whatever it is, the other ranks must hear of it
        failure = error
    report = None if failure is None else "".join(traceback.format_exception_only(failure)).strip()
    reports = channel.gather_objects(report, name=name)
    failed = [rank for rank, text in enumerate(reports) if text is not None]
    if not failed:
        return cast(T, result)
    if failure is not None:
        raise failure
    raise RankError(f"{name}: rank {failed[0]} failed: {reports[failed[0]]}")


def on_first(channel: Channel, action: Callable[[], T], *, name: str) -> T:
    """Collective: run ``action`` on rank 0 only and return its result, or raise its failure, on
    every rank.
    """
    result = together(channel, lambda: action() if channel.rank == 0 else None, name=name)
    return cast(T, channel.broadcast(result, name=name))
