"""The catalogue of a set of files: for each channel and time, where the numbers lie.

Plain records and arrays, without open files: one rank makes it (`assemble.catalogue`) and sends it
to the others.

Shape letters: T times, H latitude, W longitude.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.grid import Grid
from hpc_bnn.fields.names import split_channel
from hpc_bnn.fields.part import Part


@dataclass(frozen=True, eq=False)
class Channel:
    """One variable on one level.

    name: "t2m", "z500".
    level_hpa: None at the surface.
    units: of the values that are read, conversions done.
    vector: a component of a horizontal vector.
    part: (T,) int32, position in `Catalogue.parts` for each time, -1 where there is none; channels
        that always lie side by side share the array.
    step: (T,) int32, stored step within that part.
    level_index: position along the level axis of each part.
    """

    name: str
    variable: str
    level_hpa: float | None
    units: str
    standard_name: str
    long_name: str
    vector: bool
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
    origin: names and sizes of the files that the files of a repacked folder were made of; empty
        for others.
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
    origin: tuple[tuple[str, int], ...] = ()

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
        there = np.ones(len(self.times), bool)
        for part in {id(c.part): c.part for c in self.channels}.values():
            there &= part >= 0
        return there

    def place(self, channel: int, time: int) -> str:
        """Name file, variable and time of one field: a channel at a position in `times`."""
        chosen = self.channels[channel]
        part = self.parts[int(chosen.part[time])]
        when = times.text(int(self.times[time]))
        return f"{part.file.path}: '{part.variable}' ({chosen.name}) at {when}"

    def select(self, wanted: Sequence[str]) -> Catalogue:
        """Return the catalogue of some channels, in the order of `wanted`.

        Raises
        ------
        ValueError
            If there is no such channel; lists those there are.
        """
        there = {c.name: c for c in self.channels}
        for name in wanted:
            if name not in there:
                raise ValueError(missing_channel(self.source, name, there, self.skipped))
        return replace(self, channels=tuple(there[name] for name in wanted))

    def between(self, start: int, end: int) -> Catalogue:
        """Return the catalogue of the times in a range of seconds, both ends included."""
        within = (self.times >= start) & (self.times <= end)
        kept = {id(a): a[within] for c in self.channels for a in (c.part, c.step)}
        return replace(
            self,
            times=self.times[within],
            preliminary=self.preliminary[within],
            channels=tuple(
                replace(c, part=kept[id(c.part)], step=kept[id(c.step)]) for c in self.channels
            ),
        )

    def files(self) -> tuple[tuple[str, int], ...]:
        """List names and sizes of the files that the values come from in the first place."""
        own = sorted({(Path(part.file.path).name, part.file.size) for part in self.parts})
        return self.origin or tuple(own)

    def fingerprint(self) -> str:
        """Hash names and sizes of the files, and the times: what statistics were made of.

        It is the same for files and for what they were repacked into, and for some of the channels.
        """
        digest = hashlib.sha256()
        digest.update(repr(self.files()).encode())
        digest.update(self.times.tobytes())
        return digest.hexdigest()[:16]


def missing_channel(
    source: str, name: str, there: Sequence[str] | dict[str, Channel], skipped: dict[str, str]
) -> str:
    """Write the error for a channel that is not there."""
    for variable, reason in skipped.items():
        if variable == name:
            return f"{source}: '{name}' {reason}"
    near = get_close_matches(name, list(there), n=1)
    return (
        f"{source}: no channel '{name}'{f' (nearest: {near[0]})' if near else ''}; has "
        f"{levels_in_words(list(there))}"
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
