"""Repacked netCDF files read as their source does, bit for bit, through the same reader; xarray
reads them too.
"""

import os
from itertools import chain
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from cache_files import MAKES, everything, new, same, versions, write_static
from era5_files import hours, write_legacy, write_new
from hpc_bnn.fields.cache.blocks import chunk_lengths, positions
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.targets import targets_of
from hpc_bnn.fields.cache.verify import verify
from hpc_bnn.fields.reader import Reader

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue

SMALL = 2000  # several files a variable


@pytest.fixture(params=MAKES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    made: Path = MAKES[request.param](tmp_path / "source")
    write_static(made)
    return made


def inside(folder: Path) -> Path:
    (folder / "source").mkdir()
    return folder / "source"


@pytest.mark.parametrize(("block_bytes", "file_bytes"), [(1, 2000), (2000, 1), (1 << 26, 1 << 30)])
def test_one_reader_reads_all_three(
    source: Path, tmp_path: Path, block_bytes: int, file_bytes: int
) -> None:
    """The source, of either format of the data store, a cache, and netCDF files."""
    made = catalogue(source)
    header = repack(
        made,
        tmp_path / "netcdf",
        format="netcdf",
        block_bytes=block_bytes,
        file_bytes=file_bytes,
    )
    repack(made, tmp_path / "cache", block_bytes=block_bytes)
    files, cached = catalogue(tmp_path / "netcdf"), catalogue(tmp_path / "cache")
    assert len(header.crc32) == len(header.request.targets)
    assert files.names == cached.names == made.names
    assert [c.name for c in files.static] == ["lsm"] == [c.name for c in made.static]
    want, static = everything(made), Reader(made).static()
    for one in (files, cached):
        assert np.array_equal(one.times, made.times)
        assert np.array_equal(one.present(), made.present())
        assert np.array_equal(one.preliminary, made.preliminary)
        assert one.grid.same(made.grid) and one.grid.periodic == made.grid.periodic
        assert one.fingerprint() == made.fingerprint()
        assert same(everything(one), want)
        assert same(Reader(one).static(), static)
        for a, b in zip(one.channels + one.static, made.channels + made.static, strict=True):
            for name in ("name", "variable", "level_hpa", "units", "standard_name", "vector"):
                assert getattr(a, name) == getattr(b, name)
    assert verify(tmp_path / "netcdf") == () == verify(tmp_path / "netcdf", source=made)


@pytest.mark.parametrize("file_bytes", [1, SMALL, 1 << 30])
def test_files_hold_everything_once_and_share_no_chunk(source: Path, file_bytes: int) -> None:
    made = catalogue(source)
    targets = targets_of(made, file_bytes=file_bytes)
    assert len({target.name for target in targets}) == len(targets)
    seen = np.zeros((len(made.times), len(made.channels)), int)
    read: dict[tuple[int, int], str] = {}
    for target in targets:
        seen[np.ix_(positions(target.times), target.channels)] += 1
        assert len({made.channels[c].variable for c in target.channels}) == 1
        for channel in (made.channels[c] for c in target.channels):
            for time in positions(target.times):
                part = int(channel.part[time])
                chunk = int(channel.step[time]) // chunk_lengths(made.parts[part])[0]
                assert read.setdefault((part, chunk), target.name) == target.name
    there = np.stack([channel.part >= 0 for channel in made.channels], axis=1)
    assert np.array_equal(seen, there)


def test_files_that_take_turns_are_cut_where_both_chunks_end(tmp_path: Path) -> None:
    """One file has the even steps and one the odd ones, in chunks of 4 and 3."""
    every = hours(24)
    write_new(tmp_path / "even.nc", every[::2], chunks=4)
    write_new(tmp_path / "odd.nc", every[1::2], chunks=3)
    targets = targets_of(catalogue(tmp_path), file_bytes=1)
    assert [target.times for target in targets] == [((0, 7),), ((7, 24),)]
    write_new(tmp_path / "odd.nc", every[1::2], chunks=4)
    targets = targets_of(catalogue(tmp_path), file_bytes=1)
    assert [target.times for target in targets] == [((0, 8),), ((8, 16),), ((16, 24),)]


def test_the_layout(tmp_path: Path) -> None:
    write_static(new(inside(tmp_path)))
    repack(catalogue(tmp_path / "source"), tmp_path / "made", format="netcdf")
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    span = "20170101T0000_20170104T1800.nc"
    files = [f"{name}_{span}" for name in ("msl", "t", "t2m", "z")]
    assert names == sorted(["cache.json", "lsm_static.nc", *files])
    with netCDF4.Dataset(tmp_path / "made" / f"t_{span}") as dataset:
        t = dataset.variables["t"]
        assert t.dimensions == ("valid_time", "pressure_level", "latitude", "longitude")
        assert t.chunking() == [1, 3, 7, 12]
        assert t.dtype == np.float32 and t.filters()["fletcher32"]
        assert not any(t.filters()[name] for name in ("zlib", "shuffle", "zstd", "szip"))
        assert (t.units, t.standard_name) == ("K", "air_temperature")
        assert dataset.variables["pressure_level"][:].tolist() == [1000, 850, 500]
        assert dataset.Conventions == "CF-1.8" and len(dataset.source_fingerprint) == 16


def test_levels_are_chunks_of_their_own_where_they_are_read_apart(tmp_path: Path) -> None:
    path = write_new(tmp_path / "p.nc", hours(6), ["t"], levels=[1000.0, 850.0, 500.0], chunks=2)
    repack(catalogue(path), tmp_path / "made", format="netcdf", block_bytes=7 * 12 * 4)
    (made,) = (tmp_path / "made").glob("*.nc")
    with netCDF4.Dataset(made) as dataset:
        assert dataset.variables["t"].chunking() in ([1, 3, 7, 12], [1, 1, 7, 12])
    assert same(everything(catalogue(tmp_path / "made")), everything(catalogue(path)))


def test_xarray_reads_them_as_one(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    made = catalogue(new(inside(tmp_path)))
    repack(made, tmp_path / "made", format="netcdf", file_bytes=SMALL)
    paths = sorted(map(str, (tmp_path / "made").glob("*.nc")))
    assert len(paths) > 8
    opened = [xarray.open_dataset(path, engine="netcdf4") for path in paths]
    whole = xarray.combine_by_coords(opened, compat="no_conflicts", combine_attrs="drop_conflicts")
    want = everything(made)
    for at, channel in enumerate(made.channels):
        got = whole[channel.variable]
        if channel.level_hpa is not None:
            got = got.sel(pressure_level=channel.level_hpa)
        assert same(got.transpose("valid_time", ...).values, want[:, at])
        assert got.attrs["units"] == channel.units
    seconds = whole.valid_time.values.astype("datetime64[s]").astype(np.int64)
    assert np.array_equal(seconds, made.times)
    for one in opened:
        one.close()


def test_one_file_alone_is_read_like_any_other(tmp_path: Path) -> None:
    """Copied away from its folder, with the ERA5T steps it knows of."""
    made = catalogue(versions(inside(tmp_path)))
    repack(made, tmp_path / "made", format="netcdf")
    (path,) = (tmp_path / "made").glob("*.nc")
    (tmp_path / "away.nc").write_bytes(path.read_bytes())
    alone = catalogue(tmp_path / "away.nc")
    assert same(everything(alone), everything(made))
    assert alone.preliminary.tolist() == made.preliminary.tolist()
    assert made.preliminary.tolist() == [False, False, False, True, False, True]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    made = catalogue(write_legacy(tmp_path / "a.nc", hours(4), ["t2m"]))
    with pytest.raises(ValueError, match="dtype = 'int16': format = 'netcdf' holds float32 only"):
        repack(made, tmp_path / "x", format="netcdf", dtype="int16")
    with pytest.raises(ValueError, match="format = 'zarr': expected one of cache, netcdf"):
        repack(made, tmp_path / "x", format="zarr")
    with pytest.raises(ValueError, match=r"lies in .*, the folder of the source"):
        repack(catalogue(tmp_path), tmp_path / "x", format="netcdf")
    repack(made, tmp_path / "x", format="netcdf")
    with pytest.raises(ValueError, match=r"differ in .*format"):
        repack(made, tmp_path / "x")
    repack(catalogue(tmp_path / "x"), tmp_path / "cache")  # netCDF files like others
    assert same(everything(catalogue(tmp_path / "cache")), everything(made))


def _damage(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def test_verify_finds_every_kind_of_damage(source: Path, tmp_path: Path) -> None:
    made, folder = catalogue(source), tmp_path / "made"
    repack(made, folder, format="netcdf", file_bytes=SMALL)
    for path in sorted(folder.glob("*.nc")):
        raw = path.read_bytes()
        for at in (len(raw) - 9, len(raw) // 2):
            _damage(path, at)
            (wrong,) = verify(folder)
            assert path.name in wrong and "the checksum differs" in wrong
            path.write_bytes(raw)
        path.unlink()
        assert len(verify(folder)) == 1
        with pytest.raises(ValueError, match=rf"{path.name}: is gone; copy it again"):
            catalogue(folder)
        path.write_bytes(raw)
    assert verify(folder) == ()


def test_other_values_are_found(tmp_path: Path) -> None:
    """With checksums that fit, as if another version had decoded the source otherwise."""
    made, folder = catalogue(new(inside(tmp_path))), tmp_path / "made"
    repack(made, folder, format="netcdf")
    (path,) = folder.glob("t2m_*.nc")
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.variables["t2m"][3, 2, 1] += 0.25
    wrong = verify(folder, source=made)
    assert [one.partition(": ")[2] for one in wrong] == [
        "the checksum differs: damaged or gone",
        "differs from the source",
    ]


def _peak_growth(made: Catalogue, folder: Path, format: str, block_bytes: int) -> int:
    """Repack in a process of its own; return by how many bytes its memory grew at most."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            before = _memory("VmRSS")
            repack(made, folder, format=format, block_bytes=block_bytes)
            os.write(write, str(_memory("VmHWM") - before).encode())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    os.close(write)
    with os.fdopen(read) as pipe:
        return int(pipe.read())


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.parametrize("format", ["cache", "netcdf"])
@pytest.mark.parametrize("chunk", [(16, 2, 256, 512), (16, 2, 128, 256)], ids=["whole", "rows"])
def test_memory_is_that_of_three_blocks(
    tmp_path: Path, chunk: tuple[int, ...], format: str
) -> None:
    """Also where a chunk of the source holds a part of the rows, and a block only one of them."""
    steps, levels, rows, columns = 160, 2, 256, 512
    with netCDF4.Dataset(tmp_path / "p.nc", "w") as dataset:
        for name, values, units in (
            ("valid_time", hours(steps), "seconds since 1970-01-01"),
            ("pressure_level", np.array([1000.0, 850.0]), "hPa"),
            ("latitude", np.linspace(90, -90 + 180 / 256, rows), "degrees_north"),
            ("longitude", np.arange(columns) * 360 / columns, "degrees_east"),
        ):
            dataset.createDimension(name, len(values))
            dataset.createVariable(name, values.dtype, (name,))[:] = values
            dataset.variables[name].units = units
        axes = tuple(dataset.dimensions)
        v = dataset.createVariable("t", "f4", axes, chunksizes=chunk)
        v.units = "K"
        ramp = np.linspace(250, 300, levels * rows * columns, dtype=np.float32)
        for first in range(0, steps, 16):
            v[first : first + 16] = ramp.reshape(1, levels, rows, columns) + np.float32(first / 16)
    made = catalogue(tmp_path / "p.nc")
    time_block = 16 * levels * rows * columns * 4
    least = time_block if chunk[2] == rows else time_block // 2
    grown = _peak_growth(made, tmp_path / "made", format, least)
    assert grown <= 3 * time_block
    assert verify(tmp_path / "made", source=made) == ()


def test_every_name_is_used_once(tmp_path: Path) -> None:
    """Levels of one variable in files of their own, with other times."""
    write_new(inside(tmp_path) / "a.nc", hours(4), ["t"], levels=[850.0])
    write_new(tmp_path / "source" / "b.nc", hours(3), ["t"], levels=[500.0])
    made = catalogue(tmp_path / "source", variables=["t850", "t500"])
    names = [target.name for target in targets_of(made)]
    assert len(set(names)) == 2 == len(names)
    repack(made, tmp_path / "made", format="netcdf")
    again = catalogue(tmp_path / "made", variables=["t850", "t500"])
    assert same(everything(again), everything(made))
    assert list(chain(again.present())) == [True, True, True, False]
