"""Host communication by MPI: the only file that imports mpi4py.

Channels over it, how it starts and ends, and work that all ranks finish or fail together.
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import TypeVar, cast

from hpc_bnn.parallel.channel import SOLO, Channel
from hpc_bnn.parallel.control import BUG, Control, Word
from hpc_bnn.parallel.launcher import LaunchError, launched_size, record_process, refuse_child
from hpc_bnn.parallel.mpi_channel import MPIChannel
from hpc_bnn.parallel.watchdog import Watchdog

T = TypeVar("T")

LEAVE_S = 10.0


class RankError(RuntimeError):
    """Another rank failed: the message names it and says why."""


def connect() -> Channel:
    """Collective: return the channel of COMM_WORLD, or ``SOLO`` where one process runs without MPI.

    Raises
    ------
    LaunchError
        If the launcher started more ranks than MPI connects: N worlds of one rank would each train
        alone. If this process is the child of a rank.
    """
    refuse_child(os.environ)
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
    if variable:
        record_process(os.environ)
    if size == 1:
        return SOLO
    _control()
    return MPIChannel(MPI, MPI.COMM_WORLD)


@cache
def _control() -> Control:
    """Collective on the first call: return what errors and endings travel on, one for the process
    as COMM_WORLD is, and make an uncaught exception on any rank end all of them.
    """
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    words = MPIChannel(MPI, comm)

    def gather(word: Word) -> list[Word]:
        return words.gather_objects(word, name="ends of ranks")

    control = Control(MPI, comm, gather, MPI.COMM_WORLD.Abort)
    previous, process = sys.excepthook, os.getpid()

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if MPI.Is_finalized() or os.getpid() != process:  # a child that was forked is no rank
            previous(kind, error, trace)
        elif issubclass(kind, Exception):
            text = "".join(traceback.format_exception(kind, error, trace))
            control.abort(control.end(Word("hpc_bnn", text, BUG, issubclass(kind, RankError))))
        else:
            previous(kind, error, trace)
            control.abort(BUG)

    sys.excepthook = hook
    return control


def require_threads(channel: Channel) -> None:
    """Require that MPI lets Horovod's thread and others exchange beside this one.

    Raises
    ------
    LaunchError
        If it does not; the same on every rank.
    """
    if channel.native() is None:
        return
    from mpi4py import MPI

    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise LaunchError(
            "MPI was started for fewer threads than Horovod needs: expected "
            "MPI_THREAD_MULTIPLE; unset MPI4PY_RC_THREADS, MPI4PY_RC_THREAD_LEVEL and "
            "mpi4py.rc.thread_level, or use an MPI that was built with it"
        )


def limited(channel: Channel, stall_timeout_s: float) -> Channel:
    """Collective: return ``channel`` with a limit on how long its exchanges wait for a rank."""
    return channel.limited(stall_timeout_s) if isinstance(channel, MPIChannel) else channel


def watchdog_of(channel: Channel) -> Watchdog:
    """Return what watches the exchanges of a channel: nothing, where it has no limit."""
    watchdog = channel.watchdog if isinstance(channel, MPIChannel) else None
    return watchdog or Watchdog(0.0, lambda waited: None)


def fail(channel: Channel, word: Word) -> int:
    """Collective over the ranks that fail, whatever the others are doing: print each message once
    and return the status to end with.

    Where some ranks do not fail within ``control.PATIENCE_S``, end them all instead.
    """
    if channel.native() is None:
        sys.stderr.write(f"{word.head}: {word.text}\n")
        sys.stderr.flush()
        return word.status
    return _control().end(word)


def abort(channel: Channel, status: int) -> None:
    """End every rank at once, where this one fails alone."""
    if channel.native() is not None:
        _control().abort(status)


def leave_together(channel: Channel, status: int) -> int:
    """Collective: end MPI in good order and this process with any status.

    Returns where there is no MPI to end, or where a rank fails instead: the status to end with.

    ``python -m mpi4py`` aborts all ranks where one exits with an error while MPI is running, and
    srun --kill-on-bad-exit terminates those that are not gone when the first one is: its own status
    would then be 143, so they finish first, and fast.
    """
    mpi = sys.modules.get("mpi4py.MPI")  # a rank alone has it, too
    if mpi is None or not mpi.Is_initialized():
        return status
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if channel.native() is not None:
        word = Word("", "", status, is_failure=False)
        agreed = _control().end(word, within_s=LEAVE_S)
        if agreed != status:
            return agreed
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
