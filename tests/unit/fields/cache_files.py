"""Source files for caches, of every kind; and what their readers give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from era5_files import START, field, hours, state, write_legacy, write_new
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import Catalogue

LEVELS = [1000.0, 850.0, 500.0]
Make = Callable[[Path], Path]


def new(folder: Path) -> Path:
    write_new(folder / "a.nc", hours(9), ["t2m", "msl"], chunks=4)
    write_new(folder / "b.nc", hours(7, start=START + 9 * 6 * 3600), ["t2m", "msl"], chunks=None)
    write_new(folder / "p.nc", hours(16), ["z", "t"], levels=LEVELS, chunks=5)
    return folder


def turned(folder: Path) -> Path:
    latitude, longitude = np.linspace(-90, 90, 7), np.linspace(-180, 150, 12)
    write_new(folder / "a.nc", hours(8), ["t2m", "msl"], latitude=latitude, longitude=longitude)
    return folder


def legacy(folder: Path) -> Path:
    write_legacy(folder / "a.nc", hours(10), ["t2m", "msl"])
    write_legacy(folder / "b.nc", hours(5, start=START + 10 * 6 * 3600), ["t2m", "msl"], scale=0.01)
    write_legacy(folder / "p.nc", hours(15), ["t"], levels=LEVELS)
    return folder


def holes(folder: Path) -> Path:
    def change(name: str, values: NDArray[Any]) -> NDArray[Any]:
        values[2, 1, 3] = np.nan
        values[5] = np.nan
        return values

    write_new(folder / "a.nc", hours(8), ["t2m"], change=change)
    write_legacy(folder / "b.nc", hours(8), ["msl"], raw={(1, 2, 3): -32767})
    return folder


def absent(folder: Path) -> Path:
    write_new(folder / "a.nc", hours(8), ["t2m"])
    write_new(folder / "b.nc", hours(5), ["msl"])
    return folder


def chunked(folder: Path) -> Path:
    """Chunks over every dimension, levels chosen across them, rows stored from the south."""
    with netCDF4.Dataset(folder / "p.nc", "w") as dataset:
        axes = {
            "valid_time": hours(11),
            "pressure_level": np.array([1000.0, 925, 850, 700, 600, 500, 400]),
            "latitude": np.linspace(-90, 90, 7),
            "longitude": np.linspace(0, 330, 12),
        }
        for name, values in axes.items():
            dataset.createDimension(name, len(values))
            dataset.createVariable(name, values.dtype, (name,))[:] = values
        for name, units in (
            ("valid_time", "seconds since 1970-01-01"),
            ("pressure_level", "hPa"),
            ("latitude", "degrees_north"),
            ("longitude", "degrees_east"),
        ):
            dataset.variables[name].units = units
        v = dataset.createVariable("t", "f4", tuple(axes), zlib=True, chunksizes=(4, 3, 2, 5))
        v.units = "K"
        v[:] = [
            [field("t", int(t), p)[::-1] for p in axes["pressure_level"]]
            for t in axes["valid_time"]
        ]
    return folder


def versions(folder: Path) -> Path:
    """ERA5 and ERA5T along an axis of their own, each with holes where the other has values."""
    with netCDF4.Dataset(folder / "a.nc", "w", format="NETCDF3_64BIT_OFFSET") as dataset:
        axes = {
            "time": hours(6) // 3600,
            "expver": np.array([1, 5]),
            "latitude": np.linspace(90, -90, 7),
            "longitude": np.linspace(0, 330, 12),
        }
        for name, values in axes.items():
            dataset.createDimension(name, len(values))
            kind = "f8" if values.dtype.kind == "f" else "i4"
            dataset.createVariable(name, kind, (name,))[:] = values
        dataset.variables["time"].units = "hours since 1970-01-01"
        dataset.variables["latitude"].units = "degrees_north"
        dataset.variables["longitude"].units = "degrees_east"
        v = dataset.createVariable("t2m", "f4", tuple(axes), fill_value=-1.0)
        v.units = "K"
        values = np.full(v.shape, -1.0)
        for at, seconds in enumerate(hours(6)):
            values[at, int(at in (3, 5))] = field("t2m", int(seconds))
        v[:] = values
    return folder


MAKES = {f.__name__: f for f in (new, turned, legacy, holes, absent, chunked, versions)}


def write_static(folder: Path) -> None:
    with netCDF4.Dataset(folder / "static.nc", "w") as dataset:
        for name, values in (
            ("latitude", np.linspace(90, -90, 7)),
            ("longitude", np.linspace(0, 330, 12)),
        ):
            dataset.createDimension(name, len(values))
            v = dataset.createVariable(name, "f8", (name,))
            v.units = "degrees_north" if name == "latitude" else "degrees_east"
            v[:] = values
        v = dataset.createVariable("lsm", "f4", ("latitude", "longitude"), fill_value=np.nan)
        v.units = "1"
        v[:] = np.linspace(0, 1, 84).reshape(7, 12)
        v[0, 0] = np.nan


def everything(made: Catalogue) -> NDArray[np.float32]:
    """Read all complete times one by one."""
    return np.stack([state(made, at) for at in np.flatnonzero(made.present()).tolist()])


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b))
