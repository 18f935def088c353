"""Reads steps of a catalogue: decoded, in canonical order, normalised, missing values dealt with.

Shape letters: C channels, H latitude, W longitude, T time, L levels read together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.read_count import count_read
from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, some
from hpc_bnn.fields.gaps import Gaps
from hpc_bnn.fields.handles import Handles, library_lock
from hpc_bnn.fields.part import read_cut
from hpc_bnn.fields.plan import Run, grouped, place, runs
from hpc_bnn.fields.possible import (
    bounds,
    describe_beyond,
    describe_undeclared,
    first_beyond,
)

Missing = Literal["error", "keep", "declared"]

# For each group of channels: the part that a step lies in, and the stored step within it.
_Places = tuple[tuple[int, int], ...]


class Reader:
    """Read steps of a catalogue; may be pickled and forked: files are opened where it reads.

    mean, std: (C,) float64 of the channels, in their units; physical values where None.
    missing: "error" refuses a field with missing values, "keep" leaves NaN, "declared" leaves NaN
        in variables that may miss values by the word of their file, and refuses it in others.
    gaps: the points that have no value at any time, with "error": 0, the mean, is put there, and a
        field that misses other points is refused.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        mean: NDArray[np.float64] | None = None,
        std: NDArray[np.float64] | None = None,
        missing: Missing = "error",
        gaps: Gaps | None = None,
    ) -> None:
        if missing not in ("error", "keep", "declared"):
            raise ValueError(f"missing = '{missing}': expected 'error', 'keep' or 'declared'")
        count = len(catalogue.channels)
        self.catalogue = catalogue
        self._missing, self._gaps = missing, gaps
        self._gapless = gaps is None or not gaps.any  # a sane step has nothing to be settled
        self._mean = np.zeros(count) if mean is None else np.asarray(mean, np.float64)
        self._std = np.ones(count) if std is None else np.asarray(std, np.float64)
        self._within = bounds(catalogue.channels, self._mean, self._std)
        self._shape = catalogue.shape
        self._groups = grouped(catalogue.channels)
        self._handles = Handles()
        self._plans: dict[tuple[int, ...], list[tuple[Run, int]]] = {}  # by parts of the groups

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_handles"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handles = Handles()

    def read(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Fill `out` (C, H, W) float32 with the step at a position in `catalogue.times`.

        Raises
        ------
        ValueError
            If a channel has not this step, or has missing or impossible values; names file,
            variable and time.
        """
        self._check(out)
        places = self._places(time_index)
        sane = self._fill(places, [out], time_index, written=self._gapless)
        if not (sane and self._gapless):
            self._settle(places, time_index, out)

    def read_all(self, time_indices: Sequence[int], outs: Sequence[NDArray[np.float32]]) -> None:
        """Do what `read` does for several steps, whose order does not matter: faster for small
        fields, as steps that are stored one after another are read together.
        """
        for out in outs:
            self._check(out)
        steps = [
            (self._places(index), index, out) for index, out in zip(time_indices, outs, strict=True)
        ]
        steps.sort(key=lambda step: step[0])
        while steps:
            count = self._together([places for places, _, _ in steps])
            now, steps = steps[:count], steps[count:]
            outs_now = [out for _, _, out in now]
            sane = self._fill(now[0][0], outs_now, now[0][1], written=self._gapless)
            if not (sane and self._gapless):
                for places, index, out in now:
                    self._settle(places, index, out)

    def static(self) -> NDArray[np.float32]:
        """Read the static fields (channels, H, W) in physical units; missing values are NaN.

        Raises
        ------
        ValueError
            If a field has impossible values.
        """
        out = np.empty((len(self.catalogue.static), *self._shape[1:]), np.float32)
        zero, one = np.zeros(len(out)), np.ones(len(out))
        for group in grouped(self.catalogue.static):
            part, step = int(group.channels[0].part[0]), int(group.channels[0].step[0])
            for run in runs(self.catalogue.parts[part], part, group, zero, one):
                with library_lock():
                    raw = read_cut(run.cut, self._handles, step)
                place(raw[0], run, out, written=False)
        at = first_beyond(out, *bounds(self.catalogue.static, zero, one)) if len(out) else None
        if at is not None:
            channel, grid = self.catalogue.static[at], self.catalogue.grid
            held = self.catalogue.parts[int(channel.part[0])]
            what = describe_beyond(
                channel, out[at].astype(np.float64), grid.latitude, grid.longitude
            )
            raise ValueError(f"{held.file.path}: '{held.variable}', a static field: {what}")
        return out

    def close(self) -> None:
        """Close the files of this process."""
        self._handles.close()

    def _check(self, out: NDArray[np.float32]) -> None:
        if out.shape != self._shape or out.dtype != np.float32:
            raise ValueError(
                f"out has shape {out.shape} and type {out.dtype}: expected {self._shape} and "
                "float32"
            )

    def _places(self, time_index: int) -> _Places:
        """Look up where a step lies."""
        found = []
        for group in self._groups:
            channel = group.channels[0]
            found.append((int(channel.part[time_index]), int(channel.step[time_index])))
            if found[-1][0] < 0:
                raise ValueError(
                    f"{self.catalogue.source}: '{channel.name}' has no step at "
                    f"{times.text(int(self.catalogue.times[time_index]))}; choose times that every "
                    "channel has"
                )
        return tuple(found)

    def _together(self, steps: Sequence[_Places]) -> int:
        """Count how many of the sorted steps, from the first on, are stored one after another in
        every part, as far as it pays to read them by one call.
        """
        first = steps[0]
        most = min(run.cut.most_steps for run, _ in self._runs(first))
        count = 1
        while count < min(most, len(steps)) and steps[count] == tuple(
            (part, step + count) for part, step in first
        ):
            count += 1
        return count

    def _runs(self, places: _Places) -> list[tuple[Run, int]]:
        """Return what must be read for a step: the calls, and the stored step of each."""
        parts = tuple([part for part, _ in places])
        known = self._plans.get(parts)
        if known is None:
            known = self._plans[parts] = [
                (run, number)
                for number, (group, part) in enumerate(zip(self._groups, parts, strict=True))
                for run in runs(self.catalogue.parts[part], part, group, self._mean, self._std)
            ]
        return [(run, places[number][1]) for run, number in known]

    def _fill(
        self,
        places: _Places,
        outs: Sequence[NDArray[np.float32]],
        time_index: int,
        *,
        written: bool,
    ) -> bool:
        """Read steps that are stored one after another, the first of them at `places`; tell
        whether nothing is missing, infinite or never written.
        """
        sane = True
        with np.errstate(over="ignore"):  # of the number that stands for "never written"
            for run, step in self._runs(places):
                try:
                    with library_lock():
                        raw = read_cut(run.cut, self._handles, step, count=len(outs))
                except (OSError, ValueError) as error:
                    raise self._told(error, run, time_index) from error
                count_read(run.cut.bytes_read(step, len(outs)))
                for one, out in zip(raw, outs, strict=True):
                    sane &= place(one, run, out, written=written)
        return sane

    def _settle(self, places: _Places, time_index: int, out: NDArray[np.float32]) -> None:
        """Do with missing values of a step just read what was asked for."""
        if self._gapless:  # else they were looked for at once
            self._fill(places, [out], time_index, written=False)
        if np.isinf(out).any():
            self._refuse(time_index, out)
        at = first_beyond(out, *self._within)
        if at is not None:
            values = self._mean[at] + self._std[at] * out[at].astype(np.float64)
            grid = self.catalogue.grid
            what = describe_beyond(
                self.catalogue.channels[at], values, grid.latitude, grid.longitude
            )
            raise ValueError(f"{self.catalogue.place(at, time_index)}: {what}")
        if self._missing == "keep":
            return
        if self._missing == "declared":
            self._require_declared(time_index, out)
            return
        if self._gaps is not None:
            wrong = self._gaps.fill(out)
            if wrong is not None:
                channel, what = wrong
                raise ValueError(
                    f"{self.catalogue.place(channel, time_index)}: {what}; expected the same "
                    "points at all times, as missing = 'mean' is for fields that never have a "
                    "value there: leave the variable out, choose other times, or repair the file"
                )
        elif np.isnan(out).any():
            self._refuse(time_index, out)

    def _require_declared(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Refuse missing values in a variable that has none by the word of its file."""
        for at in np.flatnonzero(np.isnan(out).any(axis=(1, 2))).tolist():
            channel = self.catalogue.channels[at]
            if not self.catalogue.parts[int(channel.part[time_index])].packing.declared:
                gone = int(np.isnan(out[at]).sum())
                what = describe_undeclared(channel, gone, out[at].size)
                raise ValueError(f"{self.catalogue.place(at, time_index)}: {what}")

    def _told(self, error: Exception, run: Run, time_index: int) -> Exception:
        """Add to an error of a file what was read from it."""
        names = some([self.catalogue.channels[at].name for at in run.positions])
        when = times.text(int(self.catalogue.times[time_index]))
        return type(error)(f"{error} (reading {names} at {when})")

    def _refuse(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Raise for the first field with missing values."""
        at = int(np.flatnonzero(~np.isfinite(out).all(axis=(1, 2)))[0])
        gone = ~np.isfinite(out[at])
        row, column = np.argwhere(gone)[0].tolist()
        grid = self.catalogue.grid
        raise ValueError(
            f"{self.catalogue.place(at, time_index)}: {int(gone.sum())} of {gone.size} values are "
            f"missing or infinite, the first at latitude {grid.latitude[row]:g}, longitude "
            f"{grid.longitude[column]:g}; expected none: set missing = 'mean' if these points "
            "never have a value, leave the variable out, or repair the file"
        )


def read(catalogue: Catalogue, time_index: int, out: NDArray[np.float32]) -> None:
    """Fill `out` (C, H, W) float32 with the physical values of one step; missing ones are NaN."""
    reader = Reader(catalogue, missing="keep")
    try:
        reader.read(time_index, out)
    finally:
        reader.close()
