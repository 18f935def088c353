"""The reader of a pack: normalised, in any order, missing values as asked; processes, threads."""

import copy
import logging
import multiprocessing
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from cache_files import MAKES, same
from era5_files import START, hours, write_new
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from packs import everything, packed

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.check import sample_problems
from hpc_bnn.fields.gaps import Gaps
from hpc_bnn.fields.pack import reader as reader_module
from hpc_bnn.fields.pack.pack import Pack
from hpc_bnn.fields.pack.reader import PackReader
from hpc_bnn.fields.values import Values
from hpc_bnn.files import bytes_read


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    (made / "source").mkdir()
    packed(MAKES["new"](made / "source"), made / "pack")
    return made


@pytest.fixture
def pack(folder: Path) -> Pack:
    return packed(folder / "source", folder / "pack")


def test_states_are_normalised_in_float32(pack: Pack, folder: Path) -> None:
    mean, std = np.arange(8.0) + 200.3, np.arange(8.0) + 1.7
    values = Values(catalogue(folder / "source")).read(range(8), 0, 16)
    shift, factor = (a.astype(np.float32)[:, None, None] for a in (mean, 1 / std))
    assert same(everything(pack, mean=mean, std=std), (values - shift) * factor)
    np.testing.assert_allclose(
        everything(pack, mean=mean, std=std).astype(np.float64),
        (values.astype(np.float64) - mean[:, None, None]) / std[:, None, None],
        rtol=1e-6, atol=1e-2,
    )  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(chosen=st.lists(st.sampled_from(["t2m", "msl", "z500", "z1000", "t850", "t500"]),
                       unique=True, min_size=1))  # fmt: skip
def test_any_selection_in_any_order(chosen: list[str], folder: Path) -> None:
    pack = packed(folder / "source", folder / "pack")
    some = pack.select(chosen)
    assert some.names == tuple(chosen)
    assert same(everything(some), everything(pack)[:, [pack.names.index(n) for n in chosen]])


def test_many_steps_are_those_read_one_by_one(pack: Pack) -> None:
    want, order = everything(pack), [3, 0, 4, 15, 4]
    outs = [np.empty(pack.shape, np.float32) for _ in order]
    before = bytes_read()
    PackReader(pack).read_all(order, outs)
    assert bytes_read() - before == 5 * 4 * int(np.prod(pack.shape))
    assert same(np.stack(outs), want[order])


def test_missing_values_are_dealt_with_as_asked(tmp_path: Path) -> None:
    """Of t2m step 2 misses a point and step 5 all; of msl step 1 one."""
    (tmp_path / "source").mkdir()
    pack = packed(MAKES["holes"](tmp_path / "source"))
    assert all(channel.declared for channel in pack.channels)
    t2m, out = pack.names.index("t2m"), np.empty(pack.shape, np.float32)
    PackReader(pack).read(0, out)
    for missing in ("keep", "declared"):
        PackReader(pack, missing=missing).read(2, out)  # type: ignore[arg-type]
        assert np.argwhere(np.isnan(out)).tolist() == [[t2m, 1, 3]]
    where = r"2017\.f32: 't2m' at 2017-01-01T12:00: 1 of 84 values are missing or infinite, the "
    with pytest.raises(ValueError, match=where + "first at latitude 60, longitude 90; expected"):
        PackReader(pack).read(2, out)
    absent = np.zeros(pack.shape, bool)
    absent[t2m, 1, 3] = True
    reader = PackReader(pack, mean=np.array([1.0, 2.0]), gaps=Gaps(absent, "2017-01-01T00:00"))
    reader.read(2, out)
    assert out[t2m, 1, 3] == 0
    with pytest.raises(ValueError, match=r"'t2m' at .*: 83 points have no value that have one, 0"):
        reader.read(5, out)
    with pytest.raises(ValueError, match=r"'t2m' at .*: 0 points have no value that have one, 1"):
        reader.read(0, out)


def test_undeclared_missing_values_are_named_and_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where nothing was ever written; "keep" takes them all the same."""

    write_new(tmp_path / "a.nc", hours(3))
    with netCDF4.Dataset(tmp_path / "a.nc") as old, netCDF4.Dataset(tmp_path / "b.nc", "w") as new:
        for name, length in old.dimensions.items():
            new.createDimension(name, len(length))
        for name in ("valid_time", "latitude", "longitude", "t2m"):
            variable = old[name]
            made = new.createVariable(name, variable.dtype, variable.dimensions)
            made.setncatts({k: variable.getncattr(k) for k in variable.ncattrs()
                            if k != "_FillValue"})  # fmt: skip
            made[...] = variable[...]
        new["t2m"][1:, 0, 0] = np.nan
    pack = packed(tmp_path / "b.nc")
    (named,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]  # once
    (found,), _ = sample_problems(catalogue(tmp_path / "b.nc"))
    assert named.startswith(found) and "b.nc" in found
    assert "1 of 84 values of t2m are NaN or were never written, and the file declares" in found
    out = np.empty(pack.shape, np.float32)
    PackReader(pack, missing="keep").read(1, out)
    assert int(np.isnan(out).sum()) == 1
    said = "'t2m' at .*: 1 of 84 values of t2m are NaN or were never written, and its files declare"
    with pytest.raises(ValueError, match=said):
        PackReader(pack, missing="declared").read(1, out)


def test_times_that_a_channel_has_not_are_refused(tmp_path: Path) -> None:
    pack, out = packed(MAKES["absent"](tmp_path)), np.empty((2, 7, 12), np.float32)
    with pytest.raises(ValueError, match="'msl' has no step at 2017-01-02T06:00; choose times"):
        PackReader(pack).read(5, out)
    PackReader(pack.select(["t2m"])).read(5, out[1:])


def test_what_is_asked_is_checked(pack: Pack) -> None:
    with pytest.raises(ValueError, match=r"out has shape \(7, 12\)"):
        PackReader(pack).read(0, np.empty((7, 12), np.float32))
    with pytest.raises(ValueError, match="in one piece of memory"):
        PackReader(pack).read(0, np.empty((8, 7, 24), np.float32)[:, :, ::2])
    with pytest.raises(ValueError, match="missing = 'zero'"):
        PackReader(pack, missing="zero")  # type: ignore[arg-type]


def shrink(path: Path) -> None:
    os.truncate(path, 100)


def replace(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def vanish(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


@pytest.mark.parametrize("change", [shrink, replace, vanish])
def test_a_file_that_changes_while_it_is_read_is_named(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(reader_module.time, "monotonic", lambda: now[0])
    pack = packed(write_new(tmp_path / "a.nc", hours(8)))
    reader, out = PackReader(pack), np.empty((1, 7, 12), np.float32)
    reader.read(7, out)
    change(pack.path(7))
    now[0] += 1.1
    said = r"2017\.f32: (was changed while it is read|cannot be read any more).*2017-01-02T18:00"
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        reader.read(7, out)


def test_a_file_that_grows_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job appends to it."""
    monkeypatch.setattr(reader_module, "LOOK_EVERY_S", 0.0)
    (tmp_path / "source").mkdir()
    write_new(tmp_path / "source" / "a.nc", hours(8))
    reader, out = PackReader(packed(tmp_path / "source")), np.empty((2, 1, 7, 12), np.float32)
    reader.read(7, out[0])
    write_new(tmp_path / "source" / "b.nc", hours(8, start=START + 2 * 86400))
    packed(tmp_path / "source")
    reader.read(7, out[1])
    assert same(out[0], out[1])


def wrong_reads(reader: PackReader, want: NDArray[np.float32], seed: int) -> int:
    out, wrong = np.empty_like(want[0]), 0
    for at in np.random.default_rng(seed).integers(len(want), size=200):
        reader.read(int(at), out)
        wrong += not np.array_equal(out, want[at])
    return wrong


def test_readers_are_copied_and_shared_by_threads(pack: Pack) -> None:
    want, reader = everything(pack), PackReader(pack)
    reader.read(3, np.empty(pack.shape, np.float32))
    wrong = [wrong_reads(pickle.loads(pickle.dumps(reader)), want, 0)]
    wrong.append(wrong_reads(copy.deepcopy(reader), want, 1))
    threads = [
        threading.Thread(target=lambda seed=seed: wrong.append(wrong_reads(reader, want, seed)))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 6


def in_child(reader: PackReader, want: NDArray[np.float32], seed: int, results: Any) -> None:
    results.put(wrong_reads(reader, want, seed))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_readers_get_the_right_data(pack: Pack) -> None:
    """Two children and their parent, whose file is open, read in random order side by side."""
    want, reader = everything(pack), PackReader(pack)
    reader.read(0, np.empty(pack.shape, np.float32))
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    children = [fork.Process(target=in_child, args=(reader, want, s, results)) for s in (1, 2)]
    for child in children:
        child.start()
    assert wrong_reads(reader, want, 0) == 0
    assert [results.get(timeout=30) for _ in children] == [0, 0]
    for child in children:
        child.join(timeout=30)
        assert child.exitcode == 0


def test_a_static_field_may_be_the_first_step_of_a_state(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(3), ["t2m", "sst"])
    pack = packed(tmp_path / "a.nc", variables=["t2m"], static=["sst"])
    assert [channel.name for channel in pack.static] == ["sst"]
    want = Values(catalogue(tmp_path / "a.nc", variables=["sst"])).read([0], 0, 1)[0]
    assert same(PackReader(pack).static(), want)
