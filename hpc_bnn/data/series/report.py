"""What ``evaluate`` tells of time series beyond the scores of all points: by level, channel and
lead time, beside naive forecasts, and pictures.

Letters: S samples, B windows, H history rows, P rows of the horizon, C channels.
"""

import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.data.series.naive import naive_tallies, naive_warning, skill, standardised
from hpc_bnn.data.series.windows import Windows
from hpc_bnn.data.source import Forecast, Source
from hpc_bnn.verify.plots import plot_forecast
from hpc_bnn.verify.scores import (
    crps_ensemble,
    ensemble_quantile,
    mixture_crps,
    mixture_quantile,
)
from hpc_bnn.verify.series_plots import plot_lead_scores
from hpc_bnn.verify.tally import PointScores, RegressionTally

# Of the pinball loss: from the 5th to the 95th percentile in nine steps.
LEVELS = tuple(round(0.05 + 0.1 * k, 2) for k in range(10))
DRAWN = (0.05, 0.25, 0.5, 0.75, 0.95)
EXAMPLES_DRAWN, CHANNELS_DRAWN = 4, 12
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class SeriesReport:
    """The report of a source whose test split are windows of a series."""

    def __init__(self, source: Source) -> None:
        assert isinstance(source.train, Windows) and isinstance(source.test, Windows)
        assert source.scale is not None
        self._train, self._windows, self._scale = source.train, source.test, source.scale
        self._shape = source.output_shape

    def tally(self) -> RegressionTally:
        """Return an empty tally that keeps points and levels apart."""
        return RegressionTally(points=self._shape, levels=LEVELS)

    def details(self, tally: RegressionTally) -> dict[str, Any]:
        """Return what ``evaluation.json`` holds besides the scores.

        ``pinball``: the loss at each level, over all channels and lead times. ``channels``: by
        name, the scores over all lead times, and as lists over ``lead_time_h``, hours; of one
        member without coverage. ``standardised``, ``naive``, ``skill`` and, where a naive forecast
        is better, ``warning``: ``hpc_bnn.data.series.naive``; the CRPS of a single value is its
        absolute error.
        """
        points = tally.by_point()
        lists = {"rmse": points.rmse, "crps": points.crps, "pinball": points.pinball}
        if "coverage_90" in tally.result():
            lists["coverage_90"] = points.coverage_90
        steps = range(1, self._windows.horizon + 1)
        return {
            "pinball": {"levels": list(tally.levels), "loss": tally.pinball()},
            "lead_time_h": [step * (self._windows.step / HOUR) for step in steps],
            "channels": self._by_channel(lists),
            **self._beside_naive(tally),
        }

    def _beside_naive(self, tally: RegressionTally) -> dict[str, Any]:
        """Return standardised scores, the naive forecasts' scores and the skill over each."""
        naive, own = self._naive(), standardised(tally, self._scale)
        skills, found = {}, {}
        for name, of in naive.items():
            points, scores = of.by_point(), standardised(of, self._scale)
            skills[name] = skill(own, scores)
            found[name] = {
                "rmse": float(points.rmse.square().mean().sqrt()),
                "crps": float(points.crps.mean()),
                "standardised": scores,
                "channels": self._by_channel({"rmse": points.rmse, "crps": points.crps}),
            }
        warning = naive_warning(skills)
        return {
            "standardised": own,
            "naive": found,
            "skill": skills,
            **({"warning": warning} if warning else {}),
        }

    def naive_scores(self) -> dict[str, PointScores]:
        """Return RMSE and CRPS (P, C) of the naive forecasts of the test split."""
        return {name: of.by_point() for name, of in self._naive().items()}

    def _naive(self) -> dict[str, RegressionTally]:
        return naive_tallies(self._train, self._windows, self._scale)

    def _by_channel(self, lists: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return scores (P, C) by channel: over all lead times, and as lists."""
        channels = {}
        for c, name in enumerate(self._scale.channels):
            total = {key: float(values[:, c].mean()) for key, values in lists.items()}
            total["rmse"] = float(lists["rmse"][:, c].square().mean().sqrt())
            by_lead_time = {key: values[:, c].tolist() for key, values in lists.items()}
            channels[name] = {**total, "by_lead_time": by_lead_time}
        return channels

    def draw(self, plots: Path, tally: RegressionTally, forecast: Forecast) -> None:
        """Draw the scores over lead time and forecasts, evenly spaced over the test split."""
        windows, scale = self._windows, self._scale
        unit, letter = (HOUR, "h") if windows.step < DAY else (DAY, "d")
        step, label = windows.step / unit, f"lead time [{letter}]"
        plot_lead_scores(
            tally.by_point(),
            [step * (p + 1) for p in range(windows.horizon)],
            scale.channels,
            plots / "scores.png",
            time_label=label,
            units=scale.units,
            naive=self.naive_scores(),
        )
        self._draw_forecasts(plots / "forecast.png", forecast)

    def _draw_forecasts(self, path: Path, forecast: Forecast) -> None:
        """Draw all channels of some windows, one window a column; of one channel more windows."""
        windows, scale, horizon = self._windows, self._scale, self._windows.horizon
        channels = scale.channels[:CHANNELS_DRAWN]
        most = EXAMPLES_DRAWN if len(channels) == 1 else 2
        drawn = torch.linspace(0, len(windows) - 1, min(most, len(windows))).long()
        x, y = windows.batch(drawn)
        mean, sigma = forecast(x)
        mean = scale.physical(mean)[..., : len(channels)].cpu()
        sigma = None if sigma is None else scale.spread(sigma)[..., : len(channels)].cpu()
        truth = scale.physical(y)[..., : len(channels)].cpu()
        history = scale.physical(windows.histories(x))[..., : len(channels)].cpu()
        crps = crps_ensemble(mean, truth) if sigma is None else mixture_crps(mean, sigma, truth)
        shown = min(windows.history, 3 * horizon)

        def panels(values: Tensor) -> Tensor:  # (B, T, C) -> (C B, T), a row of panels a channel
            return values.permute(2, 0, 1).flatten(0, 1)

        names = [
            textwrap.fill(name, 26) + (f"\n[{scale.units}]" if scale.units else "")
            for name in channels
        ]
        first_times = [windows.clock_times(i)[0] for i in drawn.tolist()]
        clocks = [_around(first, windows.step, shown, horizon) for first in first_times]
        of_panel = [f"CRPS {float(value):.3g}" for value in panels(crps).mean(1)]
        starts = [f"from {first:%Y-%m-%d %H:%M %Z}".rstrip() for first in first_times]
        plot_forecast(
            torch.arange(-shown + 1, horizon + 1),
            panels(history[:, -shown:]),
            panels(truth),
            {q: panels(_quantile(mean, sigma, q)) for q in DRAWN},
            path,
            time_label=f"time [{windows.zone or 'as in the data'}]",
            value_label=[name for name in names for _ in drawn],
            titles=[f"{starts[e % len(drawn)]}, {score}" for e, score in enumerate(of_panel)],
            clocks=clocks * len(channels),
            columns=None if len(channels) == 1 else len(drawn),
        )


def _around(first: datetime, step: timedelta, history: int, horizon: int) -> list[datetime]:
    """Return the times of a history and a horizon from the first one of the horizon on, at equal
    steps across changes of the clock.
    """
    zone = first.tzinfo
    start = first if zone is None else first.astimezone(UTC)
    times = [start + k * step for k in range(-history, horizon)]
    return times if zone is None else [time.astimezone(zone) for time in times]


def _quantile(mean: Tensor, sigma: Tensor | None, probability: float) -> Tensor:
    if sigma is None:
        return ensemble_quantile(mean, probability)
    return mixture_quantile(mean, sigma, probability)
