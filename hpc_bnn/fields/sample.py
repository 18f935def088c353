"""Reads a sample of the values of a catalogue, for `hpc-bnn data check`: of every file and variable
the first and the last step and some between, on levels in turn; everything, where that is little.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.handles import Handles, library_lock
from hpc_bnn.fields.part import read_cut
from hpc_bnn.fields.plan import Group, grouped, place, runs
from hpc_bnn.fields.possible import (
    bounds,
    describe_beyond,
    describe_undeclared,
    first_beyond,
)
from hpc_bnn.fields.reader import Reader

SAMPLE_BYTES = 1 << 30  # read at most, but for two fields of every variable of every file
_ZERO, _ONE = np.zeros(1), np.ones(1)


def sampled(catalogue: Catalogue) -> tuple[list[str], str]:
    """Return what is wrong with the values of a catalogue, and in words how many were read."""
    picks = _picks(catalogue)
    handles = Handles()
    problems: list[str] = []
    first: dict[str, tuple[NDArray[np.bool_], int]] = {}
    read = 0
    try:
        for several in picks:
            for position, time in several:
                read += 1
                wrong = _wrong(catalogue, position, time, handles, first)
                if wrong:
                    problems.append(wrong)
                    break  # one of a variable of a file is enough
    finally:
        handles.close()
    try:
        reader = Reader(catalogue)
        reader.static()
        reader.close()
    except (ValueError, OSError) as error:
        problems.append(str(error))
    total = sum(int((channel.part >= 0).sum()) for channel in catalogue.channels)
    whole = sum(map(len, picks)) == total
    rest = "" if whole else ": of every file the first, the last and some between"
    return problems, f"values    {read} of {total} fields were read{rest}"


def _picks(catalogue: Catalogue) -> list[list[tuple[int, int]]]:
    """Choose fields of every variable of every file: positions of channels and of times."""
    held = []
    for group in grouped(catalogue.channels):
        part = group.channels[0].part
        for index in np.unique(part[part >= 0]).tolist():
            times_of = np.flatnonzero(part == index).tolist()
            held.append([(position, time) for time, position in product(times_of, group.positions)])
    field_bytes = 4 * catalogue.shape[1] * catalogue.shape[2]
    most = max(2, SAMPLE_BYTES // (field_bytes * max(len(held), 1)))
    return [[fields[at] for at in _spread(len(fields), most)] for fields in held]


def _spread(count: int, most: int) -> list[int]:
    """Choose numbers below `count`: all, or the first, the last and some between."""
    places = np.linspace(0, count - 1, min(most, count)).round().astype(int)
    chosen: list[int] = np.unique(places).tolist()
    return chosen


def _wrong(
    catalogue: Catalogue,
    position: int,
    time: int,
    handles: Handles,
    first: dict[str, tuple[NDArray[np.bool_], int]],
) -> str:
    """Say what is wrong with one field, empty if nothing is.

    first: for each channel the points that its first field misses, and its time; kept up here.
    """
    channel = catalogue.channels[position]
    index, step = int(channel.part[time]), int(channel.step[time])
    part = catalogue.parts[index]
    (run,) = runs(part, index, Group((channel,), (0,)), _ZERO, _ONE)
    out = np.empty((1, *catalogue.shape[1:]), np.float32)
    where = catalogue.place(position, time)
    try:
        with library_lock(), np.errstate(over="ignore"):
            place(read_cut(run.cut, handles, step)[0], run, out, written=False)
    except (OSError, ValueError) as error:
        return str(error)
    values, gone = out[0], np.isnan(out[0])
    if np.isinf(values).any():
        return f"{where}: {int(np.isinf(values).sum())} of {values.size} values are infinite"
    if first_beyond(out, *bounds([channel], _ZERO, _ONE)) is not None:
        grid = catalogue.grid
        exact = values.astype(np.float64)
        return f"{where}: {describe_beyond(channel, exact, grid.latitude, grid.longitude)}"
    if gone.any() and not part.packing.declared:
        return f"{where}: {describe_undeclared(channel, int(gone.sum()), gone.size)}"
    absent, when = first.setdefault(channel.name, (gone, time))
    return "" if np.array_equal(absent, gone) else _other_gaps(catalogue, where, gone, absent, when)


def _other_gaps(
    catalogue: Catalogue,
    where: str,
    gone: NDArray[np.bool_],
    absent: NDArray[np.bool_],
    when: int,
) -> str:
    return (
        f"{where}: {int((gone & ~absent).sum())} points have no value that have one, "
        f"{int((absent & ~gone).sum())} have one that have none, at "
        f"{times.text(int(catalogue.times[when]))}; expected the same points at all times: repair "
        "the file, leave the variable out, or choose other times"
    )
