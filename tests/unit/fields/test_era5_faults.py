"""Files that change or vanish while they are read: an error with file, variable and time, never
wrong numbers; and readers in forked processes.
"""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_off import content
from cache_files import everything, same
from era5_files import START, hours, write_legacy, write_new
from hpc_bnn.fields.cache.records import Records
from hpc_bnn.fields.cache.repack import repack
from numpy.typing import NDArray

from hpc_bnn.data.prefetch import Prefetch
from hpc_bnn.fields import handles
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.reader import Reader

FORMATS = {"new": write_new, "legacy": write_legacy}
COUNT = 60


@pytest.fixture(params=FORMATS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two files, one behind the other."""
    write = FORMATS[request.param]
    (tmp_path / "source").mkdir()
    for at, name in enumerate("ab"):
        when = hours(COUNT, start=START + at * COUNT * 6 * 3600)
        write(tmp_path / "source" / f"{name}.nc", when, ["t2m", "msl"])
    return tmp_path / "source"


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every read, not once a second."""
    monkeypatch.setattr(handles, "LOOK_EVERY_S", 0.0)


def vanish(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_again(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-100:] = bytes(100)
    now = path.stat()
    path.write_bytes(raw)
    os.utime(path, ns=(now.st_atime_ns, now.st_mtime_ns + 10**9))


CHANGES: dict[Callable[[Path], None], str] = {
    vanish: "cannot be found any more while it is read",
    grow: r"was changed while it is read: it has \d+ bytes now, \d+ when it was opened",
    shrink: r"was changed while it is read: it has \d+ bytes now, \d+ when it was opened",
    write_again: "was changed while it is read",
}


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read(folder: Path, change: Callable[[Path], None]) -> None:
    made = catalogue(folder)
    reader, out = Reader(made), np.empty(made.shape, np.float32)
    for step in (3, COUNT + 3):
        reader.read(step, out)
    change(folder / "b.nc")
    reader.read(5, out)  # of the other file
    where = rf"b\.nc: {CHANGES[change]}.*\(reading (t2m|msl) at 2017-01-17T00:00\)"
    with pytest.raises((ValueError, FileNotFoundError), match=where):
        reader.read(COUNT + 4, out)
    with pytest.raises((ValueError, FileNotFoundError), match=where):
        reader.read_all([2, COUNT + 4], [out, np.empty_like(out)])
    reader.close()


def test_a_file_is_looked_at_again_after_a_while(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(handles.time, "monotonic", lambda: now[0])
    made = catalogue(folder)
    reader, out = Reader(made), np.empty(made.shape, np.float32)
    reader.read(0, out)
    grow(folder / "a.nc")
    now[0] += 0.9
    reader.read(1, out)
    now[0] += 0.2
    with pytest.raises(ValueError, match="was changed while it is read"):
        reader.read(1, out)
    reader.close()


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("kind", ["files", "cache", "netcdf"])
def test_a_file_that_vanishes_in_the_middle_of_an_epoch(folder: Path, kind: str) -> None:
    """Read ahead by a thread, as in training: the batches before it are right."""
    path = folder
    if kind != "files":
        path = folder.with_name("made")
        repack(catalogue(folder), path, format=kind)
    days = [(f"2017-01-{a:02}", f"2017-01-{b:02}") for a, b in ((1, 20), (21, 25), (26, 30))]
    made = era5(path, variables=["t2m", "msl"], step_hours=6, calendar=False,
                train=days[0], validation=days[1], test=days[2])  # fmt: skip
    want = [made.train.batch(torch.tensor([at]))[0] for at in range(COUNT)]

    def batches() -> Any:
        for at in range(len(made.train)):
            if at == 10:
                for one in [*path.glob("*.nc"), *path.glob("*.npy")]:
                    vanish(one)
            yield made.train.batch(torch.tensor([at]))[0]

    got = []
    where = r"(nc|npy): cannot be found any more.*\(reading .*(t2m|msl) at 2017-01-03T12:00\)"
    with Prefetch(batches()) as ahead, pytest.raises(FileNotFoundError, match=where):
        for x in ahead:
            got.append(x)
    assert len(got) == 10
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=False))


def in_the_middle(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Let something happen once the first portion is written."""
    note, seen = Records.written, []

    def written(self: Records, *given: int) -> None:
        note(self, *given)
        if not seen:
            seen.append(action())

    monkeypatch.setattr(Records, "written", written)


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("format", ["cache", "netcdf"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_in_the_middle_of_a_repack(
    folder: Path, change: Callable[[Path], None], format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"format": format, "block_bytes": 8000, "file_bytes": 8000}
    made, target = catalogue(folder), folder.with_name("made")
    repack(made, folder.with_name("whole"), **options)
    kept, state = (folder / "a.nc").read_bytes(), (folder / "a.nc").stat()
    in_the_middle(monkeypatch, lambda: change(folder / "a.nc"))
    where = rf"a\.nc: {CHANGES[change]}.*\(reading (t2m|msl) from 2017-.* to 2017-.*\)"
    if format == "netcdf":  # opened anew for each file that is written
        where = r"a\.nc: (was there when|has \d+ bytes, expected).*\(reading (t2m|msl) from 2017-"
        where += r"|a\.nc: was changed \(it has \d+ bytes, it had \d+\) while it was read"
    with pytest.raises((ValueError, FileNotFoundError), match=where):
        repack(made, target, **options)
    assert not (target / "cache.json").exists() and not list(target.glob("*.nc.partial"))
    with pytest.raises(FileNotFoundError, match="not finished"):
        catalogue(target)
    # As it was: the next job goes on.
    (folder / "a.nc").write_bytes(kept)
    os.utime(folder / "a.nc", ns=(state.st_atime_ns, state.st_mtime_ns))
    (folder / "a.moved").unlink(missing_ok=True)
    repack(catalogue(folder), target, **options)
    assert content(target) == content(folder.with_name("whole"))


@pytest.mark.parametrize("change", [vanish, write_again])
def test_what_was_read_from_a_changed_file_is_not_kept(
    folder: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the second in which an open file is not looked at again."""
    monkeypatch.setattr(handles, "LOOK_EVERY_S", 3600.0)
    kept, state = (folder / "a.nc").read_bytes(), (folder / "a.nc").stat()
    options: dict[str, Any] = {"block_bytes": 8000}
    repack(catalogue(folder), folder.with_name("whole"), **options)
    in_the_middle(monkeypatch, lambda: change(folder / "a.nc"))
    with pytest.raises(
        ValueError, match=r"a\.nc: (was changed|cannot be found).*while it was read"
    ):
        repack(catalogue(folder), folder.with_name("made"), **options)
    (folder / "a.nc").write_bytes(kept)
    os.utime(folder / "a.nc", ns=(state.st_atime_ns, state.st_mtime_ns))
    repack(catalogue(folder), folder.with_name("made"), **options)
    assert content(folder.with_name("made")) == content(folder.with_name("whole"))


def test_a_source_that_changes_behind_the_last_block_is_found_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touch(*_: object) -> None:
        os.utime(folder / "a.nc")

    monkeypatch.setattr(Records, "close", touch)
    with pytest.raises(ValueError, match=r"changed while they were read: .*a\.nc was written at"):
        repack(catalogue(folder), folder.with_name("made"))
    assert not (folder.with_name("made") / "cache.json").exists()


def wrong_reads(reader: Reader, want: NDArray[np.float32], seed: int) -> int:
    out, wrong = np.empty_like(want[0]), 0
    for at in np.random.default_rng(seed).integers(len(want), size=300):
        reader.read(int(at), out)
        wrong += not np.array_equal(out, want[at])
    return wrong


def in_child(reader: Reader, want: NDArray[np.float32], seed: int, results: Any) -> None:
    results.put(wrong_reads(reader, want, seed))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["files", "cache", "netcdf"])
def test_forked_readers_of_an_archive(folder: Path, kind: str) -> None:
    """Two children and their parent, whose files are open, read in random order side by side."""
    path, want = folder, everything(catalogue(folder))
    if kind != "files":
        path = folder.with_name("made")
        repack(catalogue(folder), path, format=kind)
    reader = Reader(catalogue(path))
    out = np.empty_like(want[0])
    for step in (0, COUNT):
        reader.read(step, out)
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
    assert same(everything(catalogue(path)), want)
