"""Read times as CSV files write them: ISO 8601 or a given format, local or UTC, points or ranges.

A range, "01.01.2020 00:00 - 01.01.2020 01:00", counts as its beginning. A local time becomes UTC,
so that a clock change is neither a gap nor a duplicate: of the hour that autumn repeats the rows
stand in their order, or a mark such as "(CEST)" tells them apart; the hour that spring leaves out
does not exist.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

# How the ENTSO-E Transparency Platform heads its column of times: "Time (CET/CEST)", "MTU (UTC)".
# All clocks of the European Union change at the same instant, so one city stands for its zone.
HEADED = {
    "UTC": "UTC",
    "WET/WEST": "Europe/Lisbon",
    "CET/CEST": "Europe/Brussels",
    "EET/EEST": "Europe/Athens",
}
# Tried only to advise; 01/02/2020 is not guessed at.
USUAL_FORMATS = (
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %I:%M %p",
    "%Y/%m/%d %H:%M",
)
NO_MONTHS = (
    "months, quarters and years differ in length and are not supported as a step; expected a fixed "
    "step, such as 1 hour, 1 day or 7 days; use the data that the months were made of, or "
    "interpolate to days (pandas: table.resample('D').interpolate())"
)
# "1949-01", "1949/1", "1949Q1", "1949M01", "1949"
_MONTH = re.compile(r"\d{4}([-/.]\d{1,2}|[- ]?[QqMm]\d{1,2})?")
_MARK = re.compile(r"\s*\(([A-Za-z]+)\)$")


class SkippedHourError(ValueError):
    """A local time that no clock showed, because it was put forward."""


@dataclass(frozen=True)
class Notation:
    """Say how times are written.

    time_format: as in `datetime.strptime`; ISO 8601 if None.
    zone: of times without an offset of their own; None: taken as they are.
    """

    time_format: str | None = None
    zone: tzinfo | None = None

    def read(self, text: str, *, after: datetime | None = None) -> datetime:
        """Read a time, or the beginning of a range, as UTC without tzinfo (no zone: as written).

        after: time of the row before; of two possible times that is the first one behind it.

        Raises
        ------
        SkippedHourError
            If the clock was put forward over that time.
        ValueError
            If the text is no time; it says what was expected.
        """
        if " - " in text and " - " not in (self.time_format or ""):
            begin, _, end = text.partition(" - ")
            start = self._instant(begin, after)
            try:
                stop = self._instant(end, start)
            except SkippedHourError:
                return start
            if stop <= start:
                advice = " or, at a clock change, set time_zone" if self.zone is None else ""
                raise ValueError(
                    "a range that ends before it has begun; expected a later end; "
                    f"correct it{advice}"
                )
            return start
        return self._instant(text, after)

    def gives_instants(self, text: str) -> bool:
        """Tell whether times written like this one are instants: by an offset, or by the zone."""
        begin = text.partition(" - ")[0] if " - " not in (self.time_format or "") else text
        return self.zone is not None or self._parse(begin.strip()).tzinfo is not None

    def _instant(self, text: str, after: datetime | None) -> datetime:
        text = text.strip()
        mark = _MARK.search(text)
        time = self._parse(text[: mark.start()] if mark else text)
        if time.tzinfo is not None:
            return _utc(time)
        if self.zone is None:
            if mark:
                raise ValueError(
                    f"marked '{mark[1]}'; expected time_zone to say where, such as Europe/Berlin"
                )
            return time
        first, second = (time.replace(tzinfo=self.zone, fold=fold) for fold in (0, 1))
        before, behind = first.utcoffset(), second.utcoffset()
        assert before is not None
        assert behind is not None
        if before < behind:
            raise SkippedHourError(f"a time that did not exist in {self.zone}")
        if mark:
            marked = [each for each in (first, second) if each.tzname() == mark[1]]
            if not marked:
                raise ValueError(f"marked '{mark[1]}', expected '{first.tzname()}' in {self.zone}")
            return _utc(marked[0])
        if before > behind and after is not None and _utc(first) <= after:
            return _utc(second)
        return _utc(first)

    def _parse(self, text: str) -> datetime:
        try:
            if self.time_format is None:
                return datetime.fromisoformat(text)
            return datetime.strptime(text, self.time_format)
        except ValueError as error:
            if self.time_format is None and _MONTH.fullmatch(text.strip()):
                raise ValueError(f"a month, quarter or year; {NO_MONTHS}") from error
            expected = self.time_format or "ISO 8601, such as 2020-01-31 13:00"
            fits = [repr(form) for form in USUAL_FORMATS if _fits(text, form)]
            raise ValueError(
                f"not a time; expected {expected}; correct it or give time_format in the notation "
                f"of datetime.strptime{', such as ' + ' or '.join(fits) if fits else ''}"
            ) from error


def time_zone(name: str, setting: str = "time_zone") -> ZoneInfo:
    """Return a zone by its IANA name.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        return ZoneInfo(name)
    # Names that are no path, folders of zones, and zones that are not installed.
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"{setting} = {name!r}: no such time zone on this machine; expected a name such as "
            "Europe/Berlin or UTC (where all names fail: pip install tzdata)"
        ) from error


def headed_zone(column: str) -> str | None:
    """Return the zone in the name of a column of times, "MTU (CET/CEST)"; else None."""
    match = re.search(r"\(([A-Z/]+)\)\s*$", column)
    return HEADED.get(match[1]) if match else None


def calendar_months(times: Sequence[datetime], zone: tzinfo | None) -> int | None:
    """Return the step of times that go on by calendar months, 12 for years; None for all others.

    All are of one day of the month, or of its last day where the month is shorter.

    zone: of the clock that the months go by; then times are UTC.
    """
    if zone is not None:
        times = [time.replace(tzinfo=UTC).astimezone(zone) for time in times]
    day = max(time.day for time in times)
    of_one_day = all(time.day == min(day, monthrange(time.year, time.month)[1]) for time in times)
    if not of_one_day or len({time.time() for time in times}) > 1:
        return None
    steps = [12 * (b.year - a.year) + b.month - a.month for a, b in pairwise(times)]
    return Counter(steps).most_common(1)[0][0] if steps and min(steps) > 0 else None


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


def _fits(text: str, time_format: str) -> bool:
    try:
        datetime.strptime(text, time_format)
    except ValueError:
        return False
    return True
