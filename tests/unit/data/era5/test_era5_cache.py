"""A cache reads as its source does: bit for bit as float32, within the stated error if packed."""

import copy
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch
from era5_files import START, field, hours, write_legacy, write_new
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpc_bnn.data.era5 import Catalogue, Reader, catalogue, defects, describe, era5, repack, verify
from hpc_bnn.data.era5.cache.blocks import Block, blocks_of, pieces, positions, shares
from hpc_bnn.data.era5.cache.scaling import encode, scaling_of

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


@pytest.fixture(params=MAKES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    made: Path = MAKES[request.param](tmp_path / "source")
    write_static(made)
    return made


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


def everything(made: Catalogue, **options: Any) -> NDArray[np.float32]:
    """Read all complete times one by one."""
    reader = Reader(made, missing="keep", **options)
    where = np.flatnonzero(made.present())
    out = np.empty((len(where), *made.shape), np.float32)
    for at, one in zip(where.tolist(), out, strict=True):
        reader.read(at, one)
    reader.close()
    return out


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a), np.signbit(b))


@pytest.mark.parametrize("block_bytes", [1, 2000, 1 << 26])
def test_float32_is_equal_bit_for_bit(source: Path, tmp_path: Path, block_bytes: int) -> None:
    made = catalogue(source)
    header = repack(made, tmp_path / "cache", block_bytes=block_bytes)
    assert len(header.crc32) == len(header.request.blocks) >= (2 if block_bytes == 1 else 1)
    cached = catalogue(tmp_path / "cache")
    assert cached.names == made.names
    assert np.array_equal(cached.times, made.times)
    assert np.array_equal(cached.present(), made.present())
    assert cached.grid.same(made.grid) and cached.grid.periodic == made.grid.periodic
    assert same(everything(cached), everything(made))
    assert same(Reader(cached).static(), Reader(made).static())
    for a, b in zip(cached.channels + cached.static, made.channels + made.static, strict=True):
        for name in ("name", "variable", "level_hpa", "units", "standard_name", "vector"):
            assert getattr(a, name) == getattr(b, name)
    plain = np.load(tmp_path / "cache" / "fields.npy", mmap_mode="r")
    assert same(plain[made.present()], everything(made))
    assert np.isnan(plain[:, [0]][~made.present()]).any() == (not made.present().all())


def test_the_number_of_blocks_changes_no_value(source: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "float16", "int16"):
        for size in (1, 3000, 1 << 26):
            repack(catalogue(source), tmp_path / f"{dtype}{size}", dtype=dtype, block_bytes=size)
        first, *rest = (
            (tmp_path / f"{dtype}{size}" / "fields.npy").read_bytes() for size in (1, 3000, 1 << 26)
        )
        assert all(one == first for one in rest)


@pytest.mark.parametrize("dtype", ["float16", "int16"])
def test_packed_values_stay_within_the_stated_error(
    source: Path, tmp_path: Path, dtype: str
) -> None:
    made = catalogue(source)
    header = repack(made, tmp_path / "cache", dtype=dtype)
    cached = catalogue(tmp_path / "cache")
    got, wanted = everything(cached).astype(np.float64), everything(made).astype(np.float64)
    assert np.array_equal(np.isnan(got), np.isnan(wanted))
    worst = np.nanmax(np.abs(got - wanted), axis=(0, 2, 3))
    assert (worst <= header.scaling.error).all()
    largest = np.nanmax(np.abs(wanted), axis=(0, 2, 3))
    span = np.nanmax(wanted, axis=(0, 2, 3)) - np.nanmin(wanted, axis=(0, 2, 3))
    assert (np.array(header.scaling.error) <= span / 8000 + largest * 2.0**-22).all()
    assert any(f"packed as {dtype}" in one for one in defects(cached))


@settings(deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30),
    st.sampled_from(["float16", "int16"]),
)
def test_the_error_bound_holds_for_any_values(values: list[float], dtype: str) -> None:
    stored = np.array(values, np.float32).reshape(1, 1, -1)
    scaling = scaling_of(dtype, [float(stored.min())], [float(stored.max())])
    raw = encode(stored, dtype, np.array(scaling.scale), np.array(scaling.offset))
    # As readers compute: in float32.
    shift = np.float32(-scaling.offset[0] / scaling.scale[0])
    got = (raw.astype(np.float32) - shift) * np.float32(scaling.scale[0])
    assert np.abs(got.astype(np.float64) - stored).max() <= scaling.error[0]


def test_channels_without_a_value_are_missing_in_every_type(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(3), change=lambda name, values: values * np.nan)
    for dtype in ("float32", "float16", "int16"):
        repack(catalogue(tmp_path / "a.nc"), tmp_path / dtype, dtype=dtype)
        assert np.isnan(everything(catalogue(tmp_path / dtype))).all()


def test_normalised_states_are_equal_bit_for_bit(tmp_path: Path) -> None:
    """Of files that hold float32; packed integers are scaled once more when read normalised."""
    made = catalogue(new(tmp_path))
    repack(made, tmp_path / "cache")
    mean, std = np.arange(8.0) + 200, np.arange(8.0) + 1.5
    cached = catalogue(tmp_path / "cache")
    want = everything(made, mean=mean, std=std)
    assert same(everything(cached, mean=mean, std=std), want)
    reader = Reader(cached, mean=mean, std=std)
    out = [np.empty(made.shape, np.float32) for _ in range(4)]
    reader.read_all([3, 0, 4, 15], out)
    assert same(np.stack(out), want[[3, 0, 4, 15]])


@settings(max_examples=20, deadline=None)
@given(chosen=st.lists(st.sampled_from(["t2m", "msl", "z500", "z1000", "t850", "t500"]),
                       unique=True, min_size=1))  # fmt: skip
def test_any_selection_in_any_order(
    chosen: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "selections"
    if not folder.exists():
        folder.mkdir()
        repack(catalogue(new(folder)), folder / "cache")
    made, cached = (catalogue(p, variables=chosen) for p in (folder / "[abp].nc", folder / "cache"))
    assert cached.names == tuple(chosen)
    assert same(everything(cached), everything(made))


def test_a_missing_value_is_dealt_with_as_asked(tmp_path: Path) -> None:
    repack(catalogue(holes(tmp_path)), tmp_path / "cache")
    for dtype in ("float32", "int16"):
        repack(catalogue(tmp_path / "*.nc"), tmp_path / dtype, dtype=dtype)
        cached = catalogue(tmp_path / dtype)
        out = np.empty(cached.shape, np.float32)
        Reader(cached).read(0, out)
        with pytest.raises(ValueError, match=r"fields\.npy.*t2m.*1 of 84 values are missing"):
            Reader(cached).read(2, out)
        Reader(cached, mean=np.array([1.0, 2.0]), missing="mean").read(2, out)
        assert out[cached.names.index("t2m"), 1, 3] == 0


def test_readers_are_pickled_and_forked(tmp_path: Path) -> None:
    repack(catalogue(new(tmp_path)), tmp_path / "cache")
    cached = catalogue(tmp_path / "cache")
    want = everything(cached)
    reader = Reader(cached)
    out = np.empty(cached.shape, np.float32)
    reader.read(3, out)
    for other in (pickle.loads(pickle.dumps(reader)), copy.deepcopy(reader)):
        other.read(4, out)
        assert same(out, want[4])
    child = os.fork()
    if child == 0:
        reader.read(5, out)
        os._exit(0 if same(out, want[5]) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_data_set_takes_a_cache(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    write_static(new(tmp_path / "source"))
    repack(catalogue(tmp_path / "source"), tmp_path / "cache")
    options: dict[str, Any] = {
        "variables": ["t2m", "z"], "levels": [500, 850], "static": ["lsm"], "missing": "mean",
        "step_hours": 6, "train": ("2017-01-01", "2017-01-02"),
        "validation": ("2017-01-03T00:00", "2017-01-03T06:00"),
        "test": ("2017-01-03T12:00", "2017-01-04"),
    }  # fmt: skip
    plain, cached = (era5(tmp_path / name, **options) for name in ("source", "cache"))
    for split in ("train", "validation", "test"):
        a, b = getattr(plain, split), getattr(cached, split)
        for left, right in zip(
            a.batch(torch.arange(len(a))), b.batch(torch.arange(len(b))), strict=True
        ):
            assert torch.equal(left, right)


def test_times_and_variables_can_be_chosen(tmp_path: Path) -> None:
    made = catalogue(new(tmp_path), variables=["z", "t2m"], levels=[850])
    part = made.between(START + 6 * 3600, START + 12 * 3600)
    repack(part, tmp_path / "cache")
    cached = catalogue(tmp_path / "cache")
    assert cached.names == ("z850", "t2m") and len(cached.times) == 2
    assert same(everything(cached), everything(made)[1:3])
    assert "float32" in describe(cached) and "cache" in describe(cached)
    with pytest.raises(ValueError, match="no channel 'z500'"):
        catalogue(tmp_path / "cache", variables=["z500"])
    with pytest.raises(ValueError, match="member = 3"):
        catalogue(tmp_path / "cache", member=3)
    with pytest.raises(ValueError, match="is a cache already"):
        repack(cached, tmp_path / "again")


@pytest.mark.parametrize("block_bytes", [1, 2000, 1 << 26])
def test_blocks_hold_everything_once_and_no_chunk_twice(source: Path, block_bytes: int) -> None:
    made = catalogue(source)
    blocks = blocks_of(made, block_bytes=block_bytes)
    shape = (len(made.times), *made.shape)
    seen = np.zeros(shape, int)
    read: dict[tuple[int, ...], int] = {}
    for at, block in enumerate(blocks):
        _mark(seen, block)
        flat = np.zeros(shape, int).reshape(-1)
        width = (block.rows[1] - block.rows[0]) * shape[3]
        for _, places in pieces(block, shape):
            for place, first, last in places:
                flat[place : place + (last - first) * width] += 1
        alone = np.zeros(shape, int)
        _mark(alone, block)
        assert np.array_equal(flat.reshape(shape), alone)
        for chunk in _chunks(made, block):
            assert read.setdefault(chunk, at) == at, f"chunk {chunk} is read by two blocks"
    assert (seen == 1).all()
    for count in (1, 2, 3, 7):
        assert sorted(sum(shares(blocks, count), [])) == list(range(len(blocks)))


def _mark(seen: NDArray[Any], block: Block) -> None:
    seen[np.ix_(positions(block.times), block.channels, range(*block.rows))] += 1


def _chunks(made: Catalogue, block: Block) -> set[tuple[int, ...]]:
    """List the stored chunks that a block needs, whole rows apart."""
    part = made.parts[block.part]
    if block.part < 0 or part.chunks is None:
        return set()
    length = dict(zip(part.axes, part.chunks, strict=True))
    height = made.shape[1]
    rows = range(*block.rows)
    stored = [height - 1 - r for r in rows] if part.file.orientation.flip_rows else list(rows)
    return {
        (
            block.part,
            int(made.channels[c].step[t]) // length["time"],
            made.channels[c].level_index[block.part] // length.get("level", 1),
            row // length["latitude"],
        )
        for t in positions(block.times)
        for c in block.channels
        for row in stored
    }


def change_time(path: Path) -> None:
    now = path.stat()
    os.utime(path, ns=(now.st_atime_ns, now.st_mtime_ns + 10**9))


def change_content(path: Path) -> None:
    before, raw = path.stat(), bytearray(path.read_bytes())
    raw[-1] ^= 255
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_time, r"a\.nc was written at .* UTC, it was last written at"),
        (change_content, r"a\.nc has other content"),
        (lambda path: path.write_bytes(path.read_bytes() + b"0"), r"a\.nc has \d+ bytes, it had"),
        (lambda path: path.unlink(), r"a\.nc is gone"),
        (lambda path: write_new(path.with_name("c.nc"), hours(2)), r"c\.nc was added"),
    ],
)
def test_a_stale_cache_is_refused(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    repack(catalogue(absent(tmp_path)), tmp_path / "cache")
    catalogue(tmp_path / "cache")
    change(tmp_path / "a.nc")
    with pytest.raises(ValueError, match=f"stale.*{words}.*repack .* into a new folder"):
        catalogue(tmp_path / "cache")
    assert any("stale" in one for one in catalogue(tmp_path / "cache", strict=False).problems)


def test_a_cache_without_its_sources_is_used_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repack(catalogue(absent(tmp_path)), tmp_path / "cache")
    want = everything(catalogue(tmp_path / "cache"))
    for path in tmp_path.glob("*.nc"):
        path.unlink()
    (tmp_path / "cache").rename(tmp_path / "moved")
    with caplog.at_level(logging.INFO):
        assert same(everything(catalogue(tmp_path / "moved")), want)
    assert "are not here; it is used without comparing them" in caplog.text


def test_verify_finds_every_kind_of_damage(source: Path, tmp_path: Path) -> None:
    made, folder = catalogue(source), tmp_path / "cache"
    repack(made, folder, block_bytes=2000)
    assert verify(folder) == () == verify(folder, source=made)
    for name in ("fields.npy", "static.npy"):
        raw = (folder / name).read_bytes()
        turned = bytearray(raw)
        turned[-1] ^= 1
        (folder / name).write_bytes(turned)
        assert [name in one and "checksum differs" in one for one in verify(folder)] == [True]
        if name == "fields.npy":
            assert "differs from the source" in " ".join(verify(folder, source=made))
        (folder / name).write_bytes(raw[:-1])
        assert name in verify(folder)[0]
        (folder / name).write_bytes(raw)
    assert verify(folder) == ()
    (folder / "fields.npy").write_bytes((folder / "fields.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut off or copied in part"):
        catalogue(folder)


def test_verify_refuses_a_source_of_other_times(tmp_path: Path) -> None:
    made = catalogue(new(tmp_path))
    repack(made, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"differs from this cache in .*times"):
        verify(tmp_path / "cache", source=made.between(START, START + 3600))
