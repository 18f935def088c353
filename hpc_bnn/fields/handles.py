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
import threading
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.netcdf3 import mapped

T = TypeVar("T")

MOST_OPEN = 400  # of each format, where the limit of the process allows it
ROOM = 64  # descriptors that other parts of the process may still open
LOOK_EVERY_S = 1.0  # asking for the state of a file may take a message to a server

# By process id: a child may be forked while a thread of the parent holds the parent's lock.
_LOCKS: dict[int, threading.RLock] = {}


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


# Open netCDF-4 files by process id and path, the least recently used first. One handle a file and
# process: with several of one file that has text variables, as `expver` of ERA5, the library
# (netCDF 4.10, HDF5 2.2) crashes when one is closed and another opened.
_OPEN: dict[int, OrderedDict[str, _Opened[netCDF4.Dataset]]] = defaultdict(OrderedDict)


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


def close_shared(path: str) -> None:
    """Close a netCDF-4 file in this process, if it is open; must be called under the lock."""
    opened = _OPEN[os.getpid()].pop(path, None)
    if opened is not None:
        opened.handle.close()


def library_lock() -> threading.RLock:
    """Return the lock of this process for all calls into the netCDF library."""
    lock = _LOCKS.get(os.getpid())
    return _LOCKS.setdefault(os.getpid(), threading.RLock()) if lock is None else lock


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
        """Return a netCDF-4 file, with masking and scaling off."""
        own = _OPEN[os.getpid()]
        if path in own:
            own[path].require_unchanged()
        else:
            state = _require_size(path, size)
            while own and len(own) >= most_open(len(own)):
                own.popitem(last=False)[1].handle.close()
            try:
                dataset = netCDF4.Dataset(path)
            except OSError as error:
                raise _unopened(path, error) from error
            dataset.set_auto_maskandscale(False)
            for variable in dataset.variables.values():
                _limit_cache(variable)
            own[path] = _opened(path, state, dataset)
        own.move_to_end(path)
        self._used.add(path)
        return own[path].handle

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
                close_shared(path)
            self._used.clear()
            self._maps.pop(os.getpid(), None)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "open netCDF files cannot be pickled: send the catalogue; a reader opens its files "
            "where it reads"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__reduce__()


def _limit_cache(variable: netCDF4.Variable[Any]) -> None:
    """Let the library keep no more chunks of a variable than hold one step.

    It would keep 64 MiB of each variable of each open file, of no use where steps come in random
    order. Chunks of single steps, stored as they are, are better not kept at all: then the library
    reads from the file straight into the array, and only what was asked for.
    """
    chunks = variable.chunking()
    if not chunks or isinstance(chunks, str):  # contiguous
        return
    filters = variable.filters() or {}
    straight = chunks[0] == 1 and not any(v for k, v in filters.items() if k != "complevel")
    rest = zip(variable.shape[1:], chunks[1:], strict=True)
    held = chunks[0] * prod(-(-size // chunk) * chunk for size, chunk in rest)
    wanted = 1 if straight else held * np.dtype(variable.dtype).itemsize
    if wanted < variable.get_var_chunk_cache()[0]:
        variable.set_var_chunk_cache(size=wanted)


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
