"""Reads the values of foreign files, once, in blocks: what a pack is made of.

The library inflates a chunk as often as it is asked for some of it, so everything that is asked of
neighbouring chunks is read by one call, and the fields are cut out of what it returns.

What no field of the atmosphere can hold are infinite values, and values beyond the physical range
of a channel (names.py), such as fill values that nobody declared, or those of wrong units. Values
that a file declares missing are NaN here; the policy for them decides.

Shape letters: T times, V versions, L levels, C channels, F static fields, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, Channel, Part, some
from hpc_bnn.fields.files import FORMATS
from hpc_bnn.fields.grid import Grid
from hpc_bnn.fields.ingest.packing import decode
from hpc_bnn.fields.names import possible_range

BLOCK_BYTES = 1 << 26  # one call reads at most so much, or the chunks of one chunk row
ROUNDING = 1e-5  # of float32, as a share of the range of a channel
ROLES = ("time", "version", "level", "latitude", "longitude")


class Values:
    """Read the values of a catalogue from its files, in physical units and canonical order.

    Values that cannot be are not looked for; see `impossible`.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def read(self, channels: Sequence[int], start: int, stop: int) -> NDArray[np.float32]:
        """Return the values (stop - start, len(channels), H, W) at times ``start`` to ``stop - 1``.

        NaN stands for missing values, and for fields that no file has.

        Parameters
        ----------
        channels
            Positions in ``catalogue.channels``.
        start, stop
            Positions in ``catalogue.times``; a multiple of `chunk_steps` reads each chunk once.

        Raises
        ------
        OSError, ValueError
            If a file is damaged, or is not what it was when the catalogue was made.
        """
        catalogue = self._catalogue
        out = np.full((stop - start, len(channels), *catalogue.shape[1:]), np.nan, np.float32)
        together: dict[tuple[int, int], list[tuple[int, Channel]]] = {}
        for position, number in enumerate(channels):
            channel = catalogue.channels[number]
            key = (id(channel.part), id(channel.step))
            together.setdefault(key, []).append((position, channel))
        for group in together.values():
            part, step = (a[start:stop] for a in (group[0][1].part, group[0][1].step))
            for index in np.unique(part[part >= 0]).tolist():
                rows = np.flatnonzero(part == index)
                levels = [(channel.level_index[index], position) for position, channel in group]
                placed = list(zip(step[rows].tolist(), rows.tolist(), strict=True))
                try:
                    fill(out, catalogue.parts[index], placed, levels)
                except (OSError, ValueError) as error:
                    names = some([channel.name for _, channel in group])
                    first, last = (
                        times.text(int(t)) for t in catalogue.times[start + rows[[0, -1]]]
                    )
                    text = f"{error} (reading {names} at {first} to {last})"
                    raise type(error)(text) from error
        return out

    def static(self) -> NDArray[np.float32]:
        """Return the static fields (F, H, W)."""
        catalogue = self._catalogue
        out = np.full((1, len(catalogue.static), *catalogue.shape[1:]), np.nan, np.float32)
        for position, channel in enumerate(catalogue.static):
            index = int(channel.part[0])
            levels = [(channel.level_index[index], position)]
            fill(out, catalogue.parts[index], [(int(channel.step[0]), 0)], levels)
        fields: NDArray[np.float32] = out[0]
        return fields

    def close(self) -> None:
        """Close the files."""
        for part in self._catalogue.parts:
            FORMATS[part.file.format].close(part.file.path)


def fill(
    out: NDArray[np.float32],
    part: Part,
    steps: Sequence[tuple[int, int]],
    levels: Sequence[tuple[int, int]],
) -> None:
    """Fill ``out`` (T, C, H, W) from one part.

    Parameters
    ----------
    steps
        Of the file, each with its position along T.
    levels
        Along the level axis of the file, each with its position along C.
    """
    time_chunk, level_chunk = part.chunk("time"), part.chunk("level")
    field_bytes = np.dtype(part.raw_dtype).itemsize * out.shape[2] * out.shape[3]
    for some_levels in spans(levels, level_chunk, BLOCK_BYTES // (field_bytes * time_chunk)):
        lowest, highest = some_levels[0][0], some_levels[-1][0]
        most = BLOCK_BYTES // (field_bytes * (highest - lowest + 1))
        together = runs(some_levels)
        for some_steps in spans(steps, time_chunk, most):
            first, last = some_steps[0][0], some_steps[-1][0]
            raw = read_block(part, slice(first, last + 1), slice(lowest, highest + 1))
            for step, row in some_steps:
                version = 0 if part.version_of is None else int(part.version_of[step])
                for run, positions in together:
                    fields = raw[step - first, version, run.start - lowest : run.stop - lowest]
                    turned = part.file.orientation.turn(fields)
                    decode(turned, part.packing, out[row, positions])


def read_block(part: Part, steps: slice, levels: slice) -> NDArray[Any]:
    """Read raw numbers (T, V, L, H, W) by one call, rows and columns as stored."""
    cuts = {"time": steps, "level": levels}
    index = tuple(
        fixed if role == "fixed" else cuts.get(role, slice(None))
        for role, fixed in zip(part.axes, part.fixed, strict=True)
    )
    file = part.file
    raw: NDArray[Any] = FORMATS[file.format].read(file.path, file.size, part.key, index)
    stored = [role for role in part.axes if role != "fixed"]
    raw = raw.transpose([stored.index(role) for role in ROLES if role in stored])
    return raw[tuple(slice(None) if role in stored else None for role in ROLES)]


def read_field(part: Part, step: int, level: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Read one field (H, W) of a stored step and level."""
    out = np.empty((1, 1, *shape), np.float32)
    fill(out, part, [(step, 0)], [(level, 0)])
    field: NDArray[np.float32] = out[0, 0]
    return field


def spans(places: Sequence[tuple[int, int]], chunk: int, most: int) -> list[list[tuple[int, int]]]:
    """Cut places along an axis, each with its target, into spans that one call should read.

    A span has no gap but within a chunk, and at most ``most`` places or those of one chunk.
    """
    block = chunk * max(1, most // chunk)
    cut: list[list[tuple[int, int]]] = []
    for place in sorted(places):
        before = cut[-1][-1][0] if cut else None
        if (
            before is not None
            and place[0] // block == before // block
            and (place[0] <= before + 1 or place[0] // chunk == before // chunk)
        ):
            cut[-1].append(place)
        else:
            cut.append([place])
    return cut


def runs(places: Sequence[tuple[int, int]]) -> list[tuple[slice, slice]]:
    """Cut places, each with its target, into runs of neighbours whose targets follow each other up
    or down: one call decodes a run, and for small grids the calls are what takes the time.
    """
    cut: list[list[tuple[int, int]]] = []
    for place, target in places:
        run = cut[-1] if cut else []
        step = target - run[-1][1] if run else 0
        follows = bool(run) and place == run[-1][0] + 1 and abs(step) == 1
        if follows and (len(run) == 1 or step == run[1][1] - run[0][1]):
            run.append((place, target))
        else:
            cut.append([(place, target)])
    found = []
    for run in cut:
        (first, begin), (last, end) = run[0], run[-1]
        step = 1 if end >= begin else -1
        stop = end + step
        found.append((slice(first, last + 1), slice(begin, None if stop < 0 else stop, step)))
    return found


def chunk_steps(catalogue: Catalogue) -> int:
    """Return how many times should be read together: the longest chunk along time of any file."""
    return max((part.chunk("time") for part in catalogue.parts), default=1)


def impossible(
    channels: Sequence[Channel], block: NDArray[np.float32], grid: Grid
) -> tuple[int, int, str] | None:
    """Find the first field of ``block`` (T, C, H, W) that cannot be; return its positions along T
    and C and what is wrong with it, or None.
    """
    if not block.size:
        return None
    ranges = np.array([possible_range(c.variable, c.level_hpa) for c in channels])
    room = ROUNDING * (ranges[:, 1] - ranges[:, 0])
    flat = block.reshape(*block.shape[:2], -1)
    with np.errstate(invalid="ignore"):
        beyond = np.fmin.reduce(flat, axis=2) < ranges[:, 0] - room
        beyond |= np.fmax.reduce(flat, axis=2) > ranges[:, 1] + room
    if not beyond.any():
        return None
    time, position = np.argwhere(beyond)[0].tolist()
    field = block[time, position].astype(np.float64)
    return time, position, _describe(channels[position], field, grid)


def undeclared(
    catalogue: Catalogue, channel: Channel, time: int, field: NDArray[np.float32]
) -> str:
    """Say which values of a field (H, W) at a time are missing though its file declares that none
    are, and what to do; empty if there are none.
    """
    missing = int(np.isnan(field).sum())
    index = int(channel.part[time])
    if not missing or index < 0 or catalogue.parts[index].packing.declared:
        return ""
    return (
        f"{missing} of {field.size} values of {channel.name} are NaN or were never written, and "
        "the file declares no missing values: repair it, leave the variable out, or declare them "
        f"(`ncatted -a _FillValue,{channel.variable},o,f,NaN FILE`)"
    )


def _describe(channel: Channel, field: NDArray[np.float64], grid: Grid) -> str:
    """Say which values (H, W) of a channel cannot be, and what to do."""
    infinite = int(np.isinf(field).sum())
    if infinite:
        return (
            f"{infinite} of {field.size} values are infinite; repair the file or leave the "
            "variable out"
        )
    low, high = possible_range(channel.variable, channel.level_hpa)
    with np.errstate(invalid="ignore"):
        beyond = (field < low) | (field > high)
    row, column = np.argwhere(beyond)[0].tolist()
    value = field[row, column]
    if 2 * int(beyond.sum()) > beyond.size:
        levels = "" if channel.level_hpa is None else " and the units of the levels"
        advice = f"check the units attribute, scale_factor and add_offset{levels}"
    else:
        advice = (
            "a fill value that the file does not declare (then `ncatted -a "
            f"missing_value,{channel.variable},o,f,{value:g} FILE`), or damage: repair the file or "
            "leave the variable out"
        )
    return (
        f"{int(beyond.sum())} of {beyond.size} values are none that {channel.name} can have, the "
        f"first, {value:g}, at latitude {grid.latitude[row]:g}, longitude "
        f"{grid.longitude[column]:g}; expected {low:g} to {high:g} {channel.units}: {advice}"
    )
