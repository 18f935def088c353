"""Values that no weather has: refused by name wherever a state is read, whatever the format."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch
from era5_files import START, field, hours, write_legacy, write_new

from hpc_bnn.cli.data_commands import DATA
from hpc_bnn.fields import check as module
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.check import sample_problems
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.names import VARIABLES, possible_range
from hpc_bnn.group import ALONE

BAD = 7  # the state that holds it
WHEN = "2017-01-02T18:00"
DAYS = [("2017-01-01", "2017-01-03"), ("2017-01-04", "2017-01-05"), ("2017-01-06", "2017-01-09")]


def write(path: Path, value: float, *, name: str = "t2m", at: int = BAD, kind: str = "NETCDF4",
          units: str = "K", base: float = 280.0, **fill: float) -> Path:  # fmt: skip
    """A file of 40 states that declares no fill value; one point of one state is `value`."""
    with netCDF4.Dataset(path, "w", format=kind) as dataset:
        axes = {"time": hours(40) // 3600, "latitude": np.linspace(90, -90, 7)}
        axes["longitude"] = np.arange(12) * 30.0
        units_of = ("hours since 1970-01-01", "degrees_north", "degrees_east")
        for (axis, values), said in zip(axes.items(), units_of, strict=True):
            dataset.createDimension(axis, len(values))
            v = dataset.createVariable(axis, "f8", (axis,))
            v.units = said
            v[:] = values
        v = dataset.createVariable(name, "f4", tuple(axes), fill_value=fill.get("fill_value"))
        v.units = units
        v.set_auto_maskandscale(False)
        values = np.stack([field("t2m", int(t)) for t in hours(40)]) - 280.0 + base
        values[at, 2, 3] = value
        v[:] = values
    return path


def check(path: Path) -> tuple[list[str], int]:
    options = Namespace(path=str(path), variables=None, levels=[], member=None, stale="error")
    return DATA["data check"](options, ALONE)


def train(path: Path, name: str = "t2m", **options: Any) -> Any:
    return era5(path, variables=[name], step_hours=6, calendar=False,
                train=DAYS[0], validation=DAYS[1], test=DAYS[2], **options)  # fmt: skip


WAYS: dict[str, Callable[[Path], object]] = {
    "training": train,
    "training, missing = mean": lambda path: train(path, missing="mean"),
}
NUMBERS = [1e20, -32767.0, -9999.0, 1000.0, 0.0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", NUMBERS)
def test_an_undeclared_fill_is_refused_where_it_is_read(
    tmp_path: Path, way: str, value: float
) -> None:
    path = write(tmp_path / "a.nc", value)
    where = (
        rf"a\.nc: 't2m' \(t2m\) at {WHEN}: 1 of 84 values are none that t2m can have, the first,"
    )
    said = f" {value:g}, at latitude 30, longitude 90; expected 150 to 350 K".replace("+", r"\+")
    with pytest.raises(ValueError, match=where + said):
        WAYS[way](path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 9.969209968386869e36])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_number_is_refused_where_nothing_declares_it(
    tmp_path: Path, value: float, way: str
) -> None:
    path = write(tmp_path / "a.nc", value)
    with pytest.raises(ValueError, match=rf"(a\.nc|2017\.f32): 't2m' .*at {WHEN}"):
        made = WAYS[way](path)
        made.fields.record.states(torch.tensor([BAD]))  # type: ignore[attr-defined]


def test_a_variable_that_nobody_knows_has_a_range_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", 1e16, name="thing", units="?")
    lines, status = check(path)
    assert status == 1
    assert any("(thing) at" in line and "expected -1e+15 to 1e+15" in line for line in lines)
    assert check(write(tmp_path / "b.nc", -9999.0, name="thing", units="?"))[1] == 0


@pytest.mark.parametrize("value", [*NUMBERS, np.nan, np.inf, 9.969209968386869e36])
@pytest.mark.parametrize("at", [0, BAD, 39])
def test_check_finds_it_in_any_state(tmp_path: Path, value: float, at: int) -> None:
    lines, status = check(write(tmp_path / "a.nc", value, at=at))
    assert status == 1
    assert any(line.startswith("- ") and "a.nc: 't2m' (t2m) at 2017-01" in line for line in lines)
    assert any(line.startswith(f"values    {at + 1} of 40 fields were read") for line in lines)


def test_check_of_large_files_reads_a_sample_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", 4 * 84 * 5)
    path = write(tmp_path / "a.nc", 280.0)
    lines, status = check(path)
    assert status == 0
    said = "values    5 of 40 fields were read: of every file the first, the last and some between"
    assert said in lines
    for at in (0, 10, 20, 29, 39):
        assert check(write(path, 1e20, at=at))[1] == 1
    monkeypatch.setattr(module, "SAMPLE_BYTES", 0)
    assert "values    2 of 40 fields were read" in "\n".join(check(path)[0])


def test_the_sample_is_bounded_by_what_is_inflated(tmp_path: Path) -> None:
    """A chunk of 40 steps is 40 times a field: of 3 files one can be afforded, then all."""
    for at in range(3):
        when = hours(40, start=START + at * 40 * 6 * 3600)
        write_new(tmp_path / f"{at}.nc", when, chunks=40)
    made = catalogue(tmp_path)
    field_bytes = 4 * 84
    for budget, fields, files in ((2 * 40, 2, "some files"), (6 * 40, 6, "every file"),
                                  (12 * 40, 12, "every file")):  # fmt: skip
        problems, said = sample_problems(made, most_bytes=budget * field_bytes)
        assert problems == []
        assert said.startswith(f"values    {fields} of 120 fields were read: of {files}")


def test_units_are_looked_at_in_some_of_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(4):
        write_new(tmp_path / f"{at}.nc", hours(1, start=START + at * 6 * 3600))
    write_new(tmp_path / "4.nc", hours(1, start=START + 86400), change=lambda _, a: a - 273)
    with pytest.raises(ValueError, match=r"4\.nc.*84 of 84 .*check the units"):
        catalogue(tmp_path)
    monkeypatch.setattr(module, "FIRST_BYTES", 2 * 4 * 84)  # of the first and the last
    with pytest.raises(ValueError, match=r"4\.nc.*84 of 84 .*check the units"):
        catalogue(tmp_path)
    monkeypatch.setattr(module, "FIRST_BYTES", 4 * 84)
    assert len(catalogue(tmp_path).times) == 5


def test_check_finds_points_that_are_missing_now_and_then(tmp_path: Path) -> None:
    def sea(name: str, values: Any) -> Any:
        values[:, 2:4] = np.nan
        return values

    def later(name: str, values: Any) -> Any:
        values = sea(name, values)
        values[3, 0, 0] = np.nan
        return values

    lines, status = check(write_new(tmp_path / "a.nc", hours(5), ["sst"], change=sea))
    assert status == 0
    lines, status = check(write_new(tmp_path / "a.nc", hours(5), ["sst"], change=later))
    assert status == 1
    assert any("2017-01-01T18:00: 1 points have no value that have one, 0 have" in x for x in lines)
    path = write_legacy(tmp_path / "b.nc", hours(5), raw={(4, 1, 1): -32767})
    assert check(path)[1] == 1


def test_check_finds_static_fields_that_cannot_be(tmp_path: Path) -> None:
    with netCDF4.Dataset(write(tmp_path / "a.nc", 280.0), "a") as dataset:
        v = dataset.createVariable("lsm", "f4", ("latitude", "longitude"))
        v.units = "1"
        v[:] = 0.5
        v[6, 0] = 1e20
    assert check(tmp_path / "a.nc")[1] == 1
    with pytest.raises(ValueError, match=r"'lsm'"):
        train(tmp_path / "a.nc", static=["lsm"])


def test_check_of_nothing_to_train_on(tmp_path: Path) -> None:
    sums, none = {"t2m": "tp"}, tmp_path / "none.nc"
    path = write_new(tmp_path / "a.nc", hours(3), rename=sums, attributes={"units": "m"})
    lines, status = check(path)
    assert status == 1
    assert f"- {path}: has no channel that can be used" in lines
    assert any("'tp' is of an interval" in line for line in lines)
    with netCDF4.Dataset(path) as old, netCDF4.Dataset(none, "w") as new:
        for name, size in (("valid_time", None), ("latitude", 7), ("longitude", 12)):
            new.createDimension(name, size)
            v = new.createVariable(name, "f8", (name,))
            v.units = old[name].units
            if size:
                v[:] = old[name][:]
        new.createVariable("t2m", "f4", ("valid_time", "latitude", "longitude")).units = "K"
    with pytest.raises(ValueError, match=r"none\.nc: holds no time"):
        check(none)


def test_ranges_are_finite_and_hold_what_occurs() -> None:
    for variable in VARIABLES:
        low, high = possible_range(variable.short, None)
        assert -1e15 <= low < high <= 1e15
    record = {("t2m", None): (180, 340), ("z", 1.0): (4.2e5, 5e5), ("z", 1000.0): (-6e3, 5e3),
              ("q", 850.0): (-1e-5, 0.03), ("u", 1.0): (-150, 210), ("msl", None): (87000, 108400),
              ("pv", 1.0): (-0.1, 0.1), ("w", 500.0): (-50, 30), ("sp", None): (48000, 108000),
              ("blh", None): (-1, 7000), ("sd", None): (-1e-4, 10)}  # fmt: skip
    for (name, level), (smallest, largest) in record.items():
        low, high = possible_range(name, level)
        assert low <= smallest < largest <= high, name
