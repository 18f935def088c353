"""CSV files as ETT and the ENTSO-E Transparency Platform write them: read right, or refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import torch

from hpc_bnn.data.series.csv_file import read_csv_series
from hpc_bnn.data.series.csv_series import series
from hpc_bnn.data.series.times import Notation, headed_zone, time_zone
from hpc_bnn.data.series.windows import RegularSeries, Windows

BRUSSELS = ZoneInfo("Europe/Brussels")
LOAD = "Actual Total Load [MW] - BZN|DE-LU"
HOUR = timedelta(hours=1)
COLUMNS: dict[str, Any] = {
    "time_column": "Time (CET/CEST)",
    "value_columns": [LOAD],
    "time_format": "%d.%m.%Y %H:%M",
}
# UTC: the whole hours around the clock changes of 2020, forward at 01:00 and back at 01:00.
SPRING, AUTUMN = datetime(2020, 3, 28, 20), datetime(2020, 10, 24, 20)


def local(start: datetime, count: int, step: timedelta) -> Iterator[datetime]:
    """Yield what the clock in Brussels shows at times that go on in UTC."""
    for i in range(count + 1):
        yield (start + i * step).replace(tzinfo=UTC).astimezone(BRUSSELS)


def entsoe(
    path: Path,
    start: datetime,
    *,
    count: int = 12,
    step: timedelta = HOUR,
    delimiter: str = ",",
    marked: bool = False,
    head: str = "Time (CET/CEST)",
    form: str = "%d.%m.%Y %H:%M",
) -> Path:
    """Write rows with values 0, 1, ... as the platform exports them, quoted, times as ranges."""
    lines = [delimiter.join(f'"{name}"' for name in (head, "Forecast [MW]", LOAD))]
    times = list(local(start, count, step))
    for i in range(count):
        ends = [t.strftime(form) + (f" ({t.tzname()})" if marked else "") for t in times[i : i + 2]]
        lines.append(delimiter.join(f'"{cell}"' for cell in (" - ".join(ends), "7", str(i))))
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return path


def read(path: Path, **settings: object) -> RegularSeries:
    (one,) = read_csv_series(path, **{**COLUMNS, **settings})
    return one


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("step", [HOUR, HOUR / 4, HOUR / 2])
@pytest.mark.parametrize("start", [SPRING, AUTUMN])
def test_both_clock_changes(
    tmp_path: Path, start: datetime, step: timedelta, marked: bool, delimiter: str
) -> None:
    path = entsoe(
        tmp_path / "load.csv", start, count=40, step=step, marked=marked, delimiter=delimiter
    )
    one = read(path)
    assert (one.start, one.step, one.zone) == (start, step, BRUSSELS)
    assert one.values[:, 0].tolist() == list(range(40))


def test_the_notation_since_2024(tmp_path: Path) -> None:
    head, form = "MTU (CET/CEST)", "%d/%m/%Y %H:%M:%S"
    path = entsoe(tmp_path / "load.csv", AUTUMN, head=head, form=form, marked=True)
    one = read(path, time_column=head, time_format=form)
    assert one.start == AUTUMN
    assert len(one.values) == 12


def test_marks_on_the_rows_of_the_clock_change_only(tmp_path: Path) -> None:
    lines = ["MTU (CET/CEST),load"]
    lines += ["27/10/2024 01:00 - 27/10/2024 02:00,1"]
    lines += ["27/10/2024 02:00 (CEST) - 27/10/2024 02:00 (CET),2"]
    lines += ["27/10/2024 02:00 (CET) - 27/10/2024 03:00 (CET),3"]
    lines += ["27/10/2024 03:00 - 27/10/2024 04:00,4"]
    path = tmp_path / "load.csv"
    path.write_text("\n".join(lines))
    one = read(
        path, time_column="MTU (CET/CEST)", value_columns=["load"], time_format="%d/%m/%Y %H:%M"
    )
    assert one.start == datetime(2024, 10, 26, 23)
    assert one.values.flatten().tolist() == [1, 2, 3, 4]


def test_the_repeated_hour_written_twice_the_same(tmp_path: Path) -> None:
    path = altered(
        entsoe(tmp_path / "load.csv", AUTUMN), 6, "02:00 - 25.10.2020 02", "02:00 - 25.10.2020 03"
    )
    assert path.read_text().count("25.10.2020 02:00 - 25.10.2020 03:00") == 2
    assert read(path).values[:, 0].tolist() == list(range(12))
    # Points instead of ranges: without a zone a duplicate, with one none.
    path.write_text(
        "\n".join(["time,load", *(f"{t:%Y-%m-%d %H:%M},1" for t in local(AUTUMN, 9, HOUR))])
    )
    settings = {"time_column": "time", "value_columns": ["load"], "time_format": None}
    with pytest.raises(ValueError, match=r"a duplicate time.*clock change: set time_zone"):
        read(path, **settings)
    assert len(read(path, zone="Europe/Berlin", **settings).values) == 10


def test_the_repeated_hour_of_two_interleaved_areas(tmp_path: Path) -> None:
    lines = ["Time (CET/CEST),Area,load"]
    for i, time in enumerate(list(local(AUTUMN, 12, HOUR))[:-1]):
        lines += [f"{time:%d.%m.%Y %H:%M},{area},{i}" for area in ("BE", "FR")]
    path = tmp_path / "load.csv"
    path.write_text("\n".join(lines))
    many = read_csv_series(path, **{**COLUMNS, "value_columns": ["load"]}, group_column="Area")
    assert [(one.name, one.start, len(one.values)) for one in many] == [
        ("BE", AUTUMN, 12),
        ("FR", AUTUMN, 12),
    ]


def test_utc_export(tmp_path: Path) -> None:
    lines = ["MTU (UTC);load"]
    for i in range(8):
        begin, end = AUTUMN + i * HOUR, AUTUMN + (i + 1) * HOUR
        lines.append(f"{begin:%d/%m/%Y %H:%M} - {end:%d/%m/%Y %H:%M};{i}")
    path = tmp_path / "load.csv"
    path.write_text("\n".join(lines))
    settings = {
        "time_column": "MTU (UTC)",
        "value_columns": ["load"],
        "time_format": "%d/%m/%Y %H:%M",
    }
    one = read(path, **settings)
    assert (one.start, str(one.zone), len(one.values)) == (AUTUMN, "UTC", 8)
    with pytest.raises(ValueError, match=r"its times are UTC but time_zone = 'Europe/Berlin'"):
        read(path, zone="Europe/Berlin", **settings)


def altered(path: Path, line: int, old: str, new: str | None) -> Path:
    """Change one line of a file; the header is line 1."""
    lines = path.read_text().splitlines()
    assert old in lines[line - 1]
    lines[line - 1 : line] = [] if new is None else [lines[line - 1].replace(old, new)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("mark", ["n/e", "N/A", "-", "", "nan"])
def test_a_missing_value_is_refused_or_skipped(tmp_path: Path, mark: str) -> None:
    path = altered(entsoe(tmp_path / "load.csv", SPRING), 6, '"4"', f'"{mark}"')
    words = "is empty" if not mark else f"'{mark}' stands for a missing number"
    with pytest.raises(ValueError, match=rf"load\.csv: line 6: column 'Actual.*{words}.*: skip"):
        read(path)
    values = read(path, missing="skip").values[:, 0]
    assert values.isnan().nonzero().flatten().tolist() == [4]


def test_rows_without_values_at_both_ends_are_dropped(tmp_path: Path) -> None:
    """An export of the running year ends with hours that are still to come."""
    path = entsoe(tmp_path / "load.csv", SPRING)
    for line, value in ((2, 0), (12, 10), (13, 11)):
        altered(path, line, f'"{value}"', '"n/e"')
    one = read(path, missing="skip")
    assert one.start == SPRING + HOUR
    assert one.values[:, 0].tolist() == list(range(1, 10))


def test_the_hour_that_spring_leaves_out_may_stand_there_without_a_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = entsoe(tmp_path / "load.csv", SPRING)
    lines = path.read_text().splitlines()
    lines.insert(6, '"29.03.2020 02:00 - 29.03.2020 03:00","",""')
    path.write_text("\n".join(lines))
    with caplog.at_level(logging.INFO):
        assert read(path).values[:, 0].tolist() == list(range(12))
    assert "1 rows of times that the clock skipped" in caplog.text
    altered(path, 7, '"",""', '"1","2"')
    with pytest.raises(
        ValueError, match=r"line 7: .*'29.03.2020 02:00 - .*did not exist in Europe/Brussels"
    ):
        read(path)


REFUSED = {
    "one of the repeated hours is missing": (
        7,
        "25.10.2020 02:00 - ",
        None,
        ["line 7", "1 times missing", "1:00:00"],
    ),
    "a range backwards": (
        4,
        "25.10.2020 00:00 - 25.10.2020 01:00",
        "25.10.2020 00:00 - 24.10.2020 23:00",
        ["line 4", "'25.10.2020 00:00 - 24.10.2020 23:00'", "ends before it has begun"],
    ),
    "half a range": (4, "25.10.2020 01:00", "soon", ["line 4", "not a time", "%d.%m.%Y %H:%M"]),
    "a strange mark": (
        4,
        "25.10.2020 01:00",
        "25.10.2020 01:00 (EST)",
        ["line 4", "marked 'EST'", "expected 'CEST'", "Europe/Brussels"],
    ),
    "thousands": (4, '"2"', '"1_002"', ["line 4", "'1_002'", "not a finite number"]),
    "a decimal comma": (4, '"2"', '"2,5"', ["line 4", "'2,5'", "decimal point"]),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_refuses_a_defect_and_says_where(tmp_path: Path, defect: str) -> None:
    line, old, new, words = REFUSED[defect]
    path = altered(entsoe(tmp_path / "load.csv", AUTUMN), line, old, new)
    with pytest.raises(ValueError, match=r"load\.csv") as error:
        read(path)
    for word in words:
        assert word in str(error.value)


def test_a_foreign_notation_is_refused_with_the_format_that_fits(tmp_path: Path) -> None:
    path = entsoe(tmp_path / "load.csv", SPRING)
    with pytest.raises(ValueError, match=r"expected ISO 8601.*such as '%d\.%m\.%Y %H:%M'$"):
        read(path, time_format=None)
    path.write_text("Time (CET/CEST),load\n02/03/2020 00:00,1\n")
    with pytest.raises(ValueError, match=r"such as '%d/%m/%Y %H:%M' or '%m/%d/%Y %H:%M'"):
        read(path, value_columns=["load"], time_format=None)


def test_local_times_without_a_zone_are_refused_at_the_clock_change(tmp_path: Path) -> None:
    words = {SPRING: "1 times missing.*clock change", AUTUMN: "at a clock change"}
    for start, problem in words.items():
        path = entsoe(tmp_path / "load.csv", start, head="time")
        with pytest.raises(ValueError, match=rf"{problem}.* set time_zone"):
            read(path, time_column="time")
        assert len(read(path, time_column="time", zone="Europe/Berlin").values) == 12
    path = entsoe(tmp_path / "load.csv", start, head="time", marked=True)
    with pytest.raises(ValueError, match=r"line 2: .*marked 'CEST'; expected time_zone"):
        read(path, time_column="time")


def test_zones() -> None:
    assert headed_zone("Time (CET/CEST)") == "Europe/Brussels"
    assert headed_zone("MTU (UTC)") == "UTC"
    assert headed_zone("Time") is None
    assert headed_zone("Load (MW)") is None
    for name in ("Europe/Atlantis", "../etc", "Europe", ""):
        with pytest.raises(ValueError, match=r"time_zone = .*no such time zone.*Europe/Berlin"):
            time_zone(name)


def test_an_offset_of_its_own_wins_over_the_zone() -> None:
    notation = Notation(zone=BRUSSELS)
    assert notation.read("2020-07-01T00:00+00:00") == datetime(2020, 7, 1)
    assert notation.read("2020-07-01T00:00") == datetime(2020, 6, 30, 22)


@pytest.mark.parametrize("minutes", [15, 60])
def test_ett(tmp_path: Path, minutes: int) -> None:
    names = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    start, step = datetime(2016, 7, 1), timedelta(minutes=minutes)
    lines = [",".join(["date", *names])]
    for i in range(300):
        values = [f"{i + c / 10:.12g}" for c in range(len(names))]
        lines.append(",".join([str(start + i * step), *values]))
    path = tmp_path / "ETT.csv"
    path.write_text("\n".join(lines))
    source = series(
        path,
        time_column="date",
        value_columns=names,
        history=24,
        horizon=8,
        fractions=(0.6, 0.2, 0.2),
        calendar=["hour_of_day", "day_of_week"],
    )
    assert source.input_shape == (24 * 7 + 8 * 4,)
    assert source.output_shape == (8, 7)
    assert isinstance(source.train, Windows)
    assert source.train.step == step
    assert source.scale is not None
    x, y = source.train.batch(torch.tensor([5]))
    rows = source.scale.physical(torch.cat([source.train.histories(x), y], dim=1))[0]
    expected = torch.arange(5, 37)[:, None] + torch.arange(7) / 10
    assert torch.allclose(rows, expected.double(), atol=1e-4)


def test_windows_with_a_missing_value_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = entsoe(tmp_path / "load.csv", AUTUMN, count=100)
    for line, value in ((12, 10), (82, 80)):
        altered(path, line, f'"{value}"', '"n/e"')
    settings = {**COLUMNS, "history": 6, "horizon": 2, "missing": "skip"}
    with caplog.at_level(logging.INFO):
        source = series(path, **settings)
    assert "8 of 63 windows of the training part" in caplog.text
    assert source.scale is not None
    held = torch.tensor([float(v) for v in range(70) if v != 10], dtype=torch.float64)
    assert float(source.scale.mean) == pytest.approx(float(held.mean()), rel=1e-14)
    assert float(source.scale.std) == pytest.approx(float(held.std(correction=0)), rel=1e-13)
    for part in (source.train, source.validation, source.test):
        assert isinstance(part, Windows)
        x, y = part.batch(torch.arange(len(part)))
        assert bool(x.isfinite().all())
        assert bool(y.isfinite().all())
        rows = (part.starts[:, None] + torch.arange(8)).flatten().tolist()
        assert not {10, 80} & set(rows)
    with pytest.raises(ValueError, match=r"each of the \d+ windows of the test part holds a miss"):
        series(path, **{**settings, "history": 18})


def test_the_calendar_goes_by_the_zone_of_the_file_or_another(tmp_path: Path) -> None:
    path = entsoe(tmp_path / "load.csv", AUTUMN, count=60)
    settings, hours = {**COLUMNS, "history": 3, "horizon": 1}, []
    for zone in (None, "UTC", "Asia/Tokyo"):
        source = series(path, **settings, calendar=["hour_of_day"], calendar_zone=zone)
        x, _ = source.train.batch(torch.tensor([0, 1, 2]))
        turn = torch.atan2(x[:, 3], x[:, 4]).remainder(2 * torch.pi)
        hours.append((turn * 24 / (2 * torch.pi)).round().remainder(24).tolist())
    # The targets are at 23, 0 and 1 UTC: in Brussels the hour from 2 to 3 comes twice.
    assert hours == [[1, 2, 2], [23, 0, 1], [8, 9, 10]]
    with pytest.raises(ValueError, match="calendar_zone = 'Mars'"):
        series(path, **settings, calendar_zone="Mars")
