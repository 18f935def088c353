"""``python -m hpc_bnn``; under several ranks ``hpc-bnn run -n N ...``, which starts
``mpirun ... python -m mpi4py -m hpc_bnn ...``.
"""

import importlib
import sys

from hpc_bnn.cli.arguments import parse
from hpc_bnn.compiled import load

LIGHT = ("completion", "run")  # commands that need no torch


def main() -> int:
    """Run the command line of this process and return its exit status."""
    options = parse(None)  # --help and mistakes end here, before torch is imported
    try:
        if options.command in LIGHT:
            command = importlib.import_module(f"hpc_bnn.cli.{options.command}_command")
            return int(getattr(command, f"{options.command}_command")(options))
        load("hpc_bnn.data._decode", needed=True)
        from hpc_bnn.cli.program import run
    except KeyboardInterrupt:  # while torch is imported
        sys.stderr.write(f"hpc-bnn {options.command}: interrupted\n")
        return 130
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
