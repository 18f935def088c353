"""Forecasts in the layout of WeatherBench 2, as WeatherBench-X selects from them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields.files import is_forecast
from hpc_bnn.fields.forecast_file import ForecastFile, create_forecast, finish
from hpc_bnn.fields.forecast_layout import Forecast
from hpc_bnn.fields.forecast_plan import ForecastPlan
from hpc_bnn.fields.weatherbench_file import levels_of

NAMES = ("t2m", "z850", "z500", "t500", "t850", "msl")
LATITUDE = np.array([67.5, 22.5, -22.5, -67.5])
LONGITUDE = np.arange(0, 360, 45.0)
START = np.datetime64("2020-01-01T12")


STARTS = START + np.arange(3) * np.timedelta64(12, "h")


def value(channel: int, start: int, member: int, lead: int) -> np.ndarray:
    shape = (len(LATITUDE), len(LONGITUDE))
    return np.random.default_rng([channel, start, member, lead]).normal(size=shape).astype("f4")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "forecast.nc"
    levels = {"z850": 850.0, "z500": 500.0, "t500": 500.0, "t850": 850.0}
    asked = Forecast(
        variables=tuple(FieldChannel(n, "K", "", n, levels.get(n), False) for n in NAMES),
        latitude=LATITUDE,
        longitude=LONGITUDE,
        starts_s=tuple(STARTS.astype("M8[s]").astype(int).tolist()),
        lead_hours=(6.0, 12.0, 18.0),
        members=2,
        is_set=True,
    )
    plan = ForecastPlan(asked, {"source": "hpc_bnn 1", "title": "test"}, "weatherbench")
    create_forecast(path, plan)
    with ForecastFile(path, plan) as file:
        for at in itertools.product(range(2), range(3), range(3)):
            member, lead, start = at
            values = np.stack([value(c, start, member, lead) for c in range(6)])
            file.write(member, lead, values, start=start)
    finish(path, plan)
    return path


def test_starts_and_lead_times_are_selected_as_weatherbench_x_does(made: Path) -> None:
    """xarray_loaders.py of WeatherBench-X: open_dataset, rename, select exact times."""
    with xr.open_dataset(made) as data:
        renamed = data.rename({"time": "init_time", "prediction_timedelta": "lead_time"})
        leads = np.array([6, 18], "m8[h]").astype("m8[ns]")
        chunk = renamed.sel(init_time=STARTS[1:].astype("M8[ns]"), lead_time=leads)
        assert set(chunk.data_vars) == {
            "2m_temperature", "geopotential", "temperature", "mean_sea_level_pressure",
        }  # fmt: skip
        assert dict(chunk.sizes) == {
            "init_time": 2, "number": 2, "lead_time": 2, "level": 2, "latitude": 4, "longitude": 8,
        }  # fmt: skip
        for channel, name in enumerate(NAMES):
            long = {"t2": "2m_temperature", "ms": "mean_sea_level_pressure"}
            long |= {"z8": "geopotential", "z5": "geopotential", "t5": "temperature"}
            one = chunk[long.get(name[:2], "temperature")]
            one = one.sel(level=int(name[1:])) if name[1:].isdigit() else one
            for init, member, at in itertools.product(range(2), range(2), range(2)):
                got = one.isel(init_time=init, number=member, lead_time=at)
                want = value(channel, init + 1, member, (0, 2)[at])
                np.testing.assert_array_equal(got.sel(latitude=LATITUDE), want)
        assert (np.diff(data["latitude"]) > 0).all() and data["geopotential"].units == "K"


def test_it_is_a_forecast_that_may_be_replaced(made: Path) -> None:
    assert is_forecast(made) and [p.name for p in made.parent.iterdir()] == ["forecast.nc"]


def test_variables_on_different_levels_are_refused() -> None:
    assert levels_of(["z500", "t2m", "u500"]) == {"z": (500.0,), "t2m": (), "u": (500.0,)}
    with pytest.raises(ValueError, match=r"'z' is forecast at \(500.0,\) hPa and 't' at \(850"):
        levels_of(["z500", "t850"])
