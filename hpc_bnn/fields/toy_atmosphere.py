"""Writes years of a made-up atmosphere as ERA5-format files, for demos and tests (toy_waves.py).

    FOLDER/single_levels_2001.nc     t2m, u10, v10, msl
    FOLDER/pressure_levels_2001.nc   z, t, u, v
    FOLDER/static.nc                 lsm

format "new": the layout of the Copernicus data store since 2024, but for the chunks, which hold one
step (the store's hold hundreds, which makes reading single steps slow). "legacy": the layout before
it: netCDF-3, 16-bit integers packed with a scale and an offset per file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.files import SUFFIXES
from hpc_bnn.fields.ingest.netcdf import library_lock
from hpc_bnn.fields.names import find
from hpc_bnn.fields.toy_waves import ToyGrid, ToyWaves, land_mask, toy_fields, toy_grid

FIRST_YEAR = 2001
SURFACE = ("t2m", "u10", "v10", "msl")
UPPER = ("z", "t", "u", "v")
BLOCK_VALUES = 1 << 22  # fields are made in blocks of about so many points, to bound the memory
FILL = -32767
HISTORY = (
    "Synthetic: waves carried by a zonal flow, made by hpc_bnn (toy_atmosphere). Not ERA5, not a "
    "simulation of the Earth; for demonstration and tests only."
)


@dataclass(frozen=True, eq=False)
class _Year:
    """Amplitudes (T, P, M, H) and times (T,) of one file."""

    grid: ToyGrid
    times_s: NDArray[np.int64]
    amplitudes: NDArray[np.complex64]

    def blocks(self) -> Iterator[tuple[slice, dict[str, NDArray[np.float32]]]]:
        """Compute the fields, some steps at a time."""
        levels, _, rows = self.amplitudes.shape[1:]
        length = max(1, BLOCK_VALUES // (levels * rows * len(self.grid.longitude)))
        for first in range(0, len(self.times_s), length):
            part = slice(first, min(first + length, len(self.times_s)))
            yield part, toy_fields(self.grid, self.amplitudes[part], self.times_s[part])


def write_toy(
    folder: str | Path,
    *,
    years: int = 2,
    rows: int = 32,
    columns: int = 64,
    step_hours: int = 6,
    levels: Sequence[float] = (500.0, 850.0),
    seed: int = 0,
    format: Literal["new", "legacy"] = "new",
) -> list[Path]:
    """Write the files of `years` years from 2001 on; return their paths.

    The values depend on the arguments only, but not on `format`.
    rows: an odd number includes the poles.
    levels: in hPa.

    Raises
    ------
    ValueError
        If an argument is out of range.
    FileExistsError
        If the folder has netCDF files already.
    """
    _check(years, step_hours, levels, seed, format)
    grid = toy_grid(rows, columns, tuple(float(level) for level in levels))
    folder = Path(folder)
    _make_empty(folder)
    start = _seconds(FIRST_YEAR)
    waves = ToyWaves(grid, step_s=step_hours * 3600.0, start_s=start, seed=seed)
    attributes = {"title": "Toy atmosphere (synthetic)", "history": HISTORY, "seed": np.int32(seed)}
    written = [folder / "static.nc"]
    with _create(written[0], format, attributes) as dataset:
        _horizontal(dataset, grid)
        mask = _variable(dataset, "lsm", "f4", ("latitude", "longitude"), format)
        mask[:] = land_mask(grid)
    for year in range(FIRST_YEAR, FIRST_YEAR + years):
        times_s = np.arange(start, _seconds(year + 1), step_hours * 3600)
        start = int(times_s[-1]) + step_hours * 3600
        made = _Year(grid, times_s, waves.run(len(times_s)))
        single = folder / f"single_levels_{year}.nc"
        upper = folder / f"pressure_levels_{year}.nc"
        write = _write_new if format == "new" else _write_legacy
        with _create(single, format, attributes) as s, _create(upper, format, attributes) as u:
            write(s, u, made)
        written += [single, upper]
    return written


def _make_empty(folder: Path) -> None:
    """Make a folder for the files; refuse one that holds data, which they would mix with."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise type(error)(f"{folder}: cannot be made or searched: {error.strerror}") from error
    if there:
        raise FileExistsError(
            f"{folder}: has {there[0].relative_to(folder)} already: give an empty folder, or "
            "remove its files"
        )


def _write_new(single: netCDF4.Dataset, upper: netCDF4.Dataset, year: _Year) -> None:
    shape = (1, len(year.grid.latitude), len(year.grid.longitude))
    with library_lock():
        for dataset in (single, upper):
            dataset.Conventions = "CF-1.7"
            dataset.createDimension("valid_time", len(year.times_s))
            number = dataset.createVariable("number", "i8", ())
            number.setncatts({"long_name": "ensemble member", "standard_name": "realization"})
            number[...] = 0
            time = dataset.createVariable("valid_time", "i8", ("valid_time",))
            time.setncatts(
                {
                    "standard_name": "time",
                    "units": "seconds since 1970-01-01",
                    "calendar": "proleptic_gregorian",
                }
            )
            time[:] = year.times_s
            version = dataset.createVariable("expver", str, ("valid_time",))
            version[:] = np.array(["0001"] * len(year.times_s), object)
        order = _levels(upper, "pressure_level", "hPa", year.grid, descending=True)
        for dataset in (single, upper):
            _horizontal(dataset, year.grid)
        flat = ("valid_time", "latitude", "longitude")
        deep = ("valid_time", "pressure_level", "latitude", "longitude")
        targets = {n: _variable(single, n, "f4", flat, "new", shape) for n in SURFACE}
        chunk = (1, len(order), *shape[1:])
        targets |= {n: _variable(upper, n, "f4", deep, "new", chunk) for n in UPPER}
    for part, fields in year.blocks():
        with library_lock():
            for name, target in targets.items():
                target[part] = fields[name][:, order] if name in UPPER else fields[name]


def _write_legacy(single: netCDF4.Dataset, upper: netCDF4.Dataset, year: _Year) -> None:
    low, high = dict.fromkeys(SURFACE + UPPER, np.inf), dict.fromkeys(SURFACE + UPPER, -np.inf)
    for _, fields in year.blocks():
        for name, values in fields.items():
            low[name] = min(low[name], float(values.min()))
            high[name] = max(high[name], float(values.max()))
    with library_lock():
        for dataset in (single, upper):
            dataset.Conventions = "CF-1.6"
            dataset.createDimension("time", None)
            time = dataset.createVariable("time", "i4", ("time",))
            time.setncatts({"units": "hours since 1900-01-01 00:00:00.0", "calendar": "gregorian"})
        order = _levels(upper, "level", "millibars", year.grid, descending=False)
        for dataset in (single, upper):
            _horizontal(dataset, year.grid)
        targets, packed = {}, {}
        for name in SURFACE + UPPER:
            axes = ("time", *(("level",) if name in UPPER else ()), "latitude", "longitude")
            target = _variable(upper if name in UPPER else single, name, "i2", axes, "legacy")
            packed[name] = ((high[name] - low[name]) / 65532, 0.5 * (high[name] + low[name]))
            target.scale_factor, target.add_offset = packed[name]
            target.missing_value = np.int16(FILL)
            target.set_auto_maskandscale(False)
            targets[name] = target
        hours = (year.times_s - _seconds(1900)) // 3600
        for dataset in (single, upper):
            dataset.variables["time"][:] = hours
    for part, fields in year.blocks():
        with library_lock():
            for name, target in targets.items():
                scale, offset = packed[name]
                values = fields[name][:, order] if name in UPPER else fields[name]
                raw = np.rint((values.astype(np.float64) - offset) / scale).astype(np.int16)
                target[part] = raw


def _create(path: Path, format: str, attributes: dict[str, Any]) -> netCDF4.Dataset:
    kind: Literal["NETCDF4", "NETCDF3_64BIT_OFFSET"]
    kind = "NETCDF4" if format == "new" else "NETCDF3_64BIT_OFFSET"
    with library_lock():
        dataset = netCDF4.Dataset(path, "w", format=kind)
        dataset.setncatts(attributes)
    return dataset


def _horizontal(dataset: netCDF4.Dataset, grid: ToyGrid) -> None:
    for name, values, units in (
        ("latitude", grid.latitude, "degrees_north"),
        ("longitude", grid.longitude, "degrees_east"),
    ):
        dataset.createDimension(name, len(values))
        variable = dataset.createVariable(name, "f8", (name,))
        variable.setncatts({"units": units, "standard_name": name})
        variable[:] = values


def _levels(
    dataset: netCDF4.Dataset, name: str, units: str, grid: ToyGrid, *, descending: bool
) -> list[int]:
    """Write the levels; return in which order those of the grid are stored."""
    levels = grid.levels_hpa[1:]
    order: list[int] = np.argsort(-levels if descending else levels).tolist()
    dataset.createDimension(name, len(levels))
    variable = dataset.createVariable(name, "f8" if descending else "i4", (name,))
    variable.setncatts({"units": units, "long_name": "pressure", "standard_name": "air_pressure"})
    variable[:] = levels[order]
    return order


def _variable(
    dataset: netCDF4.Dataset,
    name: str,
    dtype: str,
    axes: tuple[str, ...],
    format: str,
    chunks: tuple[int, ...] | None = None,
) -> Any:
    known = find(name)
    assert known is not None
    options: dict[str, Any] = {"fill_value": np.float32(np.nan) if dtype == "f4" else FILL}
    if format == "new":
        options |= {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": chunks}
    variable = dataset.createVariable(name, dtype, axes, **options)
    units = known.units.replace("-", "**-").replace("m2", "m**2")  # as ERA5 writes them
    variable.setncatts({"units": units, "long_name": f"{known.long_name} (synthetic)"})
    if known.standard_name:
        variable.standard_name = known.standard_name
    if format == "new" and len(axes) > 2:
        variable.GRIB_stepType = "instant"
    return variable


def _seconds(year: int) -> int:
    return int((datetime(year, 1, 1) - datetime(1970, 1, 1)).total_seconds())


def _check(years: int, step_hours: int, levels: Sequence[float], seed: int, format: str) -> None:
    if years < 1 or seed < 0 or step_hours < 1 or 24 % step_hours:
        raise ValueError(
            f"toy atmosphere: years = {years}, step_hours = {step_hours}, seed = {seed}: expected "
            "at least one year, a step that divides 24 hours, and a seed of at least 0"
        )
    good = all(0 < level <= 1000 for level in levels) and len(set(levels)) == len(levels)
    if not levels or not good:
        raise ValueError(
            f"toy atmosphere: levels = {list(levels)}: expected different pressures above 0 and up "
            "to 1000 hPa, such as [850, 500]"
        )
    if format not in ("new", "legacy"):
        raise ValueError(f"toy atmosphere: format = '{format}': expected 'new' or 'legacy'")
    if format == "legacy" and any(level != int(level) for level in levels):
        raise ValueError("toy atmosphere: levels of the legacy format are whole millibars")
