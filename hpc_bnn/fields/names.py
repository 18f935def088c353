"""Names and units of ERA5 variables: many spellings in files, one short name and unit here.

One row a variable: short name (that of the Copernicus data store), units, the range that an
instantaneous value on Earth can have, and the other names files use: GRIB short names, WeatherBench
names, NCAR names (VAR_2T), CF standard names. Matching ignores case.

A *channel* is a variable on one level: "t2m", "z500".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

from hpc_bnn.data.source import BEYOND

GRAVITY = 9.80665  # m s-2, WMO standard: geopotential = gravity * geopotential height


@dataclass(frozen=True)
class Variable:
    """Describe one variable.

    smallest, largest: physical range in `units`; infinite where unknown.
    standard_name: of CF; several variables may share one (t and t2m).
    vector: a component of a horizontal vector: changes sign when carried over a pole.
    accumulated: sums over an interval, so not a state that a forecast can start from.
    on_levels: lies on pressure levels, so a file without levels may mean something else.
    """

    short: str
    long_name: str
    standard_name: str
    units: str
    smallest: float
    largest: float
    aliases: tuple[str, ...] = ()
    vector: bool = False
    accumulated: bool = False
    on_levels: bool = False


def _row(
    row: str, smallest: float, largest: float, *, on_levels: bool = False, vector: bool = False
) -> Variable:
    """Read "short | standard_name | units | aliases": the first alias is the name in words."""
    short, standard_name, units, names = (part.strip() for part in row.split("|"))
    aliases = tuple(names.split())
    long_name = (aliases[0] if aliases else standard_name).replace("_", " ")
    return Variable(
        short, long_name, standard_name, units, smallest, largest, aliases, vector,
        on_levels=on_levels,
    )  # fmt: skip


def _sum(short: str, units: str, alias: str) -> Variable:
    long_name = alias.replace("_", " ")
    return Variable(short, long_name, "", units, -math.inf, math.inf, (alias,), accumulated=True)


# Ranges: generous bounds around the extremes of ERA5; moisture and cloud may be slightly negative
# or above one from spectral transforms.
# fmt: off
_UPPER, _UPPER_VECTORS = (
    ("z | geopotential | m2 s-2 | geopotential gh zg hgt", -7e3, 5.5e5),
    ("t | air_temperature | K | temperature ta", 150, 350),
    ("w | lagrangian_tendency_of_air_pressure | Pa s-1 | vertical_velocity wap", -100, 100),
    ("q | specific_humidity | kg kg-1 | specific_humidity hus", -1e-3, 0.05),
    ("r | relative_humidity | % | relative_humidity hur", -50, 200),
    ("vo | atmosphere_relative_vorticity | s-1 | vorticity", -0.02, 0.02),
    ("d | divergence_of_wind | s-1 | divergence", -0.02, 0.02),
    ("pv | ertel_potential_vorticity | K m2 kg-1 s-1 | potential_vorticity", -1, 1),
    ("o3 | mass_fraction_of_ozone_in_air | kg kg-1 | ozone_mass_mixing_ratio", -1e-6, 1e-4),
    ("cc | | 1 | fraction_of_cloud_cover", -1e-3, 1.001),
    ("clwc | | kg kg-1 | specific_cloud_liquid_water_content", -1e-5, 0.02),
    ("ciwc | | kg kg-1 | specific_cloud_ice_water_content", -1e-5, 0.02),
), (
    ("u | eastward_wind | m s-1 | u_component_of_wind ua", -300, 300),
    ("v | northward_wind | m s-1 | v_component_of_wind va", -300, 300),
)
_SINGLE, _SINGLE_VECTORS = (
    ("t2m | air_temperature | K | 2m_temperature 2t var_2t tas", 150, 350),
    ("d2m | | K | 2m_dewpoint_temperature 2d var_2d", 150, 350),
    ("skt | | K | skin_temperature var_skt", 150, 400),
    ("msl | air_pressure_at_mean_sea_level | Pa | mean_sea_level_pressure mslp psl", 8.5e4, 1.1e5),
    ("sp | surface_air_pressure | Pa | surface_pressure ps", 3e4, 1.1e5),
    ("sst | sea_surface_temperature | K | sea_surface_temperature sstk", 260, 320),
    ("siconc | sea_ice_area_fraction | 1 | sea_ice_cover ci", -1e-3, 1.001),
    ("tcwv | | kg m-2 | total_column_water_vapour", -1, 150),
    ("tcc | cloud_area_fraction | 1 | total_cloud_cover", -1e-3, 1.001),
    ("blh | atmosphere_boundary_layer_thickness | m | boundary_layer_height", -10, 1e4),
    ("sd | | m | snow_depth", -1e-3, 20),
    ("swvl1 | | m3 m-3 | volumetric_soil_water_layer_1", -0.01, 1),
    ("lsm | land_binary_mask | 1 | land_sea_mask", -1e-3, 1.001),
    ("slt | | 1 | soil_type", -0.1, 10),
    ("sdor | | m | standard_deviation_of_orography", -1, 2e3),
), (
    ("u10 | eastward_wind | m s-1 | 10m_u_component_of_wind 10u var_10u uas", -100, 100),
    ("v10 | northward_wind | m s-1 | 10m_v_component_of_wind 10v var_10v vas", -100, 100),
    ("u100 | eastward_wind | m s-1 | 100m_u_component_of_wind 100u var_100u", -120, 120),
    ("v100 | northward_wind | m s-1 | 100m_v_component_of_wind 100v var_100v", -120, 120),
)
_SUMS = (
    ("tp", "m", "total_precipitation"),
    ("cp", "m", "convective_precipitation"),
    ("lsp", "m", "large_scale_precipitation"),
    ("sf", "m", "snowfall"),
    ("e", "m", "evaporation"),
    ("ro", "m", "runoff"),
    ("ssr", "J m-2", "surface_net_solar_radiation"),
    ("ssrd", "J m-2", "surface_solar_radiation_downwards"),
    ("str", "J m-2", "surface_net_thermal_radiation"),
    ("strd", "J m-2", "surface_thermal_radiation_downwards"),
    ("tsr", "J m-2", "top_net_solar_radiation"),
    ("ttr", "J m-2", "top_net_thermal_radiation"),
    ("tisr", "J m-2", "toa_incident_solar_radiation"),
    ("slhf", "J m-2", "surface_latent_heat_flux"),
    ("sshf", "J m-2", "surface_sensible_heat_flux"),
)
# fmt: on
VARIABLES: tuple[Variable, ...] = (
    *(_row(*row, on_levels=True) for row in _UPPER),
    *(_row(*row, on_levels=True, vector=True) for row in _UPPER_VECTORS),
    *(_row(*row) for row in _SINGLE),
    *(_row(*row, vector=True) for row in _SINGLE_VECTORS),
    *(_sum(*row) for row in _SUMS),
)


@cache
def _by_name() -> dict[str, Variable]:
    table: dict[str, Variable] = {}
    for variable in VARIABLES:
        for name in (variable.short, *variable.aliases):
            assert table.setdefault(name, variable) is variable, name
    return table


def find(name: str) -> Variable | None:
    """Return the variable that is spelled `name`, or None."""
    return _by_name().get(name.lower())


def identify(name: str, standard_name: str, *, on_levels: bool) -> Variable:
    """Return what a variable of a file is: by its name, else by its CF standard name.

    A variable that nobody knows keeps its own name, without units or range to check against.
    Without levels `air_temperature` may be any of several, so standard names are trusted for
    variables on levels and for unique names only.

    Raises
    ------
    ValueError
        If the name means one variable and the standard name another.
    """
    known = find(name)
    said = [v for v in VARIABLES if v.standard_name == standard_name and standard_name]
    if standard_name == "geopotential_height":
        said = [v for v in VARIABLES if v.short == "z"]
    if known is not None:
        if said and known.standard_name and known not in said:
            raise ValueError(
                f"the name means '{known.short}' ({known.long_name}) but standard_name = "
                f"'{standard_name}' means {' or '.join(repr(v.short) for v in said)}; expected one "
                "meaning: correct the file"
            )
        return known
    said = [v for v in said if v.on_levels == on_levels]
    if len(said) == 1 and (on_levels or standard_name not in ("air_temperature", "geopotential")):
        return said[0]
    return Variable(name, name, standard_name, "", -math.inf, math.inf)


def channel_name(variable: str, level_hpa: float | None) -> str:
    """Return the name of a variable on a level: "z500", or the variable's own at the surface.

    "u_10hPa" where the short form is a variable of its own, the wind 10 m above ground.
    """
    if level_hpa is None:
        return variable
    name = f"{variable}{level_hpa:g}"
    return name if find(name) is None else f"{variable}_{level_hpa:g}hPa"


def split_channel(name: str) -> tuple[str, float | None]:
    """Return variable and level of a channel name; "t2m" and "u10" are variables without level."""
    known = find(name)
    if known is not None:
        return known.short, None
    match = re.fullmatch(r"([A-Za-z][A-Za-z_]*?)_?(\d+(?:\.\d+)?)(?:hPa)?", name)
    variable = find(match[1]) if match else None
    if match and variable is not None and variable.on_levels:
        return variable.short, float(match[2])
    return name, None


def expected_range(variable: str, level_hpa: float | None) -> tuple[float, float]:
    """Return the physical range of a channel; geopotential has one for each level.

    Geopotential: 25 % and 12000 m2 s-2 around g * H * ln(1013 / p) with a scale height H of 7 km,
    wide enough for any weather, too narrow for Pa taken for hPa or metres taken for m2 s-2.
    """
    known = find(variable)
    if known is None:
        return -math.inf, math.inf
    if known.short == "z" and level_hpa is not None:
        middle = GRAVITY * 7000.0 * math.log(1013.25 / level_hpa)
        margin = 12000.0 + 0.25 * abs(middle)
        return middle - margin, middle + margin
    return known.smallest, known.largest


def is_signed(variable: str) -> bool | None:
    """Tell whether a variable has values of both signs around 0, such as wind; None: not known."""
    known = find(variable)
    if known is None or known.accumulated:
        return None
    return known.smallest == -known.largest


def possible_range(variable: str, level_hpa: float | None) -> tuple[float, float]:
    """Return the range that any value of a channel must lie in, finite for every variable."""
    low, high = expected_range(variable, level_hpa)
    return max(low, -BEYOND), min(high, BEYOND)


# Factor and offset -> spellings in files (lower case, without ** and ^).
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
