"""What must be read for one step: by which calls, and where the numbers go.

A call into the netCDF library costs more than the numbers of a small field, so levels that lie side
by side are read by one call, and so are steps.

Shape letters: T steps read together, L levels read together, C channels, H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import Channel
from hpc_bnn.fields.packing import Affine, affine, unpack
from hpc_bnn.fields.part import Cut, Part, cut
from hpc_bnn.fields.possible import all_within, bounds


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that always lie in the same parts and steps: levels of a variable, or of a cache."""

    channels: tuple[Channel, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """Levels that are read by one call, and where they go.

    target: the same as `positions` where they are neighbours in order, so that nothing is copied.
    as_stored: whether rows and columns are stored in canonical order.
    within: smallest and largest normalised value (L,) that the channels can have; None where no
        raw number stands for one beyond.
    """

    cut: Cut
    positions: tuple[int, ...]
    target: slice | None
    as_stored: bool
    coefficients: Affine
    within: tuple[NDArray[np.float32], NDArray[np.float32]] | None


def grouped(channels: tuple[Channel, ...]) -> tuple[Group, ...]:
    """Sort channels into groups, keeping their positions."""
    found: dict[tuple[int, int], list[int]] = {}
    for position, channel in enumerate(channels):
        key = (id(channel.part), id(channel.step))
        found.setdefault(key, []).append(position)
    return tuple(Group(tuple(channels[p] for p in ps), tuple(ps)) for ps in found.values())


def runs(
    part: Part, index: int, group: Group, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> tuple[Run, ...]:
    """Cut the levels of a group in `part`, the one at `index`, into runs of neighbours."""
    places = sorted(
        (channel.level_index[index], position)
        for channel, position in zip(group.channels, group.positions, strict=True)
    )
    neighbours: list[list[tuple[int, int]]] = []
    for place in places:
        if neighbours and place[0] == neighbours[-1][-1][0] + 1:
            neighbours[-1].append(place)
        else:
            neighbours.append([place])
    made = []
    for run in neighbours:
        positions = tuple(position for _, position in run)
        coefficients = affine(
            part.packing,
            mean[list(positions)],
            std[list(positions)],
            scaling=part.scaling
            and tuple(np.array(values[run[0][0] : run[-1][0] + 1]) for values in part.scaling),
        )
        first, last = positions[0], positions[-1]
        in_order = positions == tuple(range(first, last + 1))
        target = slice(first, last + 1) if in_order else None
        levels = cut(part, slice(run[0][0], run[-1][0] + 1))
        turned = part.file.orientation
        as_stored = not (turned.flip_rows or turned.flip_columns or turned.roll)
        own = [group.channels[group.positions.index(position)] for position in positions]
        within = bounds(own, mean[list(positions)], std[list(positions)])
        made.append(
            Run(
                levels,
                positions,
                target,
                as_stored,
                coefficients,
                None if _never_beyond(part, coefficients, within) else within,
            )
        )
    return tuple(made)


def _never_beyond(
    part: Part, decoded: Affine, within: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> bool:
    """Tell whether no raw number of packed integers can mean a value beyond the bounds (L,)."""
    dtype = np.dtype(part.packing.dtype)
    if dtype.kind not in "iu":
        return False
    shift, factor = decoded.floats
    ends = [
        (np.float64(end) - shift) * factor for end in (np.iinfo(dtype).min, np.iinfo(dtype).max)
    ]
    return all(bool(((end >= within[0]) & (end <= within[1])).all()) for end in ends)


def place(raw: NDArray[Any], run: Run, out: NDArray[np.float32], *, written: bool) -> bool:
    """Decode raw numbers (L, H, W) as stored into their channels of `out` (C, H, W), in canonical
    order; they may be overwritten. Tell whether all are sane (`unpack`) and possible.
    """
    pack, turned = run.cut.part.packing, run.cut.part.file.orientation
    if run.as_stored and run.target is not None:
        target = out[run.target]
        sane = unpack(raw, pack, run.coefficients, target, written=written)
        return sane and (run.within is None or all_within(target, *run.within))
    if turned.flip_rows:
        raw = raw[:, ::-1]
    if turned.flip_columns:
        raw = raw[:, :, ::-1]
    target = np.empty(raw.shape, np.float32) if run.target is None else out[run.target]
    sane = True
    if turned.roll:
        west = raw.shape[2] - turned.roll
        for stored, placed in (
            (raw[:, :, turned.roll :], target[:, :, :west]),
            (raw[:, :, : turned.roll], target[:, :, west:]),
        ):
            sane &= unpack(stored, pack, run.coefficients, placed, written=written)
    else:
        sane = unpack(raw, pack, run.coefficients, target, written=written)
    if run.target is None:
        out[list(run.positions)] = target
    return sane and (run.within is None or all_within(target, *run.within))
