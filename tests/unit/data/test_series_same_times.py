"""New files of a trained series: rows as far apart, and times that mean the same."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpc_bnn.data.facts import facts_of, source_of
from hpc_bnn.data.new_inputs import Asked
from hpc_bnn.data.series.csv_series import series, series_new_inputs
from hpc_bnn.data.source import Source

OPTIONS: dict[str, Any] = {
    "time_column": "time",
    "value_columns": ["load"],
    "history": 6,
    "horizon": 3,
    "calendar": ["hour_of_day"],
}


def written(path: Path, *, minutes: int = 60, offset: str = "") -> Path:
    times = [datetime(2024, 4, 1) + row * timedelta(minutes=minutes) for row in range(80)]
    rows = [f"{time.isoformat()}{offset},{row % 24}" for row, time in enumerate(times)]
    path.write_text("\n".join(["time,load", *rows]) + "\n", encoding="utf-8")
    return path


def kept(path: Path, **options: Any) -> Source:
    """Return what a run that was trained on the file keeps of it."""
    source = source_of(facts_of(series(path, **{**OPTIONS, **options})))
    assert source is not None
    return source


def use(run: Source, file: Path, start: str = "", **options: Any) -> None:
    """Score a file, and predict what follows it, by the run."""
    every = {**OPTIONS, **options}
    series(file, **every, kept=facts_of(run))
    every["path"] = file
    series_new_inputs(run, Asked(file=file, start=start), **every)


@pytest.mark.parametrize("offset", ["", "+02:00"])
def test_a_file_like_that_of_the_training_is_used(tmp_path: Path, offset: str) -> None:
    file = written(tmp_path / "a.csv", offset=offset)
    use(kept(file), file)


def test_a_zone_says_as_much_as_offsets(tmp_path: Path) -> None:
    run = kept(written(tmp_path / "a.csv", offset="+02:00"))
    use(run, written(tmp_path / "b.csv"), time_zone="Europe/Berlin")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"minutes": 15}, r"b\.csv: a row every 0:15:00: expected one every 1:00:00"),
        ({"offset": "+02:00"}, r"b\.csv: its times have an offset or a zone, .* had neither"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    run, file = kept(written(tmp_path / "a.csv")), written(tmp_path / "b.csv", **other)
    with pytest.raises(ValueError, match=said):
        series(file, **OPTIONS, kept=facts_of(run))
    with pytest.raises(ValueError, match=said):
        series_new_inputs(run, Asked(file=file, start=""), path=file, **OPTIONS)


def test_times_of_a_run_with_offsets_are_instants(tmp_path: Path) -> None:
    run, file = kept(written(tmp_path / "a.csv", offset="Z")), written(tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"have neither offset nor zone, .* had an offset"):
        use(run, file)


def test_a_start_with_an_offset_is_none_of_a_clock_without(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv")
    use(kept(file), file, start="2024-04-02T00:00")
    with pytest.raises(ValueError, match=r"--from 2024-04-02T00:00\+02:00: the times of the file"):
        use(kept(file), file, start="2024-04-02T00:00+02:00")


def test_what_a_run_did_not_keep_is_not_compared(tmp_path: Path) -> None:
    facts = facts_of(series(written(tmp_path / "a.csv"), **OPTIONS))
    for key in ("step_s", "instants"):
        del facts["window"][key]
    series(written(tmp_path / "b.csv", minutes=15, offset="Z"), **OPTIONS, kept=facts)
