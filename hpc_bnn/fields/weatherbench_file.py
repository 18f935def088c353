"""The layout weatherbench: what WeatherBench 2 has and WeatherBench-X opens as it is.

    geopotential(time, number, prediction_timedelta, level, latitude, longitude)
    2m_temperature(time, number, prediction_timedelta, latitude, longitude)

`time` is that of the start, `level` in hPa; rows go from south to north. Records are starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpc_bnn.fields.forecast_layout import (
    SINCE,
    Coordinate,
    Description,
    FieldVariable,
    Forecast,
    checked_axis,
    require_names,
)
from hpc_bnn.fields.names import find, split_channel

# The attribute dtype makes xarray read it as a time difference, which it else leaves to its user.
LEAD = {"standard_name": "forecast_period", "units": "hours", "dtype": "timedelta64[ns]"}
START = {"standard_name": "forecast_reference_time", "long_name": "start of the forecast"}
LEVEL = {"standard_name": "air_pressure", "units": "hPa", "positive": "down", "axis": "Z"}
NORTH = {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}
EAST = {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}
NUMBER = {"standard_name": "realization", "units": "1"}
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


def describe_weatherbench(forecast: Forecast) -> Description:
    """Describe the file; raise ValueError for coordinates or names that make none, or variables on
    different levels.
    """
    levels = levels_of([v.name for v in forecast.variables])
    pressure = next((own for own in levels.values() if own), ())
    starts = checked_axis("time", forecast.starts_s)
    axes = {
        "number": ("i4", NUMBER, np.arange(forecast.members)),
        "prediction_timedelta": ("f8", LEAD, checked_axis("lead_time", forecast.lead_hours)),
        **({"level": ("f8", LEVEL, np.array(pressure))} if pressure else {}),
        "latitude": ("f8", NORTH, np.sort(checked_axis("latitude", forecast.latitude))),
        "longitude": ("f8", EAST, checked_axis("longitude", forecast.longitude)),
    }
    require_names([long_name(variable) for variable in levels], {*axes, "time"})
    variables, places = {}, []
    for channel in forecast.variables:
        variable, level = split_channel(channel.name)
        says = {"units": channel.units, "standard_name": channel.standard_name}
        variables[long_name(variable)] = FieldVariable(
            long_name(variable),
            SURFACE if level is None else UPPER,
            {key: text for key, text in says.items() if text} | {"short_name": variable},
        )
        place = 0 if level is None else levels[variable].index(level)
        places.append((long_name(variable), place))
    return Description(
        sizes={"time": len(starts), **{name: len(values) for name, (*_, values) in axes.items()}},
        coordinates=[Coordinate(name, (name,), *axis) for name, axis in axes.items()],
        along=[Coordinate("time", ("time",), "f8", START | SINCE, starts)],
        variables=list(variables.values()),
        places=tuple(places),
        flips_rows=bool(forecast.latitude[0] > forecast.latitude[-1]),
    )
