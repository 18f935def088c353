"""The toy atmosphere as other projects store fields: WeatherBench 2, anemoi-datasets, GRIB.

Each writer takes the folder of netCDF files that `write_toy` made and returns the path of the same
numbers in its format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr

from hpc_bnn.fields.names import find
from hpc_bnn.fields.toy_atmosphere import write_toy

TIMES = 12  # of the states of the toy atmosphere
LEVELS = (500.0, 850.0)
MARS = {"t2m": "2t", "u10": "10u", "v10": "10v"}
UPPER, SURFACE = ("z", "t", "u", "v"), ("t2m", "u10", "v10", "msl")
WANTED: dict[str, Any] = {"variables": [*SURFACE, *UPPER], "levels": LEVELS, "static": ["lsm"]}


def toy(folder: Path, **options: Any) -> Path:
    """Write a year of the toy atmosphere as netCDF, one state a day."""
    given = {"years": 1, "rows": 8, "columns": 16, "step_hours": 24, "levels": LEVELS} | options
    write_toy(folder, **given)
    return folder


def toy_data(source: Path, times: int = TIMES) -> xr.Dataset:
    """Return the fields of a toy atmosphere under the short names, levels increasing."""
    files = [xr.load_dataset(path) for path in sorted(source.glob("*[!2].nc"))]  # of one year
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


def anemoi(
    source: Path, path: Path, *, version: int = 2, steps: int = 1, times: int = TIMES
) -> Path:
    """Write a store as anemoi-datasets has them, all variables of a date in one chunk."""
    data = toy_data(source, times)
    names, fields = [], []
    for name in (*SURFACE, *UPPER):
        for level in LEVELS if name in UPPER else (None,):
            names.append(MARS.get(name, name) if level is None else f"{name}_{level:.0f}")
            one = data[name] if level is None else data[name].sel(level=level)
            fields.append(one.values)
    names.append("lsm")
    fields.append(np.broadcast_to(data["lsm"].values, fields[0].shape))
    values = np.stack(fields, axis=1).reshape(times, len(names), 1, -1)
    lat, lon = np.meshgrid(data["latitude"].values, data["longitude"].values, indexing="ij")
    arrays = {
        "data": (values, ("time", "variable", "ensemble", "cell")),
        "dates": (data["time"].values.astype("M8[s]"), ("time",)),
        "latitudes": (lat.ravel(), ("cell",)),
        "longitudes": (lon.ravel(), ("cell",)),
        "mean": (values.mean(axis=(0, 2, 3)), ("variable",)),
    }
    group = zarr.create_group(path, zarr_format=version)
    group.attrs.update({"variables": names, "missing_dates": [], "resolution": "22.5"})
    for name, (array, dimensions) in arrays.items():
        made = group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=(steps, *array.shape[1:]) if name == "data" else array.shape,
            **({"dimension_names": dimensions} if version == 3 else {}),
        )
        made[:] = array
        if version == 2:
            made.attrs["_ARRAY_DIMENSIONS"] = dimensions
    return path


def grib(source: Path, path: Path, *, edition: int = 2, times: int = TIMES) -> Path:
    """Write a GRIB file with the numbers as they are (grid_ieee), time by time."""
    data = toy_data(source, times)
    with path.open("wb") as file:
        mask = data["lsm"].assign_coords(time=data["time"][0])
        write_message(file, mask, "lsm", edition=edition)
        for at in range(times):
            for name in (*SURFACE, *UPPER):
                one = data[name].isel(time=at)
                for level in LEVELS if name in UPPER else (None,):
                    field = one if level is None else one.sel(level=level)
                    write_message(file, field, name, level=level, edition=edition)
    return path


def write_message(
    file: Any,
    field: xr.DataArray,
    name: str,
    *,
    level: float | None = None,
    edition: int = 2,
    **keys: Any,
) -> None:
    """Append one field (H, W), north first, as a message; skips the test without ecCodes."""
    eccodes = pytest.importorskip("eccodes", reason="no eccodes: pip install 'hpc_bnn[grib]'")
    handle = eccodes.codes_grib_new_from_samples(f"regular_ll_pl_grib{edition}")
    lat, lon = field["latitude"].values, field["longitude"].values
    stamp = np.datetime64(field["time"].values, "h").item()
    given: dict[str, Any] = {
        "Ni": len(lon),
        "Nj": len(lat),
        "latitudeOfFirstGridPointInDegrees": float(lat[0]),
        "latitudeOfLastGridPointInDegrees": float(lat[-1]),
        "longitudeOfFirstGridPointInDegrees": float(lon[0]),
        "longitudeOfLastGridPointInDegrees": float(lon[-1]),
        "iDirectionIncrementInDegrees": float(lon[1] - lon[0]),
        "jDirectionIncrementInDegrees": float(abs(lat[1] - lat[0])),
        "shortName": MARS.get(name, name),
        "dataDate": int(f"{stamp:%Y%m%d}"),
        "dataTime": int(f"{stamp:%H%M}"),
        "packingType": "grid_ieee",
    }
    if level is None and edition == 1:
        given["typeOfLevel"] = "surface"
    if level is not None:
        given |= {"typeOfLevel": "isobaricInhPa", "level": int(level)}
    for key, value in (given | keys).items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, field.values.astype(float).ravel())
    eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
