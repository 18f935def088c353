"""Memory that the ranks of one node share: an MPI window, made with the room checked before.

A shared window is a file in memory (``/dev/shm``). Where the file system is full, MPI may hang and
the first touch of a page ends the process with SIGBUS. So room is looked up before (`free_bytes`),
and pages are claimed by a call that reports a lack of room instead (`claim`).
"""

import ctypes
import errno
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Open MPI can be told to put the files of windows elsewhere.
FOLDER_VARIABLE = "OMPI_MCA_osc_sm_backing_directory"
FOLDER = "/dev/shm"
MADV_POPULATE_WRITE = 23  # Linux 5.14; older kernels answer EINVAL


class SharedMemory(Protocol):
    """Bytes that all ranks of a channel see.

    array: (size,) uint8.
    """

    array: NDArray[np.uint8]

    def sync(self) -> None:
        """Order what this thread has read and written before the call ahead of all it does after
        it, as the other ranks see it.
        """

    def free(self) -> None:
        """Collective: give the memory back; nothing may use it any more."""


class OwnMemory:
    """The memory of a process alone."""

    def __init__(self, size: int) -> None:
        self.array = np.zeros(size, np.uint8)

    def sync(self) -> None:
        """Do nothing: there are no other ranks."""

    def free(self) -> None:
        """Do nothing: the array goes with its last user."""


class WindowMemory:
    """An MPI window of the ranks of one node; the first rank owns all of it.

    The epoch that `MPI_Win_sync` needs lasts from the start to `free`. `sync` is an MPI call, but a
    local one, a memory barrier: with MPI_THREAD_MULTIPLE, which mpi4py asks for, any thread may
    call it while another one is in an exchange.

    Raises
    ------
    MemoryError
        If MPI gives threads less than that.
    """

    def __init__(self, mpi: Any, comm: Any, size: int) -> None:
        if mpi.Query_thread() < mpi.THREAD_MULTIPLE:
            raise MemoryError("MPI was started without MPI_THREAD_MULTIPLE")
        own = size if comm.Get_rank() == 0 else 0
        self._window = mpi.Win.Allocate_shared(own, 1, comm=comm)
        self._window.Lock_all(mpi.MODE_NOCHECK)
        memory, _ = self._window.Shared_query(0)
        self.array = np.frombuffer(memory, np.uint8, count=size)

    def sync(self) -> None:
        """Pass a memory barrier."""
        self._window.Sync()

    def free(self) -> None:
        """Collective: free the window."""
        self.array = np.empty(0, np.uint8)
        self._window.Unlock_all()
        self._window.Free()


def shared_folder() -> Path:
    """Return where the files of shared windows lie."""
    return Path(os.environ.get(FOLDER_VARIABLE, FOLDER))


def free_bytes() -> int:
    """Return the room where shared windows lie; 0 where there is no such place."""
    try:
        room = os.statvfs(shared_folder())
    except OSError:
        return 0
    return room.f_bavail * room.f_frsize


def claim(array: NDArray[np.uint8]) -> None:
    """Make every page of shared memory exist.

    Raises
    ------
    MemoryError
        If there is no room for it. Kernels before Linux 5.14 cannot say so: there pages come with
        their first use, and the room looked up before must do.
    """
    page = os.sysconf("SC_PAGESIZE")
    first = array.ctypes.data // page * page
    length = array.ctypes.data + array.nbytes - first
    library = ctypes.CDLL(None, use_errno=True)
    failed = library.madvise(
        ctypes.c_void_p(first), ctypes.c_size_t(length), ctypes.c_int(MADV_POPULATE_WRITE)
    )
    if failed and ctypes.get_errno() in (errno.EFAULT, errno.ENOMEM):
        raise MemoryError(f"no room for {array.nbytes} bytes of shared memory")
