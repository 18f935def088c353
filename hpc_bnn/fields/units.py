"""Units in files: recognised and converted to those of names.py, or refused.

A conversion is y = factor * x + offset. It is folded into scale and offset of the packing, so it
costs nothing at reading.
"""

from __future__ import annotations

import re

from hpc_bnn.fields.names import GRAVITY

# Wanted units: spellings in files (lower case, without ** and ^) -> factor and offset.
SPELLINGS: dict[str, dict[str, tuple[float, float]]] = {
    "K": {
        "k": (1, 0),
        "kelvin": (1, 0),
        "degk": (1, 0),
        "c": (1, 273.15),
        "degc": (1, 273.15),
        "deg c": (1, 273.15),
        "\u00b0c": (1, 273.15),
        "celsius": (1, 273.15),
        "degrees_celsius": (1, 273.15),
        "degree_celsius": (1, 273.15),
    },
    "m2 s-2": {
        "m2 s-2": (1, 0),
        "m2/s2": (1, 0),
        "j kg-1": (1, 0),
        "gpm": (GRAVITY, 0),
        "m": (GRAVITY, 0),
        "meters": (GRAVITY, 0),
        "metres": (GRAVITY, 0),
        "gpdam": (10 * GRAVITY, 0),
    },
    "m s-1": {"m s-1": (1, 0), "m/s": (1, 0), "knots": (1852 / 3600, 0), "km h-1": (1 / 3.6, 0)},
    "Pa": {
        "pa": (1, 0),
        "hpa": (100, 0),
        "mb": (100, 0),
        "mbar": (100, 0),
        "millibar": (100, 0),
        "millibars": (100, 0),
    },
    "Pa s-1": {"pa s-1": (1, 0), "pa/s": (1, 0)},
    "kg kg-1": {
        "kg kg-1": (1, 0),
        "kg/kg": (1, 0),
        "1": (1, 0),
        "g kg-1": (1e-3, 0),
        "g/kg": (1e-3, 0),
    },
    "%": {"%": (1, 0), "percent": (1, 0)},
    "1": {
        "1": (1, 0),
        "(0 - 1)": (1, 0),
        "0-1": (1, 0),
        "~": (1, 0),
        "dimensionless": (1, 0),
        "%": (0.01, 0),
    },
    "m": {
        "m": (1, 0),
        "m of water equivalent": (1, 0),
        "metres": (1, 0),
        "meters": (1, 0),
        "mm": (1e-3, 0),
    },
    "hPa": {
        "hpa": (1, 0),
        "millibars": (1, 0),
        "millibar": (1, 0),
        "mbar": (1, 0),
        "mb": (1, 0),
        "pa": (0.01, 0),
    },
    "s-1": {"s-1": (1, 0), "1/s": (1, 0)},
}


def conversion(given: str, wanted: str) -> tuple[float, float]:
    """Return (factor, offset) from the units `given` in a file to `wanted`.

    Units that are missing or that nobody has rules for are taken as they are; the physical range of
    the values is checked besides.

    Raises
    ------
    ValueError
        If `given` cannot be converted.
    """
    spelling = normalised(given)
    known = SPELLINGS.get(wanted, {})
    if not spelling or not wanted or spelling == normalised(wanted):
        return 1.0, 0.0
    if spelling in known:
        return known[spelling]
    raise ValueError(
        f"units = '{given}': expected '{wanted}' or one of "
        f"{', '.join(sorted(known)) or 'no other'}; correct the attribute"
    )


def normalised(units: str) -> str:
    """Return units as they are compared: "m**2 s**-2" and "m^2 s^-2" are "m2 s-2"."""
    return re.sub(r"\s+", " ", units.replace("**", "").replace("^", "")).strip().lower()
