"""CPU time of reading one step of the atmosphere, beside plain loops over netCDF4 and xarray.

    python tests/bench/reader.py                      both grids, about two minutes
    python tests/bench/reader.py 32x64 --rounds 40

Files as large ERA5 users keep them: one year's worth of new-CDS layout, but cut by steps and not
compressed; 69 channels (t2m, u10, v10, msl, and z, t, u, v, q on 13 levels) of float32 noise. All
contenders fill a float32 array (C, H, W) with steps in the same random order, from files that the
kernel holds in memory: software is compared, not discs.

``netCDF4`` reads and copies, with masking and scaling off, and gives the numbers as stored;
``netCDF4, decoded`` also normalises them, variable by variable, and looks for NaN, as the reader
does. ``pairs``: a step and the next one, which is what forecast windows ask for. ``xarray`` is left
out where it is not installed.
"""

import argparse
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import netCDF4
import numpy as np
from interleave import interleave, spread
from numpy.typing import NDArray
from report import Row, Target, publish

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.reader import Reader

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
LOOP, DECODED, XARRAY = "netCDF4", "netCDF4, decoded", "xarray"
PHYSICAL, NORMALISED = "Reader, physical", "Reader, normalised"
PAIRS = "Reader, normalised, pairs"

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


class Files:
    """The plain loops: variables of open files, read one after another into an array."""

    def __init__(self, folder: Path) -> None:
        self._open = [netCDF4.Dataset(folder / f"{name}.nc") for name in ("single", "pressure")]
        for dataset in self._open:
            dataset.set_auto_maskandscale(False)
        single, pressure = self._open
        self._surface = [single.variables[name] for name in SURFACE]
        self._upper = [pressure.variables[name] for name in UPPER]
        mean, std = scales()
        self._mean = mean.astype(np.float32)[:, None, None]
        self._factor = (1 / std).astype(np.float32)[:, None, None]

    def copy(self, step: int, out: Fields) -> None:
        """Read as stored."""
        for k, variable in enumerate(self._surface):
            out[k] = variable[step]
        at = len(self._surface)
        for variable in self._upper:
            out[at : at + len(LEVELS)] = variable[step]
            at += len(LEVELS)

    def decode(self, step: int, out: Fields) -> None:
        """Read normalised."""
        at = 0
        for variable in (*self._surface, *self._upper):
            raw = variable[step]
            raw = raw if raw.ndim == 3 else raw[None]
            part = slice(at, at + len(raw))
            np.subtract(raw, self._mean[part], out=out[part])
            np.multiply(out[part], self._factor[part], out=out[part])
            at += len(raw)
        if np.isnan(out).any():
            raise ValueError(f"step {step} has missing values")

    def close(self) -> None:
        for dataset in self._open:
            dataset.close()


def xarray_read(folder: Path) -> Callable[[int, Fields], None] | None:
    """Return the loop over xarray; None where it is not installed."""
    try:
        import xarray
    except ImportError:
        print("left out: xarray cannot be imported; pip install xarray")
        return None
    single = xarray.open_dataset(folder / "single.nc", cache=False)
    pressure = xarray.open_dataset(folder / "pressure.nc", cache=False)
    variables = [single[name] for name in SURFACE] + [pressure[name] for name in UPPER]

    def read(step: int, out: Fields) -> None:
        at = 0
        for variable in variables:
            values = variable[step].values
            count = len(values) if values.ndim == 3 else 1
            out[at : at + count] = values
            at += count

    return read


def normalising(folder: Path) -> Reader:
    """Return the reader as forecast windows use it."""
    mean, std = scales()
    return Reader(chosen(folder), mean=mean, std=std)


def chosen(folder: Path) -> Catalogue:
    """Return the catalogue with the channels in the order of the plain loops."""
    order = [*SURFACE, *(f"{name}{level}" for name in UPPER for level in LEVELS)]
    return catalogue(folder).select(order)


def build(folder: Path, reader: Reader) -> dict[str, Callable[[int, Fields], None]]:
    """Return the contenders: each reads one step."""
    plain = Files(folder)
    readers: dict[str, Callable[[int, Fields], None]] = {
        LOOP: plain.copy,
        DECODED: plain.decode,
        PHYSICAL: Reader(chosen(folder)).read,
        NORMALISED: reader.read,
    }
    other = xarray_read(folder)
    return readers | ({XARRAY: other} if other else {})


def agree(readers: dict[str, Callable[[int, Fields], None]], shape: tuple[int, int, int]) -> None:
    """Refuse contenders that do not read the same."""
    got = {name: np.empty(shape, np.float32) for name in readers}
    for name, read in readers.items():
        read(3, got[name])
    for name, like in ((PHYSICAL, LOOP), (NORMALISED, DECODED), (XARRAY, LOOP)):
        if name in got and not np.array_equal(got[name], got[like]):
            raise AssertionError(f"{name} and {like} read different numbers")


def several(
    read: Callable[[int, Fields], None], steps: Iterator[int], outs: Sequence[Fields], count: int
) -> Callable[[], None]:
    """Return a run of ``count`` reads into ``outs`` by turns."""

    def run() -> None:
        for step, out in zip(itertools.islice(steps, count), itertools.cycle(outs), strict=False):
            read(step, out)

    return run


def pairs(reader: Reader, steps: Iterator[int], outs: Sequence[Fields], count: int) -> None:
    """Read ``count`` steps, always two neighbours together."""
    for step in itertools.islice(steps, count // 2):
        reader.read_all([step, step + 1], outs)


def measure(name: str, *, rounds: int) -> None:
    """Time the contenders on one grid and publish them as ``reader-NAME``."""
    rows, columns, steps, count = GRIDS[name]
    shape = (len(SURFACE) + len(UPPER) * len(LEVELS), rows, columns)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), rows, columns, steps)
        reader = normalising(Path(folder))
        readers = build(Path(folder), reader)
        agree(readers, shape)
        order = random.Random(0).sample(range(steps), steps)
        outs = [np.empty(shape, np.float32) for _ in range(2)]
        runs: dict[str, Callable[[], None]] = {
            contender: several(read, itertools.cycle(order), outs, count)
            for contender, read in readers.items()
        }
        firsts = itertools.cycle(step for step in order if step + 1 < steps)
        runs[PAIRS] = partial(pairs, reader, firsts, outs, count)
        timings = interleave(runs, rounds=rounds)
    cpu = {
        contender: spread([count / run.cpu_s for run in timed])
        for contender, timed in timings.items()
    }
    table: list[Row] = [
        {
            "contender": contender,
            "steps_per_cpu_s": found.median,
            "q1": found.lower,
            "q3": found.upper,
            "ratio": found.median / cpu[LOOP].median,
            "rounds": rounds,
        }
        for contender, found in cpu.items()
    ]
    publish(f"reader-{name}", table, targets({k: v.median for k, v in cpu.items()}))


def targets(steps_per_s: dict[str, float]) -> list[Target]:
    """Return what the reader should reach; ratios of medians of steps per CPU second."""
    ours = steps_per_s[NORMALISED]
    found = [
        Target(f"{name} / {LOOP}", steps_per_s[name] / steps_per_s[LOOP], least=0.9)
        for name in (PHYSICAL, NORMALISED, PAIRS)
    ]
    found.append(Target(f"{NORMALISED} / {DECODED}", ours / steps_per_s[DECODED], least=1.0))
    if XARRAY in steps_per_s:
        found.append(Target(f"{NORMALISED} / {XARRAY}", ours / steps_per_s[XARRAY], least=2.0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("grids", nargs="*", help=f"of {', '.join(GRIDS)}; none: all")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    for name in arguments.grids or list(GRIDS):
        if name not in GRIDS:
            parser.error(f"{name}: expected one of {', '.join(GRIDS)}")
        measure(name, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
