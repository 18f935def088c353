"""Mean, standard deviation and range of every channel, and of its tendency over a forecast step.

One pass with mergeable records (n, mean, M2): Welford 1962 for the update, Chan, Golub and LeVeque
1983 for the merge

    mean = mean_a + d n_b / n,   M2 = M2_a + M2_b + d^2 n_a n_b / n,   d = mean_b - mean_a,

in float64. The merge is associative to round-off, so ranks may take any share of the times and
merge in any order. Missing values count nowhere. Grid points are weighted equally.

Shape letters: C channels, H latitude, W longitude, T time, N values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.sharding import in_turn
from hpc_bnn.fields import times
from hpc_bnn.fields.pack.pack import Pack
from hpc_bnn.fields.pack.reader import Missing, PackReader
from hpc_bnn.fields.statistics_file import Statistics
from hpc_bnn.group import ALONE, Group

KEPT_BYTES = 1 << 31  # fields kept to form differences; beyond it they are read again
BLOCK = 128  # times counted together, one after the other


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold count, mean, sum of squared deviations M2, minimum and maximum, (C,) float64 each."""

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    smallest: NDArray[np.float64]
    largest: NDArray[np.float64]

    def std(self) -> NDArray[np.float64]:
        """Compute the standard deviation (ddof = 0); NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            result: NDArray[np.float64] = np.sqrt(self.m2 / self.count)
        return result


def no_moments(channels: int) -> Moments:
    """Return the record of nothing, the neutral element of `merge`."""
    zero = np.zeros(channels)
    return Moments(zero, zero, zero, np.full(channels, np.inf), np.full(channels, -np.inf))


def moments(values: NDArray[Any]) -> Moments:
    """Compute the record of values (C, N); NaN is left out."""
    exact = np.asarray(values, np.float64)
    there = ~np.isnan(exact)
    if there.all():
        if exact.shape[1] == 0:
            return no_moments(len(exact))
        mean = exact.mean(axis=1)
        m2 = np.square(exact - mean[:, None]).sum(axis=1)
        count = np.full(len(exact), float(exact.shape[1]))
        return Moments(count, mean, m2, exact.min(axis=1), exact.max(axis=1))
    count = there.sum(axis=1).astype(np.float64)
    filled = np.where(there, exact, 0.0)
    mean = filled.sum(axis=1) / np.maximum(count, 1)
    m2 = np.where(there, np.square(filled - mean[:, None]), 0.0).sum(axis=1)
    smallest = np.where(there, exact, np.inf).min(axis=1, initial=np.inf)
    largest = np.where(there, exact, -np.inf).max(axis=1, initial=-np.inf)
    return Moments(count, mean, m2, smallest, largest)


def merge(a: Moments, b: Moments) -> Moments:
    """Return the record of the values of both."""
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    gap = b.mean - a.mean
    return Moments(
        count,
        a.mean + gap * share,
        a.m2 + b.m2 + np.square(gap) * a.count * share,
        np.minimum(a.smallest, b.smallest),
        np.maximum(a.largest, b.largest),
    )


@dataclass(frozen=True, eq=False)
class Tally:
    """Records of the states and of their tendencies; what ranks merge."""

    state: Moments
    tendency: Moments

    def merge(self, other: Tally) -> Tally:
        """Return the tally of both shares."""
        return Tally(merge(self.state, other.state), merge(self.tendency, other.tendency))


def no_tally(channels: int) -> Tally:
    """Return the tally of nothing."""
    return Tally(no_moments(channels), no_moments(channels))


def tally(
    pack: Pack,
    indices: Iterable[int],
    *,
    step_hours: int,
    within: NDArray[np.bool_],
    missing: Missing = "declared",
) -> Tally:
    """Count the states at some positions of `pack.times`, and the tendencies that start there.

    indices: this rank's share of the positions; the shares of all ranks give every state and
        tendency once. Neighbours in one share are read once.
    within: (T,) the times that may be used; a tendency needs both its ends.
    missing: as in `PackReader`.
    """
    later = positions_after(pack.times, step_hours * 3600)
    usable = within & pack.present()
    fields = _Recent(PackReader(pack, missing=missing))
    total = no_tally(len(pack.channels))
    for i in sorted(indices):
        if not usable[i]:
            continue
        now = fields.at(i, now=i)
        state, tendency = moments(now.reshape(len(now), -1)), no_moments(len(now))
        j = int(later[i])
        if j >= 0 and usable[j]:
            change = fields.at(j, now=i).astype(np.float64) - now
            tendency = moments(change.reshape(len(now), -1))
        total = total.merge(Tally(state, tendency))
    fields.close()
    return total


def positions_after(sorted_times: NDArray[np.int64], seconds: int) -> NDArray[np.int64]:
    """Find for each time (T,) the position of the one exactly `seconds` later, -1 if there is
    none.
    """
    if not len(sorted_times):
        return np.zeros(0, np.int64)
    wanted = sorted_times + seconds
    at = np.minimum(np.searchsorted(sorted_times, wanted), len(sorted_times) - 1)
    return np.where(sorted_times[at] == wanted, at, -1)


class _Recent:
    """The fields that are still needed, so that a tendency needs one new field, not two.

    Must be asked for ascending states, each followed by what it becomes.
    """

    def __init__(self, reader: PackReader) -> None:
        self._reader = reader
        self._most = max(KEPT_BYTES // (4 * math.prod(reader.pack.shape)), 2)
        self._kept: dict[int, NDArray[np.float32]] = {}

    def at(self, index: int, *, now: int) -> NDArray[np.float32]:
        """Return a field; those before position `now` will not be asked for again."""
        for old in [i for i in self._kept if i < now]:
            del self._kept[old]
        field = self._kept.get(index)
        if field is None:
            field = np.empty(self._reader.pack.shape, np.float32)
            self._reader.read(index, field)
            if len(self._kept) < self._most:
                self._kept[index] = field
        return field

    def close(self) -> None:
        self._reader.close()


def within_range(pack: Pack, start: int, end: int) -> NDArray[np.bool_]:
    """Tell which times (T,) lie in a range of seconds, both ends included."""
    result: NDArray[np.bool_] = (pack.times >= start) & (pack.times <= end)
    return result


def finish(pack: Pack, total: Tally, *, step_hours: int, within: NDArray[np.bool_]) -> Statistics:
    """Turn the tally of all ranks into statistics.

    Raises
    ------
    ValueError
        If a channel has no value, or no tendency.
    """
    for what, part in (("value", total.state), ("tendency", total.tendency)):
        empty = np.flatnonzero(part.count == 0)
        if len(empty):
            raise ValueError(
                f"{pack.source}: '{pack.names[empty[0]]}' has no {what} in the range of "
                f"the statistics ({times.listed(pack.times[within][:1]) or 'no times'}...): "
                f"expected steps that are {step_hours} h apart; choose another range or step_hours"
            )
    used = pack.times[within & pack.present()]
    return Statistics(
        channels=pack.names,
        units=tuple(c.units for c in pack.channels),
        mean=total.state.mean,
        std=total.state.std(),
        minimum=total.state.smallest,
        maximum=total.state.largest,
        count=total.state.count,
        tendency_mean=total.tendency.mean,
        tendency_std=total.tendency.std(),
        step_hours=step_hours,
        start=times.text(int(used[0])),
        end=times.text(int(used[-1])),
        fingerprint=pack.fingerprint(),
    )


def statistics(
    pack: Pack,
    *,
    start: str,
    end: str,
    step_hours: int,
    missing: Missing = "declared",
    ranks: Group = ALONE,
) -> Statistics:
    """Collective: compute the statistics of the times from `start` to `end`, both included.

    missing: "declared" refuses missing values of variables that have none by the word of their
        file; "keep" counts them nowhere, as all missing values.

    The times are cut into blocks that do not depend on the number of ranks; each rank counts its
    share of them and all records are merged in order, so the numbers are the same, bit for bit, on
    any number of ranks.

    Raises
    ------
    ValueError
        If a channel has no value, no tendency, or missing values that it must not have.
    """
    within = within_range(pack, times.parse(start, end=False), times.parse(end, end=True))
    positions = np.flatnonzero(within)
    blocks = np.split(positions, range(BLOCK, len(positions), BLOCK))
    own = in_turn(len(blocks), data_rank=ranks.rank, data_ranks=ranks.size).tolist()
    count = partial(tally, pack, step_hours=step_hours, within=within, missing=missing)
    counted = ranks.together(
        lambda: [count(indices=blocks[b].tolist()) for b in own],
        name="statistics",
    )
    every = [part for parts in ranks.gather(counted, name="statistics") for part in parts]
    total = reduce(Tally.merge, every, no_tally(len(pack.channels)))
    return finish(pack, total, step_hours=step_hours, within=within)
