"""How an ensemble forecast lies in a file: netCDF-3 with 64-bit data (CDF-5), plain big-endian
arrays at offsets that follow from the header alone, so that any process can write any field of it.

A layout is one function that describes a file (``Description``) and one line in ``LAYOUTS``
(forecast_plan.py). Its first dimension, along which records lie one after another, is the member or
the start.

C channels, H latitude, W longitude.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields.ingest.netcdf import classic_sizes, library_lock

# Times are whole seconds as float64, exact up to 2**53: CF allows int64 from version 1.9 on.
SINCE = {"units": "seconds since 1970-01-01 00:00:00", "calendar": "proleptic_gregorian"}
BLOCK = 1 << 16


@dataclass(frozen=True, eq=False)
class Forecast:
    """What is forecast, whatever the layout: latitude (H,) and longitude (W,) in degrees, starts in
    seconds since 1970-01-01T00:00 UTC, lead times in hours, both increasing.

    is_set: its starts are those of a set, also where there is only one: they have a dimension.
    """

    variables: tuple[FieldChannel, ...]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    starts_s: tuple[int, ...]
    lead_hours: tuple[float, ...]
    members: int
    is_set: bool = False


@dataclass(frozen=True, eq=False)
class Coordinate:
    """A variable that is no field. Of one along records, values (R, ...) hold those of each."""

    name: str
    dimensions: tuple[str, ...]
    dtype: str
    attributes: Mapping[str, str]
    values: ArrayLike


@dataclass(frozen=True, eq=False)
class FieldVariable:
    """A variable of fields, along the records, then what a record holds of it."""

    name: str
    dimensions: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Description:
    """A file in one layout.

    sizes: of all dimensions, the first that of the records. along: coordinates along the records.
    places: of each of the C channels, the variable and the place on its level axis.
    flips_rows: rows lie the other way round than those of the forecast.
    """

    sizes: Mapping[str, int]
    coordinates: Sequence[Coordinate]
    along: Sequence[Coordinate]
    variables: Sequence[FieldVariable]
    places: tuple[tuple[str, int], ...]
    flips_rows: bool


@dataclass(frozen=True)
class Geometry:
    """Where things lie: ``begin`` of the records, the bytes of each ``record`` and ``offset`` and
    ``levels`` of the variable of each channel in it, with its place on the level axis.
    """

    begin: int
    record: int
    channels: tuple[tuple[int, int, int], ...]


def checked_axis(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return the values of an axis; raise ValueError unless they are finite and in order."""
    axis = np.asarray(values, np.float64)
    if axis.ndim == 1 and axis.size and np.isfinite(axis).all():
        steps = np.diff(axis)
        is_time = name in ("lead_time", "time")
        if (steps > 0).all() or ((steps < 0).all() and not is_time):
            return axis
    raise ValueError(
        f"{name} of shape {axis.shape} = {axis}: expected finite values along one dimension, "
        "increasing (or decreasing, but for times)"
    )


def require_names(names: Sequence[str], taken: set[str]) -> None:
    """Raise ValueError unless the variables can have these names."""
    bad = [n for n in names if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", n) or n in taken]
    bad += [n for n in names if names.count(n) > 1]
    if bad or not names:
        raise ValueError(
            f"the variables are {list(names)}: '{bad[0] if bad else ''}' cannot be one: expected "
            "different names of letters, digits and _ . + -, none of them that of a coordinate "
            f"({', '.join(sorted(taken))})"
        )


def header(description: Description, attributes: Mapping[str, str]) -> bytes:
    """Return the bytes of the file before its records, without any.

    The library makes them in memory: on a full disk it crashes the process (netCDF4 1.7.5, after a
    close that failed).
    """
    record, *dimensions = description.sizes
    with library_lock():
        dataset = netCDF4.Dataset("head", "w", format="NETCDF3_64BIT_DATA", memory=1)
        dataset.set_fill_off()
        dataset.setncatts({**attributes, "Conventions": "CF-1.8"})
        dataset.createDimension(record, None)
        for name in dimensions:
            dataset.createDimension(name, description.sizes[name])
        for one in description.coordinates:
            made = dataset.createVariable(one.name, one.dtype, one.dimensions)
            made.setncatts(one.attributes)
            made[...] = one.values
        for one in description.along:
            dataset.createVariable(one.name, one.dtype, one.dimensions).setncatts(one.attributes)
        nan = np.float32(np.nan)
        for variable in description.variables:
            made = dataset.createVariable(variable.name, "f4", variable.dimensions, fill_value=nan)
            made.setncatts(variable.attributes)
        content = bytes(dataset.close())
        with open_header(content) as dataset:
            begin = classic_sizes(dataset)[0]
    return content[:begin].ljust(begin, b"\0")


def open_header(content: bytes) -> netCDF4.Dataset:
    """Open what ``header`` returned, to read; must be called under the lock of the library.

    It reads in blocks, and fails (EPERM) where the last one is beyond the end (netCDF 4.10).
    """
    return netCDF4.Dataset("head", memory=content + bytes(BLOCK - len(content) % BLOCK + BLOCK))


def geometry(description: Description, begin: int) -> Geometry:
    """Return where things lie in a file whose records begin at ``begin``: variables follow each
    other in a record in the order in which they were defined, each padded to 4 bytes.
    """
    sizes, offset = description.sizes, 0
    for one in description.along:
        count = prod(sizes[name] for name in one.dimensions[1:])
        offset += -(-count * np.dtype(one.dtype).itemsize // 4) * 4
    offsets = {}
    for variable in description.variables:
        offsets[variable.name] = offset, sizes["level"] if "level" in variable.dimensions else 1
        offset += 4 * int(
            np.prod([sizes[name] for name in variable.dimensions[1:]], dtype=np.int64)
        )
    return Geometry(begin, offset, tuple((*offsets[v], level) for v, level in description.places))


def along_records(description: Description) -> list[bytes]:
    """Return what the coordinates along the records hold, of each record."""
    rows = next(iter(description.sizes.values()))
    parts = []
    for one in description.along:
        values = np.asarray(one.values).astype(f">{one.dtype}").reshape(rows, -1)
        parts.append(values.view(np.uint8))
    return [row.tobytes() for row in np.concatenate(parts, 1)]
