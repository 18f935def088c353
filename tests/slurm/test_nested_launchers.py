"""mpirun inside a job or a step of Slurm: its ranks inherit what Slurm said to the shell."""

import sys
from pathlib import Path

import pytest
from cluster import Cluster
from jobs import ENVIRONMENT, LIMIT_S

PLACE = Path(__file__).with_name("place.py")
MPIRUN = f"{Path(sys.executable).with_name('mpirun')} --oversubscribe --bind-to none"
RANKS = f"{sys.executable} -m mpi4py {PLACE}"
ROOT = {f"{p}_ALLOW_RUN_AS_ROOT{s}": "1" for p in ("OMPI", "PRTE") for s in ("", "_CONFIRM")}


@pytest.mark.parametrize(
    ("command", "places"),
    [
        # As in srun --pty bash: one task, whose shell starts two ranks.
        (
            ["srun", "-N1", "-n1", "bash", "-c", f"{MPIRUN} -n 2 {RANKS}"],
            ["place 0 0 2 1", "place 1 1 2 1"],
        ),
        # A script on the first of two nodes; mpirun starts a daemon on the other one by srun.
        (
            ["sbatch", "-N2", "--ntasks-per-node=2", "--wait", "--output=nested.log", "--wrap"]
            + [f"{MPIRUN} -n 4 --map-by ppr:2:node {RANKS}"],
            ["place 0 0 2 2", "place 1 1 2 2", "place 2 0 2 2", "place 3 1 2 2"],
        ),
    ],
    ids=["in a shell of srun", "in a script of sbatch"],
)
def test_mpirun(cluster: Cluster, command: list[str], places: list[str]) -> None:
    log = cluster.folder / "nested.log"
    log.unlink(missing_ok=True)
    ended = cluster.attempt(*command, given={**ENVIRONMENT, **ROOT}, limit_s=LIMIT_S)
    said = ended.stdout + ended.stderr + (log.read_text() if log.exists() else "")
    assert ended.returncode == 0, said
    assert sorted(line for line in said.splitlines() if line.startswith("place")) == places, said
