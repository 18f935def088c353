"""Reads steps of a pack: normalised, missing values dealt with.

    out = (value - mean) * (1 / std)    in float32

The shift is rounded to a float32: that moves all values by the same, by at most half the distance
of neighbouring numbers at the mean, and drops out of differences of two steps. One compiled pass
goes from the mapped file to `out`, as fast as a copy; three of numpy take 2.5 to 5 times as long.

Shape letters: C channels, F static fields, H latitude, W longitude.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.compiled import load
from hpc_bnn.fields import times
from hpc_bnn.fields.gaps import Gaps
from hpc_bnn.fields.pack.header import STATIC
from hpc_bnn.fields.pack.pack import Pack
from hpc_bnn.files import count_read

_decode = load("hpc_bnn.data._decode", needed=True)

Missing = Literal["error", "keep", "declared"]

SANE = 1e28  # no normalised value is larger
LOOK_EVERY_S = 1.0  # asking for the state of a file may take a message to a server


@dataclass(frozen=True, eq=False)
class _Run:
    """Channels that are neighbours in a step: where they begin there, and where they go."""

    offset: int
    size: int
    target: slice
    shift: NDArray[np.float32]
    factor: NDArray[np.float32]


@dataclass
class _Mapped:
    """The file of a year in memory, the file it was (device and number), and when to look again."""

    memory: memoryview
    identity: tuple[int, int]
    due: float


class PackReader:
    """Read steps of a pack; may be pickled, forked and shared by threads.

    mean, std: (C,) float64 of the channels, in their units; physical values where None.
    missing: "error" refuses a field with missing values, "keep" leaves NaN, "declared" leaves NaN
        in channels that may miss values by the word of their files, and refuses it in others.
    gaps: the points that have no value at any time, with "error": 0, the mean, is put there, and a
        field that misses other points is refused.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        mean: NDArray[np.float64] | None = None,
        std: NDArray[np.float64] | None = None,
        missing: Missing = "error",
        gaps: Gaps | None = None,
    ) -> None:
        if missing not in ("error", "keep", "declared"):
            raise ValueError(f"missing = '{missing}': expected 'error', 'keep' or 'declared'")
        self.pack = pack
        self._missing, self._gaps = missing, gaps
        self._gapless = gaps is None or not gaps.any  # a sane step has nothing to be settled
        self._shape, self._present = pack.shape, pack.present()
        count = len(pack.channels)
        shift = np.zeros(count, np.float32) if mean is None else mean.astype(np.float32)
        factor = np.ones(count, np.float32) if std is None else (1 / std).astype(np.float32)
        self._runs = _runs(pack, shift, factor)
        self._files: dict[int, _Mapped] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def read(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Fill `out` (C, H, W) float32 with the step at a position in `pack.times`.

        Raises
        ------
        ValueError
            If a channel has not this step, or has missing values; names file, channel and time.
        """
        if out.shape != self._shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(
                f"out has shape {out.shape} and type {out.dtype}: expected {self._shape} and "
                "float32, in one piece of memory"
            )
        if not self._present[time_index]:
            self._refuse_absent(time_index)
        if not (self._fill(time_index, out) and self._gapless):
            self._settle(time_index, out)

    def read_all(self, time_indices: Sequence[int], outs: Sequence[NDArray[np.float32]]) -> None:
        """Do what `read` does for several steps, in the order in which they lie."""
        steps = sorted(zip(time_indices, range(len(outs)), strict=True))
        for time_index, at in steps:
            self.read(time_index, outs[at])

    def static(self) -> NDArray[np.float32]:
        """Read the static fields (F, H, W) in physical units; missing values are NaN."""
        pack = self.pack
        out = np.empty((len(pack.static), *self._shape[1:]), np.float32)
        size = pack.header.field_bytes
        for field, at in zip(out, pack.static_positions, strict=True):
            path, offset = pack.folder / STATIC, at * size
            if at < 0:
                first = int(np.argmin(pack.absent[:, -1 - at]))
                path = pack.path(first)
                offset = int(pack.slot[first]) * pack.header.stride + (-1 - at) * size
            with path.open("rb") as file:
                file.seek(offset)
                field[...] = np.frombuffer(file.read(size), "<f4").reshape(field.shape)
        return out

    def close(self) -> None:
        """Let go of the files of this process."""
        self._files.clear()

    def _fill(self, time_index: int, out: NDArray[np.float32]) -> bool:
        """Read and normalise a step; tell whether all of it are numbers of a sane size."""
        memory = self._memory(time_index)
        base = int(self.pack.slot[time_index]) * self.pack.header.stride
        sane = True
        for run in self._runs:
            raw = memory[base + run.offset : base + run.offset + run.size]
            sane &= _decode.floats(raw, run.shift, run.factor, out[run.target], SANE)
            count_read(run.size)
        return sane

    def _memory(self, time_index: int) -> memoryview:
        """Return the file that a step lies in; refuse it where it vanished, shrank or was replaced:
        a map of it would end the process.
        """
        year, now = int(self.pack.year[time_index]), time.monotonic()
        known = self._files.get(year)
        if known is not None and now < known.due:
            return known.memory
        path = self.pack.path(time_index)
        least = self.pack.header.years[path.stem] * self.pack.header.stride
        try:
            state = path.stat()
            identity = (state.st_dev, state.st_ino)
            if state.st_size < least or (known is not None and known.identity != identity):
                raise ValueError(
                    f"{path}: was changed while it is read: it has {state.st_size} bytes, expected "
                    f"{least}, or was replaced (reading {self._when(time_index)}); restore it and "
                    "start again"
                )
            if known is None:
                known = _Mapped(_map(path, least), identity, 0.0)
        except OSError as error:
            raise type(error)(
                f"{path}: cannot be read any more: {error.strerror} (reading "
                f"{self._when(time_index)}); restore it and start again"
            ) from error
        known.due = now + LOOK_EVERY_S
        self._files[year] = known
        return known.memory

    def _when(self, time_index: int) -> str:
        return times.text(int(self.pack.times[time_index]))

    def _settle(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Do with missing values of a step just read what was asked for."""
        if np.isinf(out).any():
            self._refuse(time_index, out)
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
                    f"{self.pack.place(channel, time_index)}: {what}; expected the same points at "
                    "all times, as missing = 'mean' is for fields that never have a value there: "
                    "leave the variable out, choose other times, or repair the file it was made of"
                )
        elif np.isnan(out).any():
            self._refuse(time_index, out)

    def _require_declared(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Refuse missing values in a channel that has none by the word of its files."""
        for at in np.flatnonzero(np.isnan(out).any(axis=(1, 2))).tolist():
            channel = self.pack.channels[at]
            if not channel.declared:
                raise ValueError(
                    f"{self.pack.place(at, time_index)}: {int(np.isnan(out[at]).sum())} of "
                    f"{out[at].size} values of {channel.name} are NaN or were never written, and "
                    "its files declare no missing values: repair them, leave the variable out, or "
                    f"declare them (`ncatted -a _FillValue,{channel.variable},o,f,NaN FILE`)"
                )

    def _refuse_absent(self, time_index: int) -> None:
        gone = self.pack.absent[time_index, list(self.pack.positions)]
        raise ValueError(
            f"{self.pack.source}: '{self.pack.names[int(np.argmax(gone))]}' has no step at "
            f"{times.text(int(self.pack.times[time_index]))}; choose times that every channel has"
        )

    def _refuse(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Raise for the first field with missing values."""
        at = int(np.flatnonzero(~np.isfinite(out).all(axis=(1, 2)))[0])
        gone = ~np.isfinite(out[at])
        row, column = np.argwhere(gone)[0].tolist()
        grid = self.pack.grid
        raise ValueError(
            f"{self.pack.place(at, time_index)}: {int(gone.sum())} of {gone.size} values are "
            f"missing or infinite, the first at latitude {grid.latitude[row]:g}, longitude "
            f"{grid.longitude[column]:g}; expected none: set missing = 'mean' if these points "
            "never have a value, leave the variable out, or repair the file it was made of"
        )


def read(pack: Pack, time_index: int, out: NDArray[np.float32]) -> None:
    """Fill `out` (C, H, W) float32 with the physical values of one step; missing ones are NaN."""
    reader = PackReader(pack, missing="keep")
    try:
        reader.read(time_index, out)
    finally:
        reader.close()


def _map(path: Path, size: int) -> memoryview:
    file = os.open(path, os.O_RDONLY)
    try:
        return memoryview(mmap.mmap(file, size, access=mmap.ACCESS_READ))
    finally:
        os.close(file)


def _runs(pack: Pack, shift: NDArray[np.float32], factor: NDArray[np.float32]) -> tuple[_Run, ...]:
    """Cut the channels of a pack into runs of neighbours in both a step and `out`."""
    size, found = pack.header.field_bytes, []
    for _, pairs in groupby(enumerate(pack.positions), lambda pair: pair[1] - pair[0]):
        several = list(pairs)
        target = slice(several[0][0], several[-1][0] + 1)
        begin, length = several[0][1] * size, len(several) * size
        found.append(_Run(begin, length, target, shift[target], factor[target]))
    return tuple(found)
