"""How far a long job is, in words."""

import logging

import pytest

from hpc_bnn.progress import Pace, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the times that are read, one after the other."""
    times: list[float] = []
    monkeypatch.setattr("hpc_bnn.progress.time.perf_counter", lambda: times.pop(0))
    return times


def test_the_pace_is_that_since_the_start(clock: list[float]) -> None:
    clock += [100.0, 100.5, 130.0]
    pace = Pace(7210, done=10)
    assert pace.at(10) == (0.5, "1:00:00")  # before the first one
    assert pace.at(15) == (6.0, "11:59:30")


def test_the_pace_is_that_of_late(clock: list[float]) -> None:
    """A start of 100 s, then a step a second; then a pause of hours."""
    clock += [0.0, 100.0, 200.0, 300.0, 400.0, 501.0, 9501.0, 9502.0]
    pace = Pace(10_000, window_s=300.0)
    assert pace.at(1)[0] == 100.0
    assert pace.at(101)[0] == 200.0 / 101
    assert pace.at(201)[0] == 300.0 / 201
    assert pace.at(301) == (1.0, "2:41:39"), "the start is forgotten"
    assert pace.at(402)[0] == 1.0
    assert pace.at(403)[0] == 9000.0, "since it was asked last"
    assert pace.at(404)[0] == 9001.0 / 2


def test_a_share_of_bytes_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hpc_bnn")
    progress = Progress("folder: packing", 3_000_000, every_s=3600.0)
    progress.add(1_000_000)
    assert caplog.messages == []
    progress.add(2_000_000)
    (line,) = caplog.messages
    assert line.startswith("folder: packing: 3.0 of 3.0 MB of this rank, ")
    assert line.endswith(" MB/s, ETA 0:00:00")
