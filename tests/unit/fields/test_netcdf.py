"""netCDF files of every kind through the library: whole, one handle a file, few open at a time."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from era5_files import HOUR, START, field, hours, write_legacy, write_new

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.ingest.netcdf import MOST_OPEN, library_lock, read_header
from hpc_bnn.fields.values import Values


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("names", [[], ["x"], ["x", "y"], ["x", "y", "z"]])
@pytest.mark.parametrize("records", [True, False])
def test_a_netcdf3_file_that_is_one_byte_short_is_refused(
    tmp_path: Path, kind: Any, names: list[str], records: bool
) -> None:
    """All that may miss is the padding behind the last value."""
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format=kind) as dataset:
        dataset.title = "odd"
        dataset.createDimension("time", None if records else 4)
        dataset.createDimension("place", 3)
        dataset.createVariable("s", "f8", ())[...] = 1.0
        for name in names:
            v = dataset.createVariable(name, "f4" if name == "y" else "i2", ("time", "place"))
            v.setncatts({"numbers": np.arange(3, dtype=np.int16), "one": 2.5, "units": "K"})
            v[:] = np.arange(12).reshape(4, 3)
    header = read_header(str(path))
    assert header.attributes == {"title": "odd"}
    assert header.dimensions == {"time": 4 if names or not records else 0, "place": 3}
    assert all(header.variables[n].attributes["numbers"].tolist() == [0, 1, 2] for n in names)
    padding = 2 if records and len(names) == 3 else 0  # 6 bytes of 'z' in each record
    os.truncate(path, path.stat().st_size - padding - 1)
    with pytest.raises(ValueError, match=r"a\.nc: truncated netCDF-3 file: 1 bytes are missing"):
        read_header(str(path))


def test_more_files_than_are_held_open(tmp_path: Path) -> None:
    count = 2 * MOST_OPEN + 1
    for at in range(count):
        write = write_legacy if at % 2 else write_new
        write(tmp_path / f"{at:03}.nc", hours(1, start=START + at * 24 * HOUR))
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    made = catalogue(tmp_path)
    values = Values(made)
    got = values.read([0], 0, count)
    assert len(os.listdir("/dev/fd")) <= before + MOST_OPEN  # noqa: PTH208
    values.close()
    assert len(os.listdir("/dev/fd")) <= before  # noqa: PTH208
    for seconds, state in zip(made.times.tolist(), got[:, 0], strict=True):
        np.testing.assert_allclose(state, field("t2m", seconds), atol=0.00101)


def in_child(action: Any) -> int:
    """Run an action in a process of its own; return its status."""
    child = os.fork()
    if child == 0:
        status = 9
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    def action() -> None:
        made = catalogue(write_new(tmp_path / "a.nc", hours(1)))
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
        with pytest.raises(OSError, match=r"a\.nc: cannot be opened: .*Too many open files"):
            Values(made).read([0], 0, 1)

    assert in_child(action) == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("write", [write_legacy, write_new])
def test_a_forked_process_opens_its_own_files(tmp_path: Path, write: Any) -> None:
    """With the handles of its parent, netCDF-3 gave 40 % wrong fields without an error."""
    made = catalogue(write(tmp_path / "a.nc", hours(60), ["t2m", "msl"]))
    values = Values(made)
    want = values.read([0, 1], 0, 60)

    def action() -> None:
        for at in np.random.default_rng(os.getpid()).integers(60, size=100).tolist():
            np.testing.assert_array_equal(values.read([0, 1], at, at + 1)[0], want[at])

    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                action()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    action()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_inherit_the_lock() -> None:
    with library_lock():
        child = os.fork()
        if child == 0:
            acquired = library_lock().acquire(timeout=1)
            os._exit(0 if acquired else 1)
        assert os.waitpid(child, 0)[1] == 0


SEVERAL = """
import random, sys
import numpy as np
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.values import Values

def work(seed):
    times = np.random.default_rng(seed)
    for _ in range(8):
        made = catalogue(sys.argv[1])
        yield
        values = Values(made)
        for t in times.integers(len(made.times), size=8).tolist():
            values.read([0, 1], t, t + 1)
            yield
        values.close()

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
