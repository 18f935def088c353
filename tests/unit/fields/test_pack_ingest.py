"""A pack holds the values of its files bit for bit, however they are cut, and grows with them."""

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_off import content
from cache_files import MAKES, same, write_static
from era5_files import START, hours, write_new
from packs import everything, fingerprint_of, packed

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.header import read_header
from hpc_bnn.fields.pack.ingest import Span, ingest, spans
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.pack.reader import PackReader
from hpc_bnn.fields.values import Values

YEAR = 365 * 86400


@pytest.fixture(params=MAKES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    path: Path = MAKES[request.param](tmp_path / "source")
    write_static(path)
    return path


@pytest.mark.parametrize("block_bytes", [1, 2000, 1 << 26])
def test_values_are_equal_bit_for_bit(source: Path, tmp_path: Path, block_bytes: int) -> None:
    files = catalogue(source)
    header = ingest(files, tmp_path / "pack", block_bytes=block_bytes)
    pack = open_pack(tmp_path / "pack")
    assert pack.names == files.names
    assert np.array_equal(pack.times, files.times)
    assert np.array_equal(pack.present(), files.present())
    assert np.array_equal(pack.preliminary, files.preliminary)
    assert pack.grid.same(files.grid) and pack.grid.periodic == files.grid.periodic
    assert pack.fingerprint() == fingerprint_of(files)
    for a, b in zip(pack.channels + pack.static, files.channels + files.static, strict=True):
        for name in ("name", "variable", "level_hpa", "units", "standard_name", "vector"):
            assert getattr(a, name) == getattr(b, name)
    values = Values(files)
    want = values.read(range(len(files.channels)), 0, len(files.times))
    assert same(everything(pack), want[files.present()])
    assert same(PackReader(pack).static(), values.static())
    assert header == read_header(tmp_path / "pack")


def test_anyone_can_read_the_format(tmp_path: Path) -> None:
    """As header.py says: a whole number of pages a step, absent fields NaN."""
    (tmp_path / "source").mkdir()
    files = catalogue(MAKES["absent"](tmp_path / "source"))
    ingest(files, tmp_path / "pack")
    header = json.loads((tmp_path / "pack" / "pack.json").read_text())
    year = json.loads((tmp_path / "pack" / "2017.json").read_text())
    assert [channel["name"] for channel in header["channels"]] == ["msl", "t2m"]
    assert header["years"] == {"2017": 8} and year["times"] == hours(8).tolist()
    assert year["absent"] == {"msl": [5, 6, 7]}
    raw = np.fromfile(tmp_path / "pack" / "2017.f32", "<f4").reshape(8, -1)
    assert raw.shape == (8, 4096 // 4) and len(year["crc32"]) == 8
    fields = raw[:, : 2 * 7 * 12].reshape(8, 2, 7, 12)
    want = Values(files).read([0, 1], 0, 8)
    assert same(fields, want) and np.isnan(fields[5:, 0]).all()


def test_spans_share_no_chunk(tmp_path: Path) -> None:
    """Files of 9 and 7 steps: chunks begin anew at each."""
    files = catalogue(MAKES["new"](tmp_path), variables=["t2m"])

    def cut(missing: Any, chunk: int, most: int) -> list[tuple[int, int]]:
        return [(s.start, s.stop) for s in spans(files, list(missing), chunk=chunk, most=most)]

    assert cut(range(16), 4, 1) == [(0, 4), (4, 8), (8, 9), (9, 13), (13, 16)]
    assert cut(range(16), 4, 9) == [(0, 8), (8, 9), (9, 16)]
    assert cut([1, 2, 5, 6, 7, 8], 4, 100) == [(1, 3), (5, 9)]
    assert spans(files, [], chunk=4, most=1) == []
    assert spans(files, [15], chunk=4, most=1) == [Span(15, 16)]


def test_steps_are_appended_and_the_rest_is_left(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "pack"
    source.mkdir()
    write_new(source / "a.nc", hours(4), ["t2m", "msl"])
    packed(source, folder)
    first, before = content(folder), (folder / "2017.f32").stat()
    ingest(catalogue(source), folder)  # nothing new: not even touched
    assert content(folder) == first and (folder / "2017.f32").stat() == before
    write_new(source / "b.nc", hours(3, start=START + 86400), ["t2m", "msl"])
    write_new(source / "c.nc", hours(2, start=START + YEAR), ["t2m", "msl"])
    old = open_pack(folder)
    assert len(old.times) == 4 and not old.problems
    assert any("b.nc was added" in n and "data ingest" in n for n in old.notices)
    ingest(catalogue(source), folder)
    pack = open_pack(folder)
    assert not pack.notices and pack.fingerprint() == fingerprint_of(catalogue(source))
    assert read_header(folder).years == {"2017": 7, "2018": 2}
    assert same(everything(pack), Values(catalogue(source)).read([0, 1], 0, 9))
    assert (folder / "2017.f32").read_bytes()[: len(first["2017.f32"])] == first["2017.f32"]


def test_steps_that_were_incomplete_are_written_anew(tmp_path: Path) -> None:
    """A field that was absent comes with another file; the later step counts."""
    source, folder = tmp_path / "source", tmp_path / "pack"
    source.mkdir()
    MAKES["absent"](source)
    assert packed(source, folder).present().tolist() == [True] * 5 + [False] * 3
    write_new(source / "c.nc", hours(3, start=START + 5 * 6 * 3600), ["msl"])
    ingest(catalogue(source), folder)
    pack = open_pack(folder)
    assert pack.present().all() and pack.slot.tolist() == [0, 1, 2, 3, 4, 8, 9, 10]
    assert same(everything(pack), Values(catalogue(source)).read([0, 1], 0, 8))


def test_times_can_be_packed_in_any_order(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(8))
    files = catalogue(tmp_path / "a.nc")
    for first, last in ((4, 7), (0, 2), (0, 7)):
        chosen = files.between(int(files.times[first]), int(files.times[last]))
        ingest(chosen, tmp_path / "pack")
    pack = open_pack(tmp_path / "pack")
    assert np.array_equal(pack.times, files.times)
    assert pack.slot.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert same(everything(pack), Values(files).read([0], 0, 8))


def test_what_is_there_must_be_the_same(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(4), ["t2m", "msl"])
    packed(tmp_path / "a.nc", tmp_path / "pack")
    with pytest.raises(ValueError, match=r"differs in channels: it has msl, t2m of .*a.nc"):
        ingest(catalogue(tmp_path / "a.nc", variables=["t2m"]), tmp_path / "pack")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"is not empty \(it has notes.txt\) and holds no pack"):
        packed(tmp_path / "a.nc", tmp_path / "other")
    with (tmp_path / "pack" / ".lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another job is working in this folder; wait"):
            packed(tmp_path / "a.nc", tmp_path / "pack")
    write_new(tmp_path / "a.nc", hours(5), ["t2m", "msl"])
    with pytest.raises(ValueError, match=r"changed since they were packed: .*a.nc has"):
        packed(tmp_path / "a.nc", tmp_path / "pack")
    with pytest.raises(ValueError, match="no times or no channels to pack"):
        ingest(catalogue(tmp_path / "a.nc").between(0, 1), tmp_path / "new")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.inf, "1 of 84 values are infinite; repair the file"),
        (9999.0, "1 of 84 values are none that t2m can have, the first, 9999, at latitude 60"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, value: float, said: str) -> None:
    def broken(name: str, values: Any) -> Any:
        values[2, 1, 3] = value
        return values

    write_new(tmp_path / "a.nc", hours(4), change=broken)
    with pytest.raises(ValueError, match=rf"a\.nc: 't2m' \(t2m\) at 2017-01-01T12:00: {said}"):
        packed(tmp_path / "a.nc")


def test_a_source_that_changes_meanwhile_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is noted of what may have been read from a file as it was not recorded."""
    write_new(tmp_path / "a.nc", hours(4))
    files, read = catalogue(tmp_path / "a.nc"), Values.read

    def touching(*given: Any) -> Any:
        os.utime(tmp_path / "a.nc")
        return read(*given)

    monkeypatch.setattr(Values, "read", touching)
    with pytest.raises(ValueError, match=r"a\.nc: was changed .* while it was read; restore it"):
        ingest(files, tmp_path / "pack")
    assert not (tmp_path / "pack" / "done-00000.jsonl").read_bytes()
    with pytest.raises(FileNotFoundError, match="a pack that is not finished"):
        open_pack(tmp_path / "pack")


def test_progress_is_told_with_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_new(tmp_path / "a.nc", hours(4))
    with caplog.at_level(logging.INFO):
        packed(tmp_path / "a.nc")
    assert "a.pack: pack: 0.0 of 0.0 MB of this rank" in caplog.text and "ETA" in caplog.text
