"""Host communication by MPI: how it starts and ends. The only file that imports mpi4py."""

import contextlib
import logging
import os
import signal
import sys
import traceback
from functools import cache
from types import TracebackType

from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.parallel.control import BUG, Control, Word, settle
from hpc_bnn.parallel.launcher import LaunchError, launched_size, record_process, refuse_child
from hpc_bnn.parallel.mpi_group import MPIGroup

LEAVE_S = 10.0


def connect() -> Group:
    """Collective: return the group of COMM_WORLD, or ``ALONE`` where one process runs without MPI.

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
        return ALONE
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
        return ALONE
    _control()
    return MPIGroup(MPI, MPI.COMM_WORLD)


@cache
def _control() -> Control:
    """Collective on the first call: return what errors and endings travel on, one for the process
    as COMM_WORLD is, and make an uncaught exception on any rank end all of them.
    """
    from mpi4py import MPI

    control = Control(MPI, MPI.COMM_WORLD.Dup())
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


def fail(group: Group, word: Word) -> int:
    """Collective over the ranks that fail, whatever the others are doing: print each message once
    and return the status to end with.

    Where some ranks do not fail within ``control.PATIENCE_S``, end them all instead.
    """
    if not isinstance(group, MPIGroup):
        sys.stderr.write(f"{word.head}: {word.text}\n")
        sys.stderr.flush()
        return word.status
    return _control().end(word)


def abort(group: Group, status: int) -> None:
    """End every rank at once, where this one fails alone."""
    if isinstance(group, MPIGroup):
        _control().abort(status)


def leave_together(group: Group, status: int) -> int:
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
    if isinstance(group, MPIGroup):
        word = Word("", "", status, is_failure=False)
        agreed = _control().end(word, within_s=LEAVE_S)
        if agreed != status:
            return agreed
    mpi.Finalize()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(settle(status))


def leave_unstarted() -> None:
    """Let this process load MPI without starting it, to ask for its name: a login node may have no
    means to. ``connect`` cannot be called afterwards.
    """
    with contextlib.suppress(ImportError):
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False


def library_version() -> str:
    """Return the name of the MPI library that mpi4py uses, or why there is none."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return f"none ({error})"
    return str(MPI.Get_library_version().splitlines()[0]).strip("\x00 ,")
