"""Series from CSV files: what is read, what is refused and how it is said, and the real file."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from hpc_bnn.data.series import series
from hpc_bnn.data.series.csv_file import read_csv_series
from hpc_bnn.data.series.windows import Windows
from hpc_bnn.data.source import Source

START = datetime(2020, 1, 1)
REAL_FILE = "recycle_anonymized_dataset.csv"


def hourly(count: int, *, start: datetime = START) -> list[str]:
    return [str(start + timedelta(hours=i)) for i in range(count)]


def write(path: Path, lines: list[str], *, encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join([*lines, ""]).encode(encoding))
    return path


def good_lines(count: int = 60) -> list[str]:
    return ["time,load,wind"] + [f"{t},{i}.5,{-i}" for i, t in enumerate(hourly(count))]


def load(path: Path, **settings: object) -> Source:
    default: dict[str, object] = {
        "time_column": "time",
        "value_columns": ["load", "wind"],
        "history": 6,
        "horizon": 3,
    }
    return series(path, **{**default, **settings})  # type: ignore[arg-type]


def test_reads_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "good.csv", good_lines())
    (one,) = read_csv_series(path, time_column="time", value_columns=["wind", "load"])
    assert one.start == START
    assert one.step == timedelta(hours=1)
    assert torch.equal(one.values[2], torch.tensor([-2.0, 2.5], dtype=torch.float64))
    assert one.values.shape == (60, 2)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_finds_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    lines = [line.replace(",", delimiter) for line in good_lines()]
    path = write(tmp_path / "good.csv", lines)
    (one,) = read_csv_series(path, time_column="time", value_columns=["load"])
    assert one.values[59, 0] == 59.5


def test_delimiter_is_the_one_that_finds_the_columns(tmp_path: Path) -> None:
    lines = ["time;load, total, net, MW"] + [f"{t};{i}" for i, t in enumerate(hourly(5))]
    path = write(tmp_path / "good.csv", lines)
    (one,) = read_csv_series(path, time_column="time", value_columns=["load, total, net, MW"])
    assert one.values.flatten().tolist() == [0, 1, 2, 3, 4]


def test_reads_what_spreadsheets_write(tmp_path: Path) -> None:
    lines = [line + "\r" for line in good_lines()] + ["\r", "\r"]
    path = write(tmp_path / "good.csv", lines, encoding="utf-8-sig")
    (one,) = read_csv_series(path, time_column="time", value_columns=["load"])
    assert len(one.values) == 60


def test_time_zones_become_utc_so_that_a_clock_change_is_no_gap(tmp_path: Path) -> None:
    lines = ["time,load"]
    lines += [f"2020-03-29T0{h}:00+01:00,1" for h in (0, 1)]
    lines += [f"2020-03-29T0{h}:00+02:00,1" for h in (3, 4)]
    path = write(tmp_path / "zone.csv", lines)
    (one,) = read_csv_series(path, time_column="time", value_columns=["load"])
    assert one.start == datetime(2020, 3, 28, 23)
    assert len(one.values) == 4


def test_time_format(tmp_path: Path) -> None:
    lines = ["time,load"] + [f"{d}.02.2020 00:00,{d}" for d in range(1, 9)]
    path = write(tmp_path / "german.csv", lines)
    (one,) = read_csv_series(
        path, time_column="time", value_columns=["load"], time_format="%d.%m.%Y %H:%M"
    )
    assert one.start == datetime(2020, 2, 1)
    assert one.step == timedelta(days=1)


def test_groups_may_be_interleaved_and_windows_do_not_cross(tmp_path: Path) -> None:
    lines = ["time,site,load"]
    for i, t in enumerate(hourly(40)):
        lines += [f"{t},b,{1000 + i}", f"{t},a,{i}"]
    path = write(tmp_path / "groups.csv", lines)
    source = load(path, value_columns=["load"], group_column="site")
    assert source.scale is not None
    for part, count in ((source.train, 40), (source.validation, 4), (source.test, 12)):
        assert len(part) == count
        x, y = part.batch(torch.arange(len(part)))
        values = source.scale.physical(torch.cat([x, y], dim=1))[..., 0]
        # One hour on is one up within a group; a window across groups would jump by 960 or more.
        assert torch.allclose(values.diff(dim=1), torch.ones((), dtype=torch.float64), atol=1e-3)


DEFECTS = {
    "text in a number": (10, "2020-01-01 09:00:00,high,1", ["line 11", "'load'", "'high'"]),
    "empty number": (10, "2020-01-01 09:00:00,1,", ["line 11", "'wind'", "is empty"]),
    "NaN": (10, "2020-01-01 09:00:00,NaN,1", ["line 11", "'load'", "'NaN'"]),
    "infinity": (10, "2020-01-01 09:00:00,1,-inf", ["line 11", "'wind'", "'-inf'"]),
    "decimal comma": (10, '2020-01-01 09:00:00,"1,5",1', ["line 11", "'1,5'", "decimal point"]),
    "no time": (10, "yesterday,1,1", ["line 11", "'time'", "'yesterday'", "ISO 8601"]),
    "missing field": (10, "2020-01-01 09:00:00,1", ["line 11", "2 fields", "expected 3"]),
    "duplicate": (
        10,
        "2020-01-01 08:00:00,1,1",
        ["line 11", "'2020-01-01 08:00:00'", "of line 10", "duplicate", "group_column"],
    ),
    "unsorted": (
        10,
        "2020-01-01 02:00:00,1,1",
        ["line 11", "'2020-01-01 02:00:00'", "'2020-01-01 08:00:00'", "not sorted", "sort"],
    ),
    "irregular": (
        10,
        "2020-01-01 09:30:00,1,1",
        ["line 11", "'2020-01-01 09:30:00'", "irregular step", "1:00:00", "resample"],
    ),
    "gap": (
        10,
        None,
        ["line 11", "'2020-01-01 10:00:00'", "'2020-01-01 08:00:00'", "1 times missing", "1:00:00"],
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_refuses_a_defect_and_says_where(tmp_path: Path, defect: str) -> None:
    at, line, words = DEFECTS[defect]
    lines = good_lines()
    lines[at : at + 1] = [] if line is None else [line]
    path = write(tmp_path / "defect.csv", lines)
    with pytest.raises(ValueError, match=r"defect\.csv") as error:
        load(path)
    for word in [str(path), "expected", *words]:
        assert word in str(error.value)


def test_a_gap_right_at_the_start_is_not_taken_for_the_step(tmp_path: Path) -> None:
    lines = good_lines()
    del lines[2:4]
    path = write(tmp_path / "gap.csv", lines)
    with pytest.raises(ValueError, match=r"line 3: .*2 times missing; expected a step of 1:00:00"):
        load(path)


def test_gap_in_one_group_names_the_group(tmp_path: Path) -> None:
    lines = ["time,site,load"]
    for i, t in enumerate(hourly(30)):
        lines += [f"{t},north,{i}"] + ([f"{t},south,{i}"] if i != 20 else [])
    path = write(tmp_path / "groups.csv", lines)
    with pytest.raises(ValueError, match=r"column 'time' of site 'south'.*1 times missing"):
        load(path, value_columns=["load"], group_column="site")


def test_empty_group_name(tmp_path: Path) -> None:
    path = write(tmp_path / "groups.csv", ["time,site,load", "2020-01-01,a,1", "2020-01-02,,1"])
    with pytest.raises(ValueError, match=r"line 3: column 'site': is empty"):
        load(path, value_columns=["load"], group_column="site")


def test_unknown_column_lists_the_existing(tmp_path: Path) -> None:
    path = write(tmp_path / "good.csv", good_lines())
    with pytest.raises(ValueError, match=r"column 'power'.*expected one of: time, load, wind"):
        load(path, value_columns=["power"])


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = write(tmp_path / "twice.csv", ["time,load,load", "2020-01-01,1,2"])
    with pytest.raises(ValueError, match=r"line 1: column 'load': several columns"):
        load(path, value_columns=["load"])


@pytest.mark.parametrize(
    ("columns", "words"), [("load", "a list of column names"), (["load", "load"], "named twice")]
)
def test_value_columns_must_be_a_list_of_different_names(
    tmp_path: Path, columns: object, words: str
) -> None:
    path = write(tmp_path / "good.csv", good_lines())
    with pytest.raises(ValueError, match=words):
        load(path, value_columns=columns)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "the line is empty"),
        (["time,load,wind"], "no rows below the header"),
        (good_lines(1), r"\(1 rows\).*history \+ horizon"),
        (good_lines(8), r"8 rows: one window needs history \+ horizon = 6 \+ 3 = 9 rows"),
        (good_lines(20), r"validation part of 20 rows.*expected at least 29 rows"),
    ],
)
def test_too_short(tmp_path: Path, lines: list[str], words: str) -> None:
    path = write(tmp_path / "short.csv", lines)
    with pytest.raises(ValueError, match=words):
        load(path)


def test_as_many_rows_as_the_error_asks_for_are_enough(tmp_path: Path) -> None:
    source = load(write(tmp_path / "enough.csv", good_lines(29)))
    assert min(len(source.train), len(source.validation), len(source.test)) >= 1
    with pytest.raises(ValueError, match="expected at least 29 rows"):
        load(write(tmp_path / "short.csv", good_lines(28)))


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.csv: no such file"):
        load(tmp_path / "absent.csv")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load(tmp_path)


def test_not_utf8_and_not_text(tmp_path: Path) -> None:
    latin = write(tmp_path / "latin.csv", ["time,load,wind", "M\u00e4rz,1,1"], encoding="latin-1")
    with pytest.raises(ValueError, match=r"latin\.csv: byte 0xe4 is not UTF-8.*iconv"):
        load(latin)
    quote = write(tmp_path / "quote.csv", [*good_lines(), '"' + "x" * 200_000])
    with pytest.raises(ValueError, match=r"quote\.csv: not readable as CSV"):
        load(quote)


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path) -> None:
    lines = [line + (",ok" if i else ",note") for i, line in enumerate(good_lines())]
    lines[6] = lines[6].replace(",ok", ',"not')
    path = write(tmp_path / "quote.csv", lines)
    with pytest.raises(ValueError, match=r"quote\.csv: not readable .* from line 7 on .* close"):
        load(path)
    lines[0] = lines[0].replace(",note", ',"note')
    with pytest.raises(ValueError, match=r"quote\.csv: line 1: not readable as CSV .* close"):
        load(write(path, lines))


def test_real_load_series() -> None:
    folder = os.environ.get("HPC_BNN_TEST_DATA")
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    path = (Path(folder) if folder else beside) / REAL_FILE
    if not path.is_file():
        pytest.skip(f"{REAL_FILE} is not in $HPC_BNN_TEST_DATA or ../shared/data")
    source = series(
        path, time_column="Date", value_columns=["Consumption"], history=168, horizon=24
    )
    # 2184 hours: 1529 before the first cut, 218 before the second, 437 behind it.
    assert [len(part) for part in (source.train, source.validation, source.test)] == [
        1529 - 192 + 1,
        218 - 24 + 1,
        437 - 24 + 1,
    ]
    assert isinstance(source.train, Windows)
    assert source.scale is not None
    x, _ = source.train.batch(torch.tensor([0]))
    assert source.scale.physical(x)[0, 0, 0] == pytest.approx(0.8768429375915834, abs=1e-8)
    assert source.train.target_times(0)[0] == datetime(1990, 4, 8)


@pytest.mark.parametrize("number", ["1e20", "-9.96921e36"])
def test_a_number_that_stands_for_none_is_named(tmp_path: Path, number: str) -> None:
    lines = good_lines()
    time = lines[11].split(",")[0]
    lines[11] = f"{time},{number},1"
    said = f"{float(number):g} is no value".replace("+", r"\+")
    with pytest.raises(ValueError, match=rf"column 'load' at {time[:10]}.*: {said}"):
        load(write(tmp_path / "a.csv", lines))
