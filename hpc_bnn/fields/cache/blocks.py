"""Which parts of the source are read together: whole chunks, each of them once.

A block is some stored steps of some levels of one variable of one file, cut along the chunks of
that file, so that no chunk is decompressed twice, whatever the other files look like. It does not
depend on the number of ranks.

Shape letters: L levels read together, H latitude, W longitude, T time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import Catalogue, Part
from hpc_bnn.fields.plan import Group, grouped

BLOCK_BYTES = 1 << 26  # of float32 values; larger where the chunks are


@dataclass(frozen=True)
class Block:
    """Values that are read and written together.

    times: ranges [first, last) of positions in the times of the cache.
    channels: positions in its channels, in increasing order.
    rows: first and last (excluded) row in canonical order.
    part: position in the parts of the source, -1 where it has no such steps.
    """

    times: tuple[tuple[int, int], ...]
    channels: tuple[int, ...]
    rows: tuple[int, int]
    part: int

    @property
    def values(self) -> int:
        """How many values there are in one column of the grid."""
        steps = sum(last - first for first, last in self.times)
        return steps * len(self.channels) * (self.rows[1] - self.rows[0])


def blocks_of(catalogue: Catalogue, *, block_bytes: int = BLOCK_BYTES) -> tuple[Block, ...]:
    """Cut a catalogue into blocks, ordered by time; together they hold every value once."""
    made = [
        block
        for group in grouped(catalogue.channels)
        for part in np.unique(group.channels[0].part).tolist()
        for block in _of_part(catalogue, group, part, block_bytes)
    ]
    return tuple(sorted(made, key=lambda b: (b.times[0][0], b.channels[0], b.rows)))


def _of_part(catalogue: Catalogue, group: Group, index: int, block_bytes: int) -> Iterator[Block]:
    _, rows, columns = catalogue.shape
    channel = group.channels[0]
    when = np.flatnonzero(channel.part == index)
    steps = channel.step[when] if index >= 0 else np.arange(len(when))
    part = catalogue.parts[index] if index >= 0 else None
    time_chunk, level_chunk, row_chunk = chunk_lengths(part)
    time_chunk = min(time_chunk, int(steps.max()) + 1)
    bins = _level_bins(group, index, level_chunk)
    row_bytes = 4 * columns
    most = max(len(one) for one in bins)
    # As many levels as fit, then as many steps, and a part of the rows only if one chunk is large.
    together = max(1, block_bytes // (time_chunk * most * rows * row_bytes))
    levels = [list(chain(*bins[at : at + together])) for at in range(0, len(bins), together)]
    widest = max(len(one) for one in levels)
    times = time_chunk * max(1, block_bytes // (time_chunk * widest * rows * row_bytes))
    high = row_chunk * max(1, block_bytes // (time_chunk * widest * row_chunk * row_bytes))
    for positions in levels:
        for rank in np.unique(steps // times).tolist():
            chosen = when[steps // times == rank]
            for first, last in _row_ranges(part, rows, min(high, rows)):
                yield Block(ranges(chosen), tuple(sorted(positions)), (first, last), index)


def chunk_lengths(part: Part | None) -> tuple[int, int, int]:
    """Return the length of a chunk along time, levels and rows."""
    if part is None or part.chunks is None:
        return 1, 1, 1
    sizes = dict(zip(part.axes, part.chunks, strict=True))
    return sizes.get("time", 1), sizes.get("level", 1), sizes.get("latitude", 1)


def _level_bins(group: Group, index: int, level_chunk: int) -> list[list[int]]:
    """Sort the positions of the channels of a group by the chunk that their level lies in."""
    if index < 0:
        return [[position] for position in group.positions]
    places = sorted(
        (channel.level_index[index], position)
        for channel, position in zip(group.channels, group.positions, strict=True)
    )
    return [
        [position for _, position in several]
        for _, several in groupby(places, key=lambda place: place[0] // level_chunk)
    ]


def _row_ranges(part: Part | None, rows: int, high: int) -> Iterator[tuple[int, int]]:
    """Cut the rows along stored chunks; give them in canonical order."""
    flipped = part is not None and part.file.orientation.flip_rows
    for first in range(0, rows, high):
        last = min(first + high, rows)
        yield (rows - last, rows - first) if flipped else (first, last)


def ranges(increasing: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Cut increasing numbers into ranges [first, last)."""
    cuts = np.flatnonzero(np.diff(increasing) != 1) + 1
    return tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(increasing, cuts))


def positions(spans: Sequence[tuple[int, int]]) -> list[int]:
    """List what lies in ranges [first, last)."""
    return [at for first, last in spans for at in range(first, last)]


def pieces(
    block: Block, shape: tuple[int, int, int, int]
) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """Give for each time of a block what lies in one piece in (T, C, H, W): lists of the place of
    the first value, and first and last (excluded) of the block's channels.
    """
    _, channels, rows, columns = shape
    whole = block.rows == (0, rows)
    cuts = [0] + [
        at
        for at in range(1, len(block.channels))
        if not whole or block.channels[at] != block.channels[at - 1] + 1
    ]
    runs = list(zip(cuts, [*cuts[1:], len(block.channels)], strict=True))
    for time in positions(block.times):
        yield (
            time,
            [
                (
                    ((time * channels + block.channels[a]) * rows + block.rows[0]) * columns,
                    a,
                    b,
                )
                for a, b in runs
            ],
        )


class Sized(Protocol):
    """Something that is shared out by the values it holds, such as a block."""

    @property
    def values(self) -> int: ...


def shares(blocks: Sequence[Sized], count: int) -> list[list[int]]:
    """Divide blocks, by their positions, among ranks: in order, about equally many values each."""
    sizes = np.array([block.values for block in blocks], np.float64)
    middle = (np.cumsum(sizes) - sizes / 2) / max(float(sizes.sum()), 1.0)
    of_rank = np.minimum((middle * count).astype(int), count - 1)
    return [np.flatnonzero(of_rank == rank).tolist() for rank in range(count)]
