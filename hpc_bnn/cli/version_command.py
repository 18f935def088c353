"""``hpc-bnn --version``: hpc_bnn and what it computes with."""

import argparse
import importlib.metadata

from hpc_bnn.group import Group
from hpc_bnn.parallel.mpi import leave_unstarted
from hpc_bnn.train.run.versions import versions

MPI4PY = "mpi4py"


def version_command(_: argparse.Namespace, __: Group) -> tuple[list[str], int]:
    """Return one line for each that is there: "hpc_bnn 0.1.0" first."""
    leave_unstarted()
    known = versions()
    try:
        known[MPI4PY] = importlib.metadata.version(MPI4PY)
    except importlib.metadata.PackageNotFoundError:
        known["mpi"] = "none: mpi4py is not installed, so one process without it"
    return [f"{name} {version}" for name, version in known.items()], 0
