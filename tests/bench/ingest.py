"""Megabytes of float32 packed for each second of CPU, from a zarr store of one-step chunks.

    python tests/bench/ingest.py                     both grids, formats 2 and 3
    python tests/bench/ingest.py 121x240 --rounds 5

The stores hold the 69 channels of `reader.py`, with the dimensions of WeatherBench 2 and the codecs
that are met: none, Blosc with LZ4 (format 2), Zstandard (format 3). Steps that do not compress are
the worst case for a codec; these are rounded to 10 bits of the mantissa, as GRIB leaves them.
"""

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import zarr
from interleave import spread, timed
from numcodecs import Blosc
from reader import GRIDS, LEVELS, SURFACE, UPPER, write
from report import Row, Target, publish
from zarr.codecs import ZstdCodec

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.ingest import ingest

LEAST_MB_PER_CPU_S = 150.0
STORES: dict[str, tuple[int, Any]] = {
    "zarr 2, none": (2, None),
    "zarr 2, Blosc LZ4": (2, Blosc("lz4", 5)),
    "zarr 3, none": (3, None),
    "zarr 3, Zstandard": (3, ZstdCodec(level=1)),
}
ROUNDED = np.uint32(0xFFFFE000)  # keeps sign, exponent and 10 bits


def convert(source: Path, store: Path, version: int, compressor: Any) -> None:
    """Write the files of `reader.write` as a store."""
    group = zarr.create_group(store, zarr_format=version)
    for path in sorted(source.glob("*.nc")):
        with netCDF4.Dataset(path) as dataset:
            dataset.set_auto_maskandscale(False)
            for name, v in dataset.variables.items():
                values = v[:]
                if name in (*SURFACE, *UPPER):
                    values = (values.view(np.uint32) & ROUNDED).view(np.float32)
                elif name in group:
                    continue
                shape = values.shape
                axes = {"dimension_names": v.dimensions} if version == 3 else {}
                array = group.create_array(
                    name, shape=shape, dtype=values.dtype, compressors=compressor,
                    chunks=(1, *shape[1:]) if len(shape) > 1 else shape, fill_value=None
                    if version == 2 else 0, **axes,
                )  # fmt: skip
                array.attrs.update({"units": v.units})
                if version == 2:
                    array.attrs["_ARRAY_DIMENSIONS"] = v.dimensions
                array[:] = values


def measure(name: str, *, rounds: int) -> None:
    """Time packing on one grid and publish it as ``ingest-NAME``."""
    rows, columns, steps, _ = GRIDS[name]
    table: list[Row] = []
    goals = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "source").mkdir()
        write(folder / "source", rows, columns, min(steps, 240) // 2)
        for label, (version, compressor) in STORES.items():
            store = folder / "store.zarr"
            convert(folder / "source", store, version, compressor)
            source = catalogue(store, variables=[*SURFACE, *UPPER], levels=LEVELS)
            size = 4e-6 * float(np.prod(source.shape)) * len(source.times)
            speeds = []
            for _ in range(rounds):
                shutil.rmtree(folder / "pack", ignore_errors=True)
                speeds.append(size / timed(partial(ingest, source, folder / "pack")).cpu_s)
            shutil.rmtree(store)
            speed = spread(speeds)
            table.append(
                {"store": label, "MB": size, "MB_per_cpu_s": speed.median, "q1": speed.lower,
                 "q3": speed.upper}
            )  # fmt: skip
            goals.append(Target(f"{label}, MB per CPU s", speed.median, least=LEAST_MB_PER_CPU_S))
    publish(f"ingest-{name}", table, goals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("grids", nargs="*", help=f"of {', '.join(GRIDS)}; none: all")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.grids or GRIDS:
        if name not in GRIDS:
            parser.error(f"{name}: expected one of {', '.join(GRIDS)}")
        measure(name, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
