"""The naive forecasts beside a time series' scores: which ones, and their exact scores."""

from datetime import datetime, timedelta

import pytest
import torch
from torch import Tensor

from hpc_bnn.data.series.naive import (
    Climatology,
    naive_tallies,
    naive_warning,
    seasonal_naive,
    skill,
)
from hpc_bnn.data.series.report import SeriesReport
from hpc_bnn.data.series.windows import RegularSeries, windowed_source
from hpc_bnn.data.source import Source
from hpc_bnn.verify.scores import crps_ensemble, crps_gaussian

HORIZON = 6


def source(values: Tensor, *, history: int, minutes: int = 60) -> Source:
    step = timedelta(minutes=minutes)
    return windowed_source(
        "test",
        [RegularSeries("", datetime(2020, 1, 1), step, values)],
        channels=[f"c{c}" for c in range(values.shape[1])],
        units="MW",
        history=history,
        horizon=HORIZON,
        stride=1,
        fractions=(0.6, 0.2, 0.2),
    )


def daily(rows: int, period: int = 24) -> Tensor:
    """A channel that repeats every day and one that rises by 2 a row."""
    row = torch.arange(rows, dtype=torch.float64)
    return torch.stack([100 + row % period, 2 * row], 1)


def test_exact_scores_in_units_of_the_file() -> None:
    found = SeriesReport(source(daily(600), history=30)).naive_scores()
    assert list(found) == ["last_value", "day_before", "climatology"]
    rise = 2.0 * torch.arange(1, HORIZON + 1, dtype=torch.float64)
    # float32 of normalised values; the ramp reaches 1200 MW
    for name, missed in (("last_value", rise), ("day_before", torch.full((HORIZON,), 48.0))):
        for score in (found[name].rmse, found[name].crps):
            torch.testing.assert_close(score[:, 1], missed.double(), rtol=1e-3, atol=1e-3)
    assert float(found["day_before"].rmse[:, 0].max()) < 1e-4
    assert float(found["last_value"].rmse[:, 0].min()) > 1


@pytest.mark.parametrize(
    ("history", "minutes", "expected"),
    [
        (23, 60, ["last_value"]),
        (24, 60, ["last_value", "day_before"]),
        (168, 60, ["last_value", "day_before", "week_before"]),
        (96, 15, ["last_value", "day_before"]),
        (40, 7 * 60, ["last_value", "week_before"]),  # a day is no whole number of rows
        (7, 24 * 60, ["last_value", "week_before"]),  # the day before is the last value
    ],
)
def test_seasons_that_the_history_holds(history: int, minutes: int, expected: list[str]) -> None:
    report = SeriesReport(source(daily(1200), history=history, minutes=minutes))
    assert list(report.naive_scores()) == [*expected, "climatology"]


def test_details_hold_them_by_channel_and_lead_time() -> None:
    made = source(daily(600), history=30)
    assert made.report is not None
    report = made.report(made)
    tally = report.tally()
    _, y = made.test.batch(torch.arange(len(made.test)))
    tally.add(torch.stack([y, y + 1]), None, y)
    naive = report.details(tally)["naive"]
    assert list(naive) == ["last_value", "day_before", "climatology"]
    of = naive["last_value"]
    assert of["channels"]["c1"]["by_lead_time"]["crps"] == pytest.approx([2, 4, 6, 8, 10, 12], 1e-3)
    assert of["channels"]["c1"]["crps"] == pytest.approx(7.0, 1e-3)
    assert of["crps"] == pytest.approx((of["channels"]["c0"]["crps"] + 7.0) / 2, 1e-3)
    squares = [of["channels"][name]["rmse"] ** 2 for name in ("c0", "c1")]
    assert of["rmse"] ** 2 == pytest.approx(sum(squares) / 2, 1e-9)


def test_a_season_is_repeated() -> None:
    series = torch.tensor([3.0, 1.0, 4.0]).repeat(5)[None, :, None]
    history, truth = series[:, :7], series[:, 7:15]
    assert torch.equal(seasonal_naive(history, horizon=8, season=3), truth)
    assert torch.equal(seasonal_naive(history, horizon=8, season=6), truth)
    assert seasonal_naive(history, horizon=4, season=1).flatten().tolist() == [3.0] * 4
    assert seasonal_naive(history, horizon=2, season=7).flatten().tolist() == [3.0, 1.0]


def test_climatology_is_that_of_the_training_rows_at_the_time_of_the_day() -> None:
    """The first channel repeats every day; the second has mean and spread of its training rows."""
    values = daily(600)
    made = source(values, history=30)
    climate = Climatology.of(made.train)  # type: ignore[arg-type]
    assert made.scale is not None
    mean, std = made.scale.physical(climate.mean), made.scale.spread(climate.std)
    assert mean.shape == (24, 2)
    # float32 of normalised values
    assert torch.allclose(mean[:, 0], 100 + torch.arange(24.0, dtype=torch.float64), atol=1e-4)
    rows = values[:360].reshape(15, 24, 2)
    assert torch.allclose(mean[:, 1], rows[:, :, 1].mean(0), rtol=1e-5)
    assert torch.allclose(std[:, 1], rows[:, :, 1].std(0, correction=0), rtol=1e-5)
    tallies = naive_tallies(made.train, made.test, made.scale)  # type: ignore[arg-type]
    scores = tallies["climatology"].by_point()
    assert float(scores.rmse[:, 0].max()) < 1e-3
    windows = made.test
    _, y = windows.batch(torch.arange(len(windows)))
    hours = torch.tensor([windows.target_times(i)[0].hour for i in range(len(windows))])  # type: ignore[attr-defined]
    place = (hours[:, None] + torch.arange(HORIZON)) % 24
    truth = made.scale.physical(y)[..., 1]
    expected = crps_gaussian(mean[place][..., 1], std[place][..., 1], truth).mean(0)
    assert torch.allclose(scores.crps[:, 1], expected, rtol=1e-6)


def test_climatology_of_days_is_that_of_all_training_rows() -> None:
    values = daily(600)
    made = source(values, history=7, minutes=24 * 60)
    climate = Climatology.of(made.train)  # type: ignore[arg-type]
    assert made.scale is not None
    assert climate.mean.shape == (1, 2)
    assert torch.allclose(climate.mean, torch.zeros(1, 2).double(), atol=1e-5)
    assert torch.allclose(climate.std, torch.ones(1, 2).double(), atol=1e-5)


def test_standardised_scores_are_the_customary_ones() -> None:
    """MSE and MAE of the mean forecast over all windows, lead times and channels, of values that
    mean and standard deviation (ddof 0) of the training rows standardise.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(600, 2, generator=generator, dtype=torch.float64) * torch.tensor([1, 50])
    made = source(values + torch.tensor([3.0, -20.0]), history=30)
    assert made.report is not None
    assert made.scale is not None
    report = made.report(made)
    tally, (_, y) = report.tally(), made.test.batch(torch.arange(len(made.test)))
    members = y + torch.randn(4, *y.shape, generator=generator)
    tally.add(made.scale.physical(members), None, made.scale.physical(y))
    details = report.details(tally)
    error = (members.mean(0) - y).double()
    own = details["standardised"]
    assert own["mse"] == pytest.approx(float(error.square().mean()), rel=1e-6)
    assert own["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-6)
    assert own["crps"] == pytest.approx(float(crps_ensemble(members, y).mean()), rel=1e-6)
    for name, of in details["naive"].items():
        for key in ("mse", "mae", "crps"):
            expected = 1 - own[key] / of["standardised"][key]
            assert details["skill"][name][key] == pytest.approx(expected, rel=1e-12)
    # White noise: its climatology is the best there is, but for the members' own error of 1 / 2.
    assert details["skill"]["last_value"]["crps"] > 0
    assert "warning" not in details


def test_a_naive_forecast_that_is_better_is_named_in_one_line() -> None:
    skills = {
        "last_value": {"mse": 0.1, "mae": 0.2, "crps": 0.3},
        "day_before": {"mse": -0.1, "mae": 0.2, "crps": -0.3},
    }
    told = naive_warning(skills)
    assert told.startswith("better than this forecast: day before (MSE, CRPS);")
    assert "\n" not in told
    assert naive_warning({"last_value": skills["last_value"]}) == ""
    assert skill({"mse": 1.0, "mae": 1.0}, {"mse": 2.0, "mae": 0.0}) == {"mse": 0.5}


def test_a_bad_forecast_is_warned_of() -> None:
    made = source(daily(600), history=30)
    assert made.report is not None
    report = made.report(made)
    tally, (_, y) = report.tally(), made.test.batch(torch.arange(len(made.test)))
    tally.add(torch.stack([y, y + 1e6]), None, y)
    assert "last value (MSE, MAE, CRPS)" in report.details(tally)["warning"]
