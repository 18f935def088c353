"""What launchers say to their ranks, one of them perhaps inside a step of another, to children, and
of the place of ranks on their nodes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from thread_group import on_ranks

from hpc_bnn.group import Group
from hpc_bnn.parallel import launcher
from hpc_bnn.parallel.launcher import (
    NODE_RANKS,
    PROCESS,
    LaunchError,
    launched_size,
    node_name,
    node_rank_of,
    record_process,
    refuse_child,
    require_equal_nodes,
    split_by_node,
)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ("", 1)),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ("SLURM_STEP_NUM_TASKS", 4)),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "8"}, ("SLURM_STEP_NUM_TASKS", 2)),
        ({"SLURM_NTASKS": "8"}, ("SLURM_NTASKS", 8)),
        (
            {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"},
            ("SLURM_NTASKS", 8),
        ),
        # A batch script that runs Python itself: one process, whatever the job asked for.
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, ("", 1)),
        (
            {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "OMPI_COMM_WORLD_SIZE": "4"},
            ("OMPI_COMM_WORLD_SIZE", 4),
        ),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ("OMPI_COMM_WORLD_SIZE", 4)),
        ({"PMI_SIZE": "3"}, ("PMI_SIZE", 3)),
        ({"OMPI_COMM_WORLD_SIZE": "", "PMI_SIZE": "many"}, ("", 1)),
        ({"SLURM_NTASKS": "1"}, ("SLURM_NTASKS", 1)),
        # mpirun in a step: srun --pty bash, or a daemon of mpirun that srun started on its node.
        (
            {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "2"},
            ("OMPI_COMM_WORLD_SIZE", 2),
        ),
        (
            {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "PMI_SIZE": "1"},
            ("PMI_SIZE", 1),
        ),
    ],
)
def test_launched_size(environment: dict[str, str], expected: tuple[str, int]) -> None:
    assert launched_size(environment) == expected


STEP = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "OMPI_COMM_WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    ("began_with", "expected"),
    [
        # srun in a script that mpirun started: its tasks have inherited the word of mpirun.
        ({"OMPI_COMM_WORLD_SIZE": "1"}, ("SLURM_STEP_NUM_TASKS", 4)),
        # mpirun in the shell that is the task.
        ({}, ("OMPI_COMM_WORLD_SIZE", 1)),
    ],
)
def test_the_innermost_launcher_counts(
    began_with: dict[str, str], expected: tuple[str, int]
) -> None:
    task = subprocess.Popen(["sleep", "60"], env=began_with | {"PATH": os.environ["PATH"]})
    try:
        # The environment of a process is its own once it runs its program, and empty just before.
        process = Path(f"/proc/{task.pid}")
        while (process / "exe").samefile(sys.executable) or not (process / "environ").read_bytes():
            pass
        assert launched_size(STEP | {"SLURM_TASK_PID": str(task.pid)}) == expected
    finally:
        task.kill()
        task.wait()


@pytest.mark.parametrize("task", ["", "none", "999999999"])
def test_a_task_that_is_not_there(task: str) -> None:
    assert launched_size(STEP | {"SLURM_TASK_PID": task}) == ("OMPI_COMM_WORLD_SIZE", 1)


def test_a_child_of_a_rank_is_refused_and_told_why() -> None:
    environment = {"PMIX_NAMESPACE": "prterun-n1-4711@1"}
    refuse_child(environment)
    record_process(environment)
    refuse_child(environment)
    process = environment[PROCESS].partition(" ")[0]
    assert process == str(os.getpid())
    environment[PROCESS] = environment[PROCESS].replace(process, "1", 1)
    with pytest.raises(LaunchError, match=re.escape('put what it does under if __name__ == "__m')):
        refuse_child(environment)


def test_ranks_that_a_rank_starts_with_a_launcher_are_none_of_its_children() -> None:
    environment = {"PMIX_NAMESPACE": "prterun-n1-4711@1", PROCESS: "1 prterun-n1-42@1///"}
    refuse_child(environment)


# The place of ranks on their nodes


def node_ranks(*environments: dict[str, str]) -> list[int]:
    return on_ranks(len(environments), lambda group: node_rank_of(group, environments[group.rank]))


def test_node_rank_is_the_order_of_ranks_where_no_launcher_speaks() -> None:
    assert node_ranks({}, {}, {}) == [0, 1, 2]


@pytest.mark.parametrize("variable", NODE_RANKS)
def test_node_rank_of_a_launcher_is_believed(variable: str) -> None:
    assert node_ranks({variable: "1"}, {variable: "0"}, {variable: "2"}) == [1, 0, 2]


def test_mpirun_in_a_step_of_slurm() -> None:
    """Its ranks inherit the place of the shell, or of mpirun's daemon, that is the task."""
    step = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"}
    assert node_ranks(*({**step, "OMPI_COMM_WORLD_LOCAL_RANK": w} for w in ("1", "0"))) == [1, 0]
    assert node_ranks(step, step) == [0, 1]


def test_srun_in_a_script_that_mpirun_started() -> None:
    outer = {"OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    assert node_ranks(*({**outer, "SLURM_LOCALID": word} for word in ("1", "0"))) == [1, 0]


@pytest.mark.parametrize("words", [("0", "0"), ("2", "3"), ("0", "2"), ("", "0"), ("a", "b")])
def test_numbers_that_do_not_count_the_ranks_of_the_node(words: tuple[str, str]) -> None:
    assert node_ranks(*({"OMPI_COMM_WORLD_LOCAL_RANK": word} for word in words)) == [0, 1]


def test_a_node_is_a_running_kernel_or_what_slurm_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(launcher, "BOOT_ID", boot)
    boot.write_text("4a5e\n", encoding="ascii")
    first = node_name({})
    assert first == node_name({"HOSTNAME": "a container"})
    assert first != node_name({"SLURMD_NODENAME": "n1"}) != node_name({"SLURMD_NODENAME": "n2"})
    boot.write_text("77aa\n", encoding="ascii")
    assert node_name({}) != first
    boot.unlink()
    monkeypatch.setattr("socket.gethostname", lambda: "n3")
    assert node_name({}).startswith("n3")


@pytest.mark.parametrize(
    ("names", "nodes"),
    [
        ("aaa", [0, 0, 0]),
        ("abab", [0, 1, 0, 1]),
        ("aaab", [0, 0, 0, 3]),
        ("baac", [0, 1, 1, 3]),
    ],
)
def test_nodes_of_a_world(names: str, nodes: list[int]) -> None:
    """Also where ranks go round the nodes, or nodes hold different numbers of them."""

    def work(group: Group) -> tuple[list[int], list[int]]:
        node, found = split_by_node(group, names[group.rank])
        return node.gather(group.rank, name="members"), found

    for rank, (members, found) in enumerate(on_ranks(len(names), work)):
        assert found == nodes
        assert members == [r for r, name in enumerate(names) if name == names[rank]]


def test_hybrid_needs_equal_nodes() -> None:
    require_equal_nodes([0, 0, 2, 2])
    with pytest.raises(ValueError, match=r"grid\.mode = hybrid: the nodes hold 2, 1, 1 ranks"):
        require_equal_nodes([0, 0, 2, 3])
