"""The scores of ``evaluate`` are those of its own forecasts in the layout of WeatherBench 2, as
WeatherBench-X and scoringrules define them; made here of the files alone, with xarray.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scoringrules
import xarray
from tiny_run import hpc_bnn, read_json, written
from toy_weather import toy_settings, write_small_toy

MEMBERS, STEPS = 3, 2
CHECKER = shutil.which("compliance-checker")
CHANGES: dict[str, dict[str, Any]] = {
    "train": {"precision": "float32", "steps": 5, "lr": 0.003},
    "data": {"variables": ["t2m", "z"]},
    "evaluation": {"starts": 4, "steps": STEPS},
    "posterior": {"samples": 2, "predict_samples": MEMBERS, "initial_sigma": 0.3},
}
LONG = {"t2m": "2m_temperature", "z500": "geopotential"}


class Run:
    """A run that was evaluated, its forecasts of the same starts, and the files of the truth."""

    def __init__(self, folder: Path) -> None:
        toy = write_small_toy(folder / "toy")
        config = written(folder / "toy.yaml", toy_settings(toy, **CHANGES))
        self.path = folder / "run"
        assert hpc_bnn("train", config, "--run", self.path) == 0
        assert hpc_bnn("evaluate", self.path) == 0
        self.evaluation = read_json(self.path / "evaluation.json")
        with xarray.open_dataset(self.path / "evaluation_starts.nc") as file:
            self.starts = file.load()
        parts = []
        for at, start in enumerate(self.starts.start.values):
            part = folder / f"forecast-{at}.nc"
            when = str(np.datetime64(start, "m"))
            asked = ("--start", when, "--steps", STEPS, "--members", MEMBERS)
            words = (*asked, "--layout", "weatherbench", "-o", part)
            assert hpc_bnn("forecast", self.path, *words) == 0
            with xarray.open_dataset(part) as file:
                parts.append(file.load())
        self.forecast = xarray.concat(parts, "time", data_vars="minimal").sortby("latitude")
        with xarray.open_dataset(toy / "single_levels_2001.nc") as single:
            t2m = single.t2m.astype("f8").load()
        with xarray.open_dataset(toy / "pressure_levels_2001.nc") as upper:
            z500 = upper.z.sel(level=500, drop=True).astype("f8").load()
        self.truth = {"t2m": t2m, "z500": z500}

    def fields(self, name: str) -> tuple[xarray.DataArray, xarray.DataArray, xarray.DataArray]:
        """Return members, truth and climatology: the mean at each hour of the states that
        training starts from.
        """
        members = self.forecast[LONG[name]].astype("f8")
        truth = self.truth[name].rename(time="valid").sortby("latitude")
        members = members.sel(level=500, drop=True) if "level" in members.dims else members
        trained = truth.sel(valid=slice("2001-01-01", "2001-02-20T00:00"))
        by_hour = trained.groupby("valid.hour").mean()
        valid = members.time + members.prediction_timedelta
        return members, truth.sel(valid=valid), by_hour.sel(hour=valid.dt.hour)

    def weights(self) -> xarray.DataArray:
        """Area of the rows, as the difference of sines of their bounds, of mean 1."""
        latitude = self.forecast.latitude.values
        inner = (latitude[1:] + latitude[:-1]) / 2
        bounds = np.deg2rad([-90, *inner, 90])
        area = np.diff(np.sin(bounds))
        return xarray.DataArray(area / area.mean(), coords={"latitude": latitude})

    def mean(self, field: xarray.DataArray) -> xarray.DataArray:
        return (field * self.weights()).mean(["latitude", "longitude"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("weatherbench"))


@pytest.mark.parametrize("name", LONG)
def test_scores_of_the_forecast_files(run: Run, name: str) -> None:
    members, truth, climatology = run.fields(name)
    members = members.transpose("time", "prediction_timedelta", "latitude", "longitude", "number")
    truth = truth.transpose("time", "prediction_timedelta", "latitude", "longitude")
    mean = members.mean("number")
    mse, variance = run.mean((mean - truth) ** 2), run.mean(members.var("number", ddof=1))
    own = run.evaluation["scores"][name]

    def expect(key: str, values: xarray.DataArray, rel: float = 2e-5) -> None:
        assert own[key] == pytest.approx(values.values.tolist(), rel=rel), key

    expect("rmse", np.sqrt(mse.mean("time")))
    expect("spread", np.sqrt(variance.mean("time")))
    ratio = (MEMBERS + 1) / MEMBERS * variance.mean("time") / mse.mean("time")
    expect("spread_skill_ratio", np.sqrt(ratio))
    for key, estimator in (("crps", "nrg"), ("fair_crps", "fair")):
        values = scoringrules.crps_ensemble(truth.values, members.values, estimator=estimator)
        crps = run.mean(truth.copy(data=values))
        expect(key, crps.mean("time"))
        np.testing.assert_allclose(
            run.starts[key].sel(variable=name).values, crps.values, rtol=2e-5
        )
    forecast, observed = mean - climatology, truth - climatology
    norms = run.mean(forecast**2) * run.mean(observed**2)
    expect("acc", (run.mean(forecast * observed) / np.sqrt(norms)).mean("time"), rel=1e-4)
    np.testing.assert_allclose(run.starts["mse"].sel(variable=name).values, mse.values, rtol=5e-5)


def test_the_layout_is_the_documented_one(run: Run) -> None:
    """Dimensions, names, types and order that the loaders of WeatherBench-X rely on."""
    data = run.forecast
    assert set(data.data_vars) == set(LONG.values())
    assert set(data["geopotential"].dims) == {
        "time", "number", "prediction_timedelta", "level", "latitude", "longitude",
    }  # fmt: skip
    assert data.time.dtype.kind == "M" and data.prediction_timedelta.dtype.kind == "m"
    hours = data.prediction_timedelta.values / np.timedelta64(1, "h")
    assert hours.tolist() == [12.0, 24.0]
    assert (np.diff(data.latitude) > 0).all() and (np.diff(data.longitude) > 0).all()
    assert data["2m_temperature"].dtype == np.float32
    assert data.number.values.tolist() == list(range(MEMBERS))


def test_weatherbench_x_opens_it(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("weatherbenchX", reason="WeatherBench-X is not on PyPI: install its clone")
    from weatherbenchX.data_loaders import xarray_loaders  # type: ignore[import-not-found]

    path = tmp_path / "forecast.nc"
    run.forecast.to_netcdf(path)
    loader = xarray_loaders.PredictionsFromXarray(path=str(path), variables=list(LONG.values()))
    leads = run.forecast.prediction_timedelta.values
    chunk = loader.load_chunk(run.forecast.time.values, leads)
    for name in LONG.values():
        assert set(chunk[name].dims) >= {"init_time", "lead_time", "latitude", "longitude"}


@pytest.mark.parametrize("name", ["evaluation_starts.nc", "evaluation_spectra.nc"])
def test_files_of_scores_say_what_made_them(run: Run, name: str) -> None:
    with xarray.open_dataset(run.path / name, decode_timedelta=False) as file:
        assert file.attrs["history"].startswith("hpc_bnn ")
        assert " evaluate, torch " in file.attrs["history"]


@pytest.mark.skipif(CHECKER is None, reason="no compliance-checker (PyPI) here")
@pytest.mark.parametrize("name", ["evaluation_starts.nc", "evaluation_spectra.nc"])
def test_a_cf_checker_has_no_errors(run: Run, name: str) -> None:
    assert CHECKER is not None
    words = [CHECKER, "--test=cf:1.8", "--criteria=lenient", str(run.path / name)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    # Its status is 2, as it subtracts the names of the variables to see whether they increase.
    assert "All tests passed!" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(CHECKER is None, reason="no compliance-checker (PyPI) here")
@pytest.mark.parametrize("layout", ["cf", "weatherbench"])
def test_a_cf_checker_has_no_errors_in_a_forecast(run: Run, tmp_path: Path, layout: str) -> None:
    """A warning remains of WeatherBench: a name of it, 2m_temperature, begins with a digit."""
    assert CHECKER is not None
    path = tmp_path / "forecast.nc"
    asked = ("--steps", STEPS, "--members", MEMBERS, "--layout", layout, "-o", path)
    assert hpc_bnn("forecast", run.path, *asked) == 0
    words = [CHECKER, "--test=cf:1.8", "--criteria=lenient", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All tests passed!" in done.stdout, done.stdout + done.stderr
