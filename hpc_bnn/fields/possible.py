"""What a state cannot hold: values that no weather has, such as fill values that nobody declared.

Where a file declares missing values they are NaN when they get here, and the policy for them
decides; everything else must lie in the physical range of its channel (names.py), or, of a variable
that is not known, be smaller than 1e15.

Shape letters: C channels, H latitude, W longitude.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import Channel
from hpc_bnn.fields.names import possible_range

ROUNDING = 1e-5  # of float32, in the normalised bounds


def bounds(
    channels: Sequence[Channel], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the smallest and largest normalised values (C,) that channels can have."""
    ranges = np.array([possible_range(c.variable, c.level_hpa) for c in channels]).reshape(-1, 2)
    low, high = (ranges - mean[:, None]).T / std
    room = ROUNDING * (high - low)
    return (low - room).astype(np.float32), (high + room).astype(np.float32)


def all_within(
    values: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> bool:
    """Tell whether all values (C, H, W) are numbers between the bounds (C,)."""
    flat = values.reshape(len(low), -1)
    return bool((flat.min(axis=1) >= low).all() and (flat.max(axis=1) <= high).all())


def first_beyond(
    values: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]
) -> int | None:
    """Find the first channel of (C, H, W) with a number beyond the bounds (C,); NaN is none."""
    flat = values.reshape(len(low), -1)
    with np.errstate(invalid="ignore"):
        wrong = np.fmin.reduce(flat, axis=1) < low
        wrong |= np.fmax.reduce(flat, axis=1) > high
    return int(np.argmax(wrong)) if wrong.any() else None


def describe_beyond(
    channel: Channel,
    values: NDArray[np.float64],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
) -> str:
    """Say which physical values (H, W) of a channel are beyond its range, and what to do."""
    low, high = possible_range(channel.variable, channel.level_hpa)
    with np.errstate(invalid="ignore"):
        wrong = (values < low) | (values > high)
    row, column = np.argwhere(wrong)[0].tolist()
    value = values[row, column]
    if 2 * int(wrong.sum()) > wrong.size:
        levels = "" if channel.level_hpa is None else " and the units of the levels"
        advice = f"check the units attribute, scale_factor and add_offset{levels}"
    else:
        advice = (
            "a fill value that the file does not declare (then `ncatted -a "
            f"missing_value,{channel.variable},o,f,{value:g} FILE`), or damage: repair the file or "
            "leave the variable out"
        )
    return (
        f"{int(wrong.sum())} of {wrong.size} values are none that {channel.name} can have, the "
        f"first, {value:g}, at latitude {latitude[row]:g}, longitude {longitude[column]:g}; "
        f"expected {low:g} to {high:g} {channel.units}: {advice}"
    )


def describe_undeclared(channel: Channel, count: int, size: int) -> str:
    """Say that values are missing in a variable of which the file declares none, and what to do."""
    return (
        f"{count} of {size} values of {channel.name} are NaN or were never written, and the file "
        "declares no missing values: repair it, leave the variable out, or declare them (`ncatted "
        f"-a _FillValue,{channel.variable},o,f,NaN FILE`)"
    )
