"""A synthetic hourly series like an electricity load, so that a demo needs no file.

level[t, c] = base[c] * (1 + daily + weekly + yearly cycle), value = level * (1 + noise * ar[t, c])
with a unit variance AR(1) process ar: the noise is proportional to the level, so a network that
predicts one spread for all hours is measurably miscalibrated.

Shape letters: T hours, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_bnn.data.calendar import Feature
from hpc_bnn.data.new_inputs import Asked, NewInputs
from hpc_bnn.data.series.ahead import ahead
from hpc_bnn.data.series.windows import RegularSeries, windowed_source
from hpc_bnn.data.source import Normalisation, Source

HOURS_PER_DAY = 24
HOURS_PER_WEEK = 168
HOURS_PER_YEAR = 8766  # 365.25 days


def synthetic_series(
    *,
    length: int = 2 * HOURS_PER_YEAR,
    channels: int = 1,
    seed: int = 0,
    noise: float = 0.04,
    correlation: float = 0.9,
    history: int = HOURS_PER_WEEK,
    horizon: int = HOURS_PER_DAY,
    stride: int = 1,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    rows: tuple[int, int, int] | None = None,
    normalize: Normalisation = "window",
    calendar: Sequence[Feature] = (),
    kept: Mapping[str, Any] | None = None,
) -> Source:
    """Offer synthetic hourly loads as windows x (history, C) -> y (horizon, C).

    The values are a function of the arguments only.

    Parameters
    ----------
    length
        Hours.
    channels
        Loads side by side.
    seed
        Key of the values.
    noise
        Standard deviation of the noise as a share of the level.
    correlation
        Of the noise from one hour to the next.
    history
        Hours in the input.
    horizon
        Hours that are forecast.
    stride
        Hours between the starts of neighbouring windows.
    fractions
        Shares of the hours for training, validation and test.
    rows
        Numbers of rows for training, validation and test in place of ``fractions``, such as
        (8640, 2880, 2880); what lies behind them is left out.
    normalize
        What the network is given: "training": values by mean and standard deviation of the training
        rows; "window": by those of the history of each window, so that levels and spreads may
        drift; "window_last": with its last value in place of its mean. Forecasts are put back.
    calendar
        "hour_of_day", "day_of_week", "day_of_year" of the targets as further inputs.
    kept
        What a trained run keeps of its data, where it is to see others (windows.py).

    Raises
    ------
    ValueError
        If a setting is out of range or `length` is too short for one window per part.
    """
    if channels < 1 or length < 1 or seed < 0:
        raise ValueError(
            f"synthetic_series: length = {length}, channels = {channels}, seed = {seed}: "
            "expected length and channels of at least 1 and a seed of at least 0"
        )
    if not (0 <= correlation < 1 and 0 <= noise < 1):
        raise ValueError(
            f"synthetic_series: noise = {noise}, correlation = {correlation}: "
            "expected both at least 0 and below 1"
        )
    made = {"noise": noise, "correlation": correlation}
    return windowed_source(
        f"synthetic_series(seed={seed})",
        [_series(length, channels, seed, **made)],
        channels=[f"synthetic_load_{channel}" for channel in range(channels)],
        units="MW (synthetic)",
        history=history,
        horizon=horizon,
        stride=stride,
        fractions=fractions,
        rows=rows,
        normalize=normalize,
        calendar=calendar,
        kept=kept,
    )


def synthetic_series_new_inputs(
    source: Source,
    asked: Asked,
    *,
    length: int = 2 * HOURS_PER_YEAR,
    channels: int = 1,
    seed: int = 0,
    noise: float = 0.04,
    correlation: float = 0.9,
    history: int = HOURS_PER_WEEK,
    horizon: int = HOURS_PER_DAY,
    calendar: Sequence[Feature] = (),
    **others: Any,
) -> NewInputs:
    """Offer the last hours of the loads, to predict what follows."""
    assert source.scale is not None
    if asked.file is not None:
        raise ValueError(
            f"--input {asked.file}: synthetic_series is made, not read; leave --input out"
        )
    one = _series(length, channels, seed, noise=noise, correlation=correlation)
    return ahead(
        source.name,
        [one],
        source.scale,
        history=history,
        horizon=horizon,
        calendar=calendar,
        start=asked.start,
    )


def _series(
    length: int, channels: int, seed: int, *, noise: float, correlation: float
) -> RegularSeries:
    values = load_like(length, channels, seed, noise=noise, correlation=correlation)
    return RegularSeries(
        "", datetime(2001, 1, 1), timedelta(hours=1), values, zone=UTC, instants=True
    )


def load_like(length: int, channels: int, seed: int, *, noise: float, correlation: float) -> Tensor:
    """Compute the values (T, C) float64 from Monday 2001-01-01 00:00 on.

    A longer series of the same seed and channels starts with the shorter one.
    """
    hour = torch.arange(length, dtype=torch.float64).unsqueeze(1)
    normal = _normals(seed, channels + length * channels)
    offset = normal[:channels]
    innovations = normal[channels:].reshape(length, channels)

    base = 100.0 * torch.exp(0.3 * offset)
    turn = 2 * math.pi * hour
    # Two harmonics give the morning and the evening peak; channels differ by up to an hour or so.
    day = turn / HOURS_PER_DAY - 0.25 * offset
    daily = -0.20 * torch.cos(day) - 0.08 * torch.cos(2 * day - 1.0)
    # One within about a day of Sunday 00:00, hour 144 of the week, else zero.
    from_sunday = turn / HOURS_PER_WEEK - 2 * math.pi * 144 / HOURS_PER_WEEK
    weekend = torch.sigmoid(12 * (torch.cos(from_sunday) - math.cos(2 * math.pi / 7)))
    weekly = -0.15 * weekend
    yearly = 0.15 * torch.cos(turn / HOURS_PER_YEAR)
    level = base * (1 + daily + weekly + yearly)
    return level * (1 + noise * _autoregressive(innovations, correlation))


def _autoregressive(innovations: Tensor, correlation: float) -> Tensor:
    """Turn standard normals (T, C) into a stationary AR(1) process (T, C) of unit variance."""
    fresh = math.sqrt(1 - correlation**2)
    out = innovations.clone()
    for t in range(1, len(out)):
        out[t] = correlation * out[t - 1] + fresh * innovations[t]
    return out


def _normals(seed: int, count: int) -> Tensor:
    """Draw standard normals (count,) from Philox4x64 of numpy.

    Raw bits and the inverse cdf, because numpy promises to keep the bit stream but not the methods
    of Generator.
    """
    bits = np.random.Philox(key=seed).random_raw(count)
    uniforms = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    normals: Tensor = torch.special.ndtri(torch.from_numpy(uniforms))
    return normals
