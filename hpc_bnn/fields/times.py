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
FIRST_S, LAST_S = (int((moment - EPOCH).total_seconds()) for moment in (datetime.min, datetime.max))
# The reference of units, as UDUNITS and CF write it: a date, perhaps a time, perhaps an offset.
REFERENCE = re.compile(
    r"(?:(?P<year>\d{1,4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
    r"|(?P<year2>\d{4})(?P<month2>\d{2})(?P<day2>\d{2}))"
    r"(?:[T ]\s*(?P<hour>\d{1,2})(?::(?P<minute>\d{1,2})(?::(?P<second>\d{1,2}(?:\.\d*)?))?)?)?"
    r"\s*(?:Z|UTC|GMT|(?P<sign>[+-])(?P<hours>\d{1,2})(?::?(?P<minutes>\d{2}))?)?",
    re.IGNORECASE,
)


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
    match = re.fullmatch(r"\s*([A-Za-z]+?)s?\s+since\s+(.+)", units)
    unit = match[1].lower() if match else ""
    if match is None or unit not in UNITS_S:
        raise ValueError(
            f"units = '{units}': expected seconds, minutes, hours or days since a date, such as "
            "'seconds since 1970-01-01'; correct the attribute"
        )
    try:
        shift = _reference(match[2].strip(), calendar or "standard")
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
    # Compared before they are whole seconds, which may not hold what stands for "no time".
    exact = numbers.astype(np.float64) * UNITS_S[unit] - shift
    outside = np.flatnonzero(((exact < FIRST_S) | (exact > LAST_S)).ravel())
    if len(outside):
        bad = int(outside[0])
        raise ValueError(
            f"the time at position {bad} is {numbers.ravel()[bad]} {units}, which is no date "
            "(NaT?): correct or drop that step"
        )
    if np.issubdtype(numbers.dtype, np.integer):
        seconds: NDArray[np.int64] = numbers.astype(np.int64) * UNITS_S[unit]
    else:
        seconds = np.rint(numbers * UNITS_S[unit]).astype(np.int64)
    seconds -= round(shift)
    if calendar != "proleptic_gregorian" and seconds.size and int(seconds.min()) < REFORM_S:
        raise ValueError(
            f"{text(int(seconds.min()))} lies before the calendar reform of 1582-10-15: expected "
            "later times, or calendar = 'proleptic_gregorian'"
        )
    return seconds


def _reference(written: str, calendar: str) -> float:
    """Return how many seconds 1970 lies behind a reference, such as "2001-01-01 06:00 +5:30".

    Read here, since the library takes offsets of one digit and times without minutes for nothing.
    """
    match = REFERENCE.fullmatch(written)
    if match is None:
        raise ValueError(f"'{written}': expected one such as 1970-01-01 00:00:00")
    date = [int(match[name] or match[f"{name}2"]) for name in ("year", "month", "day")]
    hour, minute, second = (match[name] or "0" for name in ("hour", "minute", "second"))
    if int(hour) > 23 or int(minute) > 59 or float(second) >= 60:
        raise ValueError(f"'{written}': no time of day")
    day = "{:04d}-{:02d}-{:02d}".format(*date)
    # The library knows the lost days of 1582.
    shift = float(netCDF4.date2num(EPOCH, f"seconds since {day}", calendar))
    shift -= 3600 * int(hour) + 60 * int(minute) + float(second)
    offset = 3600 * int(match["hours"] or 0) + 60 * int(match["minutes"] or 0)
    return shift + (-offset if match["sign"] == "-" else offset)


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
