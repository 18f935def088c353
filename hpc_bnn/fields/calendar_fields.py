"""Time of day and of year as inputs: sine and cosine, constant over the field."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CALENDAR_CHANNELS = ("sin_time_of_day", "cos_time_of_day", "sin_time_of_year", "cos_time_of_year")


def calendar(seconds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the calendar inputs (B, 4) of times (B,), seconds since 1970, UTC.

    The year counts from 0 on 1 January to 1 on the next, leap years included.
    """
    moments = np.asarray(seconds, np.int64).astype("datetime64[s]")
    years = moments.astype("datetime64[Y]")
    begin, end = (y.astype("datetime64[s]").astype(np.int64) for y in (years, years + 1))
    of_day = 2 * np.pi * (np.asarray(seconds) % 86400) / 86400
    of_year = 2 * np.pi * (np.asarray(seconds) - begin) / (end - begin)
    parts = [np.sin(of_day), np.cos(of_day), np.sin(of_year), np.cos(of_year)]
    return np.stack(parts, axis=-1).astype(np.float32)
