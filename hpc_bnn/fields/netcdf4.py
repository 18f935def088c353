"""Reads the header of a netCDF-4 file through the netCDF library."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from hpc_bnn.fields.handles import close_shared, library_lock
from hpc_bnn.fields.header import (
    SMALL,
    Header,
    VariableHeader,
    is_coordinate,
    join_characters,
)


def read_netcdf4(path: str) -> Header:
    """Read the header and the small coordinate variables.

    Raises
    ------
    ValueError
        If the file is cut off or damaged; names file and missing bytes where the file tells.
    """
    size = Path(path).stat().st_size
    end = _end_of_file(path)
    if end is not None and end > size:
        raise ValueError(
            f"{path}: truncated netCDF-4 file: {end - size} bytes are missing: it has {size} bytes "
            f"and its superblock says {end}; copy or download it again"
        )
    with library_lock():
        close_shared(path)  # it may have changed, and must not be open twice
        try:
            dataset = netCDF4.Dataset(path)
        except OSError as error:
            raise ValueError(
                f"{path}: truncated or damaged netCDF-4 file of {size} bytes: {error}; copy or "
                "download it again"
            ) from error
        with dataset:
            dataset.set_auto_maskandscale(False)
            if dataset.groups and not dataset.variables:
                raise ValueError(
                    f"{path}: has its variables in the groups {', '.join(dataset.groups)}: "
                    "expected them at the top; extract one with `ncks -G : -g GROUP`"
                )
            variables = {name: _variable(v) for name, v in dataset.variables.items()}
            coordinates = {
                name: np.array(dataset.variables[name][...])
                for name, v in variables.items()
                if is_coordinate(v) and v.dtype != "|S1"
            }
            dataset.set_auto_chartostring(False)
            coordinates |= {
                name: join_characters(np.array(dataset.variables[name][...]))
                for name, v in variables.items()
                if v.dtype == "|S1" and v.shape and prod(v.shape) <= SMALL
            }
            dimensions = {name: len(d) for name, d in dataset.dimensions.items()}
            attributes = {name: dataset.getncattr(name) for name in dataset.ncattrs()}
    return Header(path, "netCDF-4", size, dimensions, variables, attributes, coordinates)


def _variable(variable: Any) -> VariableHeader:
    chunks = variable.chunking()
    filters = variable.filters() or {}
    active = [
        f"{name} {filters.get('complevel', '')}".strip() if name == "zlib" else name
        for name in ("zlib", "szip", "zstd", "bzip2", "blosc", "shuffle", "fletcher32")
        if filters.get(name)
    ]
    is_text = variable.dtype is str
    return VariableHeader(
        variable.name,
        "str" if is_text else np.dtype(variable.dtype).str,
        tuple(variable.dimensions),
        tuple(variable.shape),
        {name: variable.getncattr(name) for name in variable.ncattrs()},
        chunks=None if chunks is None or chunks == "contiguous" else tuple(chunks),
        compression=", ".join(active),
    )


def _end_of_file(path: str) -> int | None:
    """Read where the file ends by its own word: the end-of-file address of the HDF5 superblock.

    Source: HDF5 File Format Specification, section II.A, superblock versions 0 to 3 with 8-byte
    addresses; None for others.
    """
    with Path(path).open("rb") as stream:
        head = stream.read(64)
    if len(head) < 64 or head[:8] != b"\x89HDF\r\n\x1a\n":
        return None
    version = head[8]
    at, width = {0: (40, head[13]), 1: (44, head[13]), 2: (28, head[9]), 3: (28, head[9])}.get(
        version, (0, 0)
    )
    return int.from_bytes(head[at : at + 8], "little") if width == 8 else None
