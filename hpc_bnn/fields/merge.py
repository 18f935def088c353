"""Merges the surveys of many files into one catalogue: all times in order, and for each channel the
part and stored step that hold each of them, once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, Channel, Part
from hpc_bnn.fields.ingest.survey import FileVariable, Survey
from hpc_bnn.fields.names import Variable, channel_name
from hpc_bnn.fields.selection import Key, places
from hpc_bnn.fields.values import read_field

logger = logging.getLogger(__name__)

_Place = tuple[Part, int, int]  # a field: its part, stored step and position along the level axis


@dataclass(frozen=True, eq=False)
class _Steps:
    """The steps of one channel, sorted by time, final ones before preliminary ones.

    part, step: where each lies. level_index: along the level axis of each part.
    """

    times: NDArray[np.int64]
    part: NDArray[np.int64]
    step: NDArray[np.int32]
    preliminary: NDArray[np.bool_]
    level_index: dict[int, int]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> _Steps:
        """Return some of the steps, in the order of ``rows``."""
        return _Steps(
            self.times[rows],
            self.part[rows],
            self.step[rows],
            self.preliminary[rows],
            self.level_index,
        )


class Merge:
    """The surveys of files with one grid; what is wrong is added to ``problems``, what is good to
    know to ``notices``.
    """

    def __init__(
        self, source: str, surveys: Sequence[Survey], problems: list[str], notices: list[str]
    ) -> None:
        self._source, self._grid = source, surveys[0].grid
        self._problems, self._notices = problems, notices
        self.variables = [one for survey in surveys for one in survey.variables]

    def catalogue(
        self, states: Sequence[Key], static: Sequence[Key], skipped: dict[str, str]
    ) -> Catalogue:
        """Make the catalogue of some states and static fields."""
        steps_of = {key: self._steps(key) for key in states}
        every = [np.zeros(0, np.int64), *(steps.times for steps in steps_of.values())]
        union = np.unique(np.concatenate(every))
        preliminary = np.zeros(len(union), bool)
        shared: dict[bytes, NDArray[np.int32]] = {}
        channels = []
        for key, steps in steps_of.items():
            at = np.searchsorted(union, steps.times)
            part, step = np.full(len(union), -1, np.int32), np.zeros(len(union), np.int32)
            part[at], step[at] = steps.part, steps.step
            preliminary[at] |= steps.preliminary
            # One array for all levels of a variable: they are then read together.
            part = shared.setdefault(b"part" + part.tobytes(), part)
            step = shared.setdefault(b"step" + step.tobytes(), step)
            variable = self.variables[next(iter(steps.level_index))].variable
            channels.append(_channel(key, variable, part, step, steps.level_index))
        return Catalogue(
            source=self._source,
            parts=tuple(one.part for one in self.variables),
            grid=self._grid,
            times=union,
            channels=tuple(channels),
            static=tuple(self._static(key) for key in static),
            preliminary=preliminary,
            problems=(),
            notices=tuple(self._notices),
            skipped=skipped,
        )

    def _steps(self, key: Key) -> _Steps:
        """Collect the steps of a channel from all files, each time once."""
        name = channel_name(*key)
        level_index = {
            i: level
            for i, level in places(self.variables, key)
            if self.variables[i].times is not None
        }
        if not level_index:
            raise ValueError(
                f"{self._source}: '{name}' has no time in any file: it can only be a static "
                "field; add a time coordinate to use it as a state"
            )
        variables = [self.variables[i] for i in level_index]
        units = {one.variable.units for one in variables}
        if len(units) > 1:
            raise ValueError(f"{self._source}: '{name}' is in {' and in '.join(sorted(units))}")
        for one in variables:
            if bool((np.diff(_times(one)) < 0).any()):
                self._notices.append(
                    f"{one.part.file.path}: '{one.part.variable}': times are not sorted; they are "
                    "read in order of time"
                )
        steps = _Steps(
            np.concatenate([_times(one) for one in variables]),
            np.concatenate([np.full(len(_times(self.variables[i])), i) for i in level_index]),
            np.concatenate([one.steps for one in variables]),
            np.concatenate([one.preliminary for one in variables]),
            level_index,
        )
        steps = steps.take(np.lexsort((steps.step, steps.part, steps.preliminary, steps.times)))
        return steps.take(self._without_duplicates(name, steps))

    def _without_duplicates(self, name: str, steps: _Steps) -> NDArray[np.bool_]:
        """Keep the first of equal steps; final data goes before preliminary.

        Different values at one time are a problem: nobody can know which are right.
        """
        seconds = steps.times
        kept = np.ones(len(seconds), bool)
        again = np.flatnonzero(seconds[1:] == seconds[:-1]) + 1
        kept[again] = False
        first_of = np.searchsorted(seconds, seconds[again])
        replaced = steps.preliminary[again] & ~steps.preliminary[first_of]
        if replaced.any():
            self._notices.append(
                f"{self._source}: '{name}': {int(replaced.sum())} steps are there as ERA5T and as "
                "ERA5 (expver 0005 and 0001); the final ones are read"
            )
        same = again[~replaced]
        for first, second in zip(first_of[~replaced].tolist(), same.tolist(), strict=True):
            a, b = self._place(steps, first), self._place(steps, second)
            worst = _difference(a, b, self._grid.shape)
            if worst is not None:
                self._problems.append(
                    f"{a[0].file.path} and {b[0].file.path}: '{name}' at "
                    f"{times.text(int(seconds[second]))} is there twice (steps {a[1]} and {b[1]}) "
                    f"and differs by up to {worst:g}; expected one value: remove one of them"
                )
                return kept
        if len(same):
            self._notices.append(
                f"{self._source}: '{name}': {len(same)} steps are there twice "
                f"({times.listed(seconds[again])}); equal, read once"
            )
        return kept

    def _place(self, steps: _Steps, row: int) -> _Place:
        part = int(steps.part[row])
        return self.variables[part].part, int(steps.step[row]), steps.level_index[part]

    def _static(self, key: Key) -> Channel:
        """Make the channel of a static field: without time, or the first of its times."""
        positions = places(self.variables, key)
        timeless = [place for place in positions if self.variables[place[0]].times is None]
        at, level = (timeless or positions)[0]
        one = self.variables[at]
        first = 0 if one.times is None else int(np.argmin(one.times))
        if not timeless:
            self._warn_of_change(key, positions)
        part, step = np.array([at], np.int32), one.steps[first : first + 1]
        return _channel(key, one.variable, part, step, {at: level})

    def _warn_of_change(self, key: Key, positions: Sequence[tuple[int, int]]) -> None:
        """Warn of a static field whose first and last step differ: the first stands for all."""
        steps = [
            (int(seconds), (self.variables[i].part, int(step), level))
            for i, level in positions
            for seconds, step in zip(
                _times(self.variables[i]), self.variables[i].steps, strict=True
            )
        ]
        first, last = min(steps, key=itemgetter(0)), max(steps, key=itemgetter(0))
        worst = _difference(first[1], last[1], self._grid.shape) if last[0] > first[0] else None
        if worst is not None:
            logger.warning(
                "%s: '%s' is a static field but differs by up to %g between %s and %s: the first "
                "is used at all times; name it in data.variables to use it as a state",
                self._source,
                channel_name(*key),
                worst,
                times.text(first[0]),
                times.text(last[0]),
            )


def _difference(a: _Place, b: _Place, shape: tuple[int, int]) -> float | None:
    """Compare two fields (H, W); return the largest difference.

    None where they agree: equal, or closer than the two packings can tell apart.
    """
    first, second = (read_field(*place, shape).astype(np.float64) for place in (a, b))
    packings = [part.packing for part, _, _ in (a, b)]
    tolerance = sum(
        0.501 * abs(packing.scale) for packing in packings if np.dtype(packing.dtype).kind in "iu"
    )
    missing = np.isnan(first)
    if not np.array_equal(missing, np.isnan(second)):
        return float("inf")
    gaps = np.abs(first - second)[~missing]
    if tolerance:  # of the float32 that both were decoded to
        tolerance += 4e-7 * float(np.max(np.abs(first[~missing]), initial=0.0))
    worst = float(gaps.max(initial=0.0))
    return None if worst <= tolerance else worst


def _times(one: FileVariable) -> NDArray[np.int64]:
    assert one.times is not None
    return one.times


def _channel(
    key: Key,
    variable: Variable,
    part: NDArray[np.int32],
    step: NDArray[np.int32],
    level_index: dict[int, int],
) -> Channel:
    return Channel(
        name=channel_name(*key),
        variable=key[0],
        level_hpa=key[1],
        units=variable.units,
        standard_name=variable.standard_name,
        long_name=variable.long_name,
        vector=variable.vector,
        part=part,
        step=step,
        level_index=level_index,
    )
