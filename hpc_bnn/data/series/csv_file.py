"""Read time series from a CSV file and refuse what a training must not silently swallow.

One row per time (and per series, where a group column tells several series apart); a header names
the columns. Every series must be sorted, without duplicate and without missing times, with one step
for the whole file, because a window is a number of rows and must always be the same span of time.
How times are written: times.py.

Shape letters: T rows of a series, C channels.
"""

from __future__ import annotations

import csv
import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import torch
from torch import Tensor

from hpc_bnn.data.series.numbers import Decimal, Missing, Numbers, is_missing
from hpc_bnn.data.series.text import decoding_error, open_text
from hpc_bnn.data.series.times import (
    NO_MONTHS,
    Notation,
    SkippedHourError,
    calendar_months,
    headed_zone,
    time_zone,
)
from hpc_bnn.data.series.windows import RegularSeries

logger = logging.getLogger(__name__)

DELIMITERS = (",", ";", "\t", "|")


@dataclass(eq=False)
class _Rows:
    """Collect the rows of one series while reading."""

    lines: list[int] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    values: array[float] = field(default_factory=lambda: array("d"))


def read_csv_series(
    path: Path,
    *,
    time_column: str,
    value_columns: Sequence[str],
    group_column: str | None = None,
    time_format: str | None = None,
    zone: str | None = None,
    missing: Missing = "refuse",
    decimal: Decimal | None = None,
) -> list[RegularSeries]:
    """Read the named columns of a CSV file as regular series, one per value of `group_column`.

    The delimiter (comma, semicolon, tab or bar) is the one that splits the header into the named
    columns. Times are ISO 8601 or, with `time_format`, in the notation of `datetime.strptime`, or
    ranges of these; those with an offset or a zone are converted to UTC.

    zone: of times without an offset, an IANA name; else what the name of the column says.
    missing: "refuse" it, or "skip": NaN; rows without any number at both ends are dropped.
    decimal: the decimal mark (numbers.py).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For every defect of the content, with file, line, column, value, what was expected and what
        to do.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}; expected a CSV file with a header line")
    wanted = [time_column, *value_columns, *([group_column] if group_column is not None else [])]
    notation = Notation(time_format, _zone(path, time_column, zone))
    numbers = [Numbers(path, name, missing=missing, decimal=decimal) for name in value_columns]
    rows: dict[str, _Rows] = {}
    skipped, written = 0, ""
    try:
        with open_text(path) as file:
            header = file.readline()
            delimiter = _delimiter(header, wanted)
            names = next(csv.reader([header], delimiter=delimiter, strict=True), [])
            positions = [_position(path, names, name) for name in wanted]
            # Strict: a quote that nothing closes takes in all rows below it otherwise.
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for line, cells in _cells(path, reader, len(names)):
                group = cells[positions[-1]].strip() if group_column is not None else ""
                if group_column is not None and not group:
                    raise ValueError(
                        f"{path}: line {line}: column '{group_column}': is empty; "
                        "expected the name of the series; fill it in or remove the row"
                    )
                one = rows.setdefault(group, _Rows())
                texts = [cells[position] for position in positions[1 : 1 + len(value_columns)]]
                time = _time(path, line, time_column, cells[positions[0]], notation, one)
                # Some files hold the hour that spring leaves out, without values.
                if time is None and all(map(is_missing, texts)):
                    skipped += 1
                    continue
                if time is None:
                    raise ValueError(
                        f"{path}: line {line}: column '{time_column}': '{cells[positions[0]]}' did "
                        f"not exist in {notation.zone}: the clock was put forward; expected no "
                        "value in this row; remove it, or set the time_zone of the file"
                    )
                written = cells[positions[0]]
                one.lines.append(line)
                one.times.append(time)
                for column, text in zip(numbers, texts, strict=True):
                    one.values.append(column.read(line, text))
    except UnicodeDecodeError as error:
        raise decoding_error(path, error) from error
    except csv.Error as error:
        raise ValueError(
            f"{path}: line 1: not readable as CSV ({error}); expected the names of the columns; "
            "close the quote that opens there"
        ) from error
    rows = {group: one for group, one in rows.items() if one.lines}
    if not rows:
        raise ValueError(f"{path}: no rows below the header; expected one row per time")
    for column in numbers:
        column.require_clear(delimiter)
    if skipped:
        logger.info("%s: %d rows of times that the clock skipped, left out", path, skipped)
    step = _common_step(path, rows)
    for group, one in rows.items():
        where = _where(time_column, group_column, group)
        _require_regular(path, one, step, where, group_column, notation.zone)
    instants = notation.gives_instants(written)
    return [
        _regular(group, one, step, notation, len(value_columns), instants)
        for group, one in rows.items()
    ]


def _regular(
    group: str, one: _Rows, step: timedelta, notation: Notation, columns: int, instants: bool
) -> RegularSeries:
    """Make a series of its rows, from the first to the last that holds a number."""
    values: Tensor = torch.frombuffer(one.values, dtype=torch.float64).reshape(-1, columns)
    held = values.isfinite().any(dim=1).nonzero().flatten()
    first, last = (int(held[0]), int(held[-1])) if len(held) else (0, -1)
    return RegularSeries(
        name=group,
        start=one.times[first],
        step=step,
        values=values[first : last + 1],
        zone=notation.zone,
        instants=instants,
    )


def _zone(path: Path, time_column: str, zone: str | None) -> tzinfo | None:
    """Choose the zone of the times: that of the settings, else that of the column's name."""
    headed = headed_zone(time_column)
    if zone is not None and headed == "UTC" and zone != "UTC":
        raise ValueError(
            f"{path}: column '{time_column}': its times are UTC but time_zone = {zone!r}; leave "
            "time_zone out (calendar_zone says which clock the calendar goes by)"
        )
    name = zone or headed
    return time_zone(name) if name is not None else None


def _delimiter(header: str, wanted: Sequence[str]) -> str:
    """Choose the delimiter that finds most wanted names in the header; on a tie most fields."""

    def matches(delimiter: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        return len(set(wanted) & set(names)), len(names)

    return max(DELIMITERS, key=matches)


def _position(path: Path, names: Sequence[str], wanted: str) -> int:
    """Find a column in the header."""
    stripped = [name.strip() for name in names]
    if stripped.count(wanted) == 1:
        return stripped.index(wanted)
    problem = "no such column" if wanted not in stripped else "several columns have this name"
    raise ValueError(
        f"{path}: line 1: column '{wanted}': {problem}; "
        f"expected one of: {', '.join(stripped) or 'nothing, the line is empty'}; "
        "correct the setting or the header"
    )


def _cells(path: Path, reader: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line number (the header is line 1) and fields of every row that is not blank."""
    line = 1
    try:
        for cells in reader:
            line = reader.line_num + 1  # type: ignore[attr-defined]
            if len(cells) == width:
                yield line, cells
            elif cells:
                raise ValueError(
                    f"{path}: line {line}: {len(cells)} fields, expected {width} as in the header; "
                    "correct the line (a cut off file ends like this) or quote fields "
                    "that hold the delimiter"
                )
    except csv.Error as error:
        raise ValueError(
            f"{path}: not readable as CSV from line {line + 1} on ({error}); expected text with "
            'one row per line; close the quote that opens there, and write a quote in a field as ""'
        ) from error


def _time(
    path: Path, line: int, column: str, text: str, notation: Notation, before: _Rows
) -> datetime | None:
    """Read the time of a row behind others; None for one that the clock skipped."""
    try:
        return notation.read(text, after=before.times[-1] if before.times else None)
    except SkippedHourError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: line {line}: column '{column}': '{text}' is {error}") from error


def _where(time_column: str, group_column: str | None, group: str) -> str:
    """Name the place of a time error."""
    of_group = "" if group_column is None else f" of {group_column} '{group}'"
    return f"column '{time_column}'{of_group}"


def _common_step(path: Path, rows: dict[str, _Rows]) -> timedelta:
    """Find the commonest positive difference of neighbouring times."""
    counts: Counter[timedelta] = Counter()
    for one in rows.values():
        pairs = zip(one.times, one.times[1:], strict=False)
        counts.update(later - earlier for earlier, later in pairs if later > earlier)
    if not counts:
        lines = sum(len(one.lines) for one in rows.values())
        raise ValueError(
            f"{path}: no two rows of one series follow each other in time ({lines} rows): "
            "expected at least history + horizon rows with ascending times; sort the file by "
            "time, or name the series with group_column"
        )
    return counts.most_common(1)[0][0]


def _require_regular(
    path: Path,
    one: _Rows,
    step: timedelta,
    where: str,
    group_column: str | None,
    zone: tzinfo | None,
) -> None:
    """Raise at the first place where the times of one series do not go on by `step`."""
    for i in range(1, len(one.times)):
        before, time = one.times[i - 1], one.times[i]
        difference = time - before
        if difference == step:
            continue
        months = calendar_months(one.times, zone)
        if months is not None:
            raise ValueError(
                f"{path}: line {one.lines[i]}: {where}: a step of {months} calendar month"
                f"{'s' if months > 1 else ''}; {NO_MONTHS}"
            )
        places = f"'{time}' follows '{before}' of line {one.lines[i - 1]}"
        several = (
            "" if group_column is not None else "; several series in one file need group_column"
        )
        if difference == timedelta(0):
            problem = "a duplicate time"
            remedy = f"remove one of the two (clock change: set time_zone){several}"
        elif difference < timedelta(0):
            problem = "not sorted by time"
            remedy = f"sort the file by time (clock change: set time_zone){several}"
        elif difference % step == timedelta(0):
            problem = f"{difference // step - 1} times missing"
            remedy = "fill the gap or cut the file there (clock change: set time_zone)"
        else:
            problem = "an irregular step"
            remedy = "resample the series to one step"
        raise ValueError(
            f"{path}: line {one.lines[i]}: {where}: {places}: {problem}; "
            f"expected a step of {step} everywhere; {remedy}"
        )
