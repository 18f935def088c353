"""Archives of many files of both formats that do not fit together by themselves: joined right, or
refused with both files named; the same after packing.
"""

from pathlib import Path
from typing import Any

import numpy as np
import packs
import pytest
from cache_files import everything, same
from era5_files import HOUR, START, field, hours, write_legacy, write_new

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.report import defects
from hpc_bnn.fields.windows import window_steps

DAY = 24 * HOUR


def of_day(day: int, count: int = 4) -> Any:
    return hours(count, start=START + day * DAY)


def exact(made: Catalogue, rtol: float = 1e-6) -> None:
    for seconds, values in zip(made.times[made.present()], everything(made), strict=True):
        for channel, got in zip(made.channels, values, strict=True):
            want = field(channel.variable, int(seconds), channel.level_hpa or 500.0)
            np.testing.assert_allclose(got, want, rtol=rtol)


def test_every_file_has_units_of_its_own(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", of_day(0))
    write_new(
        tmp_path / "b.nc", of_day(1), change=lambda _, a: a - 273.15, attributes={"units": "degC"}
    )
    write_legacy(tmp_path / "c.nc", of_day(2))
    made = catalogue(tmp_path)
    assert made.channels[0].units == "K" and len(made.times) == 12
    assert any("b.nc: 't2m': converted from 'degC' to 'K'" in one for one in made.notices)
    exact(made, rtol=1e-5)


def test_units_that_do_not_fit_are_refused_by_file(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", of_day(0))
    write_new(tmp_path / "b.nc", of_day(1), attributes={"units": "Pa"})
    with pytest.raises(ValueError, match=r"b\.nc: 't2m': units = 'Pa': expected 'K'"):
        catalogue(tmp_path)
    write_new(tmp_path / "b.nc", of_day(1), change=lambda _, a: a - 273.15)  # and says K
    with pytest.raises(ValueError, match=r"b\.nc: 't2m' \(t2m\) at .* expected 150 to 350"):
        catalogue(tmp_path)
    for at, units in enumerate(("m s-1", "km h-1")):
        write_new(
            tmp_path / f"{'ab'[at]}.nc",
            of_day(at),
            rename={"t2m": "odd"},
            attributes={"units": units},
        )
    with pytest.raises(ValueError, match="'odd' is in km h-1 and in m s-1"):
        catalogue(tmp_path)


def test_a_file_that_is_missing_is_a_gap_that_no_window_crosses(tmp_path: Path) -> None:
    for day in (0, 1, 3, 4):  # the file of one day was not downloaded
        write = write_new if day % 2 else write_legacy
        write(tmp_path / f"{day}.nc", of_day(day))
    made = catalogue(tmp_path)
    assert any(
        "4 steps are missing in 1 gaps, the longest from 2017-01-02T18:00 to 2017-01-04T00:00" in d
        for d in defects(made)
    )
    windows = window_steps(made.times, made.present(), step_hours=6, history=2)
    assert len(windows) == 2 * (8 - 2)
    assert (np.diff(made.times[windows], axis=1) == 6 * HOUR).all()
    exact(made, rtol=1e-5)


def test_grids_that_differ_name_both_files_of_many(tmp_path: Path) -> None:
    for day in range(3):
        write_new(tmp_path / f"{day}.nc", of_day(day))
    write_new(tmp_path / "3.nc", of_day(3), latitude=np.linspace(90, -90, 13))
    write_new(tmp_path / "4.nc", of_day(4), longitude=np.linspace(5, 335, 12))
    with pytest.raises(ValueError, match=r"different grids: 13 x 12.*7 x 12") as caught:
        catalogue(tmp_path)
    for name in ("3.nc", "4.nc"):
        assert f"{name} and {tmp_path / '0.nc'} have different grids" in str(caught.value)


def test_what_was_joined_stays_joined_when_it_is_packed(tmp_path: Path) -> None:
    """ERA5T that ERA5 replaces in part, equal duplicates, a gap, unsorted times, both formats."""
    source = tmp_path / "source"
    source.mkdir()
    write_legacy(source / "a.nc", of_day(0, 6), ["t2m", "msl"])
    write_new(source / "b.nc", of_day(1)[[2, 0, 1, 3]], ["t2m", "msl"])  # two steps of a again
    write_new(source / "c.nc", of_day(3), ["t2m", "msl"], expver=["0001"] * 2 + ["0005"] * 2)
    write_new(
        source / "d.nc",
        of_day(3),
        ["t2m", "msl"],
        expver=["0005"] * 4,
        change=lambda _, a: a + 0.5,
    )
    (source / "e").mkdir()
    write_new(source / "e" / "p.nc", of_day(0, 16), ["z"], levels=[850, 500], chunks=5)
    with pytest.raises(
        ValueError, match=r"c\.nc and .*d\.nc.*is there twice.*differs by up to 0\.5"
    ):
        catalogue(source)  # two versions of ERA5T: nobody can know which is right
    write_new(source / "d.nc", of_day(3)[:2], ["t2m", "msl"], expver=["0005"] * 2,
              change=lambda _, a: a + 0.5)  # fmt: skip
    made = catalogue(source)
    told = " ".join(defects(made))
    for words in (
        "as ERA5T and as ERA5",
        "steps are there twice",
        "not sorted",
        "'t2m' is missing",
    ):
        assert words in told
    assert made.preliminary.sum() == 2 and len(made.times) == 16
    assert made.present().sum() == 12
    ingest(made, tmp_path / "made", block_bytes=3000)
    again = open_pack(tmp_path / "made")
    assert again.names == made.names
    assert np.array_equal(again.times, made.times)
    assert np.array_equal(again.present(), made.present())
    assert np.array_equal(again.preliminary, made.preliminary)
    assert same(packs.everything(again), everything(made))
