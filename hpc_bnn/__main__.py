"""``python -m hpc_bnn``; under several ranks ``mpirun ... python -m mpi4py -m hpc_bnn``."""

import sys

from hpc_bnn.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
