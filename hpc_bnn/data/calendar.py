"""What a clock and a calendar say about times: known inputs, also of the future.

Each feature is a position on a circle, given as the pair sin(2 pi p), cos(2 pi p), so that the end
of a day, week or year lies beside its beginning:

    hour_of_day   p = seconds since midnight / 86400, any fraction of an hour
    day_of_week   p = whole days since Monday / 7
    day_of_year   p = whole days since 1 January / days of this year (365 or 366)

People live by local time, so that a clock change moves the features against UTC.

Shape letters: T times, F features (two a name).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Feature = Literal["hour_of_day", "day_of_week", "day_of_year"]

TICKS_PER_DAY = 86_400_000_000  # a tick is a microsecond
_TICKS_PER_QUARTER = 900_000_000
_THURSDAY = 3  # 1970-01-01, days after Monday


def calendar_features(
    times: Tensor, names: Sequence[Feature], *, zone: tzinfo | None = None
) -> Tensor:
    """Compute the features (T, F) float32 of times (T,) int64, microseconds since 1970.

    zone: where the clock hangs; then `times` are UTC. None: take them as they are.

    Raises
    ------
    ValueError
        For an unknown name or one given twice.
    """
    known = {"hour_of_day": _hour_of_day, "day_of_week": _day_of_week, "day_of_year": _day_of_year}
    wrong = [name for name in names if name not in known]
    if wrong or len(set(names)) != len(names):
        raise ValueError(
            f"calendar = {list(names)}: expected different names out of {', '.join(known)}"
        )
    local = times if zone is None else local_times(times, zone)
    circles = []
    for name in names:
        turn = 2 * math.pi * known[name](local)
        circles += [turn.sin(), turn.cos()]
    return torch.stack(circles, dim=1).float() if circles else torch.empty(len(times), 0)


def local_times(times: Tensor, zone: tzinfo) -> Tensor:
    """Turn UTC times (T,) into what a clock of the zone shows (T,), microseconds since 1970."""
    # Since 1972 clocks have changed at full quarters of an hour of UTC only.
    quarters, place = torch.unique(
        torch.div(times, _TICKS_PER_QUARTER, rounding_mode="floor"), return_inverse=True
    )
    ahead = [
        _ahead(quarter * _TICKS_PER_QUARTER // 1_000_000, zone) for quarter in quarters.tolist()
    ]
    return times + torch.tensor(ahead, dtype=torch.int64)[place]


def _ahead(seconds: int, zone: tzinfo) -> int:
    """Compute by how many microseconds the zone is ahead of UTC."""
    offset = datetime.fromtimestamp(seconds, UTC).astimezone(zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds() * 1_000_000)


def _days(local: Tensor) -> Tensor:
    return torch.div(local, TICKS_PER_DAY, rounding_mode="floor")


def _hour_of_day(local: Tensor) -> Tensor:
    return local.remainder(TICKS_PER_DAY).double() / TICKS_PER_DAY


def _day_of_week(local: Tensor) -> Tensor:
    return (_days(local) + _THURSDAY).remainder(7).double() / 7


def _day_of_year(local: Tensor) -> Tensor:
    days = _days(local).numpy().astype("datetime64[D]")
    years = days.astype("datetime64[Y]")
    first, next_first = years.astype("datetime64[D]"), (years + 1).astype("datetime64[D]")
    share = (days - first).astype(np.float64) / (next_first - first).astype(np.float64)
    return torch.from_numpy(share)
