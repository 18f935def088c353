"""Small files in the formats of ERA5, made by the tests; values depend on place and time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.values import Values

LATITUDE: NDArray[np.float64] = np.linspace(90, -90, 7)
LONGITUDE: NDArray[np.float64] = np.linspace(0, 330, 12)
START = 1483228800  # 2017-01-01T00:00
HOUR = 3600
BASE = {
    "t2m": 280.0,
    "msl": 101000.0,
    "u10": 1.0,
    "v10": -1.0,
    "t": 260.0,
    "z": 54000.0,
    "sst": 290.0,
    "lsm": 0.0,
    "slt": 0.0,
}
UNITS = {"msl": "Pa", "u10": "m s**-1", "v10": "m s**-1", "z": "m**2 s**-2"}
UNITS |= {"lsm": "(0 - 1)", "slt": "~"}


def field(name: str, seconds: int, level: float = 500.0) -> NDArray[np.float64]:
    """Return the field (7, 12) of a variable at a time, north to south from longitude 0."""
    lat, lon = np.meshgrid(np.radians(LATITUDE), np.radians(LONGITUDE), indexing="ij")
    t = (seconds - START) / 86400
    if name == "z":
        base = 9.80665 * 7000 * np.log(1013.25 / level)
    else:
        base = BASE[name]
    values: NDArray[np.float64] = (
        base + 5 * np.sin(lon - t) * np.cos(lat) + 3 * np.sin(lat) + 0.01 * level
    )
    return values


def hours(count: int, step: int = 6, start: int = START) -> NDArray[np.int64]:
    """Return times `step` hours apart."""
    return start + np.arange(count) * step * HOUR


def state(catalogue: Catalogue, at: int = 0) -> NDArray[np.float32]:
    """Read the values (C, H, W) of a catalogue at one time."""
    values = Values(catalogue)
    fields: NDArray[np.float32] = values.read(range(len(catalogue.channels)), at, at + 1)[0]
    values.close()
    return fields


def write_new(
    path: Path,
    times: Sequence[int] | NDArray[np.int64],
    names: Sequence[str] = ("t2m",),
    *,
    levels: Sequence[float] = (),
    change: Any = None,
    expver: Sequence[str] | None = None,
    latitude: NDArray[np.float64] = LATITUDE,
    longitude: NDArray[np.float64] = LONGITUDE,
    chunks: int | None = 1,
    attributes: dict[str, Any] | None = None,
    calendar: str = "proleptic_gregorian",
    level_units: str = "hPa",
    level_name: str = "pressure_level",
    rename: dict[str, str] | None = None,
) -> Path:
    """Write a file in the layout since 2024; `change(name, values)` may edit (T, ...) arrays."""
    times, rename = np.asarray(times, np.int64), rename or {}
    rows, columns = _places(LATITUDE, latitude), _places(LONGITUDE, longitude % 360)
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("valid_time", len(times))
        v = dataset.createVariable("valid_time", "i8", ("valid_time",))
        v.setncatts({"units": "seconds since 1970-01-01", "calendar": calendar})
        v[:] = times
        dataset.createVariable("number", "i8", ())[...] = 0
        v = dataset.createVariable("expver", str, ("valid_time",))
        v[:] = np.array(expver or ["0001"] * len(times), object)
        _axes(dataset, latitude, longitude)
        if levels:
            dataset.createDimension(level_name, len(levels))
            v = dataset.createVariable(level_name, "f8", (level_name,))
            v.units = level_units
            v[:] = np.asarray(levels) * (100 if level_units == "Pa" else 1)
        for name in names:
            axes = ("valid_time", *((level_name,) if levels else ()), "latitude", "longitude")
            values = np.stack(
                [
                    np.stack([field(name, int(t), p)[rows][:, columns] for p in levels or [500.0]])
                    for t in times
                ]
            ).astype(np.float32)
            values = values if levels else values[:, 0]
            if change is not None:
                values = change(name, values)
            size = None if chunks is None else (chunks, *values.shape[1:])
            v = dataset.createVariable(
                rename.get(name, name), "f4", axes, zlib=True, complevel=1, fill_value=np.nan,
                chunksizes=size,
            )  # fmt: skip
            v.setncatts({"units": UNITS.get(name, "K"), "GRIB_stepType": "instant"})
            v.setncatts(attributes or {})
            v[:] = values
    return path


def write_legacy(
    path: Path,
    times: Sequence[int] | NDArray[np.int64],
    names: Sequence[str] = ("t2m",),
    *,
    levels: Sequence[float] = (),
    scale: float = 0.002,
    attributes: dict[str, Any] | None = None,
    raw: dict[tuple[int, ...], int] | None = None,
    unlimited: bool = True,
    kind: Any = "NETCDF3_64BIT_OFFSET",
) -> Path:
    """Write a file in the layout before 2024: netCDF-3, packed; `raw` sets single raw numbers."""
    times = np.asarray(times, np.int64)
    with netCDF4.Dataset(path, "w", format=kind) as dataset:
        dataset.createDimension("time", None if unlimited else len(times))
        v = dataset.createVariable("time", "i4", ("time",))
        v.setncatts({"units": "hours since 1900-01-01 00:00:00.0", "calendar": "gregorian"})
        v[:] = times // HOUR + 613608
        _axes(dataset, LATITUDE, LONGITUDE)
        if levels:
            dataset.createDimension("level", len(levels))
            v = dataset.createVariable("level", "i4", ("level",))
            v.units = "millibars"
            v[:] = np.asarray(levels)
        for name in names:
            axes = ("time", *(("level",) if levels else ()), "latitude", "longitude")
            values = np.stack(
                [np.stack([field(name, int(t), p) for p in levels or [500.0]]) for t in times]
            )
            values = values if levels else values[:, 0]
            v = dataset.createVariable(name, "i2", axes, fill_value=-32767)
            offset = float(values.mean())
            v.setncatts(
                {"scale_factor": scale, "add_offset": offset, "units": UNITS.get(name, "K")}
            )
            v.missing_value = np.int16(-32767)
            v.setncatts(attributes or {})
            v.set_auto_maskandscale(False)
            packed = np.rint((values - offset) / scale).astype(np.int16)
            for place, number in (raw or {}).items():
                packed[place] = number
            v[:] = packed
    return path


def _axes(
    dataset: netCDF4.Dataset, latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> None:
    for name, values in (("latitude", latitude), ("longitude", longitude)):
        dataset.createDimension(name, len(values))
        v = dataset.createVariable(name, "f8", (name,))
        v.units = "degrees_north" if name == "latitude" else "degrees_east"
        v[:] = values


def _places(all_values: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """Find the nearest values; places off the grid take the field of their neighbour."""
    places: NDArray[np.int64] = np.argmin(np.abs(all_values - wanted[:, None]), axis=1)
    return places
