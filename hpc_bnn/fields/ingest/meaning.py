"""What a variable of a file means, by its name and attributes: which one, in which units, or why it
cannot be read as a state of the atmosphere; of a coordinate its values, levels in hPa.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import names
from hpc_bnn.fields.ingest.header import Header, VariableHeader
from hpc_bnn.fields.names import conversion

LARGEST_LEVEL_HPA = 1100.0
# The pressure levels of ERA5, in hPa: numbers without units are taken for pressure if they are some
# of these and go beyond those of model levels.
PRESSURES = (1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400,
             450, 500, 550, 600, 650, 700, 750, 775, 800, 825, 850, 875, 900, 925, 950, 975,
             1000)  # fmt: skip
MOST_MODEL_LEVELS = 137
HEIGHTS = ("gh", "zg", "hgt")  # names of geopotential that models give to its height
STEP_TYPES = ("accum", "max", "min", "avg", "diff")
# CF: "time: mean", "area: time: maximum within days"; not "time: point", nor "area: mean".
_OVER_TIME = re.compile(
    r"\b(?:valid_)?time:\s*(?:\w+:\s*)*"
    r"(?:sum|mean|max|min|mid_range|range|median|mode|standard_deviation|variance|root_mean_square)"
)


def not_a_state(variable: VariableHeader) -> str:
    """Say why a variable is of an interval, such as a sum, a mean or an extreme; empty if it is a
    state of one time.
    """
    known = names.find(variable.name)
    step_type = variable.text("GRIB_stepType").lower()
    methods = variable.text("cell_methods")
    if step_type in STEP_TYPES:
        kind = f"step type {step_type}"
    elif _OVER_TIME.search(methods.lower()):
        kind = f"cell_methods = '{methods}'"
    elif known and known.accumulated:
        kind = "step type accum"
    else:
        return ""
    return f"is of an interval, not of a time ({kind}): it cannot be used as an instantaneous field"


def possible_names(variable: VariableHeader) -> set[str]:
    """Return the short names that a variable may be meant by."""
    standard, known = variable.text("standard_name"), names.find(variable.name)
    if known:
        return {variable.name, known.short}
    same = {v.short for v in names.VARIABLES if standard and v.standard_name == standard}
    return {variable.name} | same


def meaning(
    variable: VariableHeader, *, on_levels: bool
) -> tuple[names.Variable, tuple[float, float], tuple[str, ...]]:
    """Return what a variable is, factor and offset of its units, and what is odd about them.

    Raises
    ------
    ValueError
        For contradictory names, units that cannot be converted, or a height without units.
    """
    known = names.identify(variable.name, variable.text("standard_name"), on_levels=on_levels)
    units = variable.text("units")
    is_height = variable.name.lower() in HEIGHTS
    if (is_height or variable.text("standard_name") == "geopotential_height") and not units:
        # It would be read as geopotential, of a tenth of its size.
        raise ValueError(
            "has no units, and the name is of a height: expected gpm, or m2 s-2 of a geopotential; "
            "add the attribute units"
        )
    to_units = conversion(units, known.units)
    known = known if known.units else replace(known, units=units)
    if to_units != (1.0, 0.0):
        return known, to_units, (f"converted from '{units}' to '{known.units}'",)
    unknown = () if units else (f"has no units: taken as '{known.units or 'unknown'}'",)
    return known, to_units, unknown


def require_geographic(header: Header, variable: VariableHeader) -> None:
    """Refuse a variable on a projected or rotated grid."""
    mapping = header.variables.get(variable.text("grid_mapping"))
    kind = "" if mapping is None else mapping.text("grid_mapping_name")
    if kind not in ("", "latitude_longitude"):
        raise ValueError(
            f"lies on a grid of the kind {kind} (grid_mapping): expected a regular "
            "latitude-longitude grid: interpolate it to one"
        )


def coordinate_values(header: Header, variable: VariableHeader) -> NDArray[Any]:
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
        float(np.asarray(variable.attributes.get(name, default)).reshape(-1)[0])
        for name, default in (("scale_factor", 1.0), ("add_offset", 0.0))
    )
    return np.round(stored.astype(np.float64) * scale + offset, 9)


def levels_hpa(header: Header, variable: VariableHeader | None) -> NDArray[np.float64] | None:
    """Convert levels to hPa.

    Raises
    ------
    ValueError
        For units that are no pressure, or values that are none in these units.
    """
    if variable is None:
        return None
    values = np.atleast_1d(coordinate_values(header, variable)).astype(np.float64)
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


def scalar_level(
    variable: VariableHeader, pressures: Mapping[str, float], otherwise: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    """Choose the level of a variable among coordinates without a dimension: the one it names.

    pressures: hPa by the name of each such coordinate.
    otherwise: what to take where there is but one and the variable names none.

    Raises
    ------
    ValueError
        If it names several, or none where it must.
    """
    named = variable.text("coordinates").split()
    levels = [hpa for name, hpa in pressures.items() if name in named]
    known = names.find(variable.name)
    if len(levels) > 1 or (not levels and len(pressures) > 1 and not named and known is None):
        raise ValueError(
            f"coordinates = '{variable.text('coordinates')}': expected one of the levels "
            f"{', '.join(pressures)}; correct the attribute"
        )
    if levels:
        return (levels[0],)
    if len(pressures) == 1:
        return otherwise
    if known is not None and known.on_levels and not named:
        raise ValueError(
            "has no coordinates attribute that names one of the levels "
            f"{', '.join(pressures)}: add it"
        )
    return None


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
            f"{header.path}: '{variable.name}' = {_listed(values)} "
            f"({said.strip() or 'without units'}): model levels are not supported; of pressure "
            "levels, units such as hPa are expected"
        )


def _listed(values: NDArray[np.float64]) -> str:
    return ", ".join(f"{value:g}" for value in values[:12])
