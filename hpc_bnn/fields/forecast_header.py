"""The layout cf: an ensemble forecast by the names of this package, CF-1.8.

    t2m(member, lead_time, latitude, longitude)              one start
    t2m(time, member, lead_time, latitude, longitude)        a set of starts

Records are members, or starts: all fields of one lie together, and the netCDF library, which moves
variables of fixed size whenever the header grows (so wrote the whole file once for each attribute),
has nothing to move.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields.forecast_layout import (
    SINCE,
    Coordinate,
    Description,
    FieldVariable,
    Forecast,
    checked_axis,
    require_names,
)

CELL = ("member", "lead_time", "latitude", "longitude")
MEMBER = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
START = {"standard_name": "forecast_reference_time", "long_name": "start of the forecast"}
VALID = {"standard_name": "time", "long_name": "time of validity"}


def describe_cf(forecast: Forecast) -> Description:
    """Describe the file; raise ValueError for coordinates or names that make none."""
    axes: dict[str, ArrayLike] = {
        "lead_time": forecast.lead_hours,
        "latitude": forecast.latitude,
        "longitude": forecast.longitude,
    }
    grid = {name: checked_axis(name, values) for name, values in axes.items()}
    starts = checked_axis("time", forecast.starts_s)
    valid_s = starts[:, None] + np.rint(grid["lead_time"] * 3600)
    members = np.arange(forecast.members)
    lead = {"standard_name": "forecast_period", "long_name": "lead time", "units": "hours"}
    north = {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}
    east = {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}
    along_grid = zip(grid.items(), (lead, north, east), strict=True)
    coordinates = [Coordinate(n, (n,), "f8", says, values) for (n, values), says in along_grid]
    cell: tuple[str, ...] = CELL
    if forecast.is_set:
        cell = ("time", *CELL)
        coordinates.append(Coordinate("member", ("member",), "i4", MEMBER, members))
        along = [
            Coordinate("time", ("time",), "f8", START | SINCE, starts),
            Coordinate("valid_time", ("time", "lead_time"), "f8", VALID | SINCE, valid_s),
        ]
        times, sizes = "valid_time", {"time": len(starts), "member": forecast.members}
    else:
        coordinates += [
            Coordinate("forecast_reference_time", (), "f8", START | SINCE, starts[0]),
            Coordinate("valid_time", ("lead_time",), "f8", VALID | SINCE, valid_s[0]),
        ]
        along = [Coordinate("member", ("member",), "i4", MEMBER, members)]
        times, sizes = "forecast_reference_time valid_time", {"member": forecast.members}
    levels = {v.level_hpa for v in forecast.variables if v.level_hpa is not None}
    coordinates += [_pressure(hpa) for hpa in sorted(levels)]
    names = [v.name for v in forecast.variables]
    require_names(names, {one.name for one in (*coordinates, *along)} | set(cell))
    return Description(
        sizes=sizes | {name: len(axis) for name, axis in grid.items()},
        coordinates=coordinates,
        along=along,
        variables=[FieldVariable(v.name, cell, _attributes(v, times)) for v in forecast.variables],
        places=tuple((name, 0) for name in names),
        flips_rows=False,
    )


def _pressure(hpa: float) -> Coordinate:
    says = {"standard_name": "air_pressure", "long_name": "pressure", "units": "hPa"}
    name = f"pressure_{hpa:g}".replace(".", "_")
    return Coordinate(name, (), "f8", says | {"positive": "down"}, hpa)


def _attributes(variable: FieldChannel, times: str) -> dict[str, Any]:
    hpa = variable.level_hpa
    texts = {
        "standard_name": variable.standard_name,
        "long_name": variable.long_name,
        "units": variable.units,
        "coordinates": times if hpa is None else f"{times} {_pressure(hpa).name}",
    }
    return {name: text for name, text in texts.items() if text}
