"""Units in files: recognised and converted to those of names.py, or refused.

A conversion is ``y = factor * x + offset``, folded into scale and offset of the packing.
"""

from __future__ import annotations

import re

from hpc_bnn.fields.names import GRAVITY

# Units of names.py: factor and offset -> spellings in files (lower case, without ** and ^).
_CONVERSIONS: dict[str, dict[tuple[float, float], tuple[str, ...]]] = {
    "K": {
        (1, 0): ("k", "kelvin", "degk"),
        (1, 273.15): (
            "c", "degc", "deg c", "\u00b0c", "celsius", "degrees_celsius", "degree_celsius",
        ),
    },
    "m2 s-2": {
        (1, 0): ("m2 s-2", "m2/s2", "j kg-1"),
        (GRAVITY, 0): ("gpm", "m", "meters", "metres"),
        (10 * GRAVITY, 0): ("gpdam",),
    },
    "m s-1": {(1, 0): ("m s-1", "m/s"), (1852 / 3600, 0): ("knots",), (1 / 3.6, 0): ("km h-1",)},
    "Pa": {(1, 0): ("pa",), (100, 0): ("hpa", "mb", "mbar", "millibar", "millibars")},
    "Pa s-1": {(1, 0): ("pa s-1", "pa/s")},
    "kg kg-1": {(1, 0): ("kg kg-1", "kg/kg", "1"), (1e-3, 0): ("g kg-1", "g/kg")},
    "%": {(1, 0): ("%", "percent")},
    "1": {(1, 0): ("1", "(0 - 1)", "0-1", "~", "dimensionless"), (0.01, 0): ("%",)},
    "m": {(1, 0): ("m", "m of water equivalent", "metres", "meters"), (1e-3, 0): ("mm",)},
    "hPa": {(1, 0): ("hpa", "millibars", "millibar", "mbar", "mb"), (0.01, 0): ("pa",)},
    "s-1": {(1, 0): ("s-1", "1/s")},
}  # fmt: skip
SPELLINGS = {
    units: {name: to_units for to_units, names in rows.items() for name in names}
    for units, rows in _CONVERSIONS.items()
}


def conversion(units: str, canonical: str) -> tuple[float, float]:
    """Return (factor, offset) from the units of a file to the canonical ones.

    Units that are missing or that nobody has rules for are taken as they are; the physical range of
    the values is checked besides.

    Raises
    ------
    ValueError
        If the units cannot be converted.
    """
    spelling, known = normalised(units), SPELLINGS.get(canonical, {})
    if not spelling or not canonical or spelling == normalised(canonical):
        return 1.0, 0.0
    if spelling in known:
        return known[spelling]
    raise ValueError(
        f"units = '{units}': expected '{canonical}' or one of "
        f"{', '.join(sorted(known)) or 'no other'}; correct the attribute"
    )


def normalised(units: str) -> str:
    """Return units as they are compared: "m**2 s**-2" and "m^2 s^-2" are "m2 s-2"."""
    return re.sub(r"\s+", " ", units.replace("**", "").replace("^", "")).strip().lower()
