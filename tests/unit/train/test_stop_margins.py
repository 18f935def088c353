"""What the clock counts on: not on the start for a step, on a batch for a batch."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from thread_group import on_ranks

from hpc_bnn.group import Group
from hpc_bnn.lock import LockError, hold
from hpc_bnn.train.run.restarts import recovery_facts
from hpc_bnn.train.run.stop import Interrupted, NotBegun, Stop


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("hpc_bnn.train.run.stop.time.monotonic", lambda: now[0])
    return now


def test_the_first_step_is_a_start_as_well(clock: list[float]) -> None:
    """It took 500 s of 1000, as compiling does: the next may be short, so the run goes on, but not
    without a checkpoint. The steps that follow decide alone.
    """
    stop = Stop(max_time_s=1000, began=0.0)
    clock[0] = 600.0
    stop.note_step(500.0, is_first=True)
    assert stop.due() == ""
    assert stop.is_tight
    clock[0] = 601.0
    stop.note_step(1.0)
    assert stop.due() == ""
    assert not stop.is_tight
    clock[0] = 940.0
    assert stop.due() == "train.max_time"


def test_a_first_step_with_time_left_asks_for_nothing(clock: list[float]) -> None:
    stop = Stop(max_time_s=1000, began=0.0)
    stop.note_step(500.0, is_first=True)
    assert stop.due() == ""
    assert not stop.is_tight


def test_all_ranks_save_where_one_is_tight(clock: list[float]) -> None:
    def found(all_ranks: Group) -> bool:
        stop = Stop(all_ranks, max_time_s=1000, began=0.0)
        stop.note_step(950.0 * (all_ranks.rank == 1), is_first=True)
        stop.due()
        return stop.is_tight

    assert on_ranks(3, found) == [True] * 3


def test_a_validation_counts_on_its_own_batches(clock: list[float]) -> None:
    stop = Stop(max_time_s=1000, began=0.0)
    stop.check()
    clock[0] = 100.0
    stop.check()  # a batch took 100 s
    clock[0] = 839.0
    assert stop.due() == ""
    stop.check()
    clock[0] = 841.0
    with pytest.raises(Interrupted, match=r"train\.max_time"):
        stop.check()
    assert stop.due() == ""  # what a step takes is another thing


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_before_the_first_step_a_run_ends_at_once(name: str) -> None:
    with Stop(at_once=True) as stop:
        with pytest.raises(NotBegun, match=f"signal {name}: ended before the first step"):
            os.kill(os.getpid(), signal.Signals[name])
        stop.begin()
        assert stop.due() == f"signal {name}"


def test_the_log_says_once_what_the_checkpoint_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hpc_bnn")
    with Stop() as stop:
        stop.begin()
        stop.note_step(130.0)
        stop.note_checkpoint(2.0, step=40)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    (said,) = caplog.messages
    assert said == (
        "signal SIGTERM: a checkpoint is written after this step (the longest took 130 s, a "
        "checkpoint 2 s); where the job is killed before that, it goes on from step 40"
    )


def test_usr1_stays_with_a_library_that_listens_to_it() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.due() == ""
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


def test_usr1_is_heard_where_a_job_script_let_ranks_ignore_it() -> None:
    code = (
        "import os, signal\n"
        "from hpc_bnn.train.run.stop import Stop\n"
        "with Stop() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    print(stop.due())\n"
    )
    words = ["sh", "-c", 'trap "" USR1; exec "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "signal SIGUSR1\n"


def test_a_further_attempt_of_a_job_takes_over(tmp_path: Path) -> None:
    """The ranks of the one before are frozen, on a node that hangs."""
    job = {"SLURM_JOB_ID": "50", "SLURM_CLUSTER_NAME": "one", "SLURM_RESTART_COUNT": "1"}
    frozen = hold(tmp_path / "lock", {**job, "HPC_BNN_ATTEMPT": "1"})
    for other in ({**job, "HPC_BNN_ATTEMPT": "1"}, job):
        with pytest.raises(LockError, match="is working in this folder"):
            hold(tmp_path / "lock", other)
    further = hold(tmp_path / "lock", {**job, "HPC_BNN_ATTEMPT": "2"})
    with pytest.raises(LockError, match="has taken this run folder over"):
        frozen.require_own()
    requeued = hold(tmp_path / "lock", {**job, "SLURM_RESTART_COUNT": "2"})
    with pytest.raises(LockError, match="has taken this run folder over"):
        further.require_own()
    requeued.close()


@pytest.mark.parametrize(
    ("said", "facts"),
    [
        ('{"why": "node lost: n2", "since": 90.5}', {"why": "node lost: n2", "down_s": 9.5}),
        ("", {}),
        ("{", {}),
        ("[]", {}),
        ('{"why": "x"}', {}),
    ],
)
def test_what_a_job_script_says_of_a_fault(said: str, facts: dict[str, object]) -> None:
    assert recovery_facts({"HPC_BNN_RECOVERY": said}, now=100.0) == facts
