"""Reads netCDF files of every kind, through the netCDF library: headers, and raw numbers.

Neither netCDF nor HDF5 is thread-safe: every call takes the lock. A handle that lives through a
fork gives wrong numbers without an error, as parent and child share the position in a netCDF-3
file: so handles belong to one process. Several handles of one file with text variables, such as
``expver``, crash the library (netCDF 4.10, HDF5 2.2) when one is closed and another opened: so a
file has one.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, defaultdict
from math import prod
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.ingest.header import (
    SMALL,
    Header,
    VariableHeader,
    is_coordinate,
    join_characters,
)
from hpc_bnn.fields.ingest.unchanged import State, require_unchanged

SUFFIXES = (".nc", ".nc4", ".netcdf", ".cdf")
MAGIC = (b"CDF", b"\x89HDF\r\n\x1a\n")
MOST_OPEN = 16  # files of a process
FILTERS = ("zlib", "szip", "zstd", "bzip2", "blosc", "shuffle", "fletcher32")

_Handle = tuple[netCDF4.Dataset, State]  # when it was opened

# By process id: a child may be forked while a thread of the parent holds the parent's lock.
_LOCKS: dict[int, threading.RLock] = {}
_OPEN: dict[int, OrderedDict[str, _Handle]] = defaultdict(OrderedDict)


def library_lock() -> threading.RLock:
    """Return the lock of this process for all calls into the netCDF library."""
    return _LOCKS.setdefault(os.getpid(), threading.RLock())


def recognises(path: Path) -> bool:
    """Tell whether a file is netCDF, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(8).startswith(MAGIC)


def content(path: Path) -> list[Path]:
    """List the files that tell one state of what lies at a path from another."""
    return [path]


def read_headers(path: str) -> tuple[Header]:
    """Read the header, as `read_header`."""
    return (read_header(path),)


def read_header(path: str) -> Header:
    """Read the header and the small coordinate variables.

    Raises
    ------
    ValueError
        If the file is cut off or damaged, or has its variables in groups.
    """
    size = Path(path).stat().st_size
    with library_lock():
        close(path)  # it may have changed, and must not be open twice
        try:
            dataset = netCDF4.Dataset(path)
        except OSError as error:
            raise ValueError(
                f"{path}: truncated or damaged netCDF file of {size} bytes: {error}; copy or "
                "download it again"
            ) from error
        with dataset:
            dataset.set_auto_maskandscale(False)
            dataset.set_auto_chartostring(False)
            if dataset.groups and not dataset.variables:
                raise ValueError(
                    f"{path}: has its variables in the groups {', '.join(dataset.groups)}: "
                    "expected them at the top; extract one with `ncks -G : -g GROUP`"
                )
            variables = {name: _variable(v) for name, v in dataset.variables.items()}
            is_classic = dataset.data_model.startswith("NETCDF3")
            records = _require_complete(path, size, dataset) if is_classic else (0, 0)
            coordinates = {
                name: _coordinate(dataset.variables[name])
                for name, v in variables.items()
                if is_coordinate(v) or (v.dtype == "|S1" and v.shape and prod(v.shape) <= SMALL)
            }
            return Header(
                path,
                "netcdf",
                "netCDF-3" if is_classic else "netCDF-4",
                size,
                {name: len(dimension) for name, dimension in dataset.dimensions.items()},
                variables,
                {name: dataset.getncattr(name) for name in dataset.ncattrs()},
                coordinates,
                records,
            )


def read(path: str, size: int, variable: str, index: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read raw numbers of a variable.

    size: of the file, when its header was read.

    Raises
    ------
    OSError, ValueError
        If the file is damaged, or is not what it was.
    """
    with library_lock():
        dataset = opened(path, size)
        try:
            raw: NDArray[Any] = dataset.variables[variable][index]
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{path}: '{variable}' cannot be read: {error}; the file is damaged: copy or "
                "download it again"
            ) from error
        return raw


def opened(path: str, size: int) -> netCDF4.Dataset:
    """Return a file, open and with masking and scaling off; must be called under the lock."""
    handles = _OPEN[os.getpid()]
    handle = handles.get(path)
    state = require_unchanged(path, content(Path(path)), size, handle[1] if handle else None)
    if path not in handles:
        while len(handles) >= MOST_OPEN:
            handles.popitem(last=False)[1][0].close()
        try:
            dataset = netCDF4.Dataset(path)
        except OSError as error:
            raise OSError(f"{path}: cannot be opened: {error}") from error
        dataset.set_auto_maskandscale(False)
        handles[path] = (dataset, state)
    handles.move_to_end(path)
    return handles[path][0]


def close(path: str) -> None:
    """Close a file of this process, if it is open."""
    with library_lock():
        handle = _OPEN[os.getpid()].pop(path, None)
        if handle is not None:
            handle[0].close()


def _variable(variable: Any) -> VariableHeader:
    chunks = variable.chunking()
    filters = variable.filters() or {}
    names = [name for name in FILTERS if filters.get(name)]
    return VariableHeader(
        variable.name,
        "str" if variable.dtype is str else np.dtype(variable.dtype).str,
        tuple(variable.dimensions),
        tuple(variable.shape),
        {name: variable.getncattr(name) for name in variable.ncattrs()},
        chunks=None if chunks is None or chunks == "contiguous" else tuple(chunks),
        compression=", ".join(f"zlib {filters['complevel']}" if n == "zlib" else n for n in names),
    )


def _coordinate(variable: Any) -> NDArray[Any]:
    values = np.array(variable[...])
    return join_characters(values) if values.dtype == "S1" and values.ndim else values


def classic_sizes(dataset: Any) -> tuple[int, int, int]:
    """Return the bytes of a netCDF-3 file before its records, of each record, and of the padding
    that ends the file.

    Everything is padded to 4 bytes, but records of a single variable. Source: the NetCDF Classic
    Format Specification of Unidata. Room that a writer left behind the header is not known here.
    """
    count = 8 if dataset.data_model == "NETCDF3_64BIT_DATA" else 4
    offset = 4 if dataset.data_model == "NETCDF3_CLASSIC" else 8

    def name_bytes(name: str) -> int:
        return count + _padded(len(name.encode()))

    def attributes_bytes(owner: Any) -> int:
        size = 4 + count
        for name in owner.ncattrs():
            value = owner.getncattr(name)
            values = len(value.encode()) if isinstance(value, str) else np.asarray(value).nbytes
            size += name_bytes(name) + 4 + count + _padded(values)
        return size

    before = 4 + count + 2 * (4 + count) + attributes_bytes(dataset)
    before += sum(name_bytes(name) + count for name in dataset.dimensions)
    record_dimension = {name for name, d in dataset.dimensions.items() if d.isunlimited()}
    fixed, records = [0], [0]
    for name, v in dataset.variables.items():
        before += name_bytes(name) + count * (2 + len(v.shape)) + 4 + offset + attributes_bytes(v)
        in_record = bool(record_dimension & set(v.dimensions[:1]))
        size = prod(v.shape[1:] if in_record else v.shape) * np.dtype(v.dtype).itemsize
        (records if in_record else fixed).append(size)
    before += sum(map(_padded, fixed))
    if len(records) == 2:
        return before, records[1], 0
    is_empty = not any(len(dataset.dimensions[name]) for name in record_dimension)
    return before, sum(map(_padded, records)), -(fixed if is_empty else records)[-1] % 4


def _require_complete(path: str, size: int, dataset: Any) -> tuple[int, int]:
    """Refuse a netCDF-3 file that is shorter than its header says: the library would read zeros.

    Return where its records begin, and the bytes of each.
    """
    before, record, padding = classic_sizes(dataset)
    count = max((len(d) for d in dataset.dimensions.values() if d.isunlimited()), default=0)
    need = before + count * record - padding
    if need > size:
        raise ValueError(
            f"{path}: truncated netCDF-3 file: {need - size} bytes are missing: it has {size}, its "
            f"header describes {need}; they would read as zeros; copy or download it again"
        )
    return before, record


def _padded(size: int) -> int:
    return size + -size % 4
