"""Open files of this process, and the lock that every call into the netCDF library takes.

Neither netCDF nor HDF5 is thread-safe, and a netCDF-3 handle that lived through a fork gives wrong
data without an error: parent and child share the position in the file. So handles belong to one
process, are opened when first used there, and cannot be pickled.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, defaultdict
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.era5.netcdf3 import mapped

MOST_OPEN = 400  # below the usual limit of 1024 a process

# By process id: a child may be forked while a thread of the parent holds the parent's lock.
_LOCKS: dict[int, threading.RLock] = {}


# Open netCDF-4 files by process id and path, the least recently used first. One handle a file and
# process: with several of one file that has text variables, as `expver` of ERA5, the library
# (netCDF 4.10, HDF5 2.2) crashes when one is closed and another opened.
_OPEN: dict[int, OrderedDict[str, netCDF4.Dataset]] = defaultdict(OrderedDict)


def close_shared(path: str) -> None:
    """Close a netCDF-4 file in this process, if it is open; must be called under the lock."""
    dataset = _OPEN[os.getpid()].pop(path, None)
    if dataset is not None:
        dataset.close()


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
        self._maps: dict[int, OrderedDict[str, NDArray[np.uint8]]] = defaultdict(OrderedDict)

    def dataset(self, path: str, size: int) -> netCDF4.Dataset:
        """Return a netCDF-4 file, with masking and scaling off."""
        own = _OPEN[os.getpid()]
        if path not in own:
            _require_size(path, size)
            try:
                own[path] = netCDF4.Dataset(path)
            except OSError as error:
                raise OSError(f"{path}: cannot be opened: {error}") from error
            own[path].set_auto_maskandscale(False)
            for variable in own[path].variables.values():
                _limit_cache(variable)
            if len(own) > MOST_OPEN:
                own.popitem(last=False)[1].close()
        own.move_to_end(path)
        self._used.add(path)
        return own[path]

    def memory(self, path: str, size: int) -> NDArray[np.uint8]:
        """Return a netCDF-3 file as mapped memory."""
        own = self._maps[os.getpid()]
        if path not in own:
            _require_size(path, size)
            own[path] = mapped(path)
            if len(own) > MOST_OPEN:
                own.popitem(last=False)  # unmapped when the last view of it is gone
        own.move_to_end(path)
        return own[path]

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


def _require_size(path: str, size: int) -> None:
    """Refuse a file that vanished or changed since the catalogue was made."""
    try:
        now = Path(path).stat().st_size
    except OSError as error:
        raise type(error)(
            f"{path}: was there when the catalogue was made, and cannot be read now: "
            f"{error.strerror}; restore it or make the catalogue again"
        ) from error
    if now != size:
        raise ValueError(
            f"{path}: has {now} bytes, expected the {size} of when the catalogue was made; it has "
            "changed: make the catalogue again"
        )
