"""What no field of the atmosphere can hold: infinite values, and values beyond the physical range
of a channel (names.py), such as fill values that nobody declared, or those of wrong units.

Values that a file declares missing are NaN when they get here; the policy for them decides.

Shape letters: T times, C channels, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import Channel
from hpc_bnn.fields.grid import Grid
from hpc_bnn.fields.names import possible_range

ROUNDING = 1e-5  # of float32, as a share of the range


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
