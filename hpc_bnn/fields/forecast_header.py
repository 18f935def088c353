"""The CF-1.8 header of an ensemble forecast: coordinates, variables and their attributes.

C channels, H latitude, W longitude.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields.ingest.netcdf import library_lock

CELL = ("member", "lead_time", "latitude", "longitude")
TIMES = "forecast_reference_time valid_time"
MEMBER = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
# Times are whole seconds as float64, exact up to 2**53: CF allows int64 from version 1.9 on.
SINCE = {"units": "seconds since 1970-01-01 00:00:00", "calendar": "proleptic_gregorian"}


def forecast_header(
    path: Path,
    *,
    variables: Sequence[FieldChannel],
    latitude: ArrayLike,
    longitude: ArrayLike,
    start_s: int,
    lead_hours: ArrayLike,
    attributes: Mapping[str, str],
) -> bytes:
    """Return the bytes of the file `path` before it has any members; see `create_forecast`.

    Raises
    ------
    ValueError
        For coordinates or names that make no file.
    """
    axes = {"lead_time": lead_hours, "latitude": latitude, "longitude": longitude}
    grid = {name: _axis(path, name, values) for name, values in axes.items()}
    coordinates = _coordinates(grid, int(start_s))
    coordinates += [_pressure(v.level_hpa) for v in variables if v.level_hpa is not None]
    _require_names(path, [v.name for v in variables], {c[0] for c in coordinates} | set(CELL))
    return _in_memory(grid, variables, coordinates, attributes)


def _in_memory(
    grid: Mapping[str, NDArray[np.float64]],
    variables: Sequence[FieldChannel],
    coordinates: Sequence[_Coordinate],
    attributes: Mapping[str, str],
) -> bytes:
    """Let the library make the file in memory, with no members yet.

    On a full disk it crashes the process (netCDF4 1.7.5, after a close that failed).
    """
    with library_lock():
        dataset = netCDF4.Dataset("head", "w", format="NETCDF3_64BIT_DATA", memory=1)
        dataset.set_fill_off()
        dataset.setncatts({**attributes, "Conventions": "CF-1.8"})
        dataset.createDimension("member", None)
        for name, axis in grid.items():
            dataset.createDimension(name, len(axis))
        for name, dimensions, dtype, says, values in coordinates:
            if name not in dataset.variables:  # channels share levels
                dataset.createVariable(name, dtype, dimensions).setncatts(says)
                dataset.variables[name][...] = values
        dataset.createVariable("member", "i4", ("member",)).setncatts(MEMBER)
        for variable in variables:
            nan = np.float32(np.nan)
            made = dataset.createVariable(variable.name, "f4", CELL, fill_value=nan)
            made.setncatts(_attributes(variable))
        return bytes(dataset.close())


_Coordinate = tuple[str, tuple[str, ...], str, dict[str, str], ArrayLike]


def _coordinates(grid: Mapping[str, NDArray[np.float64]], start_s: int) -> list[_Coordinate]:
    """Return name, dimensions, type, attributes and values of all coordinates but `member`."""
    valid_s = start_s + np.rint(grid["lead_time"] * 3600)
    lead = {"standard_name": "forecast_period", "long_name": "lead time", "units": "hours"}
    north = {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}
    east = {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}
    start = {"standard_name": "forecast_reference_time", "long_name": "start of the forecast"}
    valid = {"standard_name": "time", "long_name": "time of validity"}
    along = zip(grid.items(), (lead, north, east), strict=True)
    return [
        *((name, (name,), "f8", says, values) for (name, values), says in along),
        ("forecast_reference_time", (), "f8", start | SINCE, start_s),
        ("valid_time", ("lead_time",), "f8", valid | SINCE, valid_s),
    ]


def _pressure(hpa: float) -> _Coordinate:
    says = {"standard_name": "air_pressure", "long_name": "pressure", "units": "hPa"}
    return f"pressure_{hpa:g}".replace(".", "_"), (), "f8", says | {"positive": "down"}, hpa


def _attributes(variable: FieldChannel) -> dict[str, Any]:
    hpa = variable.level_hpa
    texts = {
        "standard_name": variable.standard_name,
        "long_name": variable.long_name,
        "units": variable.units,
        "coordinates": TIMES if hpa is None else f"{TIMES} {_pressure(hpa)[0]}",
    }
    return {name: text for name, text in texts.items() if text}


def _axis(path: Path, name: str, values: ArrayLike) -> NDArray[np.float64]:
    axis = np.asarray(values, np.float64)
    if axis.ndim == 1 and axis.size and np.isfinite(axis).all():
        steps = np.diff(axis)
        if (steps > 0).all() or ((steps < 0).all() and name != "lead_time"):
            return axis
    raise ValueError(
        f"{path}: {name} of shape {axis.shape} = {axis}: expected finite values along one "
        "dimension, increasing (or decreasing, but for lead_time)"
    )


def _require_names(path: Path, names: list[str], taken: set[str]) -> None:
    bad = [n for n in names if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", n) or n in taken]
    bad += [n for n in names if names.count(n) > 1]
    if bad or not names:
        raise ValueError(
            f"{path}: the variables are {names}: '{bad[0] if bad else ''}' cannot be one: expected "
            "different names of letters, digits and _ . + -, none of them that of a coordinate "
            f"({', '.join(sorted(taken))})"
        )
