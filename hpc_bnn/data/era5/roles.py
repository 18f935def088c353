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

from hpc_bnn.data.era5 import times
from hpc_bnn.data.era5.header import Header, VariableHeader
from hpc_bnn.data.era5.units import conversion

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
LARGEST_LEVEL_HPA = 1100.0
# Coordinates that are no geographic degrees, however they are called.
PROJECTED = ("grid_latitude", "grid_longitude", "projection_y_coordinate", "projection_x_coordinate")
# The pressure levels of ERA5, in hPa: numbers without units are taken for pressure if they are some
# of these and go beyond those of model levels.
PRESSURES = (1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400,
             450, 500, 550, 600, 650, 700, 750, 775, 800, 825, 850, 875, 900, 925, 950, 975,
             1000)  # fmt: skip
MOST_MODEL_LEVELS = 137


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
        If there is no latitude-longitude grid, or a coordinate is ambiguous or unreadable.
    """
    chosen = {role: _coordinate(header, role) for role in NAMES}
    of_dimension: dict[str, str] = {}
    for role, variable in chosen.items():
        if variable is not None and len(variable.dimensions) == 1:
            of_dimension.setdefault(variable.dimensions[0], role)
    for dimension in header.dimensions:  # dimensions without a coordinate variable
        role = _role_of_name(dimension)
        if dimension not in of_dimension and role and role not in of_dimension.values():
            of_dimension[dimension] = role
    for role in ("latitude", "longitude"):
        if chosen[role] is None or role not in of_dimension.values():
            raise ValueError(
                f"{header.path}: no {role} along a dimension of its own: expected a regular "
                f"latitude-longitude grid; has the dimensions {_listed(header.dimensions)} and the "
                f"variables {_listed(header.variables)}; interpolate it to one"
            )
    version = chosen["version"]
    return Roles(
        of_dimension,
        _floats(header, chosen["latitude"]),
        _floats(header, chosen["longitude"]),
        _times(header, chosen["time"], chosen["lead"]),
        _levels(header, chosen["level"]),
        _scalar_levels(header),
        None if chosen["member"] is None else header.coordinates.get(chosen["member"].name),
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
    found = (
        named
        or [v for v in readable if STANDARD_NAMES.get(v.text("standard_name")) == role]
        or [v for v in readable if v.text("units").lower() == f"degrees_{role_compass(role)}"]
    )
    along = {v.dimensions for v in found if v.dimensions}
    if len(along) > 1 and role != "time":
        raise ValueError(
            f"{header.path}: {_listed([v.name for v in found])} all look like the {role}: expected "
            "one; remove or rename the others"
        )
    return found[0] if found else None


def role_compass(role: str) -> str:
    """Return the direction in the units of a horizontal coordinate, "-" for other roles."""
    return {"latitude": "north", "longitude": "east"}.get(role, "-")


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
    return _values(header, variable).astype(np.float64)


def _values(header: Header, variable: VariableHeader) -> NDArray[Any]:
    """Return the values of a coordinate, unpacked where it has a scale or an offset.

    Raises
    ------
    ValueError
        If one is missing.
    """
    stored = header.coordinates[variable.name]
    if stored.dtype.kind not in "iuf":
        return stored
    for name in ("_FillValue", "missing_value"):
        fill = variable.attributes.get(name)
        if fill is not None and not isinstance(fill, str) and np.isin(stored, fill).any():
            raise ValueError(
                f"{header.path}: '{variable.name}': a value is missing ({name} = {fill}): expected "
                "all values of a coordinate; correct or drop that place"
            )
    if not {"scale_factor", "add_offset"} & set(variable.attributes):
        return stored
    scale, offset = (
        float(np.asarray(variable.attributes.get(name, default)))
        for name, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    return np.round(stored.astype(np.float64) * scale + offset, 9)


def _times(
    header: Header, variable: VariableHeader | None, lead: VariableHeader | None
) -> NDArray[np.int64] | None:
    """Decode the times of validity: those of the start and a single lead time are added."""
    if variable is None:
        return None
    values = _values(header, variable)
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
    hours = np.atleast_1d(_values(header, lead)).astype(np.float64)
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


def _levels(header: Header, variable: VariableHeader | None) -> NDArray[np.float64] | None:
    """Convert levels to hPa.

    Raises
    ------
    ValueError
        For units that are no pressure, or values that are none in these units.
    """
    if variable is None:
        return None
    values = np.atleast_1d(_values(header, variable)).astype(np.float64)
    units = variable.text("units")
    if not units and "inpa" in variable.name.lower():
        units = "Pa"
    if not units and len(values) and float(values.max()) > LARGEST_LEVEL_HPA:
        units = "Pa"
    _refuse_model_levels(header, variable, values, units)
    where = f"{header.path}: '{variable.name}'"
    try:
        factor, _ = conversion(units, "hPa")
    except ValueError as error:
        raise ValueError(f"{where}: {error} (model levels are not supported)") from error
    hpa = np.round(values * factor, 9)
    bad = hpa[~((hpa > 0) & (hpa <= LARGEST_LEVEL_HPA))]
    if len(bad):
        raise ValueError(
            f"{where}: {bad[0]:g} hPa (stored in '{units or 'no units'}'): expected pressure "
            f"levels above 0 and up to {LARGEST_LEVEL_HPA:g} hPa; correct the values or the "
            "units: Pa, hPa and millibars are understood"
        )
    if len(set(hpa.tolist())) < len(hpa):
        raise ValueError(f"{where}: a level is there twice in {hpa.tolist()}; drop one")
    return hpa


def _refuse_model_levels(
    header: Header, variable: VariableHeader, values: NDArray[np.float64], units: str
) -> None:
    """Refuse levels that are numbers of model levels by what is said of them or, where nothing is
    said, may be.
    """
    said = f"{variable.text('standard_name')} {variable.text('long_name')}".lower()
    says_model = any(word in said for word in ("model", "hybrid", "sigma"))
    named = variable.name.lower() not in ("level", "lev") or "pressure" in said or "isobar" in said
    whole = set(values.tolist()) <= set(PRESSURES) and values.max(initial=0) > MOST_MODEL_LEVELS
    if says_model or not (units or named or whole):
        raise ValueError(
            f"{header.path}: '{variable.name}' = {_listed([f'{v:g}' for v in values])} "
            f"({said.strip() or 'without units'}): model levels are not supported; of pressure "
            "levels, units such as hPa are expected"
        )


def _scalar_levels(header: Header) -> dict[str, float]:
    """Return the pressure of each coordinate that has one value and no dimension."""
    found = {}
    for variable in header.variables.values():
        is_level = variable.name.lower() in NAMES["level"]
        is_level = is_level or STANDARD_NAMES.get(variable.text("standard_name")) == "level"
        if is_level and not variable.dimensions and variable.name in header.coordinates:
            hpa = _levels(header, variable)
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
