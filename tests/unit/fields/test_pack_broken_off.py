"""Whatever ends a job that writes a pack, the next one goes on and gives the same bytes."""

import logging
import os
import resource
import signal
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from broken_off import content, killed_at, small_disk
from cache_files import same
from era5_files import START, hours, write_legacy
from packs import everything
from thread_group import on_ranks, outcomes

from hpc_bnn.cli.program import main
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.folder import Done
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.pack.verify import verify
from hpc_bnn.fields.values import Values
from hpc_bnn.group import RankError

BLOCK = 3000  # two steps


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Over the end of a year."""
    (tmp_path / "source").mkdir()
    when = hours(10, start=START - 5 * 6 * 3600)
    write_legacy(tmp_path / "source" / "a.nc", when, ["t2m", "msl"])
    write_legacy(tmp_path / "source" / "p.nc", when, ["t"], levels=[1000, 850])
    return tmp_path / "source"


def make(source: Path, folder: Path) -> None:
    ingest(catalogue(source), folder, block_bytes=BLOCK)


def test_killed_at_any_call_it_goes_on(source: Path, tmp_path: Path) -> None:
    """Each job is killed some calls later than the one before, in a folder of its own; then at
    several places in one folder, one after the other.
    """
    make(source, tmp_path / "whole")
    whole = content(tmp_path / "whole")
    assert set(whole) == {
        "pack.json", "2016.json", "2016.f32", "2017.json", "2017.f32", "static.f32", ".lock",
    }  # fmt: skip
    number, died = 0, True
    while died:
        folder = tmp_path / f"pack{number}"
        died = killed_at(lambda folder=folder: make(source, folder), number)
        if died and folder.exists() and not (folder / "pack.json").exists():
            with pytest.raises(FileNotFoundError, match=r"not finished|no such file"):
                open_pack(folder)
        make(source, folder)
        assert content(folder) == whole, number
        number += 5 if number > 12 else 1
    assert number > 40
    for after in (12, 25, 5, 30, 18):
        killed_at(lambda after=after: make(source, tmp_path / "several"), after)
    make(source, tmp_path / "several")
    assert content(tmp_path / "several") == whole


def test_killed_while_it_appends_the_old_pack_is_read(source: Path, tmp_path: Path) -> None:
    """What the job has written so far does not show; then it is kept, though files came since."""
    folder = tmp_path / "pack"
    make(source, folder)
    old = everything(open_pack(folder))
    later = START + 5 * 6 * 3600
    write_legacy(source / "b.nc", hours(6, start=later), ["t2m", "msl"])
    write_legacy(source / "q.nc", hours(6, start=later), ["t"], levels=[1000, 850])
    for number in (3, 6, 9, 12, 15):
        assert killed_at(lambda number=number: make(source, folder), number)
        assert same(everything(open_pack(folder)), old)
    write_legacy(source / "c.nc", hours(2, start=later + 6 * 6 * 3600), ["t2m", "msl"])
    write_legacy(source / "r.nc", hours(2, start=later + 6 * 6 * 3600), ["t"], levels=[1000, 850])
    make(source, folder)
    files = catalogue(source)
    assert same(everything(open_pack(folder)), Values(files).read(range(4), 0, 18))
    assert verify(folder, source=files) == ()


def test_a_killed_command_goes_on(source: Path, tmp_path: Path) -> None:
    """The command itself, killed by a signal behind its second span."""
    append, said = Done.append, tmp_path / "said"

    def run(after: int) -> int:
        """Run it in a process of its own, killed behind so many spans."""
        seen = []

        def appending(*given: Any) -> None:
            append(*given)
            seen.append(given)
            if len(seen) == after:
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        try:
            Done.append = appending  # type: ignore[method-assign]
            with said.open("w") as out, redirect_stdout(out), redirect_stderr(out):
                status = main(["data", "ingest", str(source), "-o", str(tmp_path / "pack")])
            os._exit(status)
        finally:
            os._exit(99)

    assert run(2) == -signal.SIGKILL
    assert run(1000) == 0
    assert "goes on: 6 of 10 steps are there" in said.read_text()
    assert "10 steps of 4 channels in 2 years, 0.0 MB; use it as data.path=" in said.read_text()
    make(source, tmp_path / "whole")
    assert content(tmp_path / "pack") == content(tmp_path / "whole")


def test_a_damaged_step_of_an_earlier_job_is_written_again(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(source, tmp_path / "whole")
    folder, number = tmp_path / "pack", 10
    while not list(folder.glob("done-*.jsonl")) or not folder.joinpath("static.f32").exists():
        number += 1
        assert killed_at(lambda number=number: make(source, folder), number)
    raw = bytearray((folder / "2017.f32").read_bytes())
    raw[50] ^= 4
    (folder / "2017.f32").write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        make(source, folder)
    assert caplog.text.count("2017.f32: step 0 is damaged and is written again") == 1
    assert content(folder) == content(tmp_path / "whole")


def test_a_full_disk_is_said_and_the_next_job_goes_on(source: Path, tmp_path: Path) -> None:
    """A real file system of 32 KiB, later made larger."""
    make(source, tmp_path / "whole")
    with small_disk(tmp_path / "small", "32k") as enlarge:
        folder = tmp_path / "small" / "pack"
        with pytest.raises(
            OSError,
            match=r"cannot be written: No space left.*[0-9.]+ MB are free there.*same command",
        ):
            make(source, folder)
        assert not (folder / "pack.json").exists()
        enlarge("4m")
        make(source, folder)
        assert content(folder) == content(tmp_path / "whole")


def test_a_limit_on_files_is_said_and_the_next_job_goes_on(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
    try:
        with pytest.raises(OSError, match=r"2016\.f32: cannot be written: File too large"):
            make(source, tmp_path / "pack")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    make(source, tmp_path / "pack")
    assert content(tmp_path / "pack") == content(tmp_path / "whole")


def test_a_source_that_changed_since_is_refused(source: Path, tmp_path: Path) -> None:
    assert killed_at(lambda: make(source, tmp_path / "pack"), 15)
    write_legacy(source / "a.nc", hours(10), ["t2m", "msl"], scale=0.003)
    with pytest.raises(ValueError, match=r"changed since they were packed: .*a\.nc has other"):
        make(source, tmp_path / "pack")


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_number_of_ranks_gives_the_same_bytes(
    source: Path, tmp_path: Path, size: int
) -> None:
    """netCDF-3: threads of one process may read it side by side."""
    make(source, tmp_path / "whole")
    files, folder = catalogue(source), tmp_path / "pack"
    assert killed_at(lambda: make(source, folder), 18)
    headers = on_ranks(
        size,
        lambda ranks: ingest(files, folder, block_bytes=BLOCK, ranks=ranks),
    )
    assert all(header == headers[0] for header in headers)
    assert content(folder) == content(tmp_path / "whole")
    found = on_ranks(size, lambda ranks: verify(folder, source=files, ranks=ranks))
    assert found == [()] * size


def test_a_rank_that_fails_ends_all_and_nothing_is_lost(source: Path, tmp_path: Path) -> None:
    files, kept = catalogue(source), (source / "p.nc").read_bytes()
    state = (source / "p.nc").stat()
    (source / "p.nc").write_bytes(kept[:-8])
    ended = outcomes(3, lambda ranks: ingest(files, tmp_path / "pack", ranks=ranks))
    assert all(isinstance(error, ValueError | RankError) for error in ended)
    assert all("p.nc" in str(error) for error in ended)
    assert not (tmp_path / "pack" / "pack.json").exists()
    (source / "p.nc").write_bytes(kept)
    os.utime(source / "p.nc", ns=(state.st_atime_ns, state.st_mtime_ns))
