"""Coordinates, levels, times and names are read as the file means them, or refused by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from era5_files import hours, state, write_new

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.grid import canonical
from hpc_bnn.fields.names import channel_name, split_channel
from hpc_bnn.fields.times import decode, text

LATITUDE, LONGITUDE = np.linspace(90, -90, 7), np.arange(12) * 30.0
GRID = {
    "latitude": (LATITUDE, {"units": "degrees_north"}),
    "longitude": (LONGITUDE, {"units": "degrees_east"}),
}
TIME = (np.arange(4) * 6.0, {"units": "hours since 2001-01-01"})
Axes = Mapping[str, tuple[Any, Mapping[str, Any]]]


def write(
    path: Path,
    fields: Mapping[str, tuple[Sequence[str], float, Mapping[str, Any]]],
    axes: Axes | None = None,
    scalars: Axes | None = None,
    kind: Any = "NETCDF4",
) -> Path:
    """A file of constant fields: dimensions, value and attributes of each."""
    with netCDF4.Dataset(path, "w", format=kind) as dataset:
        for name, (values, attributes) in ({"time": TIME, **GRID} | dict(axes or {})).items():
            dataset.createDimension(name, len(values))
            v = dataset.createVariable(name, np.asarray(values).dtype, (name,))
            v.setncatts(attributes)
            v.set_auto_maskandscale(False)
            v[:] = values
        for name, (value, attributes) in (scalars or {}).items():
            v = dataset.createVariable(name, "f8" if not isinstance(value, str) else "i4", ())
            v.setncatts(attributes)
            v[...] = value if not isinstance(value, str) else 0
        for name, (dimensions, value, attributes) in fields.items():
            v = dataset.createVariable(name, "f4", dimensions)
            v.setncatts({"units": "K", **attributes})
            v[:] = value
    return path


FLAT = ("time", "latitude", "longitude")
DEEP = ("time", "level", "latitude", "longitude")
T2M = {"t2m": (FLAT, 280.0, {})}


def first(made: Catalogue) -> dict[str, float]:
    """Return one value of each channel."""
    fields = zip(made.names, state(made), strict=True)
    return {name: float(field[3, 3]) for name, field in fields}


# Names


def test_wind_on_10_hpa_is_not_the_wind_10_m_above_ground(tmp_path: Path) -> None:
    speed = {"units": "m s-1"}
    axes = {"level": (np.array([10.0, 100, 500]), {"units": "hPa"})}
    fields = {"u": (DEEP, 35.0, speed), "u10": (FLAT, 3.0, speed), "v100": (FLAT, 4.0, speed)}
    path = write(tmp_path / "a.nc", fields, axes)
    made = catalogue(path)
    assert first(made) == {
        "u10": 3, "v100": 4, "u500": 35, "u_100hPa": 35, "u_10hPa": 35
    }  # fmt: skip
    assert first(catalogue(path, variables=["u10"])) == {"u10": 3}
    assert first(catalogue(path, variables=["u"], levels=[10])) == {"u_10hPa": 35}
    assert first(catalogue(path, variables=["u_10hPa"])) == {"u_10hPa": 35}


def test_names_of_channels_are_read_back() -> None:
    for variable, level in (("u", 10.0), ("v", 100.0), ("u", 500.0), ("z", 500.0), ("t", 2.5)):
        assert split_channel(channel_name(variable, level)) == (variable, level)
    assert split_channel("u10") == ("u10", None)


# Levels


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        ([96, 114, 137], {"long_name": "model_level_number"}),
        ([100, 200, 500], {"long_name": "hybrid level"}),
        ([1, 2, 3], {}),
        ([10, 100, 137], {}),
        ([96.0, 114.0], {"standard_name": "atmosphere_hybrid_sigma_pressure_coordinate"}),
    ],
)
def test_model_levels_are_refused(tmp_path: Path, values: Any, attributes: Any) -> None:
    axes = {"level": (np.array(values), attributes)}
    with pytest.raises(ValueError, match=r"a\.nc: 'level' = .*model levels are not supported"):
        catalogue(write(tmp_path / "a.nc", {"t": (DEEP, 250.0, {})}, axes))


def test_pressure_without_units_is_still_read(tmp_path: Path) -> None:
    for at, (values, says) in enumerate(
        [([500, 850], {}), ([10, 20], {"long_name": "pressure_level"}), ([50000, 85000], {})]
    ):
        axes = {"level": (np.array(values), says)}
        made = catalogue(write(tmp_path / f"{at}.nc", {"t": (DEEP, 250.0, {})}, axes))
        assert len(made.names) == 2


def scalar(pascal: float) -> tuple[float, dict[str, str]]:
    return pascal, {"units": "Pa", "standard_name": "air_pressure"}


def test_each_variable_has_the_level_that_it_names(tmp_path: Path) -> None:
    speed = {"units": "m s-1"}
    fields = {
        "ua850": (FLAT, 5.0, {**speed, "standard_name": "eastward_wind", "coordinates": "p850"}),
        "va200": (FLAT, 9.0, {**speed, "standard_name": "northward_wind", "coordinates": "x p200"}),
        "t2m": (FLAT, 280.0, {}),
    }
    levels = {"p850": scalar(85000.0), "p200": scalar(20000.0)}
    made = catalogue(write(tmp_path / "a.nc", fields, scalars=levels))
    assert first(made) == {"t2m": 280, "u850": 5, "v200": 9}
    fields["ua850"] = (FLAT, 5.0, {**speed, "standard_name": "eastward_wind"})
    with pytest.raises(ValueError, match=r"'ua850': coordinates = '': expected one of .*p850, p2"):
        catalogue(write(tmp_path / "b.nc", fields, scalars=levels))


# Coordinates


def test_packed_coordinates_are_unpacked(tmp_path: Path) -> None:
    axes = {
        "latitude": (np.arange(20, -21, -5, dtype="i2"),
                     {"units": "degrees_north", "scale_factor": 0.25, "add_offset": 45.0}),
        "longitude": (np.arange(0, 60, 5, dtype="i2"),
                      {"units": "degrees_east", "scale_factor": 0.25, "add_offset": 10.0}),
        "time": (np.arange(8, dtype="i2"),
                 {"units": "hours since 2001-01-01", "scale_factor": 6.0, "add_offset": 0.0}),
    }  # fmt: skip
    made = catalogue(write(tmp_path / "a.nc", T2M, axes))
    np.testing.assert_allclose(made.grid.latitude, np.arange(50, 39.9, -1.25))
    np.testing.assert_allclose(made.grid.longitude, 10 + np.arange(12) * 1.25)
    assert (made.times == hours(8, start=978307200)).all()


def test_a_coordinate_that_misses_a_value_is_refused(tmp_path: Path) -> None:
    says = {"units": "degrees_north", "missing_value": np.float64(-999)}
    axes = {"latitude": (np.array([90.0, -999, -90]), says)}
    with pytest.raises(ValueError, match=r"a\.nc: 'latitude': a value is missing"):
        catalogue(write(tmp_path / "a.nc", T2M, axes))


@pytest.mark.parametrize("rows", [16, 32, 64, 320])
def test_gaussian_grids_are_refused(rows: int) -> None:
    latitude = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))
    for order in (
        latitude,
        latitude[::-1],
        latitude[::-1].astype(np.float32),
        latitude[rows // 2 :],
    ):
        with pytest.raises(ValueError, match=r"is that of a Gaussian grid|not equally spaced"):
            canonical(order, np.arange(2 * rows) * 180.0 / rows)


def test_regular_grids_are_none() -> None:
    for step in (0.1, 0.25, 1.0, 1.5, 2.5, 5.625):
        for edge in (90.0, 90.0 - step / 2, 90 - 0.765 * step, 60.0):
            count = int(2 * edge / step)
            canonical((edge - np.arange(count) * step).astype(np.float32), np.arange(8) * step)


@pytest.mark.parametrize("longitude", [np.r_[LONGITUDE, 360.0], np.linspace(-180, 180, 13)])
def test_a_meridian_that_is_there_twice_is_named(longitude: Any) -> None:
    with pytest.raises(ValueError, match=r"the meridian (0|180) is there twice; drop the repeated"):
        canonical(LATITUDE, longitude)


@pytest.mark.parametrize("name", ["latitude", "longitude"])
def test_an_axis_without_values_is_named(name: str) -> None:
    axes = {"latitude": LATITUDE, "longitude": LONGITUDE} | {name: np.zeros(0)}
    with pytest.raises(ValueError, match=rf"{name}: has no value"):
        canonical(axes["latitude"], axes["longitude"])


def test_rotated_grids_are_refused(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as dataset:
        for name, values, says in (("y", np.arange(9) * 0.44, "grid_latitude"),
                                   ("x", np.arange(16) * 0.44, "grid_longitude")):  # fmt: skip
            dataset.createDimension(name, len(values))
            v = dataset.createVariable(name, "f8", (name,))
            v.setncatts({"units": "degrees", "standard_name": says})
            v[:] = values
        dataset.createVariable("t2m", "f4", ("y", "x")).units = "K"
    with pytest.raises(ValueError, match=r"a\.nc: no latitude along a dimension of its own"):
        catalogue(tmp_path / "a.nc")
    mapped = {"t2m": (FLAT, 280.0, {"grid_mapping": "crs"})}
    for kind, good in (("rotated_latitude_longitude", False), ("latitude_longitude", True)):
        crs = {"crs": ("map", {"grid_mapping_name": kind})}
        path = write(tmp_path / f"{kind}.nc", mapped, scalars=crs)
        if good:
            assert catalogue(path).names == ("t2m",)
            continue
        with pytest.raises(ValueError, match=rf"'t2m': lies on a grid of the kind {kind}"):
            catalogue(path)


@pytest.mark.parametrize("role", ["latitude", "longitude"])
@pytest.mark.parametrize("units", ["radians", "rad", "m", "km", "1"])
def test_coordinates_in_other_units_are_no_degrees(tmp_path: Path, role: str, units: str) -> None:
    path = write(tmp_path / "a.nc", T2M, {role: (GRID[role][0], {"units": units})})
    with pytest.raises(ValueError) as caught:
        catalogue(path)
    compass = {"latitude": "north", "longitude": "east"}[role]
    assert f"{path}: '{role}': units = '{units}': expected degrees_{compass}" in str(caught.value)


@pytest.mark.parametrize("units", ["degree_N", "degreesN", "degrees", "Degrees_North", "°", None])
def test_degrees_by_any_name(tmp_path: Path, units: str | None) -> None:
    says = {"units": units} if units is not None else {}
    made = catalogue(write(tmp_path / "a.nc", T2M, {"latitude": (LATITUDE, says)}))
    assert np.array_equal(made.grid.latitude, LATITUDE)


@pytest.mark.parametrize(
    ("name", "says"),
    [("gh", {}), ("ZG", {}), ("z", {"standard_name": "geopotential_height"})],
)
def test_a_height_without_units_may_be_metres(
    tmp_path: Path, name: str, says: dict[str, str]
) -> None:
    axes = {"level": (np.array([500.0, 525.0]), {"units": "hPa"})}
    path = write(tmp_path / "a.nc", {name: (DEEP, 5500.0, {"units": "", **says})}, axes)
    with pytest.raises(ValueError) as caught:
        catalogue(path)
    assert f"{path}: '{name}': has no units, and the name is of a height" in str(caught.value)
    assert "expected gpm" in str(caught.value)
    path = write(path, {name: (DEEP, 5500.0, {"units": "gpm", **says})}, axes)
    assert first(catalogue(path))["z500"] == pytest.approx(5500 * 9.80665)


# Times


@pytest.mark.parametrize(
    ("methods", "is_state"),
    [
        ("time: point", True),
        ("area: mean time: point", True),
        ("area: mean", True),
        ("time: sum", False),
        ("time: mean (interval: 1 hour)", False),
        ("area: time: mean", False),
        ("valid_time: maximum within days", False),
        ("area: mean time: minimum", False),
        ("time: standard_deviation", False),
    ],
)
def test_what_is_over_an_interval_is_no_state(tmp_path: Path, methods: str, is_state: bool) -> None:
    fields = T2M | {"msl": (FLAT, 1e5, {"units": "Pa", "cell_methods": methods})}
    made = catalogue(write(tmp_path / "a.nc", fields))
    assert set(made.names) == ({"t2m", "msl"} if is_state else {"t2m"})
    if not is_state:
        assert (
            f"is of an interval, not of a time (cell_methods = '{methods}')" in made.skipped["msl"]
        )


@pytest.mark.parametrize(
    ("units", "begins"),
    [
        ("seconds since 1992-10-8 15:15:42.5 -6:00", "1992-10-08T21:15:42"),
        ("hours since 2001-01-01 00:00:00 +2", "2000-12-31T22:00"),
        ("hours since 2001-01-01 00:00:00 +5:30", "2000-12-31T18:30"),
        ("hours since 2001-01-01 00:00:00+0530", "2000-12-31T18:30"),
        ("hours since 2001-01-01 00:00:00 -06:00", "2001-01-01T06:00"),
        ("hours since 2001-01-01 6", "2001-01-01T06:00"),
        ("hours since 2001-01-01T06:30Z", "2001-01-01T06:30"),
        ("days since 2001-1-1 00:00:00 UTC", "2001-01-01T00:00"),
        ("hours since 20010101", "2001-01-01T00:00"),
        ("hours since 1-1-1 00:00:0.0", "0001-01-01T00:00"),
        ("seconds since 1970-01-01", "1970-01-01T00:00"),
    ],
)
def test_the_reference_of_units(units: str, begins: str) -> None:
    assert text(int(decode(np.zeros(1), units, "proleptic_gregorian")[0])) == begins
    assert text(int(decode(np.zeros(1, int), units, "proleptic_gregorian")[0])) == begins


@pytest.mark.parametrize(
    "reference",
    ["01/01/2001", "2001-13-01", "2001-01-01 25:00", "2001-01-01 00:00 CET", "yesterday", "2001"],
)
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="no date"):
        decode(np.zeros(1), f"hours since {reference}", "")


@pytest.mark.parametrize("number", [np.iinfo("i8").min, np.iinfo("i8").max, 1e300, 9.97e36])
@pytest.mark.parametrize("unit", ["seconds", "days"])
def test_no_time_is_named(number: float, unit: str) -> None:
    with pytest.raises(ValueError, match=r"the time at position 1 is .*no date \(NaT\?\)"):
        decode(np.array([0, number]), f"{unit} since 1970-01-01", "proleptic_gregorian")


@pytest.mark.parametrize(
    ("time", "step", "begins"),
    [
        ({"standard_name": "forecast_reference_time"}, (24.0, "hours"), "2001-01-02T00:00"),
        ({"long_name": "initial time of forecast", "standard_name": "time"}, (1.0, "days"),
         "2001-01-02T00:00"),
        ({"standard_name": "time"}, (24.0, "hours"), "2001-01-01T00:00"),
        ({}, (0.0, "hours"), "2001-01-01T00:00"),
        ({}, (24.0, "hours"), None),
        ({"standard_name": "forecast_reference_time"}, (24.0, "furlongs"), None),
    ],
)  # fmt: skip
def test_the_start_of_a_forecast_is_not_its_time(
    tmp_path: Path, time: Any, step: tuple[float, str], begins: str | None
) -> None:
    axes = {
        "time": (TIME[0], {**TIME[1], **time}),
        "step": (np.array([step[0]]), {"units": step[1]}),
    }
    fields = {"t2m": (("time", "step", "latitude", "longitude"), 280.0, {})}
    path = write(tmp_path / "a.nc", fields, axes)
    if begins is None:
        with pytest.raises(ValueError, match=r"a\.nc: 'step' = 24 .*start or of validity"):
            catalogue(path)
    else:
        assert text(int(catalogue(path).times[0])) == begins


# Versions


@pytest.mark.parametrize("kind", ["NETCDF3_64BIT_OFFSET", "NETCDF4_CLASSIC", "NETCDF4"])
def test_versions_as_characters(tmp_path: Path, kind: Any) -> None:
    for name, version, value in (("a", "0005", 281.0), ("b", "0001", 280.0)):
        fields = {"t2m": (FLAT, value, {})}
        with netCDF4.Dataset(write(tmp_path / f"{name}.nc", fields, kind=kind), "a") as dataset:
            dataset.createDimension("string4", 4)
            v = dataset.createVariable("expver", "S1", ("time", "string4"))
            v[:] = np.array([list(version)] * 4, "S1")
    made = catalogue(tmp_path)
    assert first(made) == {"t2m": 280}
    assert any("4 steps are there as ERA5T and as ERA5" in notice for notice in made.notices)


def test_versions_that_say_nothing_are_unknown(tmp_path: Path) -> None:
    with netCDF4.Dataset(write(tmp_path / "a.nc", T2M), "a") as dataset:
        dataset.createVariable("expver", "f8", ("time",))[:] = [1, 5, np.nan, np.nan]
    assert catalogue(tmp_path / "a.nc").preliminary.tolist() == [False, True, False, False]
    with netCDF4.Dataset(write(tmp_path / "b.nc", T2M), "a") as dataset:
        dataset.createDimension("n", 8)
        v = dataset.createVariable("expver", "S1", ("n",))
        v[:] = np.array(list("0001") + [""] * 4, "S1")
    assert not catalogue(tmp_path / "b.nc").preliminary.any()


def test_steps_that_differ_are_not_called_equal(tmp_path: Path) -> None:
    for name, value in (("a", 280.0), ("b", 281.0)):
        write(tmp_path / f"{name}.nc", {"t2m": (FLAT, value, {})})
    made = catalogue(tmp_path, strict=False)
    assert "is there twice" in made.problems[0]
    assert not any("equal, read once" in notice for notice in made.notices)


# Variables that cannot be used


def test_a_variable_that_is_not_wanted_blocks_nothing(tmp_path: Path) -> None:
    axes = {"depth": (np.arange(4.0), {})}
    dimensions = ("time", "depth", "latitude", "longitude")
    fields = {**T2M, "swvl": (dimensions, 0.0, {}), "msl": (FLAT, 1e5, {"units": "furlongs"})}
    path = write(tmp_path / "a.nc", fields, axes)
    made = catalogue(path, variables=["t2m"])
    assert first(made) == {"t2m": 280}
    assert made.skipped["swvl"].startswith("cannot be used: has 4 values along 'depth'")
    assert made.skipped["msl"].startswith("cannot be used: units = 'furlongs'")
    for wanted in (["msl"], ["t2m", "mean_sea_level_pressure"], ["t2m", "swvl"], []):
        with pytest.raises(ValueError, match=r"a\.nc: '(msl|swvl)'"):
            catalogue(path, variables=wanted)


def test_degrees_celsius_by_their_sign(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", {"t2m": (FLAT, 10.0, {"units": "\u00b0C"})})
    assert first(catalogue(path)) == {"t2m": pytest.approx(283.15)}
    assert write_new(tmp_path / "b.nc", hours(2)).is_file()
