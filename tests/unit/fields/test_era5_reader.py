"""The reader: exact decoding, processes, threads and pickles."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from era5_files import field, hours, write_legacy, write_new
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.files import read_header
from hpc_bnn.fields.gaps import Gaps
from hpc_bnn.fields.handles import Handles, library_lock
from hpc_bnn.fields.header import VariableHeader
from hpc_bnn.fields.netcdf3 import mapped, view
from hpc_bnn.fields.packing import affine, packing, unpack
from hpc_bnn.fields.reader import Reader, read


def decoded(raw: NDArray[Any], attributes: dict[str, Any], mean: float, std: float) -> Any:
    header = VariableHeader("a", raw.dtype.str, (), raw.shape, attributes)
    pack, _ = packing(header, (1.0, 0.0))
    out = np.empty(raw.shape, np.float32)
    unpack(raw, pack, affine(pack, np.array([mean]), np.array([std])), out)
    return out


@settings(max_examples=100, deadline=None)
@given(
    scale=st.floats(1e-4, 10) | st.floats(-10, -1e-4),
    offset=st.floats(-1e5, 1e5),
    within=st.floats(-1, 1),
    order=st.sampled_from(["<", ">"]),
)
def test_packed_values_are_decoded_to_float32_precision(
    scale: float, offset: float, within: float, order: str
) -> None:
    raw = np.arange(-32766, 32767, 77).astype(f"{order}i2").reshape(1, 2, -1)
    raw[0, 0, 0] = -32767
    given = {"scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(-32767)}
    exact = raw.astype(np.float64) * scale + offset
    mean, std = offset + within * scale * 20000, abs(scale) * 8000
    got = decoded(raw, given, mean, std)
    assert np.isnan(got[0, 0, 0])
    half = 6e-8 * abs(mean - offset) / std
    np.testing.assert_allclose(got[0, 1], (exact[0, 1] - mean) / std, rtol=3e-7, atol=half + 1e-6)
    got = decoded(raw, given, 0.0, 1.0)
    np.testing.assert_allclose(got[0, 1], exact[0, 1], rtol=3e-7, atol=2e-7 * abs(offset))


def test_floats_far_from_zero_keep_their_differences() -> None:
    a = np.array([[[101325.0, 101325.0078125, 101335.0, 102325.0]]], np.float32)
    exact = (a.astype(np.float64) - 101300.3) / 700.0
    got = decoded(a, {}, 101300.3, 700.0)
    half = 0.5 * float(np.spacing(np.float32(101300.3))) / 700.0  # the documented rounding
    np.testing.assert_allclose(got, exact, atol=1.01 * half, rtol=2e-7)
    np.testing.assert_allclose(np.diff(got), np.diff(exact), atol=0, rtol=5e-5)
    np.testing.assert_allclose(got[..., 3] - got[..., 0], 1000 / 700, rtol=3e-7)
    np.testing.assert_array_equal(decoded(a, {}, 0.0, 1.0), a)


@pytest.mark.parametrize("dtype", [">i2", ">f4"])
def test_big_endian_netcdf4(tmp_path: Path, dtype: str) -> None:
    path = write_new(tmp_path / "a.nc", hours(1))
    with netCDF4.Dataset(path, "a") as dataset:
        axes = ("valid_time", "latitude", "longitude")
        v = dataset.createVariable("u10", dtype, axes, endian="big", fill_value=-5)
        v.units = "m s-1"
        v[:] = -3
        v[0, 1, 1] = -5
    made = catalogue(path, variables=["u10"])
    out = np.empty(made.shape, np.float32)
    read(made, 0, out)
    assert np.isnan(out[0, 1, 1])
    assert np.nanmax(out) == np.nanmin(out) == -3


def test_unsigned_numbers_of_netcdf3() -> None:
    raw = np.array([[[0, 1, -1, -2]]], np.int8)
    got = decoded(raw, {"_Unsigned": "true", "_FillValue": np.int8(-1)}, 0.0, 1.0)
    np.testing.assert_array_equal(got, [[[0, 1, np.nan, 254]]])


@pytest.mark.parametrize("dtype", ["<f8", ">f4", ">i4", "i1", "u1"])
def test_every_type(dtype: str) -> None:
    raw = np.arange(12).astype(dtype).reshape(1, 3, 4)
    np.testing.assert_array_equal(
        decoded(raw, {}, 2.0, 4.0), (np.arange(12).reshape(1, 3, 4) - 2) / 4
    )


def test_both_formats_give_the_fields(tmp_path: Path) -> None:
    write_new(tmp_path / "new.nc", hours(3), ["t", "z"], levels=[1000, 850, 500])
    write_legacy(tmp_path / "old.nc", hours(3), ["t", "z"], levels=[500, 850, 1000], scale=2.0)
    for name in ("new", "old"):
        made = catalogue(tmp_path / f"{name}.nc", variables=["z", "t"], levels=[500, 1000])
        assert made.names == ("z500", "z1000", "t500", "t1000")
        out = np.empty(made.shape, np.float32)
        read(made, 2, out)
        for got, channel in zip(out, made.channels, strict=True):
            want = field(channel.variable, int(made.times[2]), channel.level_hpa or 0)
            np.testing.assert_allclose(got, want, atol=0.003 if name == "new" else 1.003)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("names", [["x"], ["x", "y"], ["x", "y", "z"]])
def test_classic_records_are_padded_unless_there_is_one_variable(
    tmp_path: Path, kind: Any, names: list[str]
) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format=kind) as dataset:
        dataset.title = "odd"
        dataset.createDimension("time", None)
        dataset.createDimension("place", 3)
        for i, name in enumerate(names):
            v = dataset.createVariable(name, "i2" if name != "z" else "f8", ("time", "place"))
            v.setncatts({"numbers": np.arange(3, dtype=np.int16), "one": 2.5})
            v[:] = 100 * i + np.arange(12).reshape(4, 3)
    header = read_header(str(path))
    assert header.attributes == {"title": "odd"}
    assert header.dimensions == {"time": 4, "place": 3}
    memory = mapped(str(path))
    for i, name in enumerate(names):
        found = header.variables[name]
        assert found.attributes["numbers"].tolist() == [0, 1, 2]
        got = view(memory, found.dtype, found.shape, found.offset, found.strides)
        np.testing.assert_array_equal(got, 100 * i + np.arange(12).reshape(4, 3))
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(ValueError, match="bytes are missing"):
        read_header(str(path))


def test_handles_are_not_pickled_but_readers_are(tmp_path: Path) -> None:
    made = catalogue(write_new(tmp_path / "a.nc", hours(3)))
    handles = Handles()
    with library_lock():
        handles.dataset(made.parts[0].file.path, made.parts[0].file.size)
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            attempt(handles)
    handles.close()
    reader, out = Reader(made), np.empty(made.shape, np.float32)
    reader.read(0, out)
    again: Reader = pickle.loads(pickle.dumps(reader))
    other = np.empty_like(out)
    again.read(0, other)
    np.testing.assert_array_equal(out, other)
    sent: Catalogue = pickle.loads(pickle.dumps(made))
    assert sent.fingerprint() == made.fingerprint()


def wrong_reads(reader: Reader, want: NDArray[np.float32], seed: int, rounds: int) -> int:
    out = np.empty_like(want[0])
    wrong = 0
    for at in np.random.default_rng(seed).integers(len(want), size=rounds):
        reader.read(int(at), out)
        wrong += not np.array_equal(out, want[at])
    return wrong


def in_child(reader: Reader, want: NDArray[np.float32], seed: int, results: Any) -> None:
    results.put(wrong_reads(reader, want, seed, 150))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("write", [write_legacy, write_new])
def test_forked_readers_get_the_right_data(tmp_path: Path, write: Any) -> None:
    """With an open handle in the parent, netCDF-3 through the library gave 40 % wrong fields."""
    made = catalogue(write(tmp_path / "a.nc", hours(60), ["t2m", "msl"]))
    want = np.empty((60, *made.shape), np.float32)
    reader = Reader(made)
    for at, out in enumerate(want):
        reader.read(at, out)
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    children = [fork.Process(target=in_child, args=(reader, want, s, results)) for s in (1, 2)]
    for child in children:
        child.start()
    assert wrong_reads(reader, want, 0, 150) == 0
    assert [results.get(timeout=30) for _ in children] == [0, 0]
    for child in children:
        child.join(timeout=30)
        assert child.exitcode == 0


def test_a_child_does_not_inherit_the_lock() -> None:
    with library_lock():
        child = os.fork()
        if child == 0:
            got = library_lock().acquire(timeout=1)
            os._exit(0 if got else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_threads_share_a_reader(tmp_path: Path) -> None:
    made = catalogue(write_new(tmp_path / "a.nc", hours(30), ["t2m", "msl"]))
    reader = Reader(made)
    want = np.empty((30, *made.shape), np.float32)
    for at, out in enumerate(want):
        reader.read(at, out)
    wrong: list[int] = []
    threads = [
        threading.Thread(target=lambda s=s: wrong.append(wrong_reads(reader, want, s, 60)))
        for s in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0, 0, 0]


def test_infinite_values_are_never_filled(tmp_path: Path) -> None:
    def broken(name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        array[0, 2, 3] = np.inf
        return array

    made = catalogue(write_new(tmp_path / "a.nc", hours(2), change=broken))
    out = np.empty(made.shape, np.float32)
    absent = np.zeros(made.shape, bool)
    absent[0, 2, 3] = True
    for options in ({"missing": "error"}, {"missing": "keep"}, {"gaps": Gaps(absent, "")}):
        with pytest.raises(ValueError, match=r"1 of 84 values are missing or infinite"):
            Reader(made, **options).read(0, out)  # type: ignore[arg-type]


def test_out_and_settings_are_checked(tmp_path: Path) -> None:
    made = catalogue(write_new(tmp_path / "a.nc", hours(1)))
    with pytest.raises(ValueError, match=r"out has shape \(7, 12\)"):
        Reader(made).read(0, np.empty((7, 12), np.float32))
    with pytest.raises(ValueError, match="missing = 'zero'"):
        Reader(made, missing="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize("write", [write_legacy, write_new])
def test_several_steps_at_once_are_the_same_as_one_by_one(tmp_path: Path, write: Any) -> None:
    surface, upper = hours(15), hours(9)
    write(tmp_path / "surface.nc", surface, ["t2m"])
    write(tmp_path / "a.nc", upper, ["t"], levels=[500, 850, 1000])
    write(tmp_path / "b.nc", surface[len(upper) :], ["t"], levels=[500, 850, 1000])
    made = catalogue(tmp_path)
    reader = Reader(made, mean=np.full(4, 3.0), std=np.full(4, 7.0))
    order = [3, 4, 5, 0, 12, 8, 9, 4, 1]  # neighbours, a border of files, one step twice
    together = np.empty((len(order), *made.shape), np.float32)
    reader.read_all(order, list(together))
    alone = np.empty(made.shape, np.float32)
    for at, got in zip(order, together, strict=True):
        reader.read(at, alone)
        np.testing.assert_array_equal(got, alone)


def test_the_library_keeps_no_more_chunks_than_a_step_needs(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as dataset:
        for axis, size in (("time", 6), ("y", 10), ("x", 20)):
            dataset.createDimension(axis, size)
        layouts: dict[str, dict[str, Any]] = {
            "straight": {"chunksizes": (1, 10, 20)},
            "packed": {"chunksizes": (1, 4, 20), "zlib": True},
            "slow": {"chunksizes": (3, 10, 20), "zlib": True},
            "contiguous": {"contiguous": True},
        }
        for name, layout in layouts.items():
            dataset.createVariable(name, "f4", ("time", "y", "x"), **layout)[:] = 1.0
    handles = Handles()
    with library_lock():
        opened = handles.dataset(str(path), path.stat().st_size)
        held = {n: opened.variables[n].get_var_chunk_cache()[0] for n in ("straight", "packed")}
        assert held == {"straight": 1, "packed": 4 * 12 * 20}
        assert opened.variables["slow"].get_var_chunk_cache()[0] == 4 * 3 * 10 * 20
        for name in layouts:
            assert (opened.variables[name][4] == 1.0).all()
    handles.close()


SEVERAL = """
import random, sys
import numpy as np
from hpc_bnn.fields import Reader, catalogue

def work(seed):
    times = np.random.default_rng(seed)
    for _ in range(8):
        made = catalogue(sys.argv[1])
        yield
        reader = Reader(made)
        out = np.empty(made.shape, np.float32)
        for t in times.integers(len(made.times), size=8):
            reader.read(int(t), out)
            yield
        reader.close()

random.seed(0)
works = [work(seed) for seed in range(4)]
while works:
    one = random.choice(works)
    if next(one, 0) == 0:
        works.remove(one)
print("done")
"""


def test_several_readers_of_one_file(tmp_path: Path) -> None:
    """The library crashes with several handles of one file that has text variables (expver)."""
    write_new(tmp_path / "a.nc", hours(20), ["t2m", "msl"])
    write_new(tmp_path / "b.nc", hours(40)[20:], ["t2m", "msl"])
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL, tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]


def test_closing_one_reader_leaves_the_others_working(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(4), ["t2m", "msl"])
    made = catalogue(tmp_path)
    first, second = Reader(made), Reader(made)
    a, b = (np.empty(made.shape, np.float32) for _ in range(2))
    first.read(1, a)
    second.read(1, b)
    first.close()
    second.read(1, b)
    assert (a == b).all()
