"""Time series forecasting from a CSV file: windows (history, C) -> (horizon, C).

Reading is in csv_file.py, cutting, splitting and normalising in windows.py.

Shape letters: H history rows, P horizon rows, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from hpc_bnn.data.calendar import Feature
from hpc_bnn.data.new_inputs import Asked, NewInputs
from hpc_bnn.data.series.ahead import ahead
from hpc_bnn.data.series.csv_file import read_csv_series
from hpc_bnn.data.series.numbers import Decimal, Missing
from hpc_bnn.data.series.same_times import require_same_times
from hpc_bnn.data.series.times import time_zone as zone_of
from hpc_bnn.data.series.windows import RegularSeries, windowed_source
from hpc_bnn.data.source import BEYOND, Normalisation, Source


def series(
    path: str | Path,
    *,
    time_column: str,
    value_columns: Sequence[str],
    history: int,
    horizon: int,
    stride: int = 1,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    rows: tuple[int, int, int] | None = None,
    normalize: Normalisation = "window",
    group_column: str | None = None,
    time_format: str | None = None,
    time_zone: str | None = None,
    missing: Missing = "refuse",
    decimal: Decimal | None = None,
    calendar: Sequence[Feature] = (),
    calendar_zone: str | None = None,
    units: str = "",
    kept: Mapping[str, Any] | None = None,
) -> Source:
    """Offer the named columns of a CSV file as windows x (H, C) -> y (P, C), float32, normalised.

    The file has a header, one row per time, a fixed step, and no gaps; the delimiter is found. The
    split is by time and free of leakage (how: windows.py); mean and standard deviation come
    from the training rows.

    Parameters
    ----------
    path
        The file.
    time_column
        The column of times.
    value_columns
        The C channels; all are inputs and targets.
    history
        H, rows in the input.
    horizon
        P, rows that are forecast.
    stride
        Rows between the starts of neighbouring windows.
    fractions
        Shares of the rows for training, validation and test.
    rows
        Numbers of rows for training, validation and test in place of ``fractions``, such as
        (8640, 2880, 2880); what lies behind them is left out.
    normalize
        What the network is given: "training": values by mean and standard deviation of the training
        rows; "window": by those of the history of each window, so that levels and spreads may
        drift; "window_last": with its last value in place of its mean. Forecasts are put back.
    group_column
        Tells several series in one file apart; windows never cross from one to the next.
    time_format
        Notation of the times as in `datetime.strptime`; ISO 8601 if None. Ranges ("01.01.2020 00:00
        - 01.01.2020 01:00") count from their beginning.
    time_zone
        Of local times, such as "Europe/Berlin": the clock changes are then taken care of. A column
        named like "Time (CET/CEST)" or "MTU (UTC)" says its zone itself.
    missing
        Numbers that are empty, "n/e", "-", "?" or "N/A": "refuse" the file, or "skip" the windows
        that hold one.
    decimal
        The decimal mark, "." or ","; the other one may stand between thousands. None: a point, and
        "1.000" is refused where it may be a thousand.
    calendar
        "hour_of_day", "day_of_week", "day_of_year" of the targets as further inputs; then x has one
        dimension (windows.py).
    calendar_zone
        Whose clock the calendar goes by; `time_zone` if None, and without either the times as they
        are written (UTC where they have an offset).
    units
        Text for axes and files.
    kept
        What a trained run keeps of its data, where it is to see others (windows.py).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For missing, duplicate or unsorted times, for text, nothing or NaN in a number column, an
        unknown column, too few rows or a setting out of range; names file, line, column, value,
        what was expected and what to do.
    """
    many = read_series(
        path,
        time_column=time_column,
        value_columns=value_columns,
        group_column=group_column,
        time_format=time_format,
        time_zone=time_zone,
        missing=missing,
        decimal=decimal,
        calendar_zone=calendar_zone,
    )
    return windowed_source(
        str(Path(path)),
        many,
        channels=value_columns,
        units=units,
        history=history,
        horizon=horizon,
        stride=stride,
        fractions=fractions,
        rows=rows,
        normalize=normalize,
        calendar=calendar,
        kept=kept,
    )


def read_series(
    path: str | Path,
    *,
    time_column: str,
    value_columns: Sequence[str],
    group_column: str | None = None,
    time_format: str | None = None,
    time_zone: str | None = None,
    missing: Missing = "refuse",
    decimal: Decimal | None = None,
    calendar_zone: str | None = None,
) -> list[RegularSeries]:
    """Read the series of a file, with the options and the errors of ``series``."""
    path = Path(path)
    if isinstance(value_columns, str) or not value_columns:
        raise ValueError(
            f"{path}: value_columns = {value_columns!r}: expected a list of column names, such as "
            "['load']"
        )
    if len(set(value_columns)) != len(value_columns):
        raise ValueError(
            f"{path}: value_columns = {list(value_columns)}: a column is named twice; name each "
            "once"
        )
    many = read_csv_series(
        path,
        time_column=time_column,
        value_columns=value_columns,
        group_column=group_column,
        time_format=time_format,
        zone=time_zone,
        missing=missing,
        decimal=decimal,
    )
    for one in many:
        beyond = (one.values.abs() > BEYOND).nonzero().tolist()
        if beyond:
            row, column = beyond[0]
            raise ValueError(
                f"{path}: column '{value_columns[column]}' at {one.start + row * one.step}: "
                f"{float(one.values[row, column]):g} is no value but, it seems, stands for a "
                f"missing one; expected less than {BEYOND:g} in magnitude: leave it empty and set "
                "missing: skip, or correct it"
            )
    if calendar_zone is not None:
        clock = zone_of(calendar_zone, "calendar_zone")
        many = [replace(one, zone=clock) for one in many]
    return many


def series_new_inputs(
    source: Source,
    asked: Asked,
    *,
    path: str | Path,
    history: int,
    horizon: int,
    calendar: Sequence[Feature] = (),
    **options: Any,
) -> NewInputs:
    """Offer the last rows of each series of a file, by default that of the training, to predict
    what follows; options: those of ``series``.
    """
    assert source.scale is not None
    file = path if asked.file is None else asked.file
    reading = signature(read_series).parameters
    many = read_series(file, **{key: options[key] for key in options if key in reading})
    assert source.window is not None
    layout = many[0].layout(history, source.window.normalize)
    require_same_times(str(file), layout, source.window)
    return ahead(
        str(file),
        many,
        source.scale,
        history=history,
        horizon=horizon,
        calendar=calendar,
        start=asked.start,
    )
