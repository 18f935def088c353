"""Whatever ends a job that writes a cache, the next one goes on and gives the same bytes."""

import fcntl
import logging
import os
import resource
import signal
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_off import content, killed_at, small_disk
from era5_files import START, hours, write_legacy
from hpc_bnn.cli.repack_command import repack_command, verify_command
from hpc_bnn.fields.cache.records import Records
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.verify import verify
from thread_channel import on_world, outcomes

from hpc_bnn.cli.arguments import parse
from hpc_bnn.cli.program import main
from hpc_bnn.data.ranks import ALONE
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.parallel.comms import RankError
from hpc_bnn.parallel.ranks import ChannelRanks

BLOCK = 3000  # about ten blocks


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """netCDF-3: threads of one process may read it side by side."""
    (tmp_path / "source").mkdir()
    write_legacy(tmp_path / "source" / "a.nc", hours(20), ["t2m", "msl"])
    write_legacy(tmp_path / "source" / "p.nc", hours(20), ["t"], levels=[1000, 850])
    return tmp_path / "source"


def make(source: Path, folder: Path, dtype: str = "float32") -> None:
    repack(catalogue(source), folder, dtype=dtype, block_bytes=BLOCK)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_killed_at_any_call_it_goes_on(source: Path, tmp_path: Path, dtype: str) -> None:
    """Each job is killed some calls later than the one before, in a folder of its own; then at
    several places in one folder, one after the other.
    """
    make(source, tmp_path / "whole", dtype)
    whole = content(tmp_path / "whole")
    assert set(whole) == {"cache.json", "fields.npy", "static.npy"}
    number, died = 0, True
    while died:
        folder = tmp_path / f"cache{number}"
        died = killed_at(lambda folder=folder: make(source, folder, dtype), number)
        if died and not (folder / "cache.json").exists() and folder.exists():
            with pytest.raises((FileNotFoundError, ValueError), match=r"not finished|no netCDF"):
                catalogue(folder)
        make(source, folder, dtype)
        assert content(folder) == whole, number
        number += 11 if number > 8 else 1
    assert number > 100
    folder = tmp_path / "several"
    for after in (12, 40, 5, 60, 31):
        killed_at(lambda after=after: make(source, folder, dtype), after)
    make(source, folder, dtype)
    assert content(folder) == whole


def test_a_killed_command_goes_on(source: Path, tmp_path: Path) -> None:
    """The command itself, killed by a signal behind its third block."""
    note, said = Records.written, tmp_path / "said"

    def run(folder: str, after: int) -> int:
        """Run it in a process of its own, killed behind so many blocks."""
        seen = []

        def written(*given: Any) -> None:
            note(*given)
            seen.append(given)
            if len(seen) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            Records.written = written  # type: ignore[method-assign]
            with said.open("w") as out, redirect_stdout(out), redirect_stderr(out):
                status = main(["data", "repack", str(source), "-o", str(tmp_path / folder)])
            os._exit(status)
        finally:
            os._exit(99)

    for path in source.iterdir():
        path.unlink()
    for at in range(5):  # a block for each file
        write_legacy(source / f"{at}.nc", hours(4, start=START + at * 86400))
    repack(catalogue(source), tmp_path / "whole")
    assert run("cache", 3) == -signal.SIGKILL
    assert (tmp_path / "cache" / "cache.json.partial").exists()
    assert run("cache", 1000) == 0
    assert "goes on: 3 of" in said.read_text()
    assert "20 times of 1 channels as float32" in said.read_text()
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_the_command_in_words(source: Path, tmp_path: Path) -> None:
    """What it prints, and its exit status."""
    folder = tmp_path / "cache"

    def run(*more: str, path: Path = source) -> tuple[str, int]:
        options = parse(["data", "repack", str(path), "-o", str(folder), *more])
        work = verify_command if options.verify else repack_command
        lines, status = work(options, ALONE)
        return "\n".join(lines), status

    text, status = run("--variables", "t2m,t", "--levels", "850", "--end", "2017-01-02",
                       "--dtype", "int16")  # fmt: skip
    assert status == 0
    assert "8 times of 2 channels as int16" in text and "t850 " in text
    assert "error at most" in text and text.rstrip().endswith(" K")
    assert run("--verify")[0].endswith(f"checksums and {source}: 0 differences")
    assert run("--verify", path=folder) == (
        f"{folder}: compared with its checksums: 0 differences",
        0,
    )
    damaged = bytearray((folder / "fields.npy").read_bytes())
    damaged[5000] ^= 1
    (folder / "fields.npy").write_bytes(damaged)
    text, status = run("--verify")
    assert status == 1 and "the checksum differs: damaged" in text
    assert "t850 from 2017-01-01T00:00 to 2017-01-02T18:00: differs from the source" in text or (
        "t2m from 2017-01-01T00:00 to 2017-01-02T18:00: differs from the source" in text
    )


def test_a_damaged_block_of_an_earlier_job_is_written_again(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(source, tmp_path / "whole")
    number, folder = 60, tmp_path / "cache60"
    while not (folder / "static.npy").exists():  # all blocks are there and noted
        number, folder = number + 1, tmp_path / f"cache{number}"
        assert killed_at(lambda number=number, folder=folder: make(source, folder), number)
    raw = bytearray((folder / "fields.npy").read_bytes())
    raw[4096 + 50] ^= 4
    (folder / "fields.npy").write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        make(source, folder)
    assert caplog.text.count("is damaged and is written again") == 1
    assert content(folder) == content(tmp_path / "whole")


def test_a_full_disk_is_said_and_the_next_job_goes_on(source: Path, tmp_path: Path) -> None:
    """A real file system of 20 KiB, later made larger."""
    make(source, tmp_path / "whole")
    with small_disk(tmp_path / "small", "20k") as enlarge:
        write = tmp_path / "small" / "cache"
        with pytest.raises(
            OSError,
            match=r"cannot be written: No space left.*[0-9.]+ MB are free there.*same command",
        ):
            make(source, write)
        assert not (write / "cache.json").exists()
        enlarge("4m")
        make(source, write)
        assert content(write) == content(tmp_path / "whole")


def test_a_limit_on_files_is_said_and_the_next_job_goes_on(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        with pytest.raises(OSError, match=r"fields\.npy.*cannot be written: File too large"):
            make(source, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    make(source, tmp_path / "cache")
    assert content(tmp_path / "cache") == content(tmp_path / "whole")


def test_what_is_there_must_be_the_same(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    killed_at(lambda: make(source, folder), 20)
    with pytest.raises(ValueError, match="begun with other settings: it differs in dtype"):
        make(source, folder, "int16")
    make(source, folder)
    with pytest.raises(ValueError, match="holds repacked fields that differ in dtype"):
        make(source, folder, "float16")
    with pytest.raises(ValueError, match=r"is not empty .*and holds no cache"):
        make(source, source)
    with pytest.raises(ValueError, match="dtype = 'int8': expected one of float32"):
        make(source, tmp_path / "other", "int8")


def test_one_job_at_a_time(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    killed_at(lambda: make(source, folder), 20)
    with (folder / "cache.json.partial").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another job is repacking into this folder"):
            make(source, folder)
    make(source, folder)


@pytest.mark.parametrize("size", [0, 10, 500])
def test_a_request_that_was_cut_off_is_written_again(
    source: Path, tmp_path: Path, size: int
) -> None:
    make(source, tmp_path / "whole")
    folder = tmp_path / "cache"
    killed_at(lambda: make(source, folder), 2)
    request = folder / "cache.json.partial"
    request.write_bytes(request.read_bytes()[:size])
    make(source, folder)
    assert content(folder) == content(tmp_path / "whole")


def test_a_source_that_changes_meanwhile_is_refused(source: Path, tmp_path: Path) -> None:
    made = catalogue(source)
    killed_at(lambda: repack(made, tmp_path / "cache", block_bytes=BLOCK), 30)
    write_legacy(source / "a.nc", hours(20), ["t2m", "msl"], scale=0.003)
    with pytest.raises(ValueError, match="begun with other settings: it differs in files"):
        make(source, tmp_path / "cache")


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_every_number_of_ranks_gives_the_same_bytes(
    source: Path, tmp_path: Path, size: int, dtype: str
) -> None:
    make(source, tmp_path / "whole", dtype)
    made, folder = catalogue(source), tmp_path / "cache"
    killed_at(lambda: make(source, folder, dtype), 45)
    headers = on_world(
        size,
        lambda channel: repack(
            made, folder, dtype=dtype, block_bytes=BLOCK, ranks=ChannelRanks(channel)
        ),
    )
    assert all(header == headers[0] for header in headers)
    assert content(folder) == content(tmp_path / "whole")
    found = on_world(size, lambda channel: verify(folder, source=made, ranks=ChannelRanks(channel)))
    assert found == [()] * size


def test_a_rank_that_fails_ends_all_and_nothing_is_lost(source: Path, tmp_path: Path) -> None:
    made, kept = catalogue(source), (source / "p.nc").read_bytes()
    state = (source / "p.nc").stat()
    for path in source.iterdir():
        assert path.stat().st_size
    (source / "p.nc").write_bytes(kept[:-8])
    ended = outcomes(
        3,
        lambda channel: repack(
            made, tmp_path / "cache", block_bytes=BLOCK, ranks=ChannelRanks(channel)
        ),
    )
    assert all(isinstance(error, ValueError | RankError) for error in ended)
    assert any("p.nc" in str(error) and "it has changed" in str(error) for error in ended)
    (source / "p.nc").write_bytes(kept)
    os.utime(source / "p.nc", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_numpy_reads_the_fields(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "cache")
    fields = np.load(tmp_path / "cache" / "fields.npy", mmap_mode="r")
    assert fields.shape == (20, 4, 7, 12) and fields.dtype == np.float32
    assert fields.offset % 4096 == 0
