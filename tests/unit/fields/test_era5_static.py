"""Which fields are static where nothing is named: those without time, and, as the data store gives
them, those of a single time among others with more.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from era5_files import START, hours, write_new
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.report import defects, describe

STATIC = ["lsm", "slt", "z"]
BEFORE = START - 366 * 86400  # of the static fields; of no other


def fraction(name: str, values: NDArray[Any]) -> NDArray[Any]:
    return values if name == "z" else np.clip(values, 0, 1)


def write_store(folder: Path, static_time: int = BEFORE) -> Path:
    """Write months of states and one file of static fields, which has a time as well."""
    folder.mkdir()
    for at in range(2):
        when = hours(8, start=START + at * 2 * 86400)
        write_new(folder / f"surface-{at}.nc", when, ["t2m"])
        write_new(folder / f"levels-{at}.nc", when, ["z"], levels=[850.0, 500.0])
    write_new(folder / "static.nc", [static_time], STATIC, change=fraction)
    return folder


@pytest.mark.parametrize("static_time", [BEFORE, START], ids=["before", "within"])
def test_a_single_time_among_others_with_more_is_none(tmp_path: Path, static_time: int) -> None:
    folder = write_store(tmp_path / "source", static_time)
    for static in ((), None):
        made = catalogue(folder, static=static)
        assert made.names == ("t2m", "z850", "z500")
        assert [channel.name for channel in made.static] == STATIC
        assert len(made.times) == 16 and made.present().all()
        (said,) = [one for one in defects(made) if "single time" in one]
        assert "lsm, slt, z" in said and "static" in said
        assert "static    lsm, slt, z" in describe(made)
    chosen = catalogue(folder, variables=["t2m"], static=None)
    assert (chosen.names, [c.name for c in chosen.static]) == (("t2m",), STATIC)


def test_what_is_named_is_what_it_is_named_as(tmp_path: Path) -> None:
    folder = write_store(tmp_path / "source", START)
    made = catalogue(folder, variables=["t2m", "lsm"], static=["z"])
    assert (made.names, [c.name for c in made.static]) == (("t2m", "lsm"), ["z"])
    assert made.present().sum() == 1
    made = catalogue(folder, variables=["lsm"], static=None)
    assert (made.names, [c.name for c in made.static]) == (("lsm",), ["slt", "z"])
    assert [c.name for c in catalogue(folder, variables=["t2m"]).static] == []


@pytest.mark.parametrize("files", [1, 2])
def test_a_static_field_that_changes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, files: int
) -> None:
    def constant(name: str, values: NDArray[Any]) -> NDArray[Any]:
        return np.full_like(values, 0.5) if name == "lsm" else values

    for part, when in enumerate(np.split(hours(4), files)):
        write_new(tmp_path / f"{part}.nc", when, ["msl", "t2m", "lsm"], change=constant)
    catalogue(tmp_path, variables=["msl"], static=["lsm", "t2m"])
    (told,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"{tmp_path}: 't2m' is a static field but differs by up to " in told
    assert "between 2017-01-01T00:00 and 2017-01-01T18:00: the first is used" in told


def test_one_time_of_everything_is_a_state(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", [START], ["t2m", "msl"])
    write_new(tmp_path / "p.nc", [START], ["z"], levels=[500.0])
    made = catalogue(tmp_path)
    assert made.names == ("msl", "t2m", "z500") and made.static == ()


def test_one_time_on_levels_is_a_state(tmp_path: Path) -> None:
    """A download that has only begun: static fields lie at the surface."""
    write_new(tmp_path / "a.nc", hours(8), ["t2m"])
    write_new(tmp_path / "p.nc", [START], ["z"], levels=[500.0])
    made = catalogue(tmp_path)
    assert made.names == ("t2m", "z500") and made.static == ()


def test_one_time_a_file_is_a_state(tmp_path: Path) -> None:
    for at, when in enumerate(hours(4)):
        write_new(tmp_path / f"{at}.nc", [int(when)], ["t2m", "msl"])
    made = catalogue(tmp_path)
    assert made.names == ("msl", "t2m") and made.static == () and len(made.times) == 4
