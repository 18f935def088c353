"""What the dimensions of a file are: time, level, latitude, longitude, member, version or lead.

Found by the names that the two formats of the data store, WeatherBench and model output use, then
by CF standard names and units.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.ingest.header import Header, VariableHeader
from hpc_bnn.fields.ingest.meaning import coordinate_values, levels_hpa

# In order of preference: a forecast file has both time (of its start) and valid_time.
NAMES = {
    "time": ("valid_time", "time", "initial_time0_hours", "datetime", "date"),
    "level": (
        "pressure_level",
        "level",
        "isobaricinhpa",
        "isobaricinpa",
        "plev",
        "lev",
        "lv_isbl0",
        "air_pressure",
    ),
    "latitude": ("latitude", "lat", "y", "g0_lat_1", "g0_lat_2"),
    "longitude": ("longitude", "lon", "x", "g0_lon_2", "g0_lon_3"),
    "member": ("number", "realization", "ensemble", "member"),
    "version": ("expver", "experimentversionnumber"),
    "lead": ("step", "prediction_timedelta", "forecast_period", "lead_time"),
}
STANDARD_NAMES = {
    "latitude": "latitude",
    "longitude": "longitude",
    "air_pressure": "level",
    "time": "time",
    "realization": "member",
    "forecast_period": "lead",
}
# Coordinates that are no geographic degrees, however they are called.
PROJECTED = (
    "grid_latitude",
    "grid_longitude",
    "projection_y_coordinate",
    "projection_x_coordinate",
)


@dataclass(frozen=True, eq=False)
class Roles:
    """Name what a file's dimensions are and hold the values along them.

    of_dimension: dimension -> role.
    times: seconds since 1970, (T,) along the time dimension or (1,) where time is a scalar; None
        where the file has no time.
    levels_hpa: (L,), (1,) for a scalar level, None without levels.
    scalar_levels: hPa by the name of each pressure coordinate without a dimension.
    members, versions: values along those dimensions, None where there are none; versions as text
        along time (new format) or along a dimension of their own (legacy).
    """

    of_dimension: dict[str, str]
    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    times: NDArray[np.int64] | None
    levels_hpa: NDArray[np.float64] | None
    scalar_levels: dict[str, float]
    members: NDArray[Any] | None
    versions: NDArray[Any] | None


def find_roles(header: Header) -> Roles:
    """Find the roles of all dimensions.

    Raises
    ------
    ValueError
        If there is no latitude-longitude grid in degrees, or a coordinate is ambiguous or
        unreadable.
    """
    coordinates = {role: _coordinate(header, role) for role in NAMES}
    of_dimension: dict[str, str] = {}
    for role, variable in coordinates.items():
        if variable is not None and len(variable.dimensions) == 1:
            of_dimension.setdefault(variable.dimensions[0], role)
    for dimension in header.dimensions:  # dimensions without a coordinate variable
        role = _role_of_name(dimension)
        if dimension not in of_dimension and role and role not in of_dimension.values():
            of_dimension[dimension] = role
    for role in ("latitude", "longitude"):
        if coordinates[role] is None or role not in of_dimension.values():
            raise ValueError(
                f"{header.path}: no {role} along a dimension of its own: expected a regular "
                f"latitude-longitude grid; has the dimensions {_listed(header.dimensions)} and the "
                f"variables {_listed(header.variables)}; interpolate it to one"
            )
        _require_degrees(header, coordinates[role], role)
    member, version = coordinates["member"], coordinates["version"]
    return Roles(
        of_dimension,
        _floats(header, coordinates["latitude"]),
        _floats(header, coordinates["longitude"]),
        _times(header, coordinates["time"], coordinates["lead"]),
        levels_hpa(header, coordinates["level"]),
        _scalar_levels(header),
        None if member is None else header.coordinates.get(member.name),
        None if version is None else _version_texts(header.coordinates[version.name]),
    )


def _coordinate(header: Header, role: str) -> VariableHeader | None:
    """Choose the coordinate variable of a role, or None.

    Raises
    ------
    ValueError
        If two dimensions claim the role.
    """
    readable = [v for v in header.variables.values() if v.name in header.coordinates]
    named = [v for v in readable if v.name.lower() in NAMES[role] and _is_plausible(v, role)]
    named.sort(key=lambda v: NAMES[role].index(v.name.lower()))
    candidates = (
        named
        or [v for v in readable if STANDARD_NAMES.get(v.text("standard_name")) == role]
        or [v for v in readable if v.text("units").lower() == f"degrees_{role_compass(role)}"]
    )
    along = {v.dimensions for v in candidates if v.dimensions}
    if len(along) > 1 and role != "time":
        raise ValueError(
            f"{header.path}: {_listed([v.name for v in candidates])} all look like the {role}: "
            "expected one; remove or rename the others"
        )
    return candidates[0] if candidates else None


def role_compass(role: str) -> str:
    """Return the direction in the units of a horizontal coordinate, "-" for other roles."""
    return {"latitude": "north", "longitude": "east"}.get(role, "-")


def _require_degrees(header: Header, variable: VariableHeader | None, role: str) -> None:
    """Refuse radians, metres and whatever else is no degrees; no units are degrees."""
    units = "" if variable is None else variable.text("units").strip()
    if variable is not None and units and not units.lower().startswith(("deg", "\N{DEGREE SIGN}")):
        raise ValueError(
            f"{header.path}: '{variable.name}': units = '{units}': expected "
            f"degrees_{role_compass(role)}; convert the {role} to degrees, or correct its units"
        )


def _is_plausible(variable: VariableHeader, role: str) -> bool:
    """Tell whether a name like "date", "x" or "number" is used for the role."""
    if role == "time":
        return " since " in variable.text("units")
    if variable.text("standard_name") in PROJECTED:
        return False
    if variable.name.lower() in ("x", "y"):
        return variable.text("units").lower().startswith("degree")
    return True


def _role_of_name(dimension: str) -> str:
    return next((role for role, names in NAMES.items() if dimension.lower() in names), "")


def _floats(header: Header, variable: VariableHeader | None) -> NDArray[np.float64]:
    assert variable is not None
    return coordinate_values(header, variable).astype(np.float64)


def _times(
    header: Header, variable: VariableHeader | None, lead: VariableHeader | None
) -> NDArray[np.int64] | None:
    """Decode the times of validity: those of the start and a single lead time are added."""
    if variable is None:
        return None
    values = coordinate_values(header, variable)
    if values.ndim == 2 and 1 in values.shape:  # (time, step) with a single step
        values = values.reshape(-1)
    if values.ndim > 1:
        raise ValueError(
            f"{header.path}: '{variable.name}' has the shape {values.shape}: a file of forecasts "
            "with several steps; expected analyses, one time each: select one step"
        )
    try:
        found = times.decode(
            np.atleast_1d(values), variable.text("units"), variable.text("calendar")
        )
    except ValueError as error:
        raise ValueError(f"{header.path}: '{variable.name}': {error}") from error
    return found if lead is None else found + _lead_s(header, variable, lead)


def _lead_s(header: Header, time: VariableHeader, lead: VariableHeader) -> int:
    """Return what has to be added to times to make them those of validity: the lead time of a
    forecast whose time is that of its start.

    Raises
    ------
    ValueError
        If the file does not say which of the two its time is.
    """
    hours = np.atleast_1d(coordinate_values(header, lead)).astype(np.float64)
    words = f"{time.text('standard_name')} {time.text('long_name')}".lower().replace("_", " ")
    is_start = any(said in words for said in ("reference time", "initial time", "start"))
    if len(hours) != 1 or not hours.any() or time.name.lower() == "valid_time":
        return 0  # several lead times are refused with the variables that have them
    if not is_start and time.text("standard_name") == "time":
        return 0
    unit = re.sub(r"s$", "", lead.text("units").lower())
    if not is_start or unit not in times.UNITS_S:
        raise ValueError(
            f"{header.path}: '{lead.name}' = {hours[0]:g} {lead.text('units')}: forecasts, and "
            f"'{time.name}' does not say whether it is the time of their start or of validity, or "
            "the lead time has no known units: expected standard_name = forecast_reference_time or "
            "time, and hours; correct the attributes, or give a file with valid_time"
        )
    return round(float(hours[0]) * times.UNITS_S[unit])


def _scalar_levels(header: Header) -> dict[str, float]:
    """Return the pressure of each coordinate that has one value and no dimension."""
    found = {}
    for variable in header.variables.values():
        is_level = variable.name.lower() in NAMES["level"]
        is_level = is_level or STANDARD_NAMES.get(variable.text("standard_name")) == "level"
        if is_level and not variable.dimensions and variable.name in header.coordinates:
            hpa = levels_hpa(header, variable)
            if hpa is not None:
                found[variable.name] = float(hpa[0])
    return found


def _version_texts(values: NDArray[Any]) -> NDArray[Any]:
    """Write experiment versions as "0001": text in the new format, numbers in the legacy one; ""
    where there is none.
    """
    return np.array([_version(one) for one in np.atleast_1d(values).ravel().tolist()])


def _version(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip("\x00 ")
    try:
        return f"{int(float(text)):04d}"
    except (ValueError, OverflowError):  # NaN and padding among numbers
        return "" if text.lower() in ("nan", "inf", "-inf") else text


def _listed(names: object) -> str:
    return ", ".join(list(names)[:12]) or "none"  # type: ignore[call-overload]
