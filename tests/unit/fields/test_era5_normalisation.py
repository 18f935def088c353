"""Statistics that were given: whether they know more than the training range."""

import logging
from pathlib import Path
from typing import Any

import pytest
from era5_files import hours, write_new
from packs import packed

from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.statistics import statistics
from hpc_bnn.fields.statistics_file import write_statistics

RANGES: dict[str, Any] = {
    "train": ("2017-01-02", "2017-01-04"),
    "validation": ("2017-01-05", "2017-01-06"),
    "test": ("2017-01-07", "2017-01-10"),
}


def warnings(
    folder: Path, caplog: pytest.LogCaptureFixture, start: str, end: str, **options: Any
) -> list[str]:
    write_new(folder / "a.nc", hours(40), ["t2m"])
    path = folder / "statistics.nc"
    write_statistics(path, statistics(packed(folder / "a.nc"), start=start, end=end,
                                      step_hours=6))  # fmt: skip
    caplog.clear()
    era5(folder / "a.nc", variables=["t2m"], step_hours=6, statistics=path, **(RANGES | options))
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2017-01-01", "2017-01-04"),
        ("2017-01-02", "2017-01-10"),
        ("2017-01-01", "2017-01-10"),
        ("2017-01-02", "2017-01-05T00:00"),
    ],
)
def test_statistics_beyond_the_training_range_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, start: str, end: str
) -> None:
    (told,) = warnings(tmp_path, caplog, start, end)
    last = end if "T" in end else f"{end}T18:00"
    assert f"the statistics are of {start}T00:00 to {last}" in told
    assert "beyond data.train = 2017-01-02 to 2017-01-04" in told


@pytest.mark.parametrize(
    ("start", "end"), [("2017-01-02", "2017-01-04"), ("2017-01-02T06:00", "2017-01-03")]
)
def test_statistics_within_it_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, start: str, end: str
) -> None:
    assert warnings(tmp_path, caplog, start, end) == []
