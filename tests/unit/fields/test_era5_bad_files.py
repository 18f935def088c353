"""Files that common tools read wrong without a word: read right here, or refused by name."""

import os
import zipfile
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from era5_files import (
    HOUR,
    LATITUDE,
    LONGITUDE,
    START,
    field,
    hours,
    state,
    write_legacy,
    write_new,
)
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.report import defects, describe
from hpc_bnn.fields.values import Values

# Truncated, damaged, not netCDF


@pytest.mark.parametrize("share", [0.5, 0.999, 0.01])
@pytest.mark.parametrize("unlimited", [True, False])
def test_a_truncated_netcdf3_file_is_an_error_not_zeros(
    tmp_path: Path, share: float, unlimited: bool
) -> None:
    path = write_legacy(tmp_path / "a.nc", hours(20), unlimited=unlimited)
    assert len(catalogue(path).times) == 20
    size = path.stat().st_size
    os.truncate(path, int(size * share))
    with pytest.raises(ValueError, match=r"a\.nc: truncated (netCDF-3|or damaged netCDF) file"):
        catalogue(path)
    if share > 0.02:
        with netCDF4.Dataset(path) as dataset:  # why this matters
            assert dataset.variables["t2m"].shape == (20, 7, 12)
        missing = r"\d+ bytes are missing"
        with pytest.raises(ValueError, match=missing):
            catalogue(path)


def test_missing_bytes_are_counted_exactly(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "a.nc", hours(4), unlimited=False)
    os.truncate(path, path.stat().st_size - 101)
    with pytest.raises(ValueError, match="101 bytes are missing"):
        catalogue(path)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_netcdf4_file_is_named(tmp_path: Path, share: float) -> None:
    path = write_new(tmp_path / "a.nc", hours(20))
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(ValueError, match=r"a\.nc: truncated or damaged netCDF file of \d+ bytes"):
        catalogue(path)


def test_a_damaged_netcdf4_file_is_named(tmp_path: Path) -> None:
    path = write_new(tmp_path / "a.nc", hours(2))
    content = bytearray(path.read_bytes())
    content[48:1500] = bytes(1452)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.nc: truncated or damaged netCDF file"):
        catalogue(path)


def test_checksums_find_flipped_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write_new(path, hours(2))
    with netCDF4.Dataset(path, "a") as dataset:
        v = dataset.createVariable(
            "msl", "f4", ("valid_time", "latitude", "longitude"), fletcher32=True
        )
        v.units = "Pa"
        v[:] = 101234.5
    content = path.read_bytes()
    at = content.index(np.float32(101234.5).tobytes() * 4)
    path.write_bytes(content[:at] + b"\x01" + content[at + 1 :])
    with pytest.raises((OSError, ValueError), match=r"a\.nc: 'msl' cannot be read"):
        state(catalogue(path))


def test_a_zip_named_nc_is_called_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.nc", "w") as archive:
        archive.writestr("data_stream-oper_stepType-instant.nc", b"x")
    with pytest.raises(ValueError, match=r"a\.nc: a zip archive, not netCDF.*unzip"):
        catalogue(tmp_path / "a.nc")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty file"), (b"\x1f\x8b", "compressed by gzip"), (b"hello", "no data file")],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.nc").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.nc: .*{said}"):
        catalogue(tmp_path / "a.nc")


def test_nothing_there_says_what_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"notes\.txt"):
        catalogue(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        catalogue(tmp_path / "b*.nc")


def test_a_file_that_vanishes_or_changes_is_named(tmp_path: Path) -> None:
    for write in (write_new, write_legacy):
        path = write(tmp_path / "a.nc", hours(3))
        made = catalogue(path)
        with path.open("ab") as stream:
            stream.write(b"more")
        with pytest.raises(ValueError, match=r"a\.nc: has \d+ bytes, expected the \d+"):
            state(made)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"a\.nc: was there when the catalogue"):
            state(made)


# Missing values


def test_a_chunk_that_was_never_written_is_missing(tmp_path: Path) -> None:
    path = write_new(tmp_path / "a.nc", hours(3))
    with netCDF4.Dataset(path, "a") as dataset:
        v = dataset.createVariable(
            "msl", "f4", ("valid_time", "latitude", "longitude"), chunksizes=(1, 7, 12)
        )
        v.units = "Pa"
        v[0] = 101000.0
    made = catalogue(path, variables=["msl"])
    assert (state(made, 0) == 101000).all()
    assert np.isnan(state(made, 1)).all()


def test_nan_as_fill_of_integers_is_ignored_with_a_notice(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "a.nc", hours(2), kind="NETCDF4")
    with netCDF4.Dataset(path, "a") as dataset:
        v = dataset.createVariable("msl", "i2", ("time", "latitude", "longitude"))
        v.setncatts({"scale_factor": 1.0, "add_offset": 1e5, "units": "Pa"})
        v.setncattr("missing_value", np.float64(np.nan))
        v.set_auto_maskandscale(False)
        v[:] = 1000
    made = catalogue(path, variables=["msl"])
    assert any("NaN cannot occur" in notice for notice in made.notices)
    assert (state(made) == 101000).all()


def test_a_negative_scale_factor(tmp_path: Path) -> None:
    path = write_legacy(tmp_path / "a.nc", hours(2), scale=-0.002)
    np.testing.assert_allclose(state(catalogue(path))[0], field("t2m", START), atol=0.00101)


def test_a_fill_value_that_is_no_nan_is_found_before_scaling(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(write_new(path, hours(1)), "a") as dataset:
        v = dataset.createVariable(
            "sst", "f4", ("valid_time", "latitude", "longitude"), fill_value=300.6
        )
        v.setncatts({"units": "degC", "valid_max": 300.0})
        v.set_auto_maskandscale(False)
        v[:] = 20.0
        v[0, 2, 3] = np.float32(300.6)
        v[0, 2, 4] = 300.5  # beyond valid_max
    got = state(catalogue(path, variables=["sst"]))[0]
    assert np.isnan(got[2, 3:5]).all()
    assert np.isnan(got).sum() == 2
    assert np.nanmax(got) == np.float32(293.15)


@pytest.mark.parametrize("attribute", ["_FillValue", "missing_value"])
def test_packed_missing_values(tmp_path: Path, attribute: str) -> None:
    number = -32767 if attribute == "_FillValue" else 5
    given = {} if attribute == "_FillValue" else {"missing_value": np.int16(5)}
    path = write_legacy(tmp_path / "a.nc", hours(2), raw={(1, 3, 4): number}, attributes=given)
    made = catalogue(path)
    assert not np.isnan(state(made, 0)).any()
    got = state(made, 1)[0]
    assert np.isnan(got[3, 4])
    assert np.isnan(got).sum() == 1


# Times


def test_unsorted_times_are_sorted(tmp_path: Path) -> None:
    made = catalogue(write_new(tmp_path / "a.nc", hours(4)[[2, 0, 3, 1]]))
    assert (made.times == hours(4)).all()
    np.testing.assert_allclose(state(made, 3)[0], field("t2m", int(hours(4)[3])), rtol=1e-6)
    assert any("not sorted" in notice for notice in made.notices)


def test_equal_duplicates_are_read_once(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(4))
    write_new(tmp_path / "b.nc", hours(4)[2:])
    write_legacy(tmp_path / "c.nc", hours(4)[3:])  # equal as far as its packing can tell
    made = catalogue(tmp_path)
    assert (made.times == hours(4)).all()
    assert any("3 steps are there twice" in notice for notice in made.notices)


@pytest.mark.parametrize("name", ["noleap", "360_day", "365_day", "julian"])
def test_model_calendars_are_refused(tmp_path: Path, name: str) -> None:
    path = write_new(tmp_path / "a.nc", hours(2), calendar=name)
    with pytest.raises(ValueError, match=rf"a\.nc: 'valid_time': calendar = '{name}'"):
        catalogue(path)


def test_dates_before_the_reform_need_the_proleptic_calendar(tmp_path: Path) -> None:
    early = hours(2, start=-13_000_000_000)
    path = write_new(tmp_path / "a.nc", early, calendar="standard")
    with pytest.raises(ValueError, match="calendar reform"):
        catalogue(path)
    assert (catalogue(write_new(path, early)).times == early).all()


# Grids, levels, variables


def test_orientations_are_made_one(tmp_path: Path) -> None:
    west: NDArray[np.float64] = (LONGITUDE + 180) % 360 - 180
    for i, (lat, lon) in enumerate(
        [
            (LATITUDE, LONGITUDE),
            (LATITUDE[::-1], np.roll(west, 6)),
            (LATITUDE, LONGITUDE[::-1]),
            (LATITUDE[::-1], np.roll(west, 6)[::-1]),
        ]
    ):
        write_new(
            tmp_path / f"{i}.nc", hours(1, start=START + i * HOUR), latitude=lat, longitude=lon
        )
    made = catalogue(tmp_path)
    assert made.grid.periodic
    np.testing.assert_allclose(made.grid.longitude, LONGITUDE)
    for i in range(4):
        np.testing.assert_allclose(state(made, i)[0], field("t2m", START + i * HOUR), rtol=1e-6)
    assert any("latitude flipped to north first" in notice for notice in made.notices)


def test_irregular_grids_are_refused(tmp_path: Path) -> None:
    lat = LATITUDE.copy()
    lat[2] += 3
    with pytest.raises(ValueError, match=r"a\.nc: latitude is not equally spaced"):
        catalogue(write_new(tmp_path / "a.nc", hours(1), latitude=lat))
    with pytest.raises(ValueError, match=r"b\.nc: longitude is not equally spaced"):
        catalogue(write_new(tmp_path / "b.nc", hours(1), longitude=np.array([0.0, 30, 90, 120])))
    with pytest.raises(ValueError, match=r"c\.nc: longitude"):
        catalogue(write_new(tmp_path / "c.nc", hours(1), longitude=np.linspace(0, 360, 13)))


def test_regions_are_not_periodic(tmp_path: Path) -> None:
    lon = np.array([330.0, 0.0, 30.0])
    made = catalogue(write_new(tmp_path / "a.nc", hours(1), longitude=lon))
    assert not made.grid.periodic
    np.testing.assert_allclose(made.grid.longitude, [-30, 0, 30])
    made = catalogue(write_new(tmp_path / "b.nc", hours(1), latitude=LATITUDE[1:]))
    assert not made.grid.periodic  # the circle closes, but one pole is missing


def test_different_variables_and_levels_are_an_error_that_lists_both(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(2), ["t2m", "msl"])
    write_new(tmp_path / "b.nc", hours(2, start=START + 12 * HOUR), ["t2m"])
    with pytest.raises(ValueError, match=r"b\.nc has t2m; .*a\.nc has msl, t2m: msl is missing"):
        catalogue(tmp_path)
    assert len(catalogue(tmp_path, variables=["t2m"]).times) == 4
    write_new(tmp_path / "b.nc", hours(2, start=START + 12 * HOUR), ["t2m", "msl"])
    write_new(tmp_path / "c.nc", hours(2), ["t"], levels=[850, 500])
    write_new(tmp_path / "d.nc", hours(2, start=START + 12 * HOUR), ["t"], levels=[500])
    with pytest.raises(ValueError, match=r"d\.nc has t at 500 hPa.*t850 is missing"):
        catalogue(tmp_path)


def test_aliases_and_ambiguous_names(tmp_path: Path) -> None:
    for name in ("t2m", "2t", "2m_temperature", "VAR_2T"):
        path = write_new(tmp_path / "a.nc", hours(1), rename={"t2m": name})
        assert catalogue(path, variables=["2m_temperature"]).names == ("t2m",)
    write_new(tmp_path / "a.nc", hours(1), ["t2m", "sst"], rename={"sst": "2t"})
    with pytest.raises(ValueError, match=r"a\.nc: 't2m' and '2t' both mean 't2m'"):
        catalogue(tmp_path)
    with pytest.raises(ValueError, match=r"the name means 't'.*'eastward_wind' means 'u'"):
        catalogue(
            write_new(
                tmp_path / "a.nc",
                hours(1),
                ["t"],
                levels=[500],
                attributes={"standard_name": "eastward_wind"},
            )
        )


@pytest.mark.parametrize("dimension", ["level", "isobaricInhPa", "plev", "pressure_level"])
@pytest.mark.parametrize("units", ["hPa", "millibars", "Pa"])
def test_levels_in_any_units(tmp_path: Path, dimension: str, units: str) -> None:
    path = write_new(
        tmp_path / "a.nc",
        hours(1),
        ["z"],
        levels=[850, 500],
        level_units=units,
        level_name=dimension,
    )
    made = catalogue(path, variables=["geopotential"], levels=[500, 850])
    assert made.names == ("z500", "z850")
    got = state(made)
    np.testing.assert_allclose(got[0], field("z", START, 500), rtol=1e-6)
    np.testing.assert_allclose(got[1], field("z", START, 850), rtol=1e-6)


def test_levels_in_wrong_units_are_found(tmp_path: Path) -> None:
    path = write_new(tmp_path / "a.nc", hours(1), ["z"], levels=[850, 500])
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.variables["pressure_level"].units = "Pa"
    with pytest.raises(ValueError, match=r"a\.nc: 'z' .*units of the levels"):
        catalogue(path)
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.variables["pressure_level"][:] = [85000, 50000]
        dataset.variables["pressure_level"].units = "hPa"
    with pytest.raises(ValueError, match=r"'pressure_level': 85000 hPa .*expected pressure levels"):
        catalogue(path)


@pytest.mark.parametrize(
    ("name", "units", "factor", "shift"),
    [
        ("t2m", "degC", 1, -273.15),
        ("msl", "hPa", 0.01, 0),
        ("z", "gpm", 1 / 9.80665, 0),
    ],
)
def test_units_are_converted(
    tmp_path: Path, name: str, units: str, factor: float, shift: float
) -> None:
    levels = [500.0] if name == "z" else []
    path = write_new(
        tmp_path / "a.nc",
        hours(1),
        [name],
        levels=levels,
        attributes={"units": units},
        change=lambda _, a: a * np.float32(factor) + np.float32(shift),
    )
    made = catalogue(path)
    np.testing.assert_allclose(state(made)[0], field(name, START), rtol=1e-6)
    assert any(f"converted from '{units}'" in notice for notice in made.notices)


# Versions, accumulations, members, missing dimensions


def test_preliminary_data_is_reported(tmp_path: Path) -> None:
    path = write_new(tmp_path / "a.nc", hours(4), expver=["0001", "0001", "0005", "0005"])
    made = catalogue(path)
    assert made.preliminary.tolist() == [False, False, True, True]
    assert any("2 steps are ERA5T" in d and "2017-01-01T12:00" in d for d in defects(made))


def test_final_data_goes_before_preliminary(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(4), expver=["0005"] * 4, change=lambda _, a: a + 1)
    write_new(tmp_path / "b.nc", hours(2))
    made = catalogue(tmp_path)
    assert made.preliminary.tolist() == [False, False, True, True]
    np.testing.assert_allclose(state(made, 1)[0], field("t2m", int(hours(4)[1])), rtol=1e-6)
    np.testing.assert_allclose(state(made, 2)[0], field("t2m", int(hours(4)[2])) + 1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["NETCDF3_64BIT_OFFSET", "NETCDF4"])
def test_legacy_versions_along_a_dimension_are_merged(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "a.nc"
    write_legacy(path, hours(4), ["msl"], kind=kind)
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.createDimension("expver", 2)
        dataset.createVariable("expver", "i4", ("expver",))[:] = [1, 5]
        axes = ("time", "expver", "latitude", "longitude")
        v = dataset.createVariable("t2m", "i2", axes, fill_value=-32767)
        v.setncatts({"scale_factor": 0.002, "add_offset": 285.0, "units": "K"})
        v.set_auto_maskandscale(False)
        packed = np.stack([field("t2m", int(t)) for t in hours(4)])
        packed = np.rint((packed - 285.0) / 0.002)
        both = np.full((4, 2, 7, 12), -32767, np.int16)
        both[:3, 0], both[3, 1] = packed[:3], packed[3]
        v[:] = both
    made = catalogue(path, variables=["t2m"])
    assert made.preliminary.tolist() == [False, False, False, True]
    for i, t in enumerate(hours(4)):
        np.testing.assert_allclose(state(made, i)[0], field("t2m", int(t)), atol=0.00101)


def test_accumulations_are_no_states(tmp_path: Path) -> None:
    write_new(tmp_path / "data_stream-oper_stepType-instant.nc", hours(2))
    write_new(
        tmp_path / "data_stream-oper_stepType-accum.nc",
        hours(2),
        rename={"t2m": "tp"},
        attributes={"GRIB_stepType": "accum", "units": "m"},
    )
    made = catalogue(tmp_path)
    assert made.names == ("t2m",)
    assert any("'tp' is of an interval" in defect for defect in defects(made))
    with pytest.raises(ValueError, match=r"'tp' is of an interval.*accum"):
        catalogue(tmp_path, variables=["tp"])


def test_instant_files_are_joined_on_time(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(4), ["t2m"])
    write_new(tmp_path / "b.nc", hours(4)[1:], ["msl"])
    write_new(tmp_path / "c.nc", hours(4), ["t", "z"], levels=[850, 500])
    made = catalogue(tmp_path, variables=["z", "msl", "t500", "t2m"], levels=[850])
    assert made.names == ("z850", "msl", "t500", "t2m")
    assert made.present().tolist() == [False, True, True, True]
    got = state(made, 2)
    for i, (name, level) in enumerate([("z", 850), ("msl", 500), ("t", 500), ("t2m", 500)]):
        np.testing.assert_allclose(got[i], field(name, int(hours(4)[2]), level), rtol=1e-6)
    assert any("'msl' is missing at 1 of 4 times" in defect for defect in defects(made))


def test_members_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write_new(path, hours(2))
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.renameVariable("number", "old")
        dataset.createDimension("number", 10)
        dataset.createVariable("number", "i8", ("number",))[:] = np.arange(10)
        v = dataset.createVariable("msl", "f4", ("number", "valid_time", "latitude", "longitude"))
        v.units = "Pa"
        v[:] = 1e5 + np.arange(10)[:, None, None, None]
    with pytest.raises(ValueError, match=r"'msl': has 10 members \(0 to 9\): choose one"):
        catalogue(path)
    with pytest.raises(ValueError, match="has no member 10"):
        catalogue(path, member=10)
    assert (state(catalogue(path, variables=["msl"], member=7)) == 100007).all()


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_scalar_time_and_no_time(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "a.nc"
    for with_time in (True, False):
        with netCDF4.Dataset(path, "w", format=kind) as dataset:
            for name, axis in (("lat", LATITUDE), ("lon", LONGITUDE)):
                dataset.createDimension(name, len(axis))
                dataset.createVariable(name, "f4", (name,))[:] = axis
            if with_time:
                v = dataset.createVariable("valid_time", "f8", ())
                v.units = "days since 1970-01-01"
                v[...] = START / 86400
            v = dataset.createVariable("t2m", "f8", ("lat", "lon"))
            v.units = "K"
            v[:] = field("t2m", START)
        made = catalogue(path)
        if with_time:
            assert made.times.tolist() == [START]
            np.testing.assert_allclose(state(made)[0], field("t2m", START), rtol=1e-7)
        else:
            assert [c.name for c in made.static] == ["t2m"]
            np.testing.assert_allclose(Values(made).static()[0], field("t2m", START), rtol=1e-7)
            with pytest.raises(ValueError, match="'t2m' has no time in any file"):
                catalogue(path, variables=["t2m"])


def test_weatherbench_axes_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as dataset:
        for name, axis in (("time", np.arange(3.0)), ("lon", LONGITUDE), ("lat", LATITUDE[::-1])):
            dataset.createDimension(name, len(axis))
            dataset.createVariable(name, "f8", (name,))[:] = axis
        dataset.variables["time"].units = "hours since 2017-01-01"
        v = dataset.createVariable("2m_temperature", "f4", ("time", "lon", "lat"))
        v.units = "K"
        for i in range(3):
            v[i] = field("t2m", START + i * HOUR)[::-1].T
    np.testing.assert_allclose(
        state(catalogue(path), 2)[0], field("t2m", START + 2 * HOUR), rtol=1e-6
    )


def test_extra_dimensions_and_missing_grids_are_named(tmp_path: Path) -> None:
    path = write_new(tmp_path / "a.nc", hours(1))
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.createDimension("depth", 2)
        dataset.createVariable("swvl1", "f4", ("valid_time", "depth", "latitude", "longitude"))
    with pytest.raises(ValueError, match=r"'swvl1': has 2 values along 'depth'"):
        catalogue(path)
    with netCDF4.Dataset(tmp_path / "b.nc", "w") as dataset:
        dataset.createDimension("values", 5)
        dataset.createVariable("t2m", "f4", ("values",))
    with pytest.raises(ValueError, match=r"b\.nc: no latitude along a dimension"):
        catalogue(tmp_path / "b.nc")


def test_a_dimension_without_values_is_named(tmp_path: Path) -> None:
    for kind in ("NETCDF4", "NETCDF3_CLASSIC"):
        path = write_legacy(tmp_path / "a.nc", hours(1), kind=kind)
        with netCDF4.Dataset(path, "a") as dataset:
            dataset.createDimension("level", 2)
            dataset.createVariable("z", "f4", ("time", "level", "latitude", "longitude"))
        with pytest.raises(
            ValueError, match=r"'z': has 2 values along 'level', .* no level values"
        ):
            catalogue(path)


def test_several_problems_are_told_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.nc").write_bytes(b"")
    write_new(tmp_path / "c.nc", hours(2))
    with pytest.raises(ValueError, match=r"a\.nc: an empty file[^$]*\n.*b\.nc: an empty file"):
        catalogue(tmp_path)
    made = catalogue(tmp_path, strict=False)
    assert len(made.problems) == 2
    assert made.names == ("t2m",)


def test_an_unknown_channel_lists_those_there_are(tmp_path: Path) -> None:
    path = write_new(tmp_path / "a.nc", hours(1), ["z", "t"], levels=[850, 500])
    with pytest.raises(ValueError, match=r"no channel 'z700'.*has t at 850, 500 hPa, z at 850"):
        catalogue(path, variables=["z"], levels=[700])
    with pytest.raises(ValueError, match=r"'z' lies on the pressure levels 850, 500 hPa"):
        catalogue(path, variables=["z"])
    with pytest.raises(ValueError, match="'z500' is named twice"):
        catalogue(path, variables=["z500", "z"], levels=[500])


def test_the_layout_of_files_is_described(tmp_path: Path) -> None:
    for path, stored in (
        (write_new(tmp_path / "a.nc", hours(40), chunks=40), "chunks [40, 7, 12], zlib 1"),
        (write_legacy(tmp_path / "b.nc", hours(2)), "int16, contiguous"),
    ):
        assert stored in describe(catalogue(path))[-1]
