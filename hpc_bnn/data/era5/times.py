"""Times of files as whole seconds since 1970-01-01T00:00 UTC, int64, and back to text.

Only calendars of the real world are read: proleptic_gregorian, and standard or gregorian after the
reform of 1582. A model calendar (noleap, 360_day) has days that ERA5 has not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

CALENDARS = ("", "standard", "gregorian", "proleptic_gregorian")
UNITS_S = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60}
UNITS_S |= {"h": 3600, "hr": 3600, "hour": 3600, "d": 86400, "day": 86400}
REFORM_S = int((datetime(1582, 10, 15) - datetime(1970, 1, 1)).total_seconds())
EPOCH = datetime(1970, 1, 1)


def decode(values: NDArray[Any], units: str, calendar: str) -> NDArray[np.int64]:
    """Convert numbers "<units> since <date>" to seconds since 1970.

    Raises
    ------
    ValueError
        For another calendar, units that have no fixed length, or numbers that are no time.
    """
    calendar = calendar.strip().lower()
    if calendar not in CALENDARS:
        raise ValueError(
            f"calendar = '{calendar}': expected standard, gregorian or proleptic_gregorian: other "
            "calendars have days that the real one has not; convert the file first"
        )
    found = re.fullmatch(r"\s*([A-Za-z]+?)s?\s+since\s+(.+)", units)
    unit = found[1].lower() if found else ""
    if found is None or unit not in UNITS_S:
        raise ValueError(
            f"units = '{units}': expected seconds, minutes, hours or days since a date, such as "
            "'seconds since 1970-01-01'; correct the attribute"
        )
    try:
        # The library knows every notation of dates and the lost days of 1582.
        shift = netCDF4.date2num(EPOCH, f"seconds since {found[2]}", calendar or "standard")
    except ValueError as error:
        raise ValueError(f"units = '{units}': no date: {error}; correct the attribute") from error
    numbers = np.asarray(values)
    if not np.issubdtype(numbers.dtype, np.integer):
        numbers = numbers.astype(np.float64)
        if not np.isfinite(numbers).all():
            bad = int(np.flatnonzero(~np.isfinite(numbers.ravel()))[0])
            raise ValueError(
                f"the time at position {bad} is {numbers.ravel()[bad]}: expected a number; correct "
                "or drop that step"
            )
        numbers = np.rint(numbers * UNITS_S[unit])
    else:
        numbers = numbers.astype(np.int64) * UNITS_S[unit]
    seconds: NDArray[np.int64] = numbers.astype(np.int64)
    seconds -= round(float(shift))
    if calendar != "proleptic_gregorian" and seconds.size and int(seconds.min()) < REFORM_S:
        raise ValueError(
            f"{text(int(seconds.min()))} lies before the calendar reform of 1582-10-15: expected "
            "later times, or calendar = 'proleptic_gregorian'"
        )
    return seconds


def text(seconds: int) -> str:
    """Write a time as 2017-01-31T06:00, with seconds where it has any."""
    moment = EPOCH + timedelta(seconds=int(seconds))
    return moment.isoformat(timespec="seconds" if seconds % 60 else "minutes")


def listed(seconds: NDArray[np.int64], most: int = 3) -> str:
    """Write the first times of many, and how many more there are."""
    shown = ", ".join(text(int(s)) for s in seconds[:most])
    return shown + (f" and {len(seconds) - most} more" if len(seconds) > most else "")


def parse(value: object, *, end: bool) -> int:
    """Read a date or time of a settings file, UTC; a date alone means the whole day.

    end: the last second of the day rather than the first.

    Raises
    ------
    ValueError
        If it is no ISO 8601 date or time.
    """
    written = str(value).strip()
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise ValueError(
            f"'{written}': expected a date such as 2017-01-31, or a time such as 2017-01-31T06:00"
        ) from None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    if end and re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", written):
        moment += timedelta(days=1, seconds=-1)
    return round((moment - EPOCH).total_seconds())
