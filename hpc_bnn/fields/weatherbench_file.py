"""An ensemble forecast in the layout that WeatherBench 2 has and WeatherBench-X opens as it is.

    geopotential(time, number, prediction_timedelta, level, latitude, longitude)
    2m_temperature(time, number, prediction_timedelta, latitude, longitude)

`time` is that of the start, `level` in hPa; rows go from south to north. It is made of a finished
forecast file (forecast_file.py), which many processes write; a member is held at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from hpc_bnn.fields.ingest.netcdf import library_lock
from hpc_bnn.fields.names import find, split_channel

SINCE = {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}
# The attribute dtype makes xarray read it as a time difference, which it else leaves to its user.
LEAD = {"standard_name": "forecast_period", "units": "hours", "dtype": "timedelta64[ns]"}
SURFACE = ("time", "number", "prediction_timedelta", "latitude", "longitude")
UPPER = (*SURFACE[:3], "level", *SURFACE[3:])


def long_name(variable: str) -> str:
    """Return the name that WeatherBench 2 gives to a variable, its own where it has none."""
    known = find(variable)
    return known.aliases[0] if known and known.aliases else variable


def levels_of(channels: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Return the levels in hPa of each variable, increasing, empty at the surface.

    Raises
    ------
    ValueError
        If variables lie on different levels: the layout has one axis for all.
    """
    found: dict[str, tuple[float, ...]] = {}
    for name in channels:
        variable, level = split_channel(name)
        found[variable] = tuple(
            sorted([*found.get(variable, ()), *([] if level is None else [level])])
        )
    upper = {variable: levels for variable, levels in found.items() if levels}
    if len(set(upper.values())) > 1:
        (a, first), (b, second) = list(
            {levels: (variable, levels) for variable, levels in upper.items()}.values()
        )[:2]
        raise ValueError(
            f"layout = weatherbench: '{a}' is forecast at {first} hPa and '{b}' at {second}: "
            "expected the same levels of all variables; forecast in the layout cf"
        )
    return found


def write_weatherbench(forecast: Path, output: Path) -> None:
    """Write a finished forecast file in the layout of WeatherBench 2; it may be replaced itself.

    Raises
    ------
    ValueError
        If its variables lie on different levels.
    OSError
        If there is no room for it: the library would end the process on a full disk.
    """
    need, free = forecast.stat().st_size, shutil.disk_usage(output.parent).free
    if free < need:
        raise OSError(
            f"{output}: needs {need} bytes, {free} are free: free space, or give another path; "
            f"{forecast} has the forecast in the layout cf"
        )
    partial = output.with_name(f"{output.name}.layout")
    with library_lock():
        with netCDF4.Dataset(forecast) as cf, netCDF4.Dataset(partial, "w") as made:
            cf.set_auto_mask(False)
            _convert(cf, made)
        partial.replace(output)


def _convert(cf: netCDF4.Dataset, made: netCDF4.Dataset) -> None:
    channels = [name for name, v in cf.variables.items() if v.dimensions[:1] == ("member",)]
    channels.remove("member")
    levels = levels_of(channels)
    rows = np.argsort(cf["latitude"][:])  # from the south
    made.setncatts({name: cf.getncattr(name) for name in cf.ncattrs()})
    axes: dict[str, tuple[Any, dict[str, str]]] = {
        "time": (np.array([cf["forecast_reference_time"][...]], np.int64), SINCE),
        "number": (cf["member"][:], {"standard_name": "realization"}),
        "prediction_timedelta": (cf["lead_time"][:], LEAD),
        "latitude": (cf["latitude"][:][rows], {"units": "degrees_north"}),
        "longitude": (cf["longitude"][:], {"units": "degrees_east"}),
    }
    pressure = next((one for one in levels.values() if one), ())
    if pressure:
        axes["level"] = (np.array(pressure), {"units": "hPa", "standard_name": "air_pressure"})
    for name, (values, says) in axes.items():
        made.createDimension(name, len(values))
        made.createVariable(name, values.dtype, (name,)).setncatts(says)
        made.variables[name][:] = values
    field = (len(rows), len(axes["longitude"][0]))
    for variable, own in levels.items():
        chunk = (1, 1, 1, *((len(own),) if own else ()), *field)
        made.createVariable(
            long_name(variable), "f4", UPPER if own else SURFACE, chunksizes=chunk,
            fill_value=np.float32(np.nan),
        )  # fmt: skip
    for name in channels:
        variable, level = split_channel(name)
        said = {key: cf[name].getncattr(key) for key in cf[name].ncattrs()}
        target = made[long_name(variable)]
        target.setncatts({k: v for k, v in said.items() if k in ("units", "standard_name")})
        target.short_name = variable
        for member in range(len(axes["number"][0])):
            values = cf[name][member][:, rows]
            if level is None:
                target[0, member] = values
            else:
                target[0, member, :, levels[variable].index(level)] = values
