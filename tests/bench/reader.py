"""Files of one year in the layout of the data store, as large as users keep them, to be read.

Cut by steps and not compressed; 69 channels (t2m, u10, v10, msl, and z, t, u, v, q on 13 levels) of
float32 noise.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue

SURFACE = ("t2m", "u10", "v10", "msl")
UPPER = ("z", "t", "u", "v", "q")
LEVELS = (1000, 925, 850, 700, 600, 500, 400, 300, 250, 200, 150, 100, 50)
# Name: rows, columns, stored steps, steps a timing reads.
GRIDS = {"32x64": (32, 64, 1460, 40), "121x240": (121, 240, 120, 6)}
# Units, mean and standard deviation of the noise; the mean of z is that of each level.
NOISE = {
    "t2m": ("K", 280.0, 8.0),
    "msl": ("Pa", 1e5, 512.0),
    "z": ("m**2 s**-2", 0.0, 512.0),
    "t": ("K", 250.0, 8.0),
    "q": ("kg kg**-1", 0.01, 0.001),
}
AXES = {
    "valid_time": "seconds since 1970-01-01",
    "pressure_level": "hPa",
    "latitude": "degrees_north",
    "longitude": "degrees_east",
}
WIND = ("m s**-1", 0.5, 8.0)

Fields = NDArray[np.float32]


def write(folder: Path, rows: int, columns: int, steps: int) -> None:
    """Write the two files."""
    generator = np.random.default_rng(0)
    for name, variables, levels in (("single", SURFACE, ()), ("pressure", UPPER, LEVELS)):
        with netCDF4.Dataset(folder / f"{name}.nc", "w") as dataset:
            axes = {"valid_time": 6 * 3600 * np.arange(steps) + 978307200}
            if levels:
                axes["pressure_level"] = np.array(levels, float)
            axes["latitude"] = np.linspace(90, -90, rows) if rows % 2 else _centres(rows)
            axes["longitude"] = np.arange(columns) * 360 / columns
            for axis, values in axes.items():
                dataset.createDimension(axis, len(values))
                dataset.createVariable(axis, values.dtype, (axis,))[:] = values
                dataset.variables[axis].units = AXES[axis]
            dataset.variables["valid_time"].calendar = "proleptic_gregorian"
            shape = [len(values) for values in axes.values()]
            for variable in variables:
                made = dataset.createVariable(
                    variable, "f4", tuple(axes), chunksizes=[1, *shape[1:]], fill_value=np.nan
                )
                made.units, mean, std = NOISE.get(variable, WIND)
                for step in range(steps):
                    noise = std * generator.standard_normal(shape[1:], np.float32)
                    made[step] = noise + (mean if variable != "z" else _geopotential(LEVELS))


def scales() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation (C,) of the channels."""
    names = [*SURFACE, *(name for name in UPPER for _ in LEVELS)]
    mean, std = np.array([NOISE.get(name, WIND)[1:] for name in names]).T
    mean[np.array(names) == "z"] = _geopotential(LEVELS).ravel()
    return mean, std


def _geopotential(levels_hpa: Sequence[float]) -> NDArray[np.float64]:
    """Compute that of the standard atmosphere at levels (L,), as (L, 1, 1)."""
    height_m = 44330.8 * (1 - (np.array(levels_hpa) / 1013.25) ** 0.190263)
    return 9.80665 * height_m[:, None, None]


def _centres(rows: int) -> NDArray[np.float64]:
    return 90 - (np.arange(rows) + 0.5) * 180 / rows


def chosen(folder: Path) -> Catalogue:
    """Return the catalogue with the channels in one order."""
    return catalogue(folder, variables=[*SURFACE, *UPPER], levels=LEVELS)


def several(
    read: Callable[[int, Fields], None], steps: Iterator[int], outs: Sequence[Fields], count: int
) -> Callable[[], None]:
    """Return a run of ``count`` reads into ``outs`` by turns."""

    def run() -> None:
        for step, out in zip(itertools.islice(steps, count), itertools.cycle(outs), strict=False):
            read(step, out)

    return run
