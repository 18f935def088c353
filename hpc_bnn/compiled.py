"""The parts of the package that a C compiler makes, and what to do where it has not."""

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType


class NotBuiltError(ImportError):
    """Python found the sources of hpc_bnn, but they were never built."""


def load(name: str, *, needed: bool) -> ModuleType:
    """Import an extension module by its full name.

    needed: without it nothing runs; then a command ends here with one line and status 2.

    Raises
    ------
    NotBuiltError
        If it was not built.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        package = Path(__file__).parent
        text = (
            f"{package} is not built: {name} is missing; build it (pip install -e "
            f"{package.parent}), or leave this folder if hpc_bnn is installed elsewhere"
        )
        # ``python -m hpc_bnn``, perhaps behind ``-m mpi4py``: the package is imported before any
        # code of the command could catch it.
        if needed and ("-m", "hpc_bnn") in pairwise(sys.orig_argv):
            sys.stderr.write(f"hpc-bnn: {text}\n")
            sys.exit(2)
        raise NotBuiltError(text, name=name) from None
