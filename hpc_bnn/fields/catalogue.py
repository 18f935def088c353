"""The catalogue of a set of files: for each channel and time, where the numbers lie.

Plain records and arrays, without open files: one rank makes it (``assemble.catalogue``) and sends
it to the others.

Shape letters: T times, H latitude, W longitude.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from math import ceil, prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields import times
from hpc_bnn.fields.grid import Grid, Orientation
from hpc_bnn.fields.ingest.packing import Packing
from hpc_bnn.fields.names import split_channel


@dataclass(frozen=True)
class File:
    """Name one file of a catalogue.

    format: key in ``files.FORMATS``; flavour: of it, in words.
    size: in bytes; it tells later whether the file has changed.
    """

    path: str
    format: str
    size: int
    orientation: Orientation
    flavour: str


@dataclass(frozen=True, eq=False)
class Part:
    """Describe one variable of one file.

    axes: role of each dimension: "time", "level", "version", "latitude", "longitude", or "fixed".
    fixed: index along each dimension, used where the role is "fixed".
    version_of: legacy files only: index along the version axis for each stored time.
    key: by which the format reads the variable.
    """

    file: File
    variable: str
    raw_dtype: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    fixed: tuple[int, ...]
    packing: Packing
    chunks: tuple[int, ...] | None
    compression: str
    version_of: NDArray[np.int8] | None
    key: str

    def axis(self, role: str) -> int | None:
        """Return the position of an axis, None where the variable has none."""
        return self.axes.index(role) if role in self.axes else None

    def chunk(self, role: str) -> int:
        """Return how many places along an axis are stored together; 1 without chunks."""
        axis = self.axis(role)
        return 1 if axis is None or self.chunks is None else self.chunks[axis]


@dataclass(frozen=True, eq=False)
class Channel(FieldChannel):
    """One variable on one level; units: of the values that are read, conversions done.

    part: (T,) int32, position in `Catalogue.parts` for each time, -1 where there is none; channels
        that always lie side by side share the array.
    step: (T,) int32, stored step within that part.
    level_index: position along the level axis of each part.
    """

    variable: str
    part: NDArray[np.int32]
    step: NDArray[np.int32]
    level_index: dict[int, int]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Say where everything lies.

    times: (T,) int64, seconds since 1970, of all steps that any channel has, sorted.
    channels: states; static: fields without time, their arrays have length 1.
    preliminary: (T,) whether any channel of that time is ERA5T.
    problems: what makes files unusable; empty in a catalogue made with strict = True.
    notices: what was noticed and dealt with.
    skipped: variables that cannot be used, with the reason.
    cut: whether the files have more times.
    """

    source: str
    parts: tuple[Part, ...]
    grid: Grid
    times: NDArray[np.int64]
    channels: tuple[Channel, ...]
    static: tuple[Channel, ...]
    preliminary: NDArray[np.bool_]
    problems: tuple[str, ...]
    notices: tuple[str, ...]
    skipped: dict[str, str]
    cut: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the channels."""
        return tuple(c.name for c in self.channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one step."""
        return len(self.channels), len(self.grid.latitude), len(self.grid.longitude)

    def present(self) -> NDArray[np.bool_]:
        """Tell for each time (T,) whether every channel has it."""
        present = np.ones(len(self.times), bool)
        for part in {id(c.part): c.part for c in self.channels}.values():
            present &= part >= 0
        return present

    def place(self, channel: int, time: int) -> str:
        """Name file, variable and time of one field: a channel at a position in `times`."""
        one = self.channels[channel]
        part = self.parts[int(one.part[time])]
        when = times.text(int(self.times[time]))
        return f"{part.file.path}: '{part.variable}' ({one.name}) at {when}"

    def between(self, start: int, end: int) -> Catalogue:
        """Return the catalogue of the times in a range of seconds, both ends included."""
        within = (self.times >= start) & (self.times <= end)
        kept = {id(a): a[within] for c in self.channels for a in (c.part, c.step)}
        return replace(
            self,
            cut=self.cut or not within.all(),
            times=self.times[within],
            preliminary=self.preliminary[within],
            channels=tuple(
                replace(c, part=kept[id(c.part)], step=kept[id(c.step)]) for c in self.channels
            ),
        )

    def files(self) -> tuple[tuple[str, int], ...]:
        """List names and sizes of the files."""
        files = {(Path(part.file.path).name, part.file.size) for part in self.parts}
        return tuple(sorted(files))

    def fingerprint(self) -> str:
        """Hash names and sizes of the files, and the times; a pack of them has the same."""
        content = repr(self.files()).encode() + self.times.tobytes()
        return hashlib.sha256(content).hexdigest()[:16]


def amplification(part: Part, levels: int) -> float:
    """Compute how many times the bytes of one step (L levels) must be read to get that step.

    Chunks are read whole: the values of all chunks that one step touches over the values needed. 1
    for contiguous and netCDF-3 files.
    """
    if part.chunks is None:
        return 1.0
    touched, needed = [], []
    for role, length, chunk in zip(part.axes, part.shape, part.chunks, strict=True):
        need = length if role in ("latitude", "longitude") else 1
        need = min(levels, length) if role == "level" else need
        touched.append(ceil(need / chunk) * chunk)
        needed.append(need)
    return max(prod(touched) / prod(needed), 1.0)


def missing_channel(
    source: str, name: str, available: Sequence[str] | dict[str, Channel], skipped: dict[str, str]
) -> str:
    """Write the error for a channel that is not there."""
    for variable, reason in skipped.items():
        if variable == name:
            return f"{source}: '{name}' {reason}"
    near = get_close_matches(name, list(available), n=1)
    return (
        f"{source}: no channel '{name}'{f' (nearest: {near[0]})' if near else ''}; has "
        f"{levels_in_words(list(available))}"
    )


def some(names: Sequence[str]) -> str:
    """List names, if they are few, else the first and the last."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"


def levels_in_words(channels: Sequence[str]) -> str:
    """List channels, the levels of a variable together: "t2m, z at 1000, 500"."""
    grouped: dict[str, list[str]] = {}
    for name in channels:
        variable, level = split_channel(name)
        grouped.setdefault(variable, []).extend([] if level is None else [f"{level:g}"])
    return (
        ", ".join(f"{v} at {', '.join(ls)} hPa" if ls else v for v, ls in grouped.items())
        or "nothing"
    )
