"""``python -m hpc_bnn``; under several ranks ``hpc-bnn run -n N ...``, which starts
``mpirun ... python -m mpi4py -m hpc_bnn ...``.
"""

import importlib
import os
import signal
import sys
from types import FrameType

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
        _end_when_interrupted(options.command)
        load("hpc_bnn.data._decode", needed=True)
        from hpc_bnn.cli.program import run
    except KeyboardInterrupt:  # before
        sys.stderr.write(f"hpc-bnn {options.command}: interrupted\n")
        return 130
    return run(options)


def _end_when_interrupted(command: str) -> None:
    """Let Ctrl-C end this process at once, until the command listens to it.

    No exception: some of what is imported drops those that come in the midst of it, and the command
    would go on. Nothing is held yet that had to be given free.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"hpc-bnn {command}: interrupted\n".encode())
        os._exit(130)

    # A shell that starts a command in the background lets it ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)


if __name__ == "__main__":
    sys.exit(main())
