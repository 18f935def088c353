"""Makes the catalogue of a file, a folder or a pattern, and refuses what would give wrong numbers.

Only headers, times and a few sample rows are read, except where two files hold the same step, which
must then be equal.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.era5 import times
from hpc_bnn.data.era5.cache.catalogue import cache_catalogue
from hpc_bnn.data.era5.cache.state import Repacked, Stale, is_repacked, look_up
from hpc_bnn.data.era5.catalogue import Catalogue, Channel
from hpc_bnn.data.era5.consistency import differing_files, out_of_range, same_values
from hpc_bnn.data.era5.files import find_files, read_header
from hpc_bnn.data.era5.handles import Handles
from hpc_bnn.data.era5.names import Variable, channel_name
from hpc_bnn.data.era5.selection import Key, available, places, static_fields, static_key, wanted
from hpc_bnn.data.era5.survey import Found, Survey, survey

logger = logging.getLogger(__name__)


def catalogue(
    path: str | Path,
    *,
    variables: Sequence[str] = (),
    levels: Sequence[float] = (),
    static: Sequence[str] | None = (),
    member: int | None = None,
    stale: Stale = "error",
    strict: bool = True,
) -> Catalogue:
    """Make the catalogue of the netCDF files of a file name, a folder or a pattern, or of what
    `repack` wrote.

    variables: short names or aliases, or channels such as "z500"; everything where empty.
    levels: pressure levels in hPa of the variables that lie on levels.
    static: fields without time, or of which the first time is taken, such as "lsm"; None, or where
        nothing is named: see `static_fields`.
    member: of files with an ensemble.
    stale: "allow" uses a repacked folder whose source changed since, with a warning.
    strict: raise on any problem; else leave the file out and list it in `problems`.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        With every problem, each naming the file and what to do.
    """
    repacked: Repacked | None = None
    if is_repacked(path):
        repacked = look_up(path, member=member, stale=stale, strict=strict)
        member = None
        if repacked.header.request.format == "cache":
            made = cache_catalogue(repacked, variables=variables, levels=levels, static=static)
            _tell(made)
            return made
    source = str(path)
    problems = list(repacked.problems) if repacked else []
    notices = list(repacked.notices) if repacked else []
    handles = Handles()
    try:
        paths = repacked.files if repacked else find_files(path)
        surveys = _surveys(paths, handles, member, problems, notices)
        skipped = {name: why for one in surveys for name, why in one.skipped.items()}
        if surveys:
            there = available(surveys)
            chosen = wanted(source, there, variables, levels, skipped)
            fixed = [static_key(source, there, name, skipped) for name in static or ()]
            builder = _Builder(source, surveys, handles, problems, notices)
            if static is None or not (variables or static):
                named = chosen if variables else ()
                fixed = static_fields(source, builder.found, there, named, notices)
                if not variables:
                    fixed = [k for k in fixed if k in chosen]
                    chosen = [k for k in chosen if k not in fixed]
            made = builder.build(chosen, fixed, skipped)
            problems += out_of_range(made, handles)
            problems += differing_files(made)
    finally:
        handles.close()
    if (problems and strict) or not surveys:
        raise ValueError("\n".join(problems))
    _tell(made)
    origin = repacked.header.request.origin if repacked else ()
    return replace(made, problems=tuple(problems), origin=origin)


def _tell(made: Catalogue) -> None:
    for notice in made.notices:
        logger.info("%s", notice)


def _surveys(
    paths: Sequence[str],
    handles: Handles,
    member: int | None,
    problems: list[str],
    notices: list[str],
) -> list[Survey]:
    """Survey every file; those that cannot be used become problems."""
    surveys: list[Survey] = []
    for path in paths:
        try:
            one = survey(read_header(path), handles, member=member)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if surveys and not one.grid.same(surveys[0].grid):
            problems.append(
                f"{path} and {surveys[0].file.path} have different grids: {one.grid}; and "
                f"{surveys[0].grid}; expected one grid: read them apart or interpolate one"
            )
            continue
        surveys.append(one)
        notices += [f"{path}: {notice}" for notice in one.notices]
    return surveys


@dataclass(frozen=True, eq=False)
class _Rows:
    """The steps of one channel, sorted by time: part and stored step of each."""

    variable: Variable
    times: NDArray[np.int64]
    part: NDArray[np.int32]
    step: NDArray[np.int32]
    preliminary: NDArray[np.bool_]
    level_index: dict[int, int]


class _Builder:
    """Puts the surveys together."""

    def __init__(
        self,
        source: str,
        surveys: Sequence[Survey],
        handles: Handles,
        problems: list[str],
        notices: list[str],
    ) -> None:
        self._source, self._grid, self._handles = source, surveys[0].grid, handles
        self._problems, self._notices = problems, notices
        self.found = [one for survey in surveys for one in survey.found]
        self._parts = tuple(one.part for one in self.found)

    def build(
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
        held = [(i, at) for i, at in places(self.found, key) if self.found[i].times is not None]
        if not held:
            raise ValueError(
                f"{self._source}: '{name}' has no time in any file: it can only be a static "
                "field; add a time coordinate to use it as a state"
            )
        founds = [self.found[i] for i, _ in held]
        units = {one.variable.units for one in founds}
        if len(units) > 1:
            raise ValueError(f"{self._source}: '{name}' is in {' and in '.join(sorted(units))}")
        stored = [_times(one) for one in founds]
        for one, values in zip(founds, stored, strict=True):
            if len(values) > 1 and bool((np.diff(values) < 0).any()):
                self._notices.append(
                    f"{one.part.file.path}: '{one.part.variable}': times are not sorted; they are "
                    "read in order of time"
                )
        when = np.concatenate(stored)
        part = np.concatenate([np.full(len(_times(self.found[i])), i) for i, _ in held])
        step = np.concatenate([one.steps for one in founds])
        early = np.concatenate([one.preliminary for one in founds])
        order = np.lexsort((step, part, early, when))
        when, part, step, early = when[order], part[order], step[order], early[order]
        kept = self._without_duplicates(name, dict(held), when, part, step, early)
        return _Rows(
            founds[0].variable,
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
        for i in again.tolist():
            first = int(np.searchsorted(when, when[i]))
            kept[i] = False
            if early[i] and not early[first]:
                replaced.append(when[i])
                continue
            a, b = self._parts[part[first]], self._parts[part[i]]
            at = (level_index[int(part[first])], level_index[int(part[i])])
            worst = same_values(
                self._handles, (a, int(step[first]), at[0]), (b, int(step[i]), at[1])
            )
            if worst is not None:
                self._problems.append(
                    f"{a.file.path} and {b.file.path}: '{name}' at {times.text(int(when[i]))} is "
                    f"there twice (steps {step[first]} and {step[i]}) and differs by up to "
                    f"{worst:g}; expected one value: remove one of them"
                )
                break
        if len(replaced):
            self._notices.append(
                f"{self._source}: '{name}': {len(replaced)} steps are there as ERA5T and as ERA5 "
                "(expver 0005 and 0001); the final ones are read"
            )
        if len(again) > len(replaced):
            self._notices.append(
                f"{self._source}: '{name}': {len(again) - len(replaced)} steps are there twice "
                f"({times.listed(when[again])}); equal, read once"
            )
        return kept

    def _static(self, key: Key) -> Channel:
        held = places(self.found, key)
        timeless = [(i, at) for i, at in held if self.found[i].times is None]
        at, index = (timeless or held)[0]
        one = self.found[at]
        first = 0 if one.times is None else int(np.argmin(one.times))
        part, step = np.array([at], np.int32), one.steps[first : first + 1]
        return _channel(key, one.variable, part, step, {at: index})


def _times(found: Found) -> NDArray[np.int64]:
    assert found.times is not None
    return found.times


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
