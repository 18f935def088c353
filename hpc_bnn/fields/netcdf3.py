"""Reads the header of a netCDF-3 file: classic (CDF-1), 64-bit offset (CDF-2), 64-bit data (CDF-5).

    header   = magic, numrecs, dim_list, gatt_list, var_list
    dim_list = 0 0 | NC_DIMENSION n [name, length]...          length 0: the record dimension
    att_list = 0 0 | NC_ATTRIBUTE n [name, type, n, values]...
    var_list = 0 0 | NC_VARIABLE n [name, dims, atts, type, vsize, begin]...

Big-endian; everything is padded to 4 bytes. Source: the NetCDF Classic Format Specification of
Unidata. Own parser, because the netCDF library reads zeros where a file is cut off: here the size
that the header implies is compared with the size the file has. The values are then reached by a
memory map, which forked processes may share.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.header import (
    Header,
    VariableHeader,
    is_coordinate,
    join_characters,
)

TYPES = {
    1: ">i1",
    2: "S1",
    3: ">i2",
    4: ">i4",
    5: ">f4",
    6: ">f8",
    7: ">u1",
    8: ">u2",
    9: ">u4",
    10: ">i8",
    11: ">u8",
}
DIMENSION, VARIABLE, ATTRIBUTE = 10, 11, 12


def read_netcdf3(path: str) -> Header:
    """Read the header and the small coordinate variables.

    Raises
    ------
    ValueError
        If the file is cut off or is no netCDF-3 file; names file and missing bytes.
    """
    data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
    # Not through the map: a hole of a file on a full tmpfs would end the process.
    with Path(path).open("rb") as file:
        # A header of more than 16 MiB would hold some 100 000 variables.
        cursor = _Cursor(file.read(1 << 24), path)
    try:
        numrecs = cursor.start()
        names, lengths = _dimensions(cursor)
        attributes = _attributes(cursor)
        variables = _variables(cursor, names, lengths)
    except struct.error:
        raise ValueError(
            f"{path}: truncated netCDF-3 file: it ends after {data.size} bytes, within its header; "
            "copy or download it again"
        ) from None
    records = [
        v for v in variables if v.shape and v.shape[0] == 0 and _is_record(v, names, lengths)
    ]
    record_bytes = _record_bytes(records)
    if numrecs < 0:  # written as a stream: as many records as there are
        first = min((v.offset for v in records), default=data.size)
        numrecs = (data.size - first) // max(record_bytes, 1)
    if 0 in lengths:
        lengths[lengths.index(0)] = numrecs if records else 0
    final = {
        v.name: _placed(v, numrecs, record_bytes) if v in records else _placed(v, None, 0)
        for v in variables
    }
    _require_complete(path, data.size, final)
    coordinates = {
        v.name: _values(data, v) for v in final.values() if v.dtype != "S1" and is_coordinate(v)
    }
    coordinates |= {
        v.name: join_characters(_values(data, v))
        for v in final.values()
        if v.dtype == "S1" and v.shape
    }
    dimensions = dict(zip(names, lengths, strict=True))
    return Header(path, "netCDF-3", data.size, dimensions, final, attributes, coordinates)


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


class _Cursor:
    """Reads the header front to back."""

    def __init__(self, head: bytes, path: str) -> None:
        self._bytes = head
        self._at, self._path, self._wide, self._wide_offset = 0, path, False, False

    def start(self) -> int:
        """Read magic and number of records, -1 where it is unknown."""
        magic = self._bytes[:4]
        if magic[:3] != b"CDF" or magic[3] not in (1, 2, 5):
            raise ValueError(f"{self._path}: no netCDF-3 file: it begins with {magic!r}")
        self._wide, self._wide_offset = magic[3] == 5, magic[3] != 1
        self._at = 4
        numrecs = self.count()
        return -1 if numrecs == (1 << (64 if self._wide else 32)) - 1 else numrecs

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(">" + code, self._bytes, self._at)
        self._at += struct.calcsize(code)
        return int(value)

    def count(self) -> int:
        return self.number("Q" if self._wide else "I")

    def offset(self) -> int:
        return self.number("Q" if self._wide_offset else "I")

    def raw(self, size: int) -> bytes:
        """Read `size` bytes and the padding behind them."""
        if self._at + size > len(self._bytes):
            raise struct.error
        value = self._bytes[self._at : self._at + size]
        self._at += size + -size % 4
        return value

    def name(self) -> str:
        return self.raw(self.count()).decode("utf-8", errors="replace")

    def dtype(self) -> str:
        code = self.number("I")
        if code not in TYPES:
            raise ValueError(
                f"{self._path}: damaged netCDF-3 header: type {code} at byte {self._at - 4}; "
                "copy or download it again"
            )
        return TYPES[code]

    def list_of(self, tag: int) -> int:
        """Read the head of a list; return its length."""
        found, count = self.number("I"), self.count()
        if found != tag and (found, count) != (0, 0):
            raise ValueError(
                f"{self._path}: damaged netCDF-3 header: tag {found} at byte {self._at}, expected "
                f"{tag}; copy or download it again"
            )
        return count


def _dimensions(cursor: _Cursor) -> tuple[list[str], list[int]]:
    names, lengths = [], []
    for _ in range(cursor.list_of(DIMENSION)):
        names.append(cursor.name())
        lengths.append(cursor.count())
    return names, lengths


def _attributes(cursor: _Cursor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(cursor.list_of(ATTRIBUTE)):
        name, dtype = cursor.name(), cursor.dtype()
        count = cursor.count()
        raw = cursor.raw(count * np.dtype(dtype).itemsize)
        if dtype == "S1":
            found[name] = raw.decode("utf-8", errors="replace").rstrip("\x00")
        else:
            values = np.frombuffer(raw, dtype).astype(np.dtype(dtype).newbyteorder("="))
            found[name] = values[0] if count == 1 else values
    return found


def _variables(cursor: _Cursor, names: list[str], lengths: list[int]) -> list[VariableHeader]:
    variables = []
    for _ in range(cursor.list_of(VARIABLE)):
        name = cursor.name()
        ids = [cursor.count() for _ in range(cursor.count())]
        attributes = _attributes(cursor)
        dtype = cursor.dtype()
        cursor.count()  # vsize: redundant, and wrong for variables of 4 GiB and more
        begin = cursor.offset()
        variables.append(
            VariableHeader(
                name,
                dtype,
                tuple(names[i] for i in ids),
                tuple(lengths[i] for i in ids),
                attributes,
                offset=begin,
            )
        )
    return variables


def _is_record(variable: VariableHeader, names: list[str], lengths: list[int]) -> bool:
    return lengths[names.index(variable.dimensions[0])] == 0


def _record_bytes(records: list[VariableHeader]) -> int:
    """Compute the bytes of one record: padded parts of all variables, unpadded for a single one."""
    sizes = [prod(v.shape[1:]) * np.dtype(v.dtype).itemsize for v in records]
    return sizes[0] if len(sizes) == 1 else sum(size + -size % 4 for size in sizes)


def _placed(variable: VariableHeader, numrecs: int | None, record_bytes: int) -> VariableHeader:
    """Fill in shape and strides."""
    shape = variable.shape if numrecs is None else (numrecs, *variable.shape[1:])
    item = np.dtype(variable.dtype).itemsize
    strides = [item * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if numrecs is not None:
        strides[0] = record_bytes
    return replace(variable, shape=shape, strides=tuple(strides))


def _require_complete(path: str, size: int, variables: dict[str, VariableHeader]) -> None:
    """Refuse a file that is shorter than its header says."""
    cut = {v.name: _end(v) for v in variables.values() if _end(v) > size}
    if cut:
        need = max(cut.values())
        raise ValueError(
            f"{path}: truncated netCDF-3 file: {need - size} bytes are missing: it has {size} "
            f"bytes and its header describes {need}; the values of {', '.join(sorted(cut))} would "
            "read as zeros; copy or download it again"
        )


def _end(variable: VariableHeader) -> int:
    """Compute the byte behind the last value."""
    if 0 in variable.shape:
        return 0
    last = sum((n - 1) * s for n, s in zip(variable.shape, variable.strides, strict=True))
    return variable.offset + last + np.dtype(variable.dtype).itemsize


def _values(data: NDArray[np.uint8], v: VariableHeader) -> NDArray[Any]:
    """Copy a variable, in the byte order of this machine."""
    seen = view(data, v.dtype, v.shape, v.offset, v.strides)
    return seen.astype(seen.dtype.newbyteorder("="))
