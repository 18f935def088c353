"""How many bytes of a file a read is counted as: chunks are read whole."""

from pathlib import Path

import netCDF4
import numpy as np
import pytest
from era5_files import hours, write_legacy, write_new
from hpc_bnn.fields.cache.repack import repack

from hpc_bnn.data.read_count import bytes_read
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.reader import Reader

ROWS, COLUMNS = 7, 12
FIELD = ROWS * COLUMNS


def counted(made: Catalogue, steps: list[int]) -> int:
    """Return the bytes counted for reading steps one by one."""
    reader = Reader(made)
    out = np.empty(made.shape, np.float32)
    before = bytes_read()
    for step in steps:
        reader.read(step, out)
    reader.close()
    return bytes_read() - before


def test_compressed_chunks_are_read_whole(tmp_path: Path) -> None:
    made = catalogue(write_new(tmp_path / "a.nc", hours(40), chunks=40)).select(["t2m"])
    assert counted(made, [3]) == 40 * FIELD * 4
    assert counted(made, [3, 17]) == 2 * 40 * FIELD * 4


def test_chunks_of_one_step_are_read_once(tmp_path: Path) -> None:
    made = catalogue(write_new(tmp_path / "a.nc", hours(40))).select(["t2m"])
    assert counted(made, [3, 17, 18]) == 3 * FIELD * 4


def test_one_level_of_a_chunk_with_two(tmp_path: Path) -> None:
    """A compressed chunk is read whole; a plain one of a single step is not."""
    path = write_new(tmp_path / "a.nc", hours(4), ["t"], levels=(850.0, 500.0))
    assert counted(catalogue(path, variables=["t"], levels=[500]), [2]) == 2 * FIELD * 4
    with netCDF4.Dataset(path) as old, netCDF4.Dataset(tmp_path / "plain.nc", "w") as new:
        for name, length in old.dimensions.items():
            new.createDimension(name, len(length))
        for name, variable in old.variables.items():
            chunks = [1, *variable.shape[1:]] if name == "t" else None
            made = new.createVariable(name, variable.dtype, variable.dimensions, chunksizes=chunks)
            made.setncatts({k: variable.getncattr(k) for k in variable.ncattrs()
                            if k != "_FillValue"})  # fmt: skip
            made[...] = variable[...]
    plain = catalogue(tmp_path / "plain.nc", variables=["t"], levels=[500])
    assert counted(plain, [2]) == FIELD * 4


def test_packed_numbers_count_as_stored(tmp_path: Path) -> None:
    made = catalogue(write_legacy(tmp_path / "a.nc", hours(4))).select(["t2m"])
    assert counted(made, [0, 2]) == 2 * FIELD * 2


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("int16", 2)])
def test_a_cache_is_read_as_asked(tmp_path: Path, dtype: str, size: int) -> None:
    made = catalogue(write_new(tmp_path / "a.nc", hours(40), chunks=40))
    repack(made, tmp_path / "cache", dtype=dtype)
    cache = catalogue(tmp_path / "cache")
    assert counted(cache, [1, 9, 9]) == 3 * int(np.prod(cache.shape)) * size


def test_steps_read_together_count_their_chunks_once(tmp_path: Path) -> None:
    """Steps 8 to 11 lie in the chunks of 5 that begin at 5 and 10."""
    made = catalogue(write_new(tmp_path / "a.nc", hours(40), chunks=5)).select(["t2m"])
    reader = Reader(made)
    outs = [np.empty(made.shape, np.float32) for _ in range(4)]
    before = bytes_read()
    reader.read_all([11, 9, 8, 10], outs)
    reader.close()
    assert bytes_read() - before == 2 * 5 * FIELD * 4
