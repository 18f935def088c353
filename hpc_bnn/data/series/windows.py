"""Cut regular series into windows (history -> horizon) and split them by time without leakage.

How leakage is excluded: two times cut the whole period (split.py), the same two for every series
of a file. A training window lies with history and targets before the first cut. The targets of a
validation window lie between the cuts, those of a test window behind the second. So no window of
an earlier part, history or target, touches a target of a later part, and the normalisation uses
rows before the first cut only. The history of a validation or test window may reach back over its
cut: at the time of a forecast the past is known. Windows that hold a missing value (NaN) are left
out.

With a calendar the input also says when the targets are: x is the history (H, C) and behind it the
features (P, F) of every target row, in one row of H C + P F numbers. The features of the history
would say nothing more, as the step is fixed; one row of features would be wrong behind a clock
change within the horizon.

Shape letters: T rows of all series, C channels, F calendar features, B batch, H history rows,
P horizon rows.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.data.calendar import Feature, calendar_features
from hpc_bnn.data.facts import layout_of, scale_of
from hpc_bnn.data.series.same_times import require_same_times
from hpc_bnn.data.series.scale import training_scale
from hpc_bnn.data.series.split import PARTS, Split, require_positive
from hpc_bnn.data.source import Normalisation, Report, Source, WindowLayout

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, eq=False)
class RegularSeries:
    """Hold one series without gaps: row i of values (T, C) float64 is of time start + i * step.

    start: without time zone; UTC where the file gave zones.
    values: NaN where missing.
    zone: of the clock that the calendar goes by; None: that of `start`.
    instants: whether times are UTC, since the file gave offsets or a zone; else they are what some
        clock showed.
    """

    name: str
    start: datetime
    step: timedelta
    values: Tensor
    zone: tzinfo | None = None
    instants: bool = False

    def layout(self, history: int, normalize: Normalisation) -> WindowLayout:
        """Describe windows of this series."""
        step_s = self.step.total_seconds()
        return WindowLayout(history, self.values.shape[1], normalize, step_s, self.instants)


@dataclass(frozen=True, eq=False)
class Windows:
    """Read windows out of shared rows by index; nothing is copied before `batch`.

    values: (T, C) float32, normalised, the rows of all series one after the other.
    times: (T,) int64, microseconds since 1970.
    starts: (number of windows,) int64, first row of each window.
    calendar: (T, F) float32, what is known of each row beforehand; F = 0 without a calendar.
    zone: of the clocks, where it is known and one; then times are UTC.
    """

    values: Tensor
    times: Tensor
    starts: Tensor
    history: int
    horizon: int
    calendar: Tensor
    zone: tzinfo | None = None

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.starts)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the windows at `indices` (B,) as inputs and targets (B, P, C).

        Inputs are the history (B, H, C), with a calendar (B, H C + P F).
        """
        rows = self.starts[indices].unsqueeze(-1) + torch.arange(self.history + self.horizon)
        window = self.values[rows]
        x, y = window[..., : self.history, :], window[..., self.history :, :]
        if self.calendar.shape[1]:
            known = self.calendar[rows[..., self.history :]]
            x = torch.cat([x.flatten(-2), known.flatten(-2)], dim=-1)
        return x, y

    @property
    def step(self) -> timedelta:
        """The time from one row to the next."""
        return int(self.times[1] - self.times[0]) * _TICK

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the input of one window."""
        channels, features = self.values.shape[1], self.calendar.shape[1]
        if not features:
            return self.history, channels
        return (self.history * channels + self.horizon * features,)

    def histories(self, x: Tensor) -> Tensor:
        """Return the history (B, H, C) that the inputs x of a batch hold."""
        channels = self.values.shape[1]
        flat = x.flatten(1)[:, : self.history * channels]
        return flat.reshape(-1, self.history, channels)

    def target_times(self, index: int) -> list[datetime]:
        """List the P times of the targets of one window, without time zone."""
        first = int(self.starts[index]) + self.history
        ticks = self.times[first : first + self.horizon].tolist()
        return [_EPOCH + tick * _TICK for tick in ticks]

    def clock_times(self, index: int) -> list[datetime]:
        """List the P times of the targets of one window as a clock shows them."""
        times = self.target_times(index)
        if self.zone is None:
            return times
        return [time.replace(tzinfo=UTC).astimezone(self.zone) for time in times]


def windowed_source(
    name: str,
    many: Sequence[RegularSeries],
    *,
    channels: Sequence[str],
    units: str,
    history: int,
    horizon: int,
    stride: int,
    fractions: tuple[float, float, float],
    calendar: Sequence[Feature] = (),
    rows: tuple[int, int, int] | None = None,
    normalize: Normalisation = "training",
    kept: Mapping[str, Any] | None = None,
) -> Source:
    """Normalise series, split them by time and offer their windows; `name` stands in every error.

    stride: rows between the starts of neighbouring windows.
    fractions: shares of the rows whose times fall before, between and behind the cuts.
    calendar: what the inputs say of the times of the targets (calendar.py).
    rows: numbers of rows in place of ``fractions``; what lies behind them is left out.
    normalize: what the network is given (`WindowLayout`); examples are the same.
    kept: what a trained run keeps of its data (facts.py): these are normalised by the same, and
        all of their windows are the test part.

    Raises
    ------
    ValueError
        If a setting is out of range, or a series or a part is too short for one window.
    """
    split = Split(history, horizon, fractions, rows)
    split.check(name)
    require_positive(name, "stride", stride)
    for one in many:
        if len(one.values) < history + horizon:
            of_group = f" of group '{one.name}'" if one.name else ""
            raise ValueError(
                f"{name}: the series{of_group} has {len(one.values)} rows: one window needs "
                f"history + horizon = {history} + {horizon} = {history + horizon} rows, and a "
                f"split into all parts {split.needs()}; "
                "give more rows, or a shorter history or horizon"
            )
    times = [_ticks(one) for one in many]
    # Of other data than those of the training there are no parts.
    no_cuts = (0, 0, 0)
    cuts = split.cuts(name, torch.cat(times)) if kept is None else no_cuts
    starts: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    training_rows = []
    offset = 0
    for one, ticks in zip(many, times, strict=True):
        first, second, end = (int((ticks < cut).sum()) for cut in cuts)
        training_rows.append(one.values[:first])
        # First row a window of the part may read, and the row behind its last target.
        spans = {
            "training": (0, first),
            "validation": (first - history, second),
            "test": (second - history, end),
        }
        if kept is not None:
            spans = dict.fromkeys(PARTS, (0, len(one.values)))
        for part, (first_read, behind) in spans.items():
            begin, last = max(first_read, 0), behind - history - horizon
            if last >= begin:
                starts[part].append(offset + torch.arange(begin, last + 1, stride))
        offset += len(one.values)
    for part in PARTS:
        if sum(len(windows) for windows in starts[part]) == 0:
            raise ValueError(
                f"{name}: the {part} part of {offset} rows, split {split}, is too short for "
                f"one window of history {history} + horizon {horizon}: expected at least "
                f"{split.needs()}; give more rows, a shorter history or horizon, or another split"
            )
    layout = many[0].layout(history, normalize)
    if kept is None:
        scale = training_scale(name, torch.cat(training_rows), channels, units)
    else:
        require_same_times(name, layout, layout_of(kept))
        scale = scale_of(kept)
    values = torch.cat([one.values for one in many])
    normalised = ((values - scale.mean) / scale.std).float()
    known = torch.cat(
        [
            calendar_features(ticks, calendar, zone=one.zone)
            for one, ticks in zip(many, times, strict=True)
        ]
    )
    zones = {one.zone for one in many}
    zone = zones.pop() if len(zones) == 1 else None
    parts = {}
    for part in PARTS:
        whole = _whole(name, part, values, torch.cat(starts[part]), history + horizon)
        parts[part] = Windows(normalised, torch.cat(times), whole, history, horizon, known, zone)
    return Source(
        name=name,
        task="regression",
        train=parts["training"],
        validation=parts["validation"],
        test=parts["test"],
        input_shape=parts["training"].input_shape,
        output_shape=(horizon, len(channels)),
        scale=scale,
        report=_report,
        window=layout,
    )


def _report(source: Source) -> Report:
    from hpc_bnn.data.series.report import SeriesReport  # draws: only evaluation pays for it

    return SeriesReport(source)


def _ticks(one: RegularSeries) -> Tensor:
    """Compute the time of every row (T,) in microseconds since 1970."""
    start, step = (one.start - _EPOCH) // _TICK, one.step // _TICK
    return start + step * torch.arange(len(one.values))


def _whole(name: str, part: str, values: Tensor, starts: Tensor, length: int) -> Tensor:
    """Choose the starts (number of windows,) of windows without a missing value."""
    missing = values.isnan().any(dim=1).long()
    if not bool(missing.any()):
        return starts
    before = torch.cat([torch.zeros(1, dtype=torch.int64), missing.cumsum(0)])
    whole = starts[before[starts + length] == before[starts]]
    if len(whole) == 0:
        raise ValueError(
            f"{name}: each of the {len(starts)} windows of the {part} part holds a missing value: "
            "expected some without; fill the values, or give a shorter history or horizon"
        )
    if len(whole) < len(starts):
        logger.info(
            "%s: %d of %d windows of the %s part hold a missing value and are left out",
            name,
            len(starts) - len(whole),
            len(starts),
            part,
        )
    return whole
