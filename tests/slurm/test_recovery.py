"""A rank or a node dies: the job goes on in its allocation, with the steps and the answer of a run
that nothing happened to (tests/bench/faults.py does it often, at random steps).
"""

from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster
from node_faults import OPTIONS, Fault, freeze, kill_rank, resume, set_down
from tiny_train import TWO_BY_TWO, Train, restarts, summary

STEPS = "train.steps=16"


@pytest.fixture(scope="module")
def expected(train: Train, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of the run that nothing happens to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    job = train(TWO_BY_TWO, run, STEPS, *OPTIONS)
    assert job.ended(400)["ExitCode"] == "0:0", job.report()
    return summary(run)


@pytest.mark.parametrize(
    ("fault", "why", "grid"),
    [
        (kill_rank(2), "a rank died (status 137)", (2, 2, 2)),
        (set_down, "node lost: n2", (2, 1, 1)),
        (freeze, "node lost: n2", (2, 1, 1)),
    ],
    ids=["rank killed", "node set down", "node frozen"],
)
def test_goes_on_with_what_is_left(
    cluster: Cluster,
    train: Train,
    tmp_path: Path,
    expected: dict[str, Any],
    fault: Fault,
    why: str,
    grid: tuple[int, int, int],
) -> None:
    run = tmp_path / "run"
    job = train(("--no-kill", *TWO_BY_TWO), run, STEPS, *OPTIONS, "train.log_every=1")
    job.said("step 5 of")
    undo = fault(cluster, job)
    try:
        ended = job.ended(400)
    finally:
        undo()
    assert (ended["ExitCode"], ended["Restarts"]) == ("0:0", "0"), job.report()
    (row,) = restarts(run)
    assert row["lost_steps"] <= 1, row
    assert row["why"] == why
    assert row["from"].startswith("/dev/shm/hpc_bnn-")
    assert row["old_grid"] == {"sample_ranks": 2, "data_ranks": 2, "nodes": 2}
    assert tuple(row["grid"].values()) == grid
    assert 0 < row["restart_time_s"] < row["down_s"]
    assert f"{why}: going on in this allocation (recovery 1)" in job.text
    got, whole = (each["parameter_checksum"] for each in (summary(run), expected))
    if row["grid"] == row["old_grid"]:
        assert got == whole
    for key, value in whole.items():
        assert got[key] == pytest.approx(value, rel=1e-8)


def test_the_first_node_dies(
    cluster: Cluster, train: Train, tmp_path: Path, expected: dict[str, Any]
) -> None:
    """It runs the script: Slurm lets the job be, and another node has it requeued."""
    run = tmp_path / "run"
    words = (("--no-kill", *TWO_BY_TWO), run, STEPS, *OPTIONS, "train.log_every=1")
    job = train(*words, given={"HPC_BNN_WATCH_S": "1"})
    job.said("step 6 of")
    first = job.facts()["BatchHost"]
    cluster.lose_node(first)
    try:
        ended = job.ended(400)
    finally:
        cluster.start_node(first)
    assert (ended["ExitCode"], ended["Restarts"]) == ("0:0", "1"), job.report()
    assert ended["NodeList"] == "n[2-3]"
    (row,) = restarts(run)
    assert row["lost_steps"] <= 1, row
    assert row["from"].startswith("/dev/shm/hpc_bnn-")
    assert summary(run)["parameter_checksum"] == expected["parameter_checksum"]


def test_the_first_node_is_set_down(
    cluster: Cluster, train: Train, tmp_path: Path, expected: dict[str, Any]
) -> None:
    """Its slurmd lives, and kills the script; this Slurm would take the node back at once."""
    run = tmp_path / "run"
    words = (("--no-kill", *TWO_BY_TWO), run, STEPS, *OPTIONS, "train.log_every=1")
    job = train(*words, given={"HPC_BNN_WATCH_S": "1"})
    job.said("step 6 of")
    first = job.facts()["BatchHost"]
    for state in ("down", "drain"):
        cluster.run("scontrol", "update", f"nodename={first}", f"state={state}", "reason=fault")
    try:
        ended = job.ended(240)
    finally:
        resume(cluster, first)
    assert (ended["ExitCode"], ended["Restarts"]) == ("0:0", "1"), job.report()
    (row,) = restarts(run)
    assert row["lost_steps"] <= 1, row
    assert row["from"].startswith("/dev/shm/hpc_bnn-")
    assert summary(run)["parameter_checksum"] == expected["parameter_checksum"]


def test_no_more_often_than_max_restarts(train: Train, tmp_path: Path, cluster: Cluster) -> None:
    """And not where nothing was ever begun."""
    job = train(TWO_BY_TWO, tmp_path / "run", STEPS, *OPTIONS, given={"MAX_RESTARTS": "0"})
    job.said("step 2 of")
    kill_rank(1)(cluster, job)
    ended = job.ended()
    assert (ended["ExitCode"], ended["Restarts"]) == ("137:0", "0"), job.report()
    assert "a rank died (status 137) after 0 restarts (MAX_RESTARTS): given up" in job.text
