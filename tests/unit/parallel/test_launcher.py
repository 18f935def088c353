"""What launchers say to their ranks, one of them perhaps inside a step of another, and children."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_bnn.parallel.launcher import (
    PROCESS,
    LaunchError,
    launched_size,
    record_process,
    refuse_child,
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
