"""The naive forecasts beside a time series' scores: which ones, and their exact scores."""

from datetime import datetime, timedelta

import pytest
import torch
from torch import Tensor

from hpc_bnn.data.series.report import SeriesReport, seasonal_naive
from hpc_bnn.data.series.windows import RegularSeries, windowed_source
from hpc_bnn.data.source import Source

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
    assert list(found) == ["last_value", "day_before"]
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
    assert list(report.naive_scores()) == expected


def test_details_hold_them_by_channel_and_lead_time() -> None:
    made = source(daily(600), history=30)
    assert made.report is not None
    report = made.report(made)
    tally = report.tally()
    _, y = made.test.batch(torch.arange(len(made.test)))
    tally.add(torch.stack([y, y + 1]), None, y)
    naive = report.details(tally)["naive"]
    assert list(naive) == ["last_value", "day_before"]
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
