"""Stopping early: a decision of all ranks, by signal or clock; locks; what a restart cost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from thread_channel import on_world

from hpc_bnn.config.settings import TrainSettings
from hpc_bnn.parallel.channel import SOLO, Channel
from hpc_bnn.train.lock import LockError, hold
from hpc_bnn.train.restarts import lost_steps
from hpc_bnn.train.stop import SIGNAL, Stop


def test_a_signal_to_this_process_is_noted_until_the_end() -> None:
    before = signal.getsignal(SIGNAL)
    with Stop(SOLO, began=time.monotonic()) as stop:
        assert stop.due() == ""
        os.kill(os.getpid(), SIGNAL)
        assert stop.due() == f"signal {SIGNAL.name}"
        assert stop.due() == f"signal {SIGNAL.name}"
    assert signal.getsignal(SIGNAL) == before


@pytest.mark.parametrize("asked", range(3))
def test_what_one_rank_saw_all_ranks_decide(asked: int) -> None:
    def run(channel: Channel) -> list[str]:
        stop = Stop(channel, began=time.monotonic())
        first = stop.due()
        if channel.rank == asked:
            stop._note(SIGNAL, None)  # handlers run in the main thread only
        return [first, stop.due()]

    assert on_world(3, run) == [["", f"signal {SIGNAL.name}"]] * 3


def test_the_clock_of_one_rank_stops_all() -> None:
    def run(channel: Channel) -> str:
        now = time.monotonic()
        return Stop(channel, max_time_s=3600, began=now - 3590 * (channel.rank == 1)).due()

    assert on_world(2, run) == ["train.max_time"] * 2


@pytest.mark.parametrize(
    ("elapsed", "late"), [(0.0, False), (3500.0, False), (3545.0, True), (5000.0, True)]
)
def test_the_clock_leaves_time_for_a_checkpoint(elapsed: float, late: bool) -> None:
    stop = Stop(SOLO, max_time_s=3600, began=time.monotonic() - elapsed)
    assert (stop.due() != "") == late


def test_a_short_budget_is_not_all_margin() -> None:
    now = time.monotonic()
    assert Stop(SOLO, max_time_s=10, began=now - 7).due() == ""
    assert Stop(SOLO, max_time_s=10, began=now - 8.1).due() == "train.max_time"


def test_no_budget_never_ends() -> None:
    assert Stop(SOLO, began=time.monotonic() - 1e9).due() == ""


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90), (1.5, 1.5), ("00:30:00", 1800), ("1-02:03:04", 93784), ("02:30", 150)],
)
def test_time_limits(given: float | str, seconds: float) -> None:
    settings = TrainSettings.model_validate({"steps": 1, "max_time": given})
    assert settings.max_time == seconds


@pytest.mark.parametrize("given", ["tomorrow", "1:2:3:4", "-5", -5])
def test_what_is_no_time_limit_is_refused(given: float | str) -> None:
    with pytest.raises(ValueError, match="max_time"):
        TrainSettings.model_validate({"steps": 1, "max_time": given})


HOLDER = """
import sys, time
from pathlib import Path
from hpc_bnn.train.lock import hold
held = hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_job_is_told_who_works_there(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    path.parent.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(LockError, match=rf"run: process {other.pid} on .* is working in this"):
            hold(path)
        other.kill()  # the lock goes with the process, however it ends
        other.wait()
    held = hold(path)
    assert held is not None and f"process {os.getpid()} " in path.read_text(encoding="utf-8")
    held.close()


def test_lost_steps_are_those_after_the_checkpoint(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert lost_steps(metrics, 0) == 0
    rows = [{"step": step, "loss": 1.0} for step in range(7)] + [{"step": 6, "validation": 1.0}]
    metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 7, "lo', encoding="utf-8")
    assert lost_steps(metrics, 7) == 0
    assert lost_steps(metrics, 4) == 3
