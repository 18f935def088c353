"""CPU time of reading from a cache and of making one.

    python tests/bench/cache.py                       all, about five minutes
    python tests/bench/cache.py 32x64 --rounds 40     one grid, reading only
    python tests/bench/cache.py repack

Reading: one step (C, H, W) of 69 channels in random order, against ``out[...] = fields[step]`` on a
``numpy.memmap`` of the same file, which neither normalises nor looks for missing values; also from
repacked netCDF files, one step a chunk with checksums. Repacking, into both formats: megabytes of
float32 that are written for each second of CPU, from files as `reader.py` makes them,
and from files compressed in the chunks that the netCDF library chooses, as the data store delivers
them; there also how many times faster a random step is read afterwards.

Everything is held in memory by the kernel: software is compared, not discs. CPU time of the process
is what a busy machine spoils least; ratios under load are fair, absolute figures are not.
"""

import argparse
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import netCDF4
import numpy as np
from hpc_bnn.fields.cache.repack import repack
from interleave import interleave, spread, timed
from numpy.typing import NDArray
from reader import GRIDS, chosen, scales, several, write
from report import Row, Target, publish

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.reader import Reader

LEAST = {"32x64": 0.7, "121x240": 0.85}
LEAST_MB_PER_CPU_S, LEAST_SPEEDUP = 100.0, 300.0
MAP, NORMALISED, PHYSICAL, PAIRS = "memmap", "cache, normalised", "cache, physical", "cache, pairs"
NETCDF = "netCDF, normalised"
STORE = GRIDS["32x64"][:3]  # rows, columns, steps of the compressed files: a year every 6 h

Fields = NDArray[np.float32]


def cached(folder: Path, source: Catalogue) -> Catalogue:
    """Return the catalogue of a cache with the channels in the order of ``source``."""
    repack(source, folder)
    return catalogue(folder).select(source.names)


def repacked_files(folder: Path, source: Catalogue) -> Catalogue:
    """Return the catalogue of netCDF files with the channels in the order of ``source``."""
    repack(source, folder, format="netcdf")
    return catalogue(folder).select(source.names)


def read(name: str, *, rounds: int) -> None:
    """Time the readers on one grid and publish them as ``cache-NAME``."""
    rows, columns, steps, count = GRIDS[name]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "source").mkdir()
        write(folder / "source", rows, columns, steps)
        source = chosen(folder / "source")
        made = cached(folder / "cache", source)
        mean, std = scales()
        reader = Reader(made, mean=mean, std=std)
        files = Reader(repacked_files(folder / "netcdf", source), mean=mean, std=std)
        fields = np.load(folder / "cache" / "fields.npy", mmap_mode="r")

        def copy(step: int, out: Fields) -> None:
            out[...] = fields[step]

        order = random.Random(0).sample(range(steps), steps)
        outs = [np.empty(made.shape, np.float32) for _ in range(2)]
        _agree(Reader(source, mean=mean, std=std), reader, outs)
        contenders: dict[str, Callable[[int, Fields], None]] = {
            MAP: copy,
            NORMALISED: reader.read,
            PHYSICAL: Reader(made).read,
            NETCDF: files.read,
        }
        runs: dict[str, Callable[[], None]] = {
            contender: several(one, itertools.cycle(order), outs, 2 * count)
            for contender, one in contenders.items()
        }
        firsts = itertools.cycle(step for step in order if step + 1 < steps)
        runs[PAIRS] = partial(_pairs, reader, firsts, outs, 2 * count)
        timings = interleave(runs, rounds=rounds)
    cpu = {k: spread([2 * count / run.cpu_s for run in timed]) for k, timed in timings.items()}
    table: list[Row] = [
        {
            "contender": contender,
            "steps_per_cpu_s": found.median,
            "q1": found.lower,
            "q3": found.upper,
            "ratio": found.median / cpu[MAP].median,
            "rounds": rounds,
        }
        for contender, found in cpu.items()
    ]
    goals = [
        Target(f"{k} / {MAP}", cpu[k].median / cpu[MAP].median, least=LEAST[name])
        for k in (NORMALISED, PAIRS)
    ]
    publish(f"cache-{name}", table, goals)


def _agree(one: Reader, other: Reader, outs: list[Fields]) -> None:
    for reader, out in zip((one, other), outs, strict=True):
        reader.read(3, out)
    if not np.array_equal(*outs):
        raise AssertionError("the cache and its source read different numbers")
    one.close()


def _pairs(reader: Reader, steps: "itertools.cycle[int]", outs: list[Fields], count: int) -> None:
    for step in itertools.islice(steps, count // 2):
        reader.read_all([step, step + 1], outs)


def make(*, rounds: int) -> None:
    """Time repacking and random steps before and after it; publish them as ``cache-repack``."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for name in ("plain", "store"):
            (folder / name).mkdir()
        rows, columns, steps, _ = GRIDS["121x240"]
        write(folder / "plain", rows, columns, steps // 2)
        (folder / "steps").mkdir()
        write(folder / "steps", *STORE)
        _as_the_store(folder / "steps", folder / "store")
        table: list[Row] = []
        found = {}
        for name in ("plain", "store"):
            source = catalogue(folder / name)
            size = 4e-6 * np.prod(source.shape) * len(source.times)
            for format in ("netcdf", "cache"):
                runs = []
                for _ in range(rounds):
                    target = _emptied(folder / f"{format}-{name}")
                    runs.append(timed(partial(repack, source, target, format=format)))
                found[name] = spread([float(size) / run.cpu_s for run in runs])
                table.append(
                    {
                        "source": f"{name} to {format}",
                        "MB": float(size),
                        "MB_per_cpu_s": found[name].median,
                        "q1": found[name].lower,
                        "q3": found[name].upper,
                        "rounds": rounds,
                    }
                )
        speedup = _random_steps(catalogue(folder / "store"), folder / "cache-store", table)
    goals = [
        Target("repack, MB per CPU s", found["plain"].median, least=LEAST_MB_PER_CPU_S),
        Target("random step, cache / compressed", speedup, least=LEAST_SPEEDUP),
    ]
    publish("cache-repack", table, goals)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _as_the_store(plain: Path, folder: Path) -> None:
    """Rewrite files with the chunks that the library chooses, compressed after rounding to the
    accuracy of GRIB, 16 bits of the range of a field.
    """
    for path in plain.glob("*.nc"):
        with netCDF4.Dataset(path) as old, netCDF4.Dataset(folder / path.name, "w") as new:
            for name, length in old.dimensions.items():
                new.createDimension(name, len(length))
            for name, variable in old.variables.items():
                field = variable.ndim > 1
                made = new.createVariable(
                    name,
                    variable.dtype,
                    variable.dimensions,
                    zlib=field,
                    complevel=1,
                    shuffle=True,
                    fill_value=np.nan if field else None,
                )
                made.setncatts({k: variable.getncattr(k) for k in variable.ncattrs()
                                if k != "_FillValue"})  # fmt: skip
                values = np.asarray(variable[...])
                if field:
                    step = np.float32((values.max() - values.min()) / 65535)
                    values = values.min() + step * np.rint((values - values.min()) / step)
                made[:] = values


def _random_steps(source: Catalogue, cache: Path, table: list[Row]) -> float:
    """Time random steps of the source and of its cache; return the ratio of their CPU times."""
    out = np.empty(source.shape, np.float32)
    order = random.Random(1).sample(range(len(source.times)), 60)
    cpu = {}
    for name, made, number in (
        ("random steps, source", source, 8),
        ("random steps, cache", catalogue(cache), 60),
    ):
        reader = Reader(made)
        reader.read(order[0], out)
        runs = [timed(partial(reader.read, step, out)).cpu_s for step in order[:number]]
        reader.close()
        cpu[name] = spread(runs).median
        table.append({"source": name, "cpu_ms_per_step": 1e3 * cpu[name], "rounds": number})
    return cpu["random steps, source"] / cpu["random steps, cache"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", help=f"of {', '.join(GRIDS)}, repack; none: all")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    for what in arguments.what or [*GRIDS, "repack"]:
        if what == "repack":
            make(rounds=max(2, arguments.rounds // 10))
        elif what in GRIDS:
            read(what, rounds=arguments.rounds)
        else:
            parser.error(f"{what}: expected one of {', '.join(GRIDS)}, repack")


if __name__ == "__main__":
    main()
