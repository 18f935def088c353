"""The private Slurm of these tests stands a busy machine, and tests that fail."""

from pathlib import Path

import pytest
from cluster import Cluster
from jobs import Job, submit
from node_faults import Fault, freeze, hand_back, set_down, state_of
from tiny_train import TWO_BY_ONE


@pytest.fixture
def sleeping(cluster: Cluster, tmp_path: Path) -> Job:
    """A job on two nodes that does not end by itself."""
    job = submit(cluster, tmp_path, *TWO_BY_ONE, "--no-kill", "--wrap=srun --mpi=none sleep 600")
    job.until(lambda: job.facts()["JobState"] == "RUNNING", "run")
    return job


@pytest.mark.parametrize("fault", [set_down, freeze])
def test_nodes_are_handed_back(cluster: Cluster, sleeping: Job, fault: Fault) -> None:
    """Though nobody undoes the fault."""
    fault(cluster, sleeping)
    hand_back(cluster)
    assert {state_of(cluster, node) for node in cluster.nodes} == {"idle"}
    assert cluster.run("srun", "--nodes=4", "--mpi=none", "hostname").split()


def test_a_node_that_was_lost_comes_back(cluster: Cluster) -> None:
    cluster.lose_node("n4")
    cluster.start_node("n4")
    hand_back(cluster)
    said = cluster.run("srun", "--nodelist=n4", "--mpi=none", "hostname")
    assert said == "n4\n"


def test_a_busy_controller_is_asked_again(cluster: Cluster, tmp_path: Path) -> None:
    late = f"echo >>{tmp_path}/tries; (($(wc -l <{tmp_path}/tries) > 2)) && echo done && exit; "
    late += "echo 'slurm_load_jobs error: Socket timed out on send/recv operation' >&2; exit 1"
    assert cluster.run("bash", "-c", late) == "done\n"
    with pytest.raises(AssertionError, match="Invalid node name"):
        cluster.run("scontrol", "update", "nodename=n99", "state=down", "reason=test")
