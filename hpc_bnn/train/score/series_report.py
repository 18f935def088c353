"""What ``evaluate`` tells of time series beyond the scores of all points: by level, channel and
lead time, beside naive forecasts, and pictures.
"""

import textwrap
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.data.series.windows import Windows
from hpc_bnn.data.source import Source
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.scoring import as_input, physical
from hpc_bnn.verify.naive import seasonal_naive
from hpc_bnn.verify.plots import plot_forecast
from hpc_bnn.verify.scores import ensemble_quantile, mixture_quantile
from hpc_bnn.verify.series_plots import plot_lead_scores
from hpc_bnn.verify.tally import PointScores, RegressionTally

# Of the pinball loss: from the 5th to the 95th percentile in nine steps.
LEVELS = tuple(round(0.05 + 0.1 * k, 2) for k in range(10))
DRAWN = (0.05, 0.25, 0.5, 0.75, 0.95)
EXAMPLES_DRAWN = 4
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Of a naive forecast; None: one row.
SEASONS = {"last_value": None, "day_before": DAY, "week_before": 7 * DAY}
WINDOWS_AT_ONCE = 1024


def series_tally(source: Source) -> RegressionTally | None:
    """Return the tally of a time series' test split; None for other data."""
    if not isinstance(source.test, Windows):
        return None
    return RegressionTally(points=source.output_shape, levels=LEVELS)


def series_details(source: Source, tally: Any) -> dict[str, Any]:
    """Return what ``evaluation.json`` holds of a time series besides the scores; else nothing.

    ``pinball``: the loss at each level, over all channels and lead times. ``channels``: by name,
    the scores over all lead times, and as lists over ``lead_time_h``, hours; of one member without
    coverage. ``naive``: the same of
    seasonal naive forecasts whose season the history holds; the CRPS of a single value is its
    absolute error.
    """
    if not isinstance(source.test, Windows) or not isinstance(tally, RegressionTally):
        return {}
    points, names = tally.by_point(), _names(source)
    lists = {"rmse": points.rmse, "crps": points.crps, "pinball": points.pinball}
    if "coverage_90" in tally.result():
        lists["coverage_90"] = points.coverage_90
    steps = range(1, source.output_shape[0] + 1)
    return {
        "pinball": {"levels": list(tally.levels), "loss": tally.pinball()},
        "lead_time_h": [step * (source.test.step / HOUR) for step in steps],
        "channels": _by_channel(lists, names),
        "naive": {
            season: {
                "rmse": float(found.rmse.square().mean().sqrt()),
                "crps": float(found.crps.mean()),
                "channels": _by_channel({"rmse": found.rmse, "crps": found.crps}, names),
            }
            for season, found in naive_scores(source).items()
        },
    }


def naive_scores(source: Source) -> dict[str, PointScores]:
    """Return RMSE and CRPS (P, C) of the naive forecasts of a time series' test split."""
    windows = source.test
    assert isinstance(windows, Windows)
    found = {}
    for name, length in SEASONS.items():
        season, rest = (1, 0) if length is None else divmod(length, windows.step)
        if rest or not 1 <= season <= windows.history or (length and season == 1):
            continue
        tally = RegressionTally(points=source.output_shape)
        for part in torch.arange(len(windows)).split(WINDOWS_AT_ONCE):
            x, y = windows.batch(part)
            forecast = seasonal_naive(
                windows.histories(x), horizon=windows.horizon, season=int(season)
            )
            mean, _, truth = physical(forecast[None], None, y, source.scale)
            tally.add(mean, None, truth)
        found[name] = tally.by_point()
    return found


def _by_channel(lists: Mapping[str, Tensor], names: tuple[str, ...]) -> dict[str, Any]:
    """Return scores (P, C) by channel: over all lead times, and as lists."""
    channels = {}
    for c, name in enumerate(names):
        # Of the RMSE the mean square.
        total = {key: float(values[:, c].mean()) for key, values in lists.items()}
        total["rmse"] = float(lists["rmse"][:, c].square().mean().sqrt())
        by_lead_time = {key: values[:, c].tolist() for key, values in lists.items()}
        channels[name] = {**total, "by_lead_time": by_lead_time}
    return channels


def draw_series(
    plots: Path, parts: Parts, tally: RegressionTally, world: World, *, samples: int
) -> None:
    """Draw the scores over lead time, and a few forecasts of the first channel, evenly spaced over
    the test split; nothing of other data.
    """
    source, windows = parts.source, parts.source.test
    if not isinstance(windows, Windows):
        return
    unit, letter = (HOUR, "h") if windows.step < DAY else (DAY, "d")
    step, label = windows.step / unit, f"lead time [{letter}]"
    units = source.scale.units if source.scale else ""
    names = _names(source)
    horizon = windows.horizon
    plot_lead_scores(
        tally.by_point(),
        [step * (p + 1) for p in range(horizon)],
        names,
        plots / "scores.png",
        time_label=label,
        units=units,
        naive=naive_scores(source),
    )
    count = min(EXAMPLES_DRAWN, len(windows))
    drawn = torch.linspace(0, len(windows) - 1, count).long()
    x, y = windows.batch(drawn)
    outputs = parts.posterior.predict(as_input(parts.posterior, x, world.device), samples=samples)
    mean, sigma, truth = physical(*parts.loss.forecast(outputs), y, source.scale)
    history = windows.histories(x)
    if source.scale is not None:
        history = source.scale.physical(history)
    shown = min(windows.history, 3 * horizon)
    quantiles = {q: _quantile(mean, sigma, q)[..., 0].cpu() for q in DRAWN}
    plot_forecast(
        step * torch.arange(-shown + 1, horizon + 1),
        history[:, -shown:, 0].cpu(),
        truth[..., 0].cpu(),
        quantiles,
        plots / "forecast.png",
        time_label=label,
        value_label=textwrap.fill(names[0], 26) + (f"\n[{units}]" if units else ""),
        titles=[_title(windows, i) for i in drawn.tolist()],
    )


def _title(windows: Windows, index: int) -> str:
    """Return the time of the first target, with the name of its zone where that is known."""
    return f"from {windows.clock_times(index)[0]:%Y-%m-%d %H:%M %Z}".rstrip()


def _names(source: Source) -> tuple[str, ...]:
    """Return the names of the channels."""
    if source.scale is not None:
        return source.scale.channels
    return tuple(str(c) for c in range(source.output_shape[1]))


def _quantile(mean: Tensor, sigma: Tensor | None, probability: float) -> Tensor:
    if sigma is None:
        return ensemble_quantile(mean, probability)
    return mixture_quantile(mean, sigma, probability)
