"""Open files of this process, and the lock that every call into the netCDF library takes.

Neither netCDF nor HDF5 is thread-safe, and a netCDF-3 handle that lived through a fork gives wrong
data without an error: parent and child share the position in the file. So handles belong to one
process, are opened when first used there, and cannot be pickled.

A file that changes or vanishes while it is open would give a mixture of old and new values, or end
the process by a bus error where it is mapped and shrinks: now and then it is looked at again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.ingest import netcdf
from hpc_bnn.fields.ingest.netcdf import library_lock as library_lock

T = TypeVar("T")

MOST_OPEN = 400  # of each format, where the limit of the process allows it
ROOM = 64  # descriptors that other parts of the process may still open
LOOK_EVERY_S = 1.0  # asking for the state of a file may take a message to a server


@dataclass
class _Opened(Generic[T]):
    """An open file, its size and time of change when it was opened, and when to look again."""

    handle: T
    path: str
    state: tuple[int, int]
    due: float

    def require_unchanged(self) -> None:
        """Refuse a file that changed or vanished since it was opened."""
        now = time.monotonic()
        if now < self.due:
            return
        try:
            state = _state(self.path)
        except OSError as error:
            raise type(error)(
                f"{self.path}: cannot be found any more while it is read: {error.strerror}; "
                "restore it and start again"
            ) from error
        if state != self.state:
            raise ValueError(
                f"{self.path}: was changed while it is read: it has {state[0]} bytes now, "
                f"{self.state[0]} when it was opened, or was written again; leave the files alone "
                "and start again"
            )
        self.due = now + LOOK_EVERY_S


def _state(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def _opened(path: str, state: tuple[int, int], handle: T) -> _Opened[T]:
    return _Opened(handle, path, state, time.monotonic() + LOOK_EVERY_S)


def most_open(held: int) -> int:
    """Return how many files of a format this process may hold open, of `held` that it has now.

    The soft limit is raised as far as the hard one allows; what other parts of the process have
    open is left to them, and the rest divided between the two formats.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = max(_count_open() - held, 0) + ROOM
    wanted = 2 * MOST_OPEN + others
    if resource.RLIM_INFINITY != soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_OPEN
    return max(1, min(MOST_OPEN, (soft - others) // 2))


def _count_open() -> int:
    """Count the open descriptors of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208  numbers, not paths
    except OSError:
        return 0


def _unopened(path: str, error: OSError) -> OSError:
    """Return the error of a file that cannot be opened, with the limit where that is the reason."""
    if error.errno != errno.EMFILE:
        return OSError(f"{path}: cannot be opened: {error}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OSError(
        f"{path}: cannot be opened: this process may have {soft} files open (ulimit -n; at most "
        f"{hard}), and has: raise the limit"
    )


def mapped(path: str) -> NDArray[np.uint8]:
    """Map a file into memory, read only."""
    data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
    return data


def view(
    data: NDArray[np.uint8],
    dtype: str,
    shape: tuple[int, ...],
    offset: int,
    strides: tuple[int, ...],
) -> NDArray[Any]:
    """Return a variable as a view of the mapped file: nothing is read before it is used."""
    return np.ndarray(shape, np.dtype(dtype), buffer=data, offset=offset, strides=strides)


class Handles:
    """Files that a reader uses, opened where they are used and looked up by path at each use.

    Must be used under `library_lock()`. Handles inherited from a parent process are never touched,
    not even closed.
    """

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._maps: dict[int, OrderedDict[str, _Opened[NDArray[np.uint8]]]]
        self._maps = defaultdict(OrderedDict)

    def dataset(self, path: str, size: int) -> netCDF4.Dataset:
        """Return a netCDF file, with masking and scaling off."""
        self._used.add(path)
        return netcdf.opened(path, size)

    def memory(self, path: str, size: int) -> NDArray[np.uint8]:
        """Return a netCDF-3 file as mapped memory."""
        own = self._maps[os.getpid()]
        if path in own:
            own[path].require_unchanged()
        else:
            state = _require_size(path, size)
            while own and len(own) >= most_open(len(own)):
                own.popitem(last=False)  # unmapped when the last view of it is gone
            try:
                own[path] = _opened(path, state, mapped(path))
            except OSError as error:
                raise _unopened(path, error) from error
        own.move_to_end(path)
        return own[path].handle

    def close(self) -> None:
        """Close the files in this process; another reader of them opens them again."""
        with library_lock():
            for path in self._used:
                netcdf.close(path)
            self._used.clear()
            self._maps.pop(os.getpid(), None)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "open netCDF files cannot be pickled: send the catalogue; a reader opens its files "
            "where it reads"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__reduce__()


def _require_size(path: str, size: int) -> tuple[int, int]:
    """Refuse a file that vanished or changed since the catalogue was made; return its state."""
    try:
        state = _state(path)
    except OSError as error:
        raise type(error)(
            f"{path}: was there when the catalogue was made, and cannot be read now: "
            f"{error.strerror}; restore it or make the catalogue again"
        ) from error
    if state[0] != size:
        raise ValueError(
            f"{path}: has {state[0]} bytes, expected the {size} of when the catalogue was made; it "
            "has changed: make the catalogue again"
        )
    return state
