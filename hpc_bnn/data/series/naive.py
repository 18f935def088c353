"""Naive forecasts of a series, and the skill of a forecast over them.

    last value     y_0 at all lead times
    day, week      y at the same place of the day or week before (``seasonal_naive``)
    climatology    N(m, s^2) of the training rows at the same time of the day, or of all of them
                   where a row is no whole part of a day

    skill = 1 - score / score of the naive forecast

above 0: better than it, 1: perfect. Scores of skill are of standardised values, (y - mean) / std of
the training rows, all channels, lead times and windows counted equally: customary where forecasts
of several channels are compared (Zhou et al. 2021, doi:10.1609/aaai.v35i12.17325).

Letters: B windows, H history rows, P rows of the horizon, C channels, T rows of all series, U times
of the day.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from hpc_bnn.data.calendar import TICKS_PER_DAY, local_times
from hpc_bnn.data.series.windows import Windows
from hpc_bnn.data.source import Scale
from hpc_bnn.verify.tally import RegressionTally

DAY = timedelta(days=1)
# Of a naive forecast; None: one row.
SEASONS = {"last_value": None, "day_before": DAY, "week_before": 7 * DAY}
CLIMATOLOGY = "climatology"
WINDOWS_AT_ONCE = 1024
LEAST_STD = 1e-6  # of a normalised channel that is constant at a time of the day


def naive_tallies(train: Windows, test: Windows, scale: Scale) -> dict[str, RegressionTally]:
    """Return the scores of the naive forecasts of the test split, by point (P, C), in units of the
    file: those whose season the history holds, and climatology.
    """
    seasons = {name: rows for name, rows in _seasons(test) if rows is not None}
    tallies = {
        name: RegressionTally(points=(test.horizon, test.values.shape[1]))
        for name in (*seasons, CLIMATOLOGY)
    }
    climate = Climatology.of(train)
    for part in torch.split(torch.arange(len(test)), WINDOWS_AT_ONCE):
        x, y = test.batch(part)
        truth, histories = scale.physical(y), test.histories(x)
        for name, season in seasons.items():
            forecast = seasonal_naive(histories, horizon=test.horizon, season=season)
            tallies[name].add(scale.physical(forecast[None]), None, truth)
        mean, std = climate.forecast(test, part)
        tallies[CLIMATOLOGY].add(scale.physical(mean[None]), scale.spread(std[None]), truth)
    return tallies


def _seasons(windows: Windows) -> Iterator[tuple[str, int | None]]:
    """Yield each naive forecast with the rows of its season; None where the history is too short,
    or a season is no whole number of rows above one.
    """
    for name, length in SEASONS.items():
        season, rest = (1, 0) if length is None else divmod(length, windows.step)
        fits = not rest and 1 <= season <= windows.history and not (length and season == 1)
        yield name, int(season) if fits else None


def seasonal_naive(history: Tensor, *, horizon: int, season: int) -> Tensor:
    """Return the seasonal naive forecast (B, P, C) after a history (B, H, C).

        forecast_p = y_(p - m ceil(p / m)),    p = 1 .. P, y_0 the last known row, m rows a season

    m = 1 is persistence. Source: Hyndman, Athanasopoulos 2021, Forecasting: Principles and Practice
    (3rd edition), section 5.2. The history holds a whole season, 1 <= m <= H.
    """
    return history[:, history.shape[1] - season + torch.arange(horizon) % season]


@dataclass(frozen=True, eq=False)
class Climatology:
    """Hold mean and standard deviation (U, C) float64 of normalised training rows."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, train: Windows) -> "Climatology":
        """Compute it from the rows that training windows hold."""
        rows = _rows_of(train)
        values, place = train.values[rows].double(), _time_of_day(train, rows)
        times = int(DAY / train.step) if _divides_the_day(train) else 1
        count = torch.zeros(times, dtype=torch.float64)
        count.index_add_(0, place, torch.ones(len(rows), dtype=torch.float64))

        def mean_of(numbers: Tensor) -> Tensor:
            total = torch.zeros(times, numbers.shape[1], dtype=torch.float64)
            total.index_add_(0, place, numbers)
            # Of a time of the day that no training row has: that of all.
            return torch.where(count[:, None] > 0, total / count[:, None], numbers.mean(0))

        mean = mean_of(values)
        std = mean_of((values - mean[place]).square()).sqrt().clamp(min=LEAST_STD)
        return cls(mean, std)

    def forecast(self, windows: Windows, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised means and standard deviations (B, P, C) of windows by index (B,)."""
        first = windows.starts[indices].unsqueeze(1) + windows.history
        place = _time_of_day(windows, first + torch.arange(windows.horizon))
        return self.mean[place], self.std[place]


def _rows_of(windows: Windows) -> Tensor:
    """Return the rows that any of the windows holds, sorted."""
    edges = torch.zeros(len(windows.values) + 1, dtype=torch.int64)
    edges.index_add_(0, windows.starts, torch.ones_like(windows.starts))
    behind = windows.starts + windows.history + windows.horizon
    edges.index_add_(0, behind, -torch.ones_like(windows.starts))
    return (edges.cumsum(0) > 0).nonzero().flatten()


def _divides_the_day(windows: Windows) -> bool:
    return windows.step < DAY and not DAY % windows.step


def _time_of_day(windows: Windows, rows: Tensor) -> Tensor:
    """Return which time of the day rows (...) have, from 0 on; 0 where they are no parts of one."""
    if not _divides_the_day(windows):
        return torch.zeros_like(rows)
    times = windows.times[rows]
    if windows.zone is not None:
        times = local_times(times.flatten(), windows.zone).reshape(times.shape)
    ticks_per_row = round(windows.step / timedelta(microseconds=1))
    return torch.div(times.remainder(TICKS_PER_DAY), ticks_per_row, rounding_mode="floor")


def standardised(tally: RegressionTally, scale: Scale) -> dict[str, float]:
    """Return MSE, MAE of the mean and CRPS of standardised values from scores in other units."""
    points = tally.by_point()
    return {
        "mse": float((points.rmse / scale.std).square().mean()),
        "mae": float((tally.mean_absolute_error() / scale.std).mean()),
        "crps": float((points.crps / scale.std).mean()),
    }


def skill(scores: Mapping[str, float], naive: Mapping[str, float]) -> dict[str, float]:
    """Return the skill in each score; a score of which the naive forecast has 0 is left out."""
    return {key: 1 - scores[key] / naive[key] for key in scores if naive[key] > 0}


def naive_warning(skills: Mapping[str, Mapping[str, float]]) -> str:
    """Return one line that names the naive forecasts that are better, and in which score; empty
    where none is.
    """
    better = {
        name.replace("_", " "): [key.upper() for key, value in of.items() if value < 0]
        for name, of in skills.items()
    }
    told = [f"{name} ({', '.join(keys)})" for name, keys in better.items() if keys]
    if not told:
        return ""
    return (
        f"better than this forecast: {'; '.join(told)}; train longer, or choose another "
        "data.normalize or model (hpc-bnn help series)"
    )
