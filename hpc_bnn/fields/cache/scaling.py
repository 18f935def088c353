"""How values become stored numbers, and by how much they differ then.

    float32   r = value                                              exact
    float16   r = (value - offset) / scale in [-1, 1]                error <= scale 2^-12
    int16     r = round((value - offset) / scale) in +-32767         error <= scale / 2

with scale and offset of each channel from its smallest and largest value. Readers compute in
float32: four roundings of at most 2^-24 of the largest magnitude each, so the stated bound is
larger by 2^-22 of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES = ("float32", "float16", "int16")
FILL = -32768  # int16 that means missing
STEPS = {"float16": 2.0, "int16": 65534.0}  # the range of a channel in units of its scale
ROUNDING = {"float16": 2.0**-12, "int16": 0.5}  # in units of the scale


@dataclass(frozen=True)
class Scaling:
    """Scale, offset and largest error of each channel, in its units."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    error: tuple[float, ...]


def exact(channels: int) -> Scaling:
    """Return the scaling of values that are stored as they are."""
    return Scaling((1.0,) * channels, (0.0,) * channels, (0.0,) * channels)


def scaling_of(
    dtype: str,
    smallest: Sequence[float] | NDArray[np.float64],
    largest: Sequence[float] | NDArray[np.float64],
) -> Scaling:
    """Choose scale and offset of channels with a range of values (C,) each; infinite ranges, of
    channels without values, are stored as if they were constant.
    """
    if dtype == "float32":
        return exact(len(smallest))
    low, high = np.array(smallest, np.float64), np.array(largest, np.float64)
    empty = ~(np.isfinite(low) & np.isfinite(high))
    low[empty] = high[empty] = 0.0
    scale = (high - low) / STEPS[dtype]
    scale[scale == 0] = 1.0
    magnitude = np.maximum(np.abs(low), np.abs(high))
    error = scale * ROUNDING[dtype] * (high > low) + magnitude * 2.0**-22
    return Scaling(tuple(scale.tolist()), tuple(((low + high) / 2).tolist()), tuple(error.tolist()))


def encode(
    values: NDArray[np.float32], dtype: str, scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[Any]:
    """Turn values (L, H, W), NaN where missing, into stored numbers with scale and offset (L,)."""
    if dtype == "float32":
        return values
    raw = (values - offset[:, None, None]) / scale[:, None, None]  # float64
    if dtype == "float16":
        return raw.astype("<f2")
    missing = np.isnan(raw)
    raw[missing] = FILL
    np.rint(raw, out=raw)
    return raw.astype("<i2")
