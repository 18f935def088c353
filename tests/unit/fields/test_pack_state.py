"""Whether a pack can be used: finished, whole, made of its source as it is now; and old folders."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from cache_files import same
from era5_files import START, hours, write_new
from packs import everything, packed

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.automatic import Request, pack_of
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.pack.verify import verify
from hpc_bnn.fields.report import describe_pack, pack_defects
from hpc_bnn.group import ALONE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    for at in range(8):
        write_new(tmp_path / "source" / f"{at}.nc", hours(4, start=START + at * 86400))
    packed(tmp_path / "source", tmp_path / "pack")
    return tmp_path / "pack"


def test_a_stale_pack_is_used_with_a_warning_that_names_what_changed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    want, source = everything(open_pack(folder)), folder.with_name("source")
    with (source / "2.nc").open("ab") as file:
        file.write(b"more")
    (source / "3.nc").unlink()
    with pytest.raises(
        ValueError, match=r"stale.*2\.nc has \d+ bytes, it had .*3\.nc is gone.*data.stale=allow"
    ):
        open_pack(folder)
    with pytest.raises(ValueError, match="stale = 'perhaps': expected 'error' or 'allow'"):
        open_pack(folder, stale="perhaps")  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        used = open_pack(folder, stale="allow")
    (told,) = [record.getMessage() for record in caplog.records]
    assert "2.nc has" in told and "3.nc is gone" in told and "used as it is" in told
    assert same(everything(used), want) and not used.problems
    assert any("3.nc is gone" in one for one in pack_defects(used))
    assert any("stale" in one for one in pack_defects(open_pack(folder, strict=False)))


def test_many_changes_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted(folder.with_name("source").iterdir())[:7]:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        open_pack(folder, stale="allow")
    assert caplog.text.count("is gone") == 5 and "and 2 more" in caplog.text


@pytest.mark.parametrize("pattern", ["", "*.nc"], ids=["folder", "pattern"])
def test_other_files_in_place_of_all_are_a_change(
    folder: Path, tmp_path: Path, pattern: str
) -> None:
    """Downloaded again in files of months: no name is the same."""
    source = tmp_path / "source"
    ingest(catalogue(source / pattern), tmp_path / "made")
    for path in source.iterdir():
        path.unlink()
    for month in ("2017-01", "2017-02"):
        write_new(source / f"{month}.nc", hours(40))
    words = r"all 8 files it was made of are gone \(.*0\.nc to .*7\.nc\); .*2017-01\.nc was added"
    with pytest.raises(ValueError, match=f"stale.*{words}.*data.stale=allow"):
        open_pack(tmp_path / "made")
    assert len(open_pack(tmp_path / "made", stale="allow").times) == 32


def test_a_source_that_is_not_here_is_no_change(folder: Path) -> None:
    """Its folder has no file, or is gone itself."""
    source = folder.with_name("source")
    for path in source.iterdir():
        path.unlink()
    for _ in range(2):
        pack = open_pack(folder)
        assert any("are not here" in notice for notice in pack.notices) and not pack.problems
        if source.exists():
            source.rmdir()


def test_damage_is_refused_all_the_same(folder: Path) -> None:
    (folder.with_name("source") / "2.nc").unlink()
    year = (folder / "2017.f32").read_bytes()
    for content in (year[:-1], b""):
        (folder / "2017.f32").write_bytes(content)
        with pytest.raises(ValueError, match=r"2017\.f32: has \d+ bytes, expected 131072: cut off"):
            open_pack(folder, stale="allow")
    (folder / "2017.f32").write_bytes(year)
    for name in ("2017.json", "pack.json"):
        kept = (folder / name).read_bytes()
        for broken in (kept[:-9], b"[]", b"{}", b'{"version":2}'):
            (folder / name).write_bytes(broken)
            with pytest.raises(ValueError, match=rf"{name}: (damaged|not the header of a pack)"):
                open_pack(folder, stale="allow")
        (folder / name).write_bytes(kept)
    steps = folder / "2017.json"
    steps.write_bytes(steps.read_bytes().replace(b'"crc32":[', b'"crc32":[null,'))
    with pytest.raises(ValueError, match=r"2017\.json: damaged: \d+ times, \d+ checksums"):
        open_pack(folder, stale="allow")
    (folder / "2017.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"2017\.json: no such file: .* copied in part"):
        open_pack(folder, stale="allow")


def test_what_a_pack_has_not_is_told_with_the_command(folder: Path) -> None:
    said = (
        rf"no channel 'q'; has t2m; to pack it: `hpc-bnn data ingest {folder.with_name('source')} "
        "-o NEW_FOLDER --variables t2m,q --levels 500 --static sst`"
    )
    with pytest.raises(ValueError, match=said):
        open_pack(folder, variables=["t2m", "q"], levels=[500], static=["sst"])
    with pytest.raises(ValueError, match="no channel 'lsm'"):
        open_pack(folder, variables=["t2m"], static=["lsm"])
    with pytest.raises(ValueError, match="member = 3: this pack was made with member = None"):
        open_pack(folder, member=3)


def test_words_and_checksums(folder: Path) -> None:
    pack = open_pack(folder)
    text = "\n".join(describe_pack(pack))
    assert "1 years, 0.1 MB" in text and "channels  1: t2m" in text
    assert "times     32, every 6 h, 2017-01-01T00:00 to 2017-01-08T18:00" in text
    assert pack_defects(pack) == [] and verify(folder) == ()
    files = catalogue(folder.with_name("source"))
    assert verify(folder, source=files) == ()
    raw = bytearray((folder / "2017.f32").read_bytes())
    raw[4096 * 3] ^= 1
    (folder / "2017.f32").write_bytes(raw)
    (one,) = verify(folder)
    assert "2017.f32: 2017-01-01T18:00: the checksum differs" in one
    one, other = verify(folder, source=files)
    assert "checksum differs" in one and "t2m at 2017-01-01T18:00: differs from the source" in other
    with pytest.raises(ValueError, match=r"differs from this pack in times: it cannot be compared"):
        verify(folder, source=files.between(0, START))
    np.testing.assert_array_equal(pack.times, files.times)


@pytest.mark.parametrize("name", ["cache.json", "cache.json.partial"])
def test_a_folder_of_the_first_version_is_refused_with_the_command(
    tmp_path: Path, name: str
) -> None:
    old = tmp_path / "cache"
    old.mkdir()
    request = {"version": 1, "dtype": "float32", "source": "/data/era5"}
    content = {"request": request} if name == "cache.json" else request
    (old / name).write_text(json.dumps(content))
    said = "was repacked by hpc_bnn 0.1, .*run `hpc-bnn data ingest /data/era5 -o NEW_FOLDER`"
    with pytest.raises(ValueError, match=said):
        open_pack(old)
    with pytest.raises(ValueError, match=said):
        pack_of(Request(old), ALONE)
    write_new(tmp_path / "a.nc", hours(4))
    with pytest.raises(ValueError, match=said):
        packed(tmp_path / "a.nc", old)
