"""The forecast file: exact, CF, the same from any number of processes, complete or not there."""

import multiprocessing
import os
import resource
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray
from numpy.typing import NDArray

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields import times
from hpc_bnn.fields.forecast_file import (
    ForecastFile,
    create_forecast,
    finish,
    partial_path,
)
from hpc_bnn.fields.forecast_layout import Forecast
from hpc_bnn.fields.forecast_plan import ForecastPlan
from hpc_bnn.fields.ingest.netcdf import read_header

VARIABLES = (
    FieldChannel("t2m", "K", "air_temperature", "2m temperature", None, False),
    FieldChannel("z500", "m2 s-2", "geopotential", "geopotential at 500 hPa", 500.0, False),
    FieldChannel("t500", "K", "air_temperature", "temperature at 500 hPa", 500.0, False),
    FieldChannel("q0.5", "kg kg-1", "specific_humidity", "humidity", 0.5, False),
    FieldChannel("tcwv", "kg m-2", "", "total column water vapour", None, False),
)
CELL = ("member", "lead_time", "latitude", "longitude")
LATITUDE = np.linspace(60, -60, 5)
LONGITUDE = np.arange(0, 360, 45) + 0.25
LEADS = (0, 6, 12.5)
MEMBERS = 4
START_S = 1_483_250_400  # 2017-01-01T06:00, from `date -ud 2017-01-01T06:00 +%s`
ATTRIBUTES = {"title": "T\u00f6st", "history": "2017-01-01 hpc-bnn", "config": "seed: 1\n" * 500}


def plan_of(attributes: dict[str, str] = ATTRIBUTES, **changes: Any) -> ForecastPlan:
    settings: dict[str, Any] = {
        "variables": VARIABLES,
        "latitude": LATITUDE,
        "longitude": LONGITUDE,
        "starts_s": (START_S,),
        "lead_hours": LEADS,
        "members": MEMBERS,
    }
    return ForecastPlan(Forecast(**settings | changes), attributes)


PLAN = plan_of()


def create(path: Path, **changes: Any) -> None:
    create_forecast(path, plan_of(**changes))


def fields(member: int, lead: int) -> NDArray[np.float32]:
    """Return values that no other cell has; awkward ones among them."""
    shape = (len(VARIABLES), len(LATITUDE), len(LONGITUDE))
    made = np.random.default_rng([member, lead]).normal(280, 20, shape).astype(np.float32)
    made[1:, 0, 0] = (0.0, -0.0, 1e-42, np.finfo(np.float32).max)
    return made


ALL = tuple((member, lead) for member in range(MEMBERS) for lead in range(len(LEADS)))


def write(path: Path, cells: Sequence[tuple[int, int]] = ALL) -> None:
    with ForecastFile(path, PLAN) as file:
        for member, lead in cells:
            file.write(member, lead, fields(member, lead))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that is created and not written."""
    create(tmp_path / "forecast.nc")
    return tmp_path / "forecast.nc"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("forecast") / "forecast.nc"
    create(made)
    write(made)
    finish(made, PLAN)
    return made


def test_values_come_back_exactly(whole: Path) -> None:
    with netCDF4.Dataset(whole) as dataset, xarray.open_dataset(whole) as opened:
        assert dataset.data_model == "NETCDF3_64BIT_DATA"
        dataset.set_auto_mask(False)
        for c, variable in enumerate(VARIABLES):
            expected = np.array([fields(*cell)[c] for cell in ALL])
            expected = expected.reshape(MEMBERS, len(LEADS), *expected.shape[1:])
            seen = dataset[variable.name]
            assert seen.dimensions == CELL and seen.dtype == np.float32
            assert seen[:].tobytes() == expected.tobytes()
            assert opened[variable.name].to_numpy().tobytes() == expected.tobytes()
            assert opened[variable.name].dims == CELL


def test_nothing_follows_the_values(whole: Path) -> None:
    begin, record = read_header(str(whole)).records
    assert record == 4 + len(VARIABLES) * len(LEADS) * len(LATITUDE) * len(LONGITUDE) * 4
    assert whole.stat().st_size == begin + MEMBERS * record
    expected = fields(MEMBERS - 1, len(LEADS) - 1)[-1].astype(">f4")
    assert whole.read_bytes()[-expected.nbytes :] == expected.tobytes()


def test_coordinates(whole: Path) -> None:
    with netCDF4.Dataset(whole) as dataset:
        assert dataset["member"][:].tolist() == [0, 1, 2, 3]
        assert (dataset["member"].standard_name, dataset["member"].units) == ("realization", "1")
        assert dataset["member"].dtype == np.int32
        assert dataset["lead_time"][:].tolist() == [0, 6, 12.5]
        assert (dataset["lead_time"].standard_name, dataset["lead_time"].units) == (
            "forecast_period", "hours",
        )  # fmt: skip
        for name, values, units, axis in (
            ("latitude", LATITUDE, "degrees_north", "Y"),
            ("longitude", LONGITUDE, "degrees_east", "X"),
        ):
            assert dataset[name][:].tolist() == values.tolist()
            assert (dataset[name].standard_name, dataset[name].units) == (name, units)
            assert dataset[name].axis == axis
        for name, standard_name in (
            ("forecast_reference_time", "forecast_reference_time"),
            ("valid_time", "time"),
        ):
            assert dataset[name].standard_name == standard_name
            assert dataset[name].units == "seconds since 1970-01-01 00:00:00"
            assert dataset[name].calendar == "proleptic_gregorian"
            assert dataset[name].dtype == np.float64  # CF-1.8 has no int64
            assert dataset[name][...].ravel()[0] == START_S
        pressure = dataset["pressure_500"]
        assert pressure.shape == () and pressure[...] == 500
        assert (pressure.standard_name, pressure.units, pressure.positive) == (
            "air_pressure", "hPa", "down",
        )  # fmt: skip
        assert dataset["pressure_0_5"][...] == 0.5
        assert len(dataset.variables) == 8 + len(VARIABLES)


def test_attributes(whole: Path) -> None:
    with netCDF4.Dataset(whole) as dataset:
        assert dataset.Conventions == "CF-1.8"
        for name, text in ATTRIBUTES.items():
            assert dataset.getncattr(name) == text
        levels = (None, "pressure_500", "pressure_500", "pressure_0_5", None)
        for variable, level in zip(VARIABLES, levels, strict=True):
            seen = dataset[variable.name]
            assert (seen.units, seen.long_name) == (variable.units, variable.long_name)
            assert getattr(seen, "standard_name", "") == variable.standard_name
            assert np.isnan(seen._FillValue) and seen._FillValue.dtype == np.float32
            times = ["forecast_reference_time", "valid_time"]
            assert seen.coordinates.split() == times + ([level] if level else [])


def test_xarray_decodes_the_times(whole: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xarray.open_dataset(whole, decode_timedelta=True)
    start = np.datetime64("2017-01-01T06:00")
    leads = np.array([0, 360, 750], "timedelta64[m]")
    assert opened.forecast_reference_time.to_numpy() == start
    assert (opened.lead_time.to_numpy() == leads).all()
    assert (opened.valid_time.to_numpy() == start + leads).all()
    assert set(opened.data_vars) == {v.name for v in VARIABLES}
    assert "pressure_500" in opened.z500.coords
    assert float(opened.z500.pressure_500) == 500
    opened.close()
    assert times.text(START_S) == "2017-01-01T06:00"


def write_share(path: Path, index: int, barrier: Any) -> None:
    """Write every third cell, all processes at the same time, each in an order of its own."""
    with ForecastFile(path, PLAN) as file:
        own = ALL[index::3]
        barrier.wait(timeout=120)
        for member, lead in own[:: 1 if index else -1]:
            file.write(member, lead, fields(member, lead))


def test_three_processes_write_the_file_of_one(path: Path, whole: Path) -> None:
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(3)
    processes = [fork.Process(target=write_share, args=(path, i, barrier)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [p.exitcode for p in processes] == [0, 0, 0]
    finish(path, PLAN)
    assert path.read_bytes() == whole.read_bytes()


def test_short_writes_are_continued(
    path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, b, at: real(fd, b[:100], at))
    write(path)
    finish(path, PLAN)
    assert path.read_bytes() == whole.read_bytes()


def test_an_incomplete_file_keeps_its_partial_name(path: Path) -> None:
    write(path, ALL[:-2])
    with pytest.raises(
        ValueError, match=r"never written: 2 of 12 .*member 3 at lead time 6 h"
    ) as e:
        finish(path, PLAN)
    assert str(partial_path(path)) in str(e.value)
    assert not path.exists() and partial_path(path).exists()
    write(path, ALL[-2:])
    finish(path, PLAN)
    assert path.exists() and not partial_path(path).exists()


def test_what_was_not_closed_does_not_count_as_written(path: Path) -> None:
    with pytest.raises(RuntimeError, match="elsewhere"), ForecastFile(path, PLAN) as file:
        for cell in ALL:
            file.write(*cell, fields(*cell))
        raise RuntimeError("elsewhere")
    with pytest.raises(ValueError, match="12 of 12"):
        finish(path, PLAN)


def test_an_older_file_stays_until_the_new_one_is_complete(path: Path) -> None:
    path.write_text("older")
    write(path, ALL[1:])
    with pytest.raises(ValueError, match="1 of 12"):
        finish(path, PLAN)
    assert path.read_text() == "older"
    write(path, ALL[:1])
    finish(path, PLAN)
    assert path.read_bytes()[:4] == b"CDF\x05"


def test_a_file_that_is_begun_anew_holds_nothing_of_the_first_one(path: Path) -> None:
    write(path)
    create(path)
    with pytest.raises(ValueError, match="12 of 12"):
        finish(path, PLAN)


def test_without_create_there_is_nothing_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="create_forecast"):
        ForecastFile(tmp_path / "f.nc", PLAN)
    with pytest.raises(FileNotFoundError, match="create_forecast"):
        finish(tmp_path / "f.nc", PLAN)


def test_a_finished_file_is_not_opened_for_writing(whole: Path, tmp_path: Path) -> None:
    partial_path(tmp_path / "f.nc").write_bytes(whole.read_bytes())
    with pytest.raises(ValueError, match="not a forecast that is being written"):
        ForecastFile(tmp_path / "f.nc", PLAN)


@pytest.mark.parametrize(
    ("member", "lead", "values", "message"),
    [
        (4, 0, fields(0, 0), r"member = 4: expected 0 to 3"),
        (-1, 0, fields(0, 0), r"member = -1: expected 0 to 3"),
        (0, 3, fields(0, 0), r"lead = 3: expected 0 to 2"),
        (0, -1, fields(0, 0), r"lead = -1: expected 0 to 2"),
        (0, 0, fields(0, 0)[:, :4], r"\(5, 4, 8\).*expected.*\(5, 5, 8\)"),
        (0, 0, fields(0, 0)[0], r"\(5, 8\).*expected.*\(5, 5, 8\)"),
        (0, 0, fields(0, 0).astype(np.float64), r"float64.*expected.*float32"),
        (0, 0, fields(0, 0).astype(">f4"), r">f4.*expected.*float32"),
    ],
)
def test_wrong_fields_are_refused(
    path: Path, member: int, lead: int, values: NDArray[Any], message: str
) -> None:
    before = partial_path(path).read_bytes()
    with ForecastFile(path, PLAN) as file, pytest.raises(ValueError, match=message):
        file.write(member, lead, values)
    assert partial_path(path).read_bytes() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_forecast_that_blew_up_is_refused(path: Path, bad: float) -> None:
    before = partial_path(path).read_bytes()
    values = fields(2, 1)
    values[2, 3, 4:6] = bad
    with (
        ForecastFile(path, PLAN) as file,
        pytest.raises(ValueError, match=r"t500.*member 2.*6 h.*2 of 40 values"),
    ):
        file.write(2, 1, values)
    assert partial_path(path).read_bytes() == before


def test_views_that_are_not_contiguous_are_written_right(path: Path, whole: Path) -> None:
    with ForecastFile(path, PLAN) as file:
        for member, lead in ALL:
            turned = np.asfortranarray(fields(member, lead))
            file.write(member, lead, turned)
    finish(path, PLAN)
    assert path.read_bytes() == whole.read_bytes()


def test_a_full_disk_is_said_with_names(path: Path) -> None:
    """A limit on the size of files gives the same kind of error, after a write cut short."""
    begin, _ = read_header(str(partial_path(path))).records
    at = begin + 4 + 2 * len(LEADS) * len(LATITUDE) * len(LONGITUDE) * 4  # of 't500'
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(OSError, match=r"'t500', member 0 at lead time 0 h") as e:
        file = ForecastFile(path, PLAN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (at + 50, hard))
        try:
            file.write(0, 0, fields(0, 0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            file.close()
    assert str(partial_path(path)) in str(e.value) and "free" in str(e.value)
    assert e.value.errno is not None
    with pytest.raises(ValueError, match="12 of 12"):
        finish(path, PLAN)


def test_a_file_that_cannot_be_created_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(OSError, match=r"f\.nc.*cannot be created"):
            create(tmp_path / "f.nc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError):
        create(tmp_path / "f.nc", attributes={"config": {"no": "text"}})
    assert list(tmp_path.iterdir()) == []


def test_offsets_beyond_4_gib(tmp_path: Path) -> None:
    path, shape, members, leads = tmp_path / "big.nc", (181, 360), 200, 100
    plan = plan_of(
        variables=VARIABLES[:2],
        latitude=np.linspace(90, -90, shape[0]),
        longitude=np.arange(shape[1]),
        lead_hours=np.arange(leads) * 6,
        members=members,
    )
    create_forecast(path, plan)
    partial = partial_path(path)
    if partial.stat().st_blocks * 512 > 1 << 24:
        partial.unlink()
        pytest.skip("this file system has no sparse files")
    assert partial.stat().st_size > 2 * 5 * 10**9
    values = np.random.default_rng(0).normal(0, 1, (2, *shape)).astype(np.float32)
    with ForecastFile(path, plan) as file:
        file.write(members - 1, leads - 1, values)
    assert partial.stat().st_blocks * 512 < 1 << 24
    with netCDF4.Dataset(partial) as dataset:
        dataset.set_auto_mask(False)
        for c, name in enumerate(("t2m", "z500")):
            assert (dataset[name][-1, -1] == values[c]).all()
            assert not dataset[name][-1, -2].any() and not dataset[name][0, 0].any()
    with pytest.raises(ValueError, match="19999 of 20000"):
        finish(path, plan)
    partial.unlink()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 0}, "members = 0: expected at least 1"),
        ({"lead_hours": []}, "lead_time.*expected"),
        ({"lead_hours": [6, 6]}, "lead_time.*increasing"),
        ({"lead_hours": [6, np.nan]}, "lead_time.*increasing"),
        ({"latitude": np.zeros((2, 2))}, r"latitude.*\(2, 2\)"),
        ({"longitude": [0.0, np.nan]}, "longitude.*nan"),
        ({"latitude": [0.0, 2.0, 1.0]}, "latitude.*increasing"),
        ({"variables": []}, r"variables are \[\]"),
        ({"variables": VARIABLES[:1] * 2}, "'t2m' cannot.*different"),
        (
            {"variables": [FieldChannel("member", "1", "", "", None, False)]},
            "'member' cannot.*coordinate",
        ),
        ({"variables": [FieldChannel("a b", "1", "", "", None, False)]}, "'a b' cannot.*letters"),
        ({"variables": [FieldChannel("a/b", "1", "", "", None, False)]}, "'a/b' cannot.*letters"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(tmp_path / "f.nc", **changes)
    assert list(tmp_path.iterdir()) == []


def test_points_without_values_are_missing(path: Path) -> None:
    """Whatever they hold, infinite numbers included; the other points must be finite."""
    present = np.ones(fields(0, 0).shape, bool)
    present[1, 2:, :3] = False
    with ForecastFile(path, PLAN, present=present) as file:
        for member, lead in ALL:
            values = fields(member, lead)
            values[1, 2, :3] = np.inf
            file.write(member, lead, values)
        broken = fields(0, 0)
        broken[1, 0, 0] = np.nan
        with pytest.raises(ValueError, match=r"1 of 40 values are not finite"):
            file.write(0, 0, broken)
    finish(path, PLAN)
    with netCDF4.Dataset(path) as read:
        names = [n for n, v in read.variables.items() if v.ndim == 4]
        for at, name in enumerate(names):
            for member, lead in ALL:
                got = np.ma.filled(np.ma.masked_invalid(read[name][member, lead]), np.nan)
                want = np.where(present[at], fields(member, lead)[at], np.nan)
                np.testing.assert_array_equal(got, want)


def test_headers_of_every_length_are_made() -> None:
    """The library reads files in memory by blocks, and fails where a block is cut off."""
    one = VARIABLES[:1]
    heads = [
        len(plan_of({"config": "x" * length}, variables=one).head) for length in range(0, 4200, 20)
    ]
    assert heads == sorted(heads)
