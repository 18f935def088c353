"""Which ranks log what: a line a node, not a line a rank."""

import logging

import pytest
from thread_group import ThreadGroup, on_ranks

from hpc_bnn.cli.log_lines import log_to_stderr


@pytest.mark.parametrize(
    ("rank", "verbosity", "environment", "level"),
    [
        (0, 0, {}, logging.INFO),
        (0, -1, {}, logging.WARNING),
        (0, 0, {"SLURM_LOCALID": "3"}, logging.INFO),
        (1, 0, {}, logging.WARNING),
        (1, 0, {"OMPI_COMM_WORLD_LOCAL_RANK": "1"}, logging.ERROR),
        (1, 0, {"OMPI_COMM_WORLD_LOCAL_RANK": "0"}, logging.WARNING),
        # The ranks of an mpirun inside a step of Slurm, which inherit its word.
        (1, 0, {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, logging.ERROR),
        (1, 1, {"OMPI_COMM_WORLD_LOCAL_RANK": "1"}, logging.INFO),
    ],
)
def test_levels(rank: int, verbosity: int, environment: dict[str, str], level: int) -> None:
    def work(group: ThreadGroup) -> None:
        if group.rank == rank:
            log_to_stderr(group, verbosity, environment)

    on_ranks(2, work)
    assert logging.getLogger("hpc_bnn").level == level
