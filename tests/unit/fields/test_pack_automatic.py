"""Files as data.path: packed once, beside them or where data.pack says, never too much."""

import fcntl
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_off import content
from era5_files import START, hours, write_legacy, write_new
from thread_group import on_ranks

from hpc_bnn.config import check_options
from hpc_bnn.data import Source, data_set
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.pack.automatic import Request, default_folder, pack_of
from hpc_bnn.fields.pack.header import read_header
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.group import ALONE

OPTIONS: dict[str, Any] = {
    "variables": ["t2m"],
    "step_hours": 6,
    "train": ("2017-01-01", "2017-01-04"),
    "validation": ("2017-01-05", "2017-01-06"),
    "test": ("2017-01-07", "2017-01-10"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "era5").mkdir()
    write_new(tmp_path / "era5" / "a.nc", hours(40), ["t2m", "msl"])
    return tmp_path / "era5"


def source(path: Path, **options: Any) -> Source:
    return era5(path, **(OPTIONS | options))


def test_only_what_is_wanted_is_packed_and_a_second_run_reads_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        first = source(folder)
    pack = folder.with_name("era5.pack")
    assert f"{folder}: is packed once, into {pack}, 0.2 MB" in caplog.text
    assert [channel.name for channel in read_header(pack).channels] == ["t2m"]
    before = content(pack)
    again = source(folder)
    assert content(pack) == before and again.name == first.name == f"era5({folder})"
    for a, b in zip(first.train.batch(torch.arange(9)), again.train.batch(torch.arange(9)),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)
    assert first.fields is not None
    assert set(first.fields.files) == {str(pack / "2017.f32"), str(folder / "a.nc")}
    read = source(pack).train.batch(torch.arange(9))[0]
    assert torch.equal(read, again.train.batch(torch.arange(9))[0])


def test_the_default_place_lies_beside_the_files(folder: Path) -> None:
    parent = folder.parent
    assert default_folder(folder) == parent / "era5.pack"
    assert default_folder(f"{folder}/*.nc") == parent / "era5.pack"
    assert default_folder(f"{parent}/**/2017-*/a.nc") == parent.with_name(f"{parent.name}.pack")
    assert default_folder(folder / "a.nc") == folder / "a.pack"


def test_another_place_can_be_given(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "scratch" / "pack"
    source(folder, pack=str(place))
    assert (place / "pack.json").exists() and not folder.with_name("era5.pack").exists()
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"cannot be made or written: .*set data.pack to a folder that can be"
    ):
        source(folder, pack=tmp_path / "file" / "pack")


def test_a_folder_that_cannot_be_written_names_the_option(folder: Path) -> None:
    lock = folder.with_name("era5.pack") / ".lock"
    lock.mkdir(parents=True)  # as on a file system that is read only, also for root
    with pytest.raises(OSError, match=r"era5.pack: .* or written: .*set data.pack to a folder"):
        source(folder)


def test_too_large_a_pack_is_refused_with_the_command(folder: Path, tmp_path: Path) -> None:
    said = (
        rf"{folder}: is no pack, and its pack would have 0.0 GiB, more than data.pack_limit = "
        rf"0.0001: make it once, .* `hpc-bnn data ingest {folder} -o {folder}.pack --variables "
        r"t2m`, or raise data.pack_limit"
    )
    with pytest.raises(ValueError, match=said):
        source(folder, pack_limit=0.0001)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["era5"]


def test_channels_that_a_pack_has_not_are_in_another(folder: Path) -> None:
    source(folder)
    for _ in range(2):  # packed, then found
        both = source(folder, variables=["t2m", "msl"])
        assert both.output_shape[0] == 2
    assert sorted(path.name for path in folder.parent.glob("*.pack")) == [
        "era5-2.pack",
        "era5.pack",
    ]


def test_an_unfinished_pack_of_other_channels_is_left_as_it_is(folder: Path) -> None:
    source(folder)
    pack = folder.with_name("era5.pack")
    (pack / "pack.json").rename(pack / "pack.json.partial")
    before = content(pack)
    made = on_ranks(2, lambda ranks: source(folder, variables=["msl"], ranks=ranks))
    assert [one.fields.channels[0].name for one in made if one.fields] == ["msl", "msl"]
    assert read_header(folder.with_name("era5-2.pack")).channels[0].name == "msl"
    assert {name: before[name] for name in before if name != ".lock"} == {
        name: text for name, text in content(pack).items() if name != ".lock"
    }
    with pytest.raises(ValueError, match=r"era5.pack: holds a pack that differs in channels"):
        source(folder, variables=["msl"], pack=pack)


def test_a_pack_of_some_times_is_not_used_for_the_files(folder: Path) -> None:
    pack = folder.with_name("era5.pack")
    some = catalogue(folder, variables=["t2m"]).between(START, START + 8 * 86400)
    ingest(some, pack)
    assert len(source(pack).fields.record.times) == 33
    assert len(source(folder).fields.record.times) == 40
    assert folder.with_name("era5-2.pack").exists()
    with pytest.raises(ValueError, match=r"is a pack of some of the times of .*set data.path="):
        source(folder, pack=pack)
    ingest(catalogue(folder, variables=["t2m"]), pack)
    assert len(source(folder, pack=pack).fields.record.times) == 40


def test_where_no_variables_are_chosen_the_pack_has_all(folder: Path) -> None:
    source(folder)
    for _ in range(2):  # packed, then found
        assert pack_of(Request(folder), ALONE).names == ("msl", "t2m")
    assert len(list(folder.parent.glob("*.pack"))) == 2


def test_channels_that_a_named_pack_has_not_are_told(folder: Path) -> None:
    pack = folder.with_name("mine")
    source(folder, pack=pack)
    with pytest.raises(ValueError, match=r"no channel 'msl'.*`hpc-bnn data ingest .* t2m,msl`"):
        source(folder, pack=pack, variables=["t2m", "msl"])


def test_files_that_came_since_are_told_and_not_read(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source(folder)
    write_new(folder / "b.nc", hours(4, start=START + 10 * 86400), ["t2m", "msl"])
    with caplog.at_level(logging.INFO):
        again = source(folder)
    assert again.fields is not None and len(again.fields.record.times) == 40
    assert "b.nc was added; `hpc-bnn data ingest" in caplog.text


def test_files_that_changed_are_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    source(folder)
    write_new(folder / "a.nc", hours(44), ["t2m", "msl"])
    with pytest.raises(ValueError, match=r"this pack is stale, .*a.nc has"):
        source(folder)
    assert len(source(folder, stale="allow").train) == 15
    assert "used as it is" in caplog.text


def test_a_pack_of_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    source(folder)
    write_new(tmp_path / "b.nc", hours(40))
    with pytest.raises(
        ValueError, match=r"is a pack of .*era5, not of .*b.nc: set data.pack to an"
    ):
        source(tmp_path / "b.nc", pack=folder.with_name("era5.pack"))


def test_one_of_two_jobs_packs_and_the_other_waits(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = folder.with_name("era5.pack")
    pack.mkdir()
    held = (pack / ".lock").open("ab")
    fcntl.flock(held, fcntl.LOCK_EX)
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(source, folder)
        while "era5.pack: waiting for another job" not in caplog.text:
            assert not waiting.done()
            time.sleep(0.01)
        assert not (pack / "pack.json").exists()
        held.close()
        assert len(waiting.result().train) == 15


def test_all_ranks_pack_together(tmp_path: Path) -> None:
    """netCDF-3: threads of one process may read it side by side."""
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
        write_legacy(tmp_path / name / "a.nc", hours(40))
        os.utime(tmp_path / name / "a.nc", (START, START))
    source(tmp_path / "alone")
    made = on_ranks(3, lambda ranks: source(tmp_path / "together", ranks=ranks))
    assert len(made) == 3
    for name in ("2017.f32", "2017.json", "static.f32"):
        assert (tmp_path / "together.pack" / name).read_bytes() == (
            tmp_path / "alone.pack" / name
        ).read_bytes()


def test_the_settings_know_the_options() -> None:
    options = {name: list(v) if isinstance(v, tuple) else v for name, v in OPTIONS.items()}
    options |= {"path": "x", "pack": "y", "pack_limit": 3, "stale": "allow"}
    options |= {"levels": [500], "static": ["lsm"]}
    assert check_options("data", data_set("era5"), options) == []
    assert len(check_options("data", data_set("era5"), options | {"step": 6})) == 1
    (wrong,) = check_options("data", data_set("era5"), options | {"stale": "yes"})
    assert "data.stale = 'yes'" in wrong and "'allow'" in wrong
