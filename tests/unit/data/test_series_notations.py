"""CSV files of other encodings, steps of months, and numbers with marks between thousands."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pandas
import pytest

from hpc_bnn.config.options import check_options
from hpc_bnn.data.series.csv_file import read_csv_series
from hpc_bnn.data.series.csv_series import series
from hpc_bnn.data.series.times import calendar_months, time_zone

START = datetime(2020, 1, 1)


def table(values: Sequence[object], *, delimiter: str = ",", quote: str = "") -> str:
    rows = [
        f"{START + timedelta(hours=i)}{delimiter}{quote}{value}{quote}"
        for i, value in enumerate(values)
    ]
    return "\n".join([f"time{delimiter}v", *rows, ""])


def read(path: Path, content: str | bytes, **settings: object) -> list[float]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (one,) = read_csv_series(path, time_column="time", value_columns=["v"], **settings)  # type: ignore[arg-type]
    assert len(one.values) == len(one.values.flatten())
    values: list[float] = one.values.flatten().tolist()
    return values


PLAIN = table(range(5))


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("load.csv", content)
    return made.getvalue()


PACKED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "gzip": (gzip.compress, r"is gzip, no text; .*gunzip"),
    "bzip2": (bz2.compress, r"is bzip2, no text; .*bunzip2"),
    "xz": (lzma.compress, r"is xz, no text; .*unxz"),
    "zip": (zipped, r"is zip or an Excel workbook, no text"),
    "xls": (lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is an old Excel workbook"),
    "netCDF": (lambda _: b"\x89HDF\r\n\x1a\n" + bytes(600), "is HDF5 or netCDF, no text"),
    "web page": (lambda _: b"\n<!DOCTYPE html><html>", "is a web page.*download it again"),
    "utf-16 without a mark": (
        lambda text: text.decode().encode("utf-16-le"),
        "holds bytes of zero, like UTF-16 without a byte order mark.*iconv -f utf-16le",
    ),
    "latin-1": (lambda text: text + "\u00fc".encode("latin-1"), "byte 0xfc is not UTF-8 text"),
    "cut utf-16": (lambda text: text.decode().encode("utf-16")[:-1], "broken UTF-16"),
}


@pytest.mark.parametrize("kind", PACKED)
def test_what_is_no_text_is_named_with_what_to_do(tmp_path: Path, kind: str) -> None:
    pack, words = PACKED[kind]
    with pytest.raises(ValueError, match=rf"load\.csv: {words}"):
        read(tmp_path / "load.csv", pack(PLAIN.encode()))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_text_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path / "load.csv", PLAIN.encode(encoding)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\x00\x00\xfe\xff", "utf-32-be")]
)
def test_big_ends_first_are_read(tmp_path: Path, mark: bytes, encoding: str) -> None:
    assert read(tmp_path / "load.csv", mark + PLAIN.encode(encoding)) == [0, 1, 2, 3, 4]


# Steps of months


def dates(kind: str, count: int = 30) -> list[str]:
    frequency = {"months": "MS", "ends": "ME", "quarters": "QS", "years": "YS"}.get(kind, kind)
    times = pandas.date_range("2019-01-01", periods=count, freq=frequency)
    return [str(time) for time in times]


@pytest.mark.parametrize(
    ("kind", "months"),
    [
        *(("months", "1 calendar month;"), ("ends", "1 calendar month;")),
        *(("quarters", "3 calendar months;"), ("QE", "3 calendar months;")),
        *(("years", "12 calendar months;"), ("YE", "12 calendar months;")),
        ("2MS", "2 calendar months;"),
    ],
)
def test_a_step_of_months_is_refused_as_one(tmp_path: Path, kind: str, months: str) -> None:
    content = "\n".join(["time,v", *(f"{time},1" for time in dates(kind))])
    words = rf"line \d+: column 'time': a step of {months} months, .* are not supported"
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "load.csv", content)


def test_months_of_a_clock_that_changes(tmp_path: Path) -> None:
    """At midnight in Berlin: at two hours of UTC."""
    content = "\n".join(["time,v", *(f"{time},1" for time in dates("months"))])
    with pytest.raises(ValueError, match="a step of 1 calendar month;"):
        read(tmp_path / "load.csv", content, zone="Europe/Berlin")


def test_a_missing_month_is_one_of_months(tmp_path: Path) -> None:
    times = dates("months")
    del times[7:9]
    content = "\n".join(["time,v", *(f"{time},1" for time in times)])
    with pytest.raises(ValueError, match="a step of 1 calendar month;"):
        read(tmp_path / "load.csv", content)


@pytest.mark.parametrize("text", ["1949-01", "1949/1", "1949Q1", "1949-Q1", "1949M01", "1949"])
def test_a_month_is_no_time(tmp_path: Path, text: str) -> None:
    words = f"line 2: .*'{text}' is a month, quarter or year; .*not supported as a step"
    with pytest.raises(ValueError, match=words):
        read(tmp_path / "load.csv", f"time,v\n{text},1\n")


def test_the_advice_for_months_can_be_followed(tmp_path: Path) -> None:
    times = pandas.DatetimeIndex(dates("months", 4), name="time")
    monthly = pandas.DataFrame({"v": [0.0, 31.0, 59.0, 90.0]}, index=times)
    daily = monthly.resample("D").interpolate()
    values = read(tmp_path / "load.csv", daily.to_csv())
    assert values == pytest.approx(list(range(91)), abs=1e-9)


def test_other_times_are_no_months() -> None:
    days = [START + timedelta(days=i) for i in range(90)]
    assert calendar_months(days, None) is None
    assert calendar_months(days, time_zone("Europe/Berlin")) is None
    assert calendar_months([START], None) is None
    assert calendar_months([START, datetime(2020, 3, 1), datetime(2020, 2, 1)], None) is None
    assert calendar_months([START, datetime(2020, 2, 1, 1)], None) is None
    assert calendar_months([datetime(2020, 2, 29), datetime(2021, 2, 28)], None) == 12


# Numbers


GERMAN = [f"{970 + i:,}".replace(",", ".") for i in range(60)]

DOUBTFUL: dict[str, tuple[list[str], str, str]] = {
    "970, 1.000": (
        GERMAN,
        ";",
        r"line 32: column 'v': '1\.000' may be 1 or 1000 \(line 2 holds '970",
    ),
    "also with commas": (GERMAN, ",", r"'1\.000' may be 1 or 1000 \(line 2 holds '970'\)"),
    "thousands only": (
        [f"{45 + i}.{100 + i}" for i in range(9)],
        ";",
        r"'45\.100' may be 45\.1 or ",
    ),
    "tabs": (["1.000", "2.000", "3.000"], "\t", r"'1\.000' may be 1 or 1000: "),
    "signs": (["-970", "+1.000", "-1.030"], ";", r"line 3: .*'\+1\.000' may be 1 or 1000"),
    "with zeros": (["0", "1.500", "0"], ",", r"'1\.500' may be 1\.5 or 1500 \(line 2 holds '0'\)"),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_points_that_may_stand_between_thousands_are_refused(tmp_path: Path, kind: str) -> None:
    values, delimiter, words = DOUBTFUL[kind]
    content = table(values, delimiter=delimiter)
    with pytest.raises(ValueError, match=rf"{words}.*decimal: '\.' .*decimal: ','"):
        read(tmp_path / "load.csv", content)
    thousands = [float(value.replace(".", "")) for value in values]
    assert read(tmp_path / "load.csv", content, decimal=",") == thousands
    assert read(tmp_path / "load.csv", content, decimal=".") == [float(v) for v in values]


@pytest.mark.parametrize(
    ("values", "delimiter"),
    [
        (["0.500", "1.000", "970"], ";"),
        (["12.25", "1.000", "970"], ";"),
        (["1500", "1.000", "2.000"], ";"),
        (["1500.000", "1.000", "2.000"], ";"),
        (["1.000", "2.000", "45.123"], ","),
        (["1.0", "1.000"], ";"),
        (["1e3", "1.000", "7"], ";"),
        (["970", "999", "1000"], ";"),
        (["-0.125", "-1.125", "-2"], ";"),
    ],
)
def test_columns_without_doubt_are_read(tmp_path: Path, values: list[str], delimiter: str) -> None:
    content = table(values, delimiter=delimiter)
    assert read(tmp_path / "load.csv", content) == [float(value) for value in values]


def test_each_column_speaks_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "load.csv"
    rows = [f"{START + timedelta(hours=i)};{i}.5;{GERMAN[i]}" for i in range(60)]
    path.write_text("\n".join(["time;a;b", *rows]))
    assert read_csv_series(path, time_column="time", value_columns=["a"])
    with pytest.raises(ValueError, match="line 32: column 'b'"):
        read_csv_series(path, time_column="time", value_columns=["a", "b"])


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1.234,5", ",", 1234.5),
        ("-1.234.567", ",", -1234567),
        ("0,5", ",", 0.5),
        ("12", ",", 12),
        ("1,5e3", ",", 1500),
        (" 1.000 ", ",", 1000),
        ("1,234.5", ".", 1234.5),
        ("1,234,567", ".", 1234567),
        ("0.5", ".", 0.5),
        (".5", ".", 0.5),
    ],
)
def test_a_decimal_mark_that_is_said(tmp_path: Path, text: str, decimal: str, value: float) -> None:
    content = table([text, "7"], quote='"')
    assert read(tmp_path / "load.csv", content, decimal=decimal) == [value, 7]


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        *(("1,234.5", None), ("1.234,5", None), ("1.234.567", None), ("1'234", None)),
        *(("1 234", None), ("1\u00a0234", None), ("1\u202f234,5", None), ("1_234", None)),
        *(("1.5", ","), ("12.34,5", ","), ("0.500", ","), ("1,234.5", ","), ("inf", ",")),
        *(("1,5", "."), ("12,34.5", "."), ("0,500", "."), ("1.234,5", "."), ("1_234", ".")),
    ],
)
def test_other_notations_are_refused_by_value(
    tmp_path: Path, text: str, decimal: str | None
) -> None:
    mark = "comma" if decimal == "," else "point"
    with pytest.raises(ValueError, match=f"line 3: column 'v': '.*number with a decimal {mark}"):
        read(tmp_path / "load.csv", table(["7", text], quote='"'), decimal=decimal)


@pytest.mark.parametrize("mark", ["?", "..", "--", "#N/A", "\\N", "n.a."])
def test_marks_of_missing_numbers(tmp_path: Path, mark: str) -> None:
    content = table(["1", mark, "3"])
    with pytest.raises(
        ValueError, match=r"line 3: column 'v': '.*stands for a missing number.*skip"
    ):
        read(tmp_path / "load.csv", content)
    values = read(tmp_path / "load.csv", content, missing="skip")
    assert values[::2] == [1, 3] and values[1] != values[1]


def test_the_mark_is_a_setting() -> None:
    options = {"path": "x", "time_column": "t", "value_columns": ["v"], "history": 4, "horizon": 2}
    assert check_options("data", series, {**options, "decimal": ","}) == []
    (wrong,) = check_options("data", series, {**options, "decimal": ";"})
    assert "data.decimal = ';'" in wrong
