"""A cache reads as its source does: bit for bit as float32, within the stated error if packed."""

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_files import MAKES, everything, holes, new, same, write_static
from era5_files import START, hours, write_new
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.scaling import encode, scaling_of
from hpc_bnn.fields.reader import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.gaps import Gaps
from hpc_bnn.fields.report import defects, describe


@pytest.fixture(params=MAKES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    made: Path = MAKES[request.param](tmp_path / "source")
    write_static(made)
    return made


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
        absent = np.zeros(cached.shape, bool)
        absent[cached.names.index("t2m"), 1, 3] = True
        gaps = Gaps(absent, "2017-01-01T00:00")
        Reader(cached, mean=np.array([1.0, 2.0]), gaps=gaps).read(2, out)
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
