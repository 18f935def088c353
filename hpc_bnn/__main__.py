"""``python -m hpc_bnn``; under several ranks ``mpirun ... python -m mpi4py -m hpc_bnn``."""

import sys

from hpc_bnn.cli.arguments import parse
from hpc_bnn.compiled import load


def main() -> int:
    """Run the command line of this process and return its exit status."""
    options = parse(None)  # --help and mistakes end here, before torch is imported
    load("hpc_bnn.data._decode", needed=True)
    from hpc_bnn.cli.program import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
