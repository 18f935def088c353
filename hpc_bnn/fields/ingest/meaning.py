"""What a variable of a file means, by its name and attributes: which one, in which units; or why it
cannot be read as a state of the atmosphere.
"""

from __future__ import annotations

import re
from dataclasses import replace

from hpc_bnn.fields import names
from hpc_bnn.fields.ingest.header import Header, VariableHeader
from hpc_bnn.fields.units import conversion

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
