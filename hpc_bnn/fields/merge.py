"""Merges the surveys of many files into one catalogue: all times in order, and for each channel the
part and stored step that hold each of them, once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, Channel, Part
from hpc_bnn.fields.ingest.survey import FileVariable, Survey
from hpc_bnn.fields.names import Variable, channel_name
from hpc_bnn.fields.selection import Key, places
from hpc_bnn.fields.values import read_field

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The steps of one channel, sorted by time: part and stored step of each."""

    variable: Variable
    times: NDArray[np.int64]
    part: NDArray[np.int32]
    step: NDArray[np.int32]
    preliminary: NDArray[np.bool_]
    level_index: dict[int, int]


class Merge:
    """The surveys of files with one grid; what is wrong is added to `problems`, what is good to
    know to `notices`.
    """

    def __init__(
        self,
        source: str,
        surveys: Sequence[Survey],
        problems: list[str],
        notices: list[str],
    ) -> None:
        self._source, self._grid = source, surveys[0].grid
        self._problems, self._notices = problems, notices
        self.variables = [one for survey in surveys for one in survey.variables]
        self._parts = tuple(one.part for one in self.variables)

    def catalogue(
        self, chosen: Sequence[Key], fixed: Sequence[Key], skipped: dict[str, str]
    ) -> Catalogue:
        """Make the catalogue of the chosen channels and static fields."""
        rows = {key: self._rows(key) for key in chosen}
        every = [r.times for r in rows.values()]
        union = np.unique(np.concatenate(every)) if every else np.zeros(0, np.int64)
        preliminary = np.zeros(len(union), bool)
        shared: dict[bytes, NDArray[np.int32]] = {}
        channels = []
        for key, row in rows.items():
            at = np.searchsorted(union, row.times)
            part = np.full(len(union), -1, np.int32)
            step = np.zeros(len(union), np.int32)
            part[at], step[at] = row.part, row.step
            preliminary[at] |= row.preliminary
            # One array for all levels of a variable: they are then read together.
            part = shared.setdefault(b"part" + part.tobytes(), part)
            step = shared.setdefault(b"step" + step.tobytes(), step)
            channels.append(_channel(key, row.variable, part, step, row.level_index))
        return Catalogue(
            source=self._source,
            parts=self._parts,
            grid=self._grid,
            times=union,
            channels=tuple(channels),
            static=tuple(self._static(key) for key in fixed),
            preliminary=preliminary,
            problems=(),
            notices=tuple(self._notices),
            skipped=skipped,
        )

    def _rows(self, key: Key) -> _Rows:
        name = channel_name(*key)
        held = [
            (i, at) for i, at in places(self.variables, key) if self.variables[i].times is not None
        ]
        if not held:
            raise ValueError(
                f"{self._source}: '{name}' has no time in any file: it can only be a static "
                "field; add a time coordinate to use it as a state"
            )
        members = [self.variables[i] for i, _ in held]
        units = {one.variable.units for one in members}
        if len(units) > 1:
            raise ValueError(f"{self._source}: '{name}' is in {' and in '.join(sorted(units))}")
        stored = [_times(one) for one in members]
        for one, values in zip(members, stored, strict=True):
            if len(values) > 1 and bool((np.diff(values) < 0).any()):
                self._notices.append(
                    f"{one.part.file.path}: '{one.part.variable}': times are not sorted; they are "
                    "read in order of time"
                )
        when = np.concatenate(stored)
        part = np.concatenate([np.full(len(_times(self.variables[i])), i) for i, _ in held])
        step = np.concatenate([one.steps for one in members])
        early = np.concatenate([one.preliminary for one in members])
        order = np.lexsort((step, part, early, when))
        when, part, step, early = when[order], part[order], step[order], early[order]
        kept = self._without_duplicates(name, dict(held), when, part, step, early)
        return _Rows(
            members[0].variable,
            when[kept],
            part[kept].astype(np.int32),
            step[kept].astype(np.int32),
            early[kept],
            dict(held),
        )

    def _without_duplicates(
        self,
        name: str,
        level_index: dict[int, int],
        when: NDArray[np.int64],
        part: NDArray[np.int64],
        step: NDArray[np.int32],
        early: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Keep the first of equal steps; final data goes before preliminary.

        Different values at one time are a problem: nobody can know which are right.
        """
        kept = np.ones(len(when), bool)
        again = np.flatnonzero(when[1:] == when[:-1]) + 1
        replaced = []
        equal = True
        for i in again.tolist():
            first = int(np.searchsorted(when, when[i]))
            kept[i] = False
            if early[i] and not early[first]:
                replaced.append(when[i])
                continue
            a, b = self._parts[part[first]], self._parts[part[i]]
            at = (level_index[int(part[first])], level_index[int(part[i])])
            worst = _difference(
                (a, int(step[first]), at[0]), (b, int(step[i]), at[1]), self._grid.shape
            )
            if worst is not None:
                self._problems.append(
                    f"{a.file.path} and {b.file.path}: '{name}' at {times.text(int(when[i]))} is "
                    f"there twice (steps {step[first]} and {step[i]}) and differs by up to "
                    f"{worst:g}; expected one value: remove one of them"
                )
                equal = False
                break
        if len(replaced):
            self._notices.append(
                f"{self._source}: '{name}': {len(replaced)} steps are there as ERA5T and as ERA5 "
                "(expver 0005 and 0001); the final ones are read"
            )
        if equal and len(again) > len(replaced):
            self._notices.append(
                f"{self._source}: '{name}': {len(again) - len(replaced)} steps are there twice "
                f"({times.listed(when[again])}); equal, read once"
            )
        return kept

    def _static(self, key: Key) -> Channel:
        held = places(self.variables, key)
        timeless = [(i, at) for i, at in held if self.variables[i].times is None]
        at, index = (timeless or held)[0]
        one = self.variables[at]
        first = 0 if one.times is None else int(np.argmin(one.times))
        if not timeless:
            self._tell_of_change(key, held)
        part, step = np.array([at], np.int32), one.steps[first : first + 1]
        return _channel(key, one.variable, part, step, {at: index})

    def _tell_of_change(self, key: Key, held: Sequence[tuple[int, int]]) -> None:
        """Warn of a static field whose first and last step differ: the first stands for all."""
        steps = [
            (int(when), (self.variables[i].part, int(step), level))
            for i, level in held
            for when, step in zip(_times(self.variables[i]), self.variables[i].steps, strict=True)
        ]
        (first, a), (last, b) = (end(steps, key=lambda step: step[0]) for end in (min, max))
        worst = _difference(a, b, self._grid.shape) if last > first else None
        if worst is not None:
            logger.warning(
                "%s: '%s' is a static field but differs by up to %g between %s and %s: the first "
                "is used at all times; name it in data.variables to use it as a state",
                self._source,
                channel_name(*key),
                worst,
                times.text(first),
                times.text(last),
            )


def _difference(
    a: tuple[Part, int, int], b: tuple[Part, int, int], shape: tuple[int, int]
) -> float | None:
    """Compare one field (H, W) in two places (part, step, level); return the largest difference.

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
