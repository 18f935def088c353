"""A fault ends the job on all nodes, soon, with a message, and is not repeated by requeueing; those
that the job goes on from are not let go on here (test_recovery).
"""

import re
import signal
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster
from faults.sitecustomize import RAISE, SLEEP
from jobs import ENVIRONMENT, LIMIT_S, Job
from tiny_train import TWO_BY_ONE, Train

FOR_EVER = "train.steps=100000"
SOON_S = 40.0  # a few seconds on a quiet machine


def assert_ends(job: Job, began: float, what: str) -> None:
    ended = job.ended()
    seconds = time.monotonic() - began
    print(f"{what}: job ended after {seconds:.1f} s, exit code {ended['ExitCode']}")
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), job.report()
    assert ended["ExitCode"] not in ("0:0", "85:0"), job.report()
    assert seconds < SOON_S, job.report()
    assert not job.ranks(), "a rank outlives its job"


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_rank(train: Train, tmp_path: Path, rank: int) -> None:
    options = (FOR_EVER, "train.checkpoint_every=5")
    job = train(TWO_BY_ONE, tmp_path / "run", *options, given={"MAX_RESTARTS": "0"})
    job.said("step 6 of")
    assert_ends(job, job.signal_rank(rank, signal.SIGKILL), f"kill -9 of rank {rank}")
    assert "Killed" in job.text, job.report()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))


def test_raising_rank(train: Train, tmp_path: Path) -> None:
    job = train(TWO_BY_ONE, tmp_path / "run", FOR_EVER)
    job.said("step 2 of")
    assert_ends(job, job.signal_rank(1, RAISE), "exception on rank 1")
    assert "Fault: this rank lost its memory" in job.text, job.report()


@pytest.mark.parametrize(
    ("fault", "what"), [(SLEEP, "rank 1 sleeps"), (signal.SIGSTOP, "rank 1 is stopped")]
)
def test_stuck_rank(train: Train, tmp_path: Path, fault: int, what: str) -> None:
    options = (FOR_EVER, "train.stall_timeout=6")
    job = train(TWO_BY_ONE, tmp_path / "run", *options, given={"MAX_RESTARTS": "0"})
    job.said("step 2 of")
    assert_ends(job, job.signal_rank(1, fault), what)
    assert job.facts()["ExitCode"] == "86:0", job.report()
    assert "a rank was stuck after 0 restarts (MAX_RESTARTS)" in job.text
    said = (
        r"rank 0 of 2 has waited 6 s in .*: rank 1 \(n[1-4]\) (has not come there|does not answer)"
    )
    assert len(re.findall(said, job.text)) == job.text.count("has waited") == 1, job.report()


def test_srun_without_pmix(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    """Each rank would be a world of its own, and all would train in one folder."""
    command = (sys.executable, "-m", "mpi4py", "-m", "hpc_bnn", "train", config)
    ended = cluster.attempt(
        "srun", "--mpi=none", *TWO_BY_ONE, *command, "--run", tmp_path / "run",
        given=ENVIRONMENT, limit_s=LIMIT_S,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert "SLURM_STEP_NUM_TASKS = 2, but MPI connects 1 rank(s)" in ended.stderr
    assert "try srun --mpi=pmix" in ended.stderr
    assert not (tmp_path / "run").exists()
