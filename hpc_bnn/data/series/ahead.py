"""What a series is predicted from: its last rows before a time, and what is known of those behind.

Shape letters: N series, H history rows, P horizon rows, C channels, F calendar features.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import torch
from torch import Tensor

from hpc_bnn.data.calendar import Feature, calendar_features
from hpc_bnn.data.new_inputs import NewInputs
from hpc_bnn.data.series.windows import RegularSeries
from hpc_bnn.data.source import Scale, Source

EPOCH = datetime(1970, 1, 1)
TICK = timedelta(microseconds=1)


def ahead(
    name: str,
    many: Sequence[RegularSeries],
    scale: Scale,
    *,
    history: int,
    horizon: int,
    calendar: Sequence[Feature],
    start: str = "",
) -> NewInputs:
    """Offer, of each series, the H rows before a time, to predict the P rows from it on.

    start: of the first row that is predicted, ISO 8601; by the clock of the series unless it has an
        offset; "": the row behind the last.

    Raises
    ------
    ValueError
        If a series does not hold the history of that time, or some of its values are missing.
    """
    firsts = [_first_row(name, one, history, start) for one in many]
    histories, truths, times, inputs = [], [], [], []
    for one, first in zip(many, firsts, strict=True):
        past = one.values[first - history : first]
        truth = torch.full((horizon, past.shape[1]), torch.nan, dtype=torch.float64)
        known = one.values[first : first + horizon]
        truth[: len(known)] = known
        rows = [one.start + row * one.step for row in range(first - history, first + horizon)]
        targets = torch.tensor([(row - EPOCH) // TICK for row in rows[history:]])
        features = calendar_features(targets, calendar, zone=one.zone)
        inputs.append(inputs_of(past[None], scale, features[None])[0])
        histories.append(past)
        truths.append(truth)
        times.append(tuple(_clock(one, row) for row in rows))
    x = torch.stack(inputs)
    return NewInputs(
        names=tuple(one.name for one in many),
        read=x.__getitem__,
        times=tuple(times),
        history=torch.stack(histories),
        truth=torch.stack(truths),
    )


def inputs_of(history: Tensor, scale: Scale, features: Tensor) -> Tensor:
    """Return the inputs of histories (N, H, C) in physical units and what is known of the rows to
    predict, (N, P, F): (N, H, C), with features (N, H C + P F).
    """
    x = ((history.double() - scale.mean) / scale.std).float()
    if features.shape[-1]:
        x = torch.cat([x.flatten(-2), features.flatten(-2)], dim=-1)
    return x


def windows_of(
    source: Source, history: Tensor, times: Sequence[datetime], calendar: Sequence[Feature]
) -> Tensor:
    """Return the inputs of histories (B, H, C), or of one (H, C), in physical units.

    times: of the P rows to predict, on the clock of the calendar; none without a calendar.

    Raises
    ------
    ValueError
        If shape or times do not fit.
    """
    assert source.window is not None and source.scale is not None
    shape, horizon = (source.window.history, source.window.channels), source.output_shape[0]
    windows = history[None] if history.dim() == 2 else history
    if windows.dim() != 3 or tuple(windows.shape[1:]) != shape:
        raise ValueError(
            f"predict: a history of shape {tuple(history.shape)}: expected (B, {shape[0]}, "
            f"{shape[1]}), the {shape[0]} rows before what is predicted"
        )
    if len(times) != (horizon if calendar else 0):
        raise ValueError(
            f"predict: {len(times)} times: expected "
            + (f"those of the {horizon} rows to predict" if calendar else "none: no calendar")
        )
    targets = torch.tensor([(time.replace(tzinfo=None) - EPOCH) // TICK for time in times])
    features = calendar_features(targets, calendar) if times else torch.empty(horizon, 0)
    return inputs_of(windows, source.scale, features.expand(len(windows), -1, -1))


def _first_row(name: str, one: RegularSeries, history: int, start: str) -> int:
    """Return the number of the first row that is predicted."""
    where = f"{name}{f': series {one.name!r}' if one.name else ''}"
    end = len(one.values)
    first = end
    if start:
        offset = _instant(where, one, start) - one.start
        first = offset // one.step
        if offset % one.step:
            near = _clock(one, one.start + first * one.step)
            raise ValueError(
                f"{where}: --from {start}: no row of the series, whose step is {one.step}; near it "
                f"{near:%Y-%m-%dT%H:%M:%S}"
            )
    if not history <= first <= end:
        if end < history:
            raise ValueError(
                f"{where}: {end} rows: the network needs the {history} rows (data.history) before "
                "what it predicts; give a longer file"
            )
        earliest, latest = (_clock(one, one.start + row * one.step) for row in (history, end))
        raise ValueError(
            f"{where}: --from {start}: expected a time from {earliest:%Y-%m-%dT%H:%M:%S} to "
            f"{latest:%Y-%m-%dT%H:%M:%S}: {history} rows of the file must lie right before it"
        )
    past = one.values[first - history : first]
    missing = past.isnan().any(dim=1).nonzero().flatten()
    if len(missing):
        row = first - history + int(missing[-1])
        raise ValueError(
            f"{where}: a value is missing at {_clock(one, one.start + row * one.step)}, and the "
            f"network needs the {history} rows before what it predicts; fill it in, or give --from "
            "another time"
        )
    return first


def _instant(where: str, one: RegularSeries, text: str) -> datetime:
    """Return a time as the series counts it, without time zone."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{where}: --from {text}: not a time; expected ISO 8601, such as "
            f"{_clock(one, one.start):%Y-%m-%dT%H:%M}"
        ) from error
    if time.tzinfo is not None and not one.instants:
        raise ValueError(
            f"{where}: --from {text}: the times of the file have neither offset nor zone, so that "
            f"nobody knows which of them this is; expected a time such as "
            f"{_clock(one, one.start):%Y-%m-%dT%H:%M}"
        )
    if time.tzinfo is None and one.zone is not None:
        time = time.replace(tzinfo=one.zone)
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


def _clock(one: RegularSeries, time: datetime) -> datetime:
    """Return a time as a clock shows it: in its zone where that is known."""
    return time if one.zone is None else time.replace(tzinfo=UTC).astimezone(one.zone)
