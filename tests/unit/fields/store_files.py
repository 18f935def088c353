"""The toy atmosphere as other projects store fields: WeatherBench 2, anemoi-datasets, GRIB.

Each writer takes the folder of netCDF files that `write_toy` made and returns the path of the same
numbers in its format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from hpc_bnn.fields.names import find
from hpc_bnn.fields.toy_atmosphere import write_toy

TIMES = 12  # of the states of the toy atmosphere
LEVELS = (500.0, 850.0)
UPPER, SURFACE = ("z", "t", "u", "v"), ("t2m", "u10", "v10", "msl")
WANTED: dict[str, Any] = {"variables": [*SURFACE, *UPPER], "levels": LEVELS, "static": ["lsm"]}


def toy(folder: Path, **options: Any) -> Path:
    """Write a year of the toy atmosphere as netCDF, one state a day."""
    given = {"years": 1, "rows": 8, "columns": 16, "step_hours": 24, "levels": LEVELS} | options
    write_toy(folder, **given)
    return folder


def toy_data(source: Path, times: int = TIMES) -> xr.Dataset:
    """Return the fields of a toy atmosphere under the short names, levels increasing."""
    files = [xr.load_dataset(path) for path in sorted(source.glob("*.nc"))]
    data = xr.merge(files, compat="equals", join="exact")
    data = data.isel(valid_time=slice(times)).sortby("pressure_level")
    data = data.rename(valid_time="time", pressure_level="level")
    return data.drop_vars(["number", "expver"], errors="ignore")


def weatherbench(source: Path, path: Path, *, version: int = 2, **options: Any) -> Path:
    """Write a zarr store as WeatherBench 2 has them: long names, south first, longitude before
    latitude, one step a chunk.
    """
    data = weatherbench_data(source, options.pop("times", TIMES))
    steps, compressor = options.pop("steps", 1), options.pop("compressor", None)
    more = {} if compressor is None else {"compressors": (compressor,)}
    encoding = {
        name: {"chunks": (steps, *v.shape[1:])} | more
        for name, v in data.items()
        if v.dims[0] == "time"
    }
    for v in data.variables.values():
        v.encoding.clear()
    data.to_zarr(path, zarr_format=version, encoding=encoding, consolidated=True, **options)
    return path


def weatherbench_data(source: Path, times: int = TIMES) -> xr.Dataset:
    """Return the fields under the names and in the order of WeatherBench 2."""
    data = toy_data(source, times)
    long = {}
    for name in (*UPPER, *SURFACE, "lsm"):
        known = find(name)
        assert known is not None
        long[name] = known.aliases[0]
        data[name].attrs = {"units": data[name].attrs["units"], "short_name": name}
    data = data.rename(long).sortby("latitude").assign_coords(level=data.level.astype(int))
    for name in ("latitude", "longitude", "level", "time"):
        data[name].attrs = {}
    return data.transpose("time", "level", "longitude", "latitude")
