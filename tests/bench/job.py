"""Run a script of this folder on several ranks of this machine, as a user starts a job."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# As root, as in a container, Open MPI asks to be told twice; ranks that wait leave their core.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_NUM_THREADS": "1",
}


def run_ranks(ranks: int, script: str, arguments: Sequence[str]) -> None:
    """Run ``script`` with ``arguments`` on ``ranks`` ranks, one thread each.

    Raises
    ------
    FileNotFoundError
        If there is no mpirun.
    subprocess.CalledProcessError
        If the job fails; its output is on the terminal.
    """
    beside = Path(sys.executable).with_name("mpirun")
    launcher = str(beside) if beside.exists() else shutil.which("mpirun")
    if launcher is None:
        raise FileNotFoundError("no mpirun beside this Python and none on PATH")
    command = [launcher, "-n", str(ranks), "--oversubscribe", "--bind-to", "none"]
    command += [sys.executable, "-m", "mpi4py", str(Path(script).resolve()), *arguments]
    subprocess.run(command, env=os.environ | ENVIRONMENT, check=True)
