"""Whatever ends a job that writes netCDF files, the next one goes on and gives the same bytes."""

import logging
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from broken_off import content, killed_at, small_disk
from era5_files import hours, write_legacy, write_new
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.verify import verify
from thread_channel import on_world

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.parallel.ranks import ChannelRanks

FILE = 3000  # eight or so files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """netCDF-3: threads of one process may read it side by side."""
    (tmp_path / "source").mkdir()
    write_legacy(tmp_path / "source" / "a.nc", hours(20), ["t2m", "msl"])
    write_legacy(tmp_path / "source" / "p.nc", hours(20), ["t"], levels=[1000, 850])
    return tmp_path / "source"


def make(source: Path, folder: Path) -> None:
    repack(catalogue(source), folder, format="netcdf", file_bytes=FILE)


def test_killed_at_any_call_it_goes_on(source: Path, tmp_path: Path) -> None:
    """Each job is killed some calls later than the one before, in a folder of its own; then at
    several places in one folder, one after the other. Until it is finished nothing is read.
    """
    make(source, tmp_path / "whole")
    whole = content(tmp_path / "whole")
    assert len(whole) > 8
    number, died = 0, True
    while died:
        folder = tmp_path / f"made{number}"
        died = killed_at(lambda folder=folder: make(source, folder), number)
        if died and not (folder / "cache.json").exists() and folder.exists():
            with pytest.raises((FileNotFoundError, ValueError), match=r"not finished|no netCDF"):
                catalogue(folder)
        if folder.exists():
            assert all(whole[path.name] == path.read_bytes() for path in folder.glob("*.nc"))
        make(source, folder)
        assert content(folder) == whole, number
        number += 11 if number > 8 else 1
    assert number > 60
    folder = tmp_path / "several"
    for after in (12, 25, 5, 30, 17):
        killed_at(lambda after=after: make(source, folder), after)
    make(source, folder)
    assert content(folder) == whole


def test_killed_in_the_library_it_goes_on(tmp_path: Path) -> None:
    """By a signal while the library writes a file: before each of them, another time."""
    (tmp_path / "source").mkdir()
    write_new(tmp_path / "source" / "p.nc", hours(400), ["t"], levels=[850.0, 500.0], chunks=16)
    source, made = catalogue(tmp_path / "source"), tmp_path / "made"

    def work(folder: Path) -> None:
        repack(source, folder, format="netcdf", file_bytes=40_000)

    work(tmp_path / "whole")
    whole, torn = content(tmp_path / "whole"), 0
    assert len(whole) > 6
    for number in range(len(whole) - 2):
        child = os.fork()
        if child == 0:
            try:
                work(made)
            finally:
                os._exit(0)
        begun = time.monotonic()
        while len(list(made.glob("*.nc"))) < number or not list(made.glob("*.nc.partial")):
            assert time.monotonic() < begun + 20
        time.sleep(0.002 * number)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        torn += bool(list(made.glob("*.nc.partial")))
        assert all(whole[path.name] == path.read_bytes() for path in made.glob("*.nc"))
    assert torn
    work(made)
    assert content(made) == whole


def test_a_full_disk_is_said_and_the_next_job_goes_on(source: Path, tmp_path: Path) -> None:
    """A real file system, too small for the second file, later made larger."""
    make(source, tmp_path / "whole")
    with small_disk(tmp_path / "small", "80k") as enlarge:
        write = tmp_path / "small" / "made"
        with pytest.raises(
            OSError,
            match=r"small/made/\w+\.nc: cannot be written: No space left.* 0\.0 MB are free there",
        ):
            make(source, write)
        assert not (write / "cache.json").exists()
        whole = content(tmp_path / "whole")
        there = list(write.glob("*.nc"))
        assert there and all(whole[path.name] == path.read_bytes() for path in there)
        assert not list(write.glob("*.nc.partial"))
        enlarge("8m")
        make(source, write)
        assert content(write) == whole


def test_a_write_that_fails_in_the_library_is_said(source: Path, tmp_path: Path) -> None:
    """A limit on the size of files, as a quota; in a process of its own, which then ends."""
    make(source, tmp_path / "whole")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (14_000, resource.RLIM_INFINITY))
            make(source, tmp_path / "made")
        except OSError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert "the netCDF library says" in said and "MB are free there" in said
    assert f"{tmp_path / 'made'}/" in said and ".nc: cannot be written" in said
    assert not list((tmp_path / "made").glob("*.nc")) and not list(
        (tmp_path / "made").glob("*.nc.partial")
    )
    make(source, tmp_path / "made")
    assert content(tmp_path / "made") == content(tmp_path / "whole")


def test_a_damaged_file_of_an_earlier_job_is_written_again(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(source, tmp_path / "whole")
    folder, number = tmp_path / "made", 45
    assert killed_at(lambda: make(source, folder), number)
    (damaged, gone, *_) = sorted(folder.glob("*.nc"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        make(source, folder)
    assert caplog.text.count("is damaged and is written again") == 2
    assert content(folder) == content(tmp_path / "whole")


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_number_of_ranks_gives_the_same_bytes(
    source: Path, tmp_path: Path, size: int
) -> None:
    make(source, tmp_path / "whole")
    made, folder = catalogue(source), tmp_path / "made"
    killed_at(lambda: make(source, folder), 20)
    headers = on_world(
        size,
        lambda channel: repack(
            made, folder, format="netcdf", file_bytes=FILE, ranks=ChannelRanks(channel)
        ),
    )
    assert all(header == headers[0] for header in headers)
    assert content(folder) == content(tmp_path / "whole")
    found = on_world(size, lambda channel: verify(folder, source=made, ranks=ChannelRanks(channel)))
    assert found == [()] * size
