"""Which files a folder or a pattern means: none that nobody meant, none missing without a word."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from era5_files import START, hours, write_new
from packs import packed

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.files import find_files
from hpc_bnn.fields.forecast_file import ForecastFile, create_forecast, finish
from hpc_bnn.fields.forecast_layout import Forecast
from hpc_bnn.fields.forecast_plan import ForecastPlan
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.statistics import statistics
from hpc_bnn.fields.statistics_file import write_statistics

APPLE = b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(100)


def later(path: Path, change: Any = None) -> Path:
    return write_new(path, hours(4, start=START + 4 * 6 * 3600), change=change)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of four times."""
    (tmp_path / "era5").mkdir()
    write_new(tmp_path / "era5" / "a.nc", hours(4))
    return tmp_path / "era5"


def write_forecast(path: Path) -> Path:
    channel = FieldChannel("t2m", "K", "air_temperature", "2 m temperature", None, False)
    asked = Forecast((channel,), np.linspace(90, -90, 7), np.arange(12) * 30.0, (START,), (6.0,), 1)
    plan = ForecastPlan(asked, {"source": "hpc_bnn 0, swin after 2 training steps"})
    create_forecast(path, plan)
    with ForecastFile(path, plan) as file:
        file.write(0, 0, np.full((1, 7, 12), 280, np.float32))
    finish(path, plan)
    return path


def write_statistics_of(folder: Path) -> Path:
    path = folder / "statistics.nc"
    made = statistics(packed(folder), start="2017-01-01", end="2017-01-01", step_hours=6)
    write_statistics(path, made)
    return path


@pytest.mark.parametrize("name", ["._a.nc", ".snapshot/hourly.0/a.nc", ".ipynb_checkpoints/a.nc"])
def test_hidden_files_and_folders_are_not_searched(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if name.startswith("._"):
        (folder / name).write_bytes(APPLE)
    else:
        write_new(folder / name, hours(4), change=lambda _, values: values + 1)
    made = catalogue(folder)
    assert len(made.times) == 4
    assert made.notices == made.problems == ()


def test_a_hidden_folder_that_is_named_is_searched(tmp_path: Path) -> None:
    (tmp_path / ".era5").mkdir()
    write_new(tmp_path / ".era5" / "a.nc", hours(4))
    assert len(catalogue(tmp_path / ".era5").times) == 4


@pytest.mark.parametrize("write", [lambda f: write_forecast(f / "f.nc"), write_statistics_of])
@pytest.mark.parametrize("pattern", ["", "*.nc"])
def test_own_files_beside_data_are_left_out(
    folder: Path, write: Callable[[Path], Path], pattern: str
) -> None:
    own = write(folder)
    made = catalogue(folder / pattern if pattern else folder)
    assert len(made.times) == 4
    assert made.names == ("t2m",)
    (notice,) = made.notices
    assert notice.startswith(f"{own}: made by hpc-bnn ")
    assert notice.endswith(": left out")


def test_own_files_that_are_named_are_read(folder: Path, tmp_path: Path) -> None:
    assert len(catalogue(write_forecast(tmp_path / "f.nc")).times) == 1
    (tmp_path / "forecasts").mkdir()
    write_forecast(tmp_path / "forecasts" / "f.nc")
    assert len(catalogue(tmp_path / "forecasts").times) == 1
    with pytest.raises(ValueError, match=r"statistics\.nc: no latitude"):
        catalogue(write_statistics_of(folder))


def test_what_version_0_1_repacked_beside_data_is_left_out(tmp_path: Path) -> None:
    for name in ("files", "old"):
        (tmp_path / name).mkdir()
        write_new(tmp_path / name / "a.nc", hours(4))
    (tmp_path / "old" / "cache.json").write_text('{"version": 1, "dtype": "float32"}')
    made = catalogue(tmp_path)
    assert len(made.times) == 4
    assert not any("twice" in notice for notice in made.notices)
    left = [notice for notice in made.notices if "made by hpc-bnn data repack: left out" in notice]
    assert len(left) == 1


def test_statistics_that_come_to_a_source_are_no_part_of_it(folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path / "pack")
    write_statistics_of(folder)
    assert open_pack(tmp_path / "pack").notices == ()
    later(folder / "b.nc")
    (notice,) = open_pack(tmp_path / "pack").notices
    assert "b.nc was added" in notice


def test_linked_folders_are_searched(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    later(tmp_path / "store" / "b.nc")
    (folder / "2002").symlink_to("../store")
    assert len(catalogue(folder).times) == 8
    assert find_files(folder) == find_files(folder / "**" / "*.nc")


def test_circles_of_links_are_searched_once(folder: Path) -> None:
    (folder / "inner").mkdir()
    later(folder / "inner" / "b.nc")
    (folder / "inner" / "up").symlink_to("..")
    (folder / "again").symlink_to("inner")
    (folder / "self").symlink_to("self")
    for path in (folder, folder / "**" / "*.nc"):
        problems: list[str] = []
        assert len(find_files(path, problems)) == 2
    (folder / "c.nc").symlink_to("a.nc")
    (folder / "self").unlink()
    assert len(catalogue(folder).times) == 8


@pytest.mark.parametrize("name", ["b.nc", "2002"])
@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_link_to_nothing_is_a_defect(folder: Path, name: str, pattern: str) -> None:
    (folder / name).symlink_to(f"/purged/scratch/{name}")
    said = f"{folder / name}: a link to /purged/scratch/{name}, which is not there"
    path = folder / pattern if pattern else folder
    assert any(said in one for one in catalogue(path, strict=False).problems)
    with pytest.raises(ValueError, match=said):
        catalogue(path)
    (folder / "a.nc").unlink()
    with pytest.raises(FileNotFoundError, match=said):
        catalogue(path)


def test_a_folder_that_cannot_be_searched_is_a_defect(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "locked").mkdir()
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    said = f"{folder / 'locked'}: cannot be searched: Permission denied"
    (problem,) = catalogue(folder, strict=False).problems
    assert problem.startswith(said)
    with pytest.raises(ValueError, match=said):
        catalogue(folder)
    with pytest.raises(FileNotFoundError, match=said):
        catalogue(folder / "locked")
