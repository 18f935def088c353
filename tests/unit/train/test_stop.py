"""Stopping early: a decision of all ranks, by signal or clock; locks; what a restart cost."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from thread_group import on_ranks, outcomes

from hpc_bnn.config.settings import TrainSettings
from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.lock import LockError, hold
from hpc_bnn.train.run.log import Metrics
from hpc_bnn.train.run.restarts import made_steps
from hpc_bnn.train.run.stop import SIGNAL, Interrupted, Stop


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM", "SIGINT"])
def test_a_signal_to_this_process_is_noted_until_the_end(name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with Stop(ALONE, began=time.monotonic()) as stop:
        assert stop.due() == ""
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.due() == f"signal {name}"
        assert stop.due() == f"signal {name}"
        with pytest.raises(Interrupted, match=f"signal {name}"):
            stop.check()
    assert signal.getsignal(number) == before


def killed_by(signals: list[signal.Signals]) -> int:
    """Return how a process ends that gets signals while it listens: the signal, 0 if it goes on."""
    child = os.fork()
    if child == 0:
        with Stop(ALONE, began=time.monotonic()) as stop:
            stop.due()
            for number in signals:
                os.kill(os.getpid(), number)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def test_a_second_interrupt_ends_the_process() -> None:
    again = [signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT]
    assert killed_by(again) == 0
    assert killed_by([*again, signal.SIGINT]) == signal.SIGINT


def test_an_interrupt_before_there_are_steps_ends_at_once() -> None:
    """What a batch system sends is noted: the job goes on elsewhere."""
    with Stop() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.due() == "signal SIGTERM"


def test_who_lets_us_ignore_an_interrupt_is_obeyed() -> None:
    """As a shell does that starts a command in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert killed_by([signal.SIGINT, signal.SIGINT]) == 0
        with Stop(ALONE, began=time.monotonic()) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.due() == ""
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("asked", range(3))
def test_what_one_rank_saw_all_ranks_decide(asked: int) -> None:
    def run(all_ranks: Group) -> list[str]:
        stop = Stop(all_ranks, began=time.monotonic())
        first = stop.due()
        if all_ranks.rank == asked:
            stop._note(SIGNAL, None)  # handlers run in the main thread only
        return [first, stop.due()]

    assert on_ranks(3, run) == [["", f"signal {SIGNAL.name}"]] * 3


def test_the_clock_of_one_rank_stops_all() -> None:
    def run(all_ranks: Group) -> str:
        now = time.monotonic()
        return Stop(all_ranks, max_time_s=3600, began=now - 3590 * (all_ranks.rank == 1)).due()

    assert on_ranks(2, run) == ["train.max_time"] * 2


@pytest.mark.parametrize(
    ("elapsed", "late"), [(0.0, False), (3500.0, False), (3545.0, True), (5000.0, True)]
)
def test_the_clock_leaves_time_for_a_checkpoint(elapsed: float, late: bool) -> None:
    stop = Stop(ALONE, max_time_s=3600, began=time.monotonic() - elapsed)
    assert (stop.due() != "") == late


def test_the_clock_leaves_time_for_the_longest_step_and_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But the start, in which data are read, says nothing about the steps."""
    clock = [400.0]
    monkeypatch.setattr("hpc_bnn.train.run.stop.time.monotonic", lambda: clock[0])
    stop = Stop(ALONE, max_time_s=1000, began=0.0)

    def last_moment() -> float:
        """Return the last second at which the run goes on."""
        late = []
        for second in range(400, 1000):
            clock[0] = second
            if stop.due():
                late.append(second)
        return min(late) - 1

    assert last_moment() == 940
    stop.note_step(10.0)
    stop.note_step(3.0)
    assert last_moment() == 930
    stop.note_checkpoint(20.0)
    assert last_moment() == 930
    stop.note_checkpoint(90.0)
    assert last_moment() == 900


def test_a_short_budget_is_not_all_margin() -> None:
    now = time.monotonic()
    assert Stop(ALONE, max_time_s=10, began=now - 7).due() == ""
    assert Stop(ALONE, max_time_s=10, began=now - 8.1).due() == "train.max_time"


def test_no_budget_never_ends() -> None:
    assert Stop(ALONE, began=time.monotonic() - 1e9).due() == ""


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
from hpc_bnn.lock import hold
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


def job(number: str, restart: int = 0, **more: str) -> dict[str, str]:
    count = {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
    return {"SLURM_JOB_ID": number, "SLURM_CLUSTER_NAME": "one", **count, **more}


def test_a_restart_takes_over_from_the_same_job_only(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    frozen = hold(path, job("50"))
    for other in (job("50"), job("51", 1), {}, job("50", 1, SLURM_CLUSTER_NAME="two")):
        with pytest.raises(LockError, match=r"Slurm job 50 on .* \(restart 0, process \d+, since"):
            hold(path, other)
    frozen.require_own()
    restart = hold(path, job("50", 2))
    restart.require_own()
    with pytest.raises(LockError, match=r"Slurm job 50 on .* \(restart 2, .* has taken this run"):
        frozen.require_own()
    with pytest.raises(LockError, match="is working in this folder"):
        hold(path, job("50", 1))  # an earlier start that comes late
    frozen.close()
    restart.require_own()
    with pytest.raises(LockError, match="is working in this folder"):
        hold(path, job("51"))
    restart.close()
    hold(path, job("51")).close()
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_a_lock_that_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = hold(path)
    path.unlink()
    with pytest.raises(LockError, match="the lock of this run is gone"):
        first.require_own()
    second = hold(path)
    with pytest.raises(LockError, match=rf"process {os.getpid()} on .* has taken this run folder"):
        first.require_own()
    first.close()
    second.require_own()
    second.close()


def test_the_rank_that_writes_finds_it_and_all_end() -> None:
    def gone() -> None:
        raise LockError("lock is gone")

    def run(all_ranks: Group) -> None:
        stop = Stop(all_ranks, began=time.monotonic())
        if all_ranks.rank == 0:
            stop.watch(gone)
        stop.due()

    first, *others = outcomes(3, run)
    assert isinstance(first, LockError)
    assert all(isinstance(other, RankError) for other in others)
    assert set(map(str, others)) == {
        "the run folder is no longer this job's, as another rank found"
    }


def test_a_lock_that_cannot_be_read_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on, and asks again; what it learns then counts."""
    answers = [OSError(errno.ESTALE, "Stale file handle", "run/lock"), LockError("lock is gone")]

    def ask() -> None:
        raise answers.pop(0)

    monkeypatch.setattr("hpc_bnn.train.run.stop.LOOK_S", 0.0)
    stop = Stop(ALONE, began=time.monotonic())
    stop.watch(ask)
    with caplog.at_level(logging.WARNING, logger="hpc_bnn"):
        assert stop.due() == ""
    told = f"cannot be read now: [Errno {errno.ESTALE}] Stale file handle: 'run/lock'"
    assert caplog.messages == [f"the lock of the run folder {told}"]
    with pytest.raises(LockError, match="lock is gone"):
        stop.due()


def test_a_lock_that_is_no_text(tmp_path: Path) -> None:
    """Another job's, whatever wrote it."""
    path = tmp_path / "lock"
    first = hold(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(LockError, match="has taken this run folder over"):
        first.require_own()
    with pytest.raises(LockError, match="is working in this folder"):
        hold(path)
    first.close()
    hold(path).close()


def test_made_steps_are_those_with_a_loss(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert made_steps(metrics) == 0
    rows = [{"step": step, "loss": 1.0} for step in range(7)] + [{"step": 6, "validation": 1.0}]
    metrics.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 7, "lo', encoding="utf-8")
    assert made_steps(metrics) == 7


@pytest.mark.parametrize("left", [b"\0\0\0", b"\xff\xfe\x00of another file", b"[1]\n5\n"])
def test_what_a_loss_of_power_leaves_behind_the_rows(tmp_path: Path, left: bytes) -> None:
    """It counts for nothing, and the run that goes on cuts it off."""
    path = tmp_path / "metrics.jsonl"
    rows = b"".join(b'{"step": %d, "loss": 1.0}\n' % step for step in range(5))
    path.write_bytes(rows + left)
    assert made_steps(path) == 5
    Metrics(path, first_step=5).close()
    assert path.read_bytes() == rows


def test_made_steps_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    child = os.fork()
    if child == 0:
        metrics = Metrics(path, first_step=0)
        for step in range(55):
            metrics.write({"step": step, "loss": 1.0})
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert made_steps(path) == 55
