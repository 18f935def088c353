"""Which netCDF files a repacked archive consists of: one variable each, and some of its times.

A file ends where no chunk of the source does not, so that none is decompressed for two files. The
files do not depend on the number of ranks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.cache.blocks import chunk_lengths, positions, ranges
from hpc_bnn.fields.catalogue import Catalogue, Channel
from hpc_bnn.fields.plan import Group, grouped

FILE_BYTES = 1 << 30  # of float32 values; larger where the chunks of the source are


@dataclass(frozen=True)
class Target:
    """One file that is written as a whole.

    times: ranges [first, last) of positions in the times of all files.
    channels: positions of its channels, levels of one variable, the lowest level first.
    rows: of the grid.
    """

    name: str
    times: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    rows: int

    @property
    def values(self) -> int:
        """How many values there are in one column of the grid."""
        return len(positions(self.times)) * len(self.channels) * self.rows

    def of(self, catalogue: Catalogue) -> Catalogue:
        """Return the catalogue of what belongs into this file."""
        at = positions(self.times)
        first = catalogue.channels[self.channels[0]]
        part, step = first.part[at], first.step[at]  # one array: the levels are read together
        channels = (catalogue.channels[position] for position in self.channels)
        return replace(
            catalogue,
            times=catalogue.times[at],
            preliminary=catalogue.preliminary[at],
            channels=tuple(replace(c, part=part, step=step) for c in channels),
            static=(),
        )


def targets_of(catalogue: Catalogue, *, file_bytes: int = FILE_BYTES) -> tuple[Target, ...]:
    """Cut a catalogue into files; together they hold every value once.

    Raises
    ------
    ValueError
        If a channel has no time.
    """
    groups = grouped(catalogue.channels)
    rows = catalogue.shape[1]
    stems = _stems(groups)
    made = []
    for group, stem in zip(groups, stems, strict=True):
        several = sorted(
            zip(group.channels, group.positions, strict=True), key=lambda c: -(c[0].level_hpa or 0)
        )
        channels = tuple(position for _, position in several)
        step_bytes = 4 * len(channels) * rows * catalogue.shape[2]
        for when in _spans(catalogue, group.channels[0], max(1, file_bytes // step_bytes)):
            span = "_".join(_stamp(int(catalogue.times[at])) for at in (when[0], when[-1]))
            made.append(Target(f"{stem}_{span}.nc", ranges(when), channels, rows))
    return tuple(sorted(made, key=lambda target: (target.times[0][0], target.channels)))


def _stems(groups: tuple[Group, ...]) -> list[str]:
    """Name groups of channels by their variable, numbered where it has several."""
    seen: Counter[str] = Counter()
    stems = []
    for group in groups:
        variable = group.channels[0].variable
        seen[variable] += 1
        stems.append(variable if seen[variable] == 1 else f"{variable}-{seen[variable]}")
    return stems


def _spans(catalogue: Catalogue, channel: Channel, least: int) -> Iterator[NDArray[np.int64]]:
    """Cut the positions of the times of a channel into runs of at least so many steps, the last of
    them apart, that share no chunk.
    """
    when = np.flatnonzero(channel.part >= 0)
    if not len(when):
        raise ValueError(
            f"{catalogue.source}: '{channel.name}' has none of the times that were chosen: leave "
            "it out, or choose other times"
        )
    parts, steps = channel.part[when].astype(np.int64), channel.step[when].astype(np.int64)
    lengths = np.array([chunk_lengths(part)[0] for part in catalogue.parts], np.int64)
    chunks = np.stack([parts, steps // lengths[parts]])
    _, which = np.unique(chunks, axis=1, return_inverse=True)
    which = which.reshape(-1)
    last = np.zeros(len(when), np.int64)
    np.maximum.at(last, which, np.arange(len(when)))
    clean = np.maximum.accumulate(last[which]) == np.arange(len(when))
    first = 0
    for end in (np.flatnonzero(clean) + 1).tolist():
        if end - first >= least or end == len(when):
            yield when[first:end]
            first = end


def _stamp(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M}"
