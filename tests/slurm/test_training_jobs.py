"""train.sbatch on two nodes: stops in time, requeues itself and ends as if never stopped."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from jobs import Job
from tiny_train import (
    STEPS,
    TWO_BY_ONE,
    TWO_BY_TWO,
    Train,
    Uninterrupted,
    restarts,
    summary,
)


def assert_finished(job: Job) -> None:
    ended = job.ended()
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), job.report()


def assert_same(run: Path, expected: dict[str, Any], *, lost_steps: int = 0) -> None:
    """The same answer, bit for bit, with no more steps lost in a restart than said."""
    got = summary(run)
    assert got["steps"] == STEPS
    assert got["parameter_checksum"] == expected["parameter_checksum"]
    assert got["final_loss"] == expected["final_loss"]
    assert len(restarts(run)) == got["restarts"] > 0
    assert max(row["lost_steps"] for row in restarts(run)) <= lost_steps
    seconds = [round(row["restart_time_s"], 2) for row in restarts(run)]
    print(f"restart to first step: {seconds} s")
    assert all(s > 0 for s in seconds)


def test_grid_of_two_nodes(uninterrupted: Uninterrupted) -> None:
    """The samples of one batch stay inside a node."""
    summary = uninterrupted(TWO_BY_TWO)
    assert summary["grid"] == {"sample_ranks": 2, "data_ranks": 2, "nodes": 2}
    assert summary["steps"] == STEPS
    assert summary["restarts"] == 0


def test_stopped_by_its_clock(train: Train, tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    """One step a start, until MAX_RESTARTS; the same command then goes on to the end."""
    run = tmp_path / "run"
    job = train(TWO_BY_ONE, run, "train.max_time=0.001", given={"MAX_RESTARTS": "1"})
    ended = job.ended()
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "85:0"), job.report()
    assert ended["Restarts"] == "1"
    assert "not finished after 1 restarts (MAX_RESTARTS)" in job.text
    assert [row["step"] for row in restarts(run)] == [1]
    assert not (run / "summary.json").exists()

    assert_finished(train(TWO_BY_ONE, run))
    assert_same(run, uninterrupted(TWO_BY_ONE))
    assert summary(run)["restarts"] == 2


@pytest.mark.parametrize(
    ("layout", "options", "signal"),
    [
        (TWO_BY_TWO, ("--batch", "--signal=USR1"), "SIGUSR2"),
        (TWO_BY_ONE, ("--signal=TERM",), "SIGTERM"),
    ],
    ids=["time is nearly up", "preemption"],
)
def test_stopped_by_slurm(
    cluster: Cluster,
    train: Train,
    tmp_path: Path,
    uninterrupted: Uninterrupted,
    layout: tuple[str, ...],
    options: tuple[str, ...],
    signal: str,
) -> None:
    """In the middle of training: by the warning to the script, sent early, or by what all ranks get
    from preemption with a GraceTime.
    """
    run = tmp_path / "run"
    job = train(layout, run)
    job.said("step 1 of")
    cluster.run("scancel", *options, job.number)
    assert_finished(job)
    assert job.facts()["Restarts"] == "1", job.report()
    assert f"signal {signal}: stopped after step" in job.text
    assert_same(run, uninterrupted(layout))


def test_node_lost(
    cluster: Cluster, train: Train, tmp_path: Path, uninterrupted: Uninterrupted
) -> None:
    """Slurm itself starts the job again, on other nodes, from the last checkpoint."""
    run = tmp_path / "run"
    job = train(TWO_BY_ONE, run, "train.checkpoint_every=1")
    job.said("step 4 of")
    node = job.facts()["BatchHost"]
    try:
        cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        began = time.monotonic()
        assert_finished(job)
        seconds = time.monotonic() - began
    finally:
        cluster.attempt("scontrol", "update", f"nodename={node}", "state=resume")
    assert job.facts()["Restarts"] == "1", job.report()
    assert_same(
        run, uninterrupted(TWO_BY_ONE), lost_steps=1
    )  # the one whose checkpoint was being written
    assert restarts(run)[0]["step"] >= 3
    starts = re.findall(r"^train: (\S+ \S+) job", job.text, flags=re.MULTILINE)
    print(f"node lost: {seconds:.1f} s until the job is over, started {' and '.join(starts)}")


def test_two_jobs_in_one_folder(cluster: Cluster, train: Train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(TWO_BY_ONE, run, "train.steps=100000")
    first.said("step 1 of")
    second = train(TWO_BY_ONE, run, "train.steps=100000")
    ended = second.ended()
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), second.report()
    assert f"{run}: Slurm job {first.number} on" in second.text
    assert "is working in this folder" in second.text
    assert first.facts()["JobState"] == "RUNNING", first.report()
