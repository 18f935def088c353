"""Log lines on standard error, few of them on many ranks: INFO from world rank 0, warnings from the
first rank of each node, errors from every rank.
"""

import logging
import os
import sys
from collections.abc import Mapping

from hpc_bnn.group import Group
from hpc_bnn.parallel.launcher import NODE_RANKS


def log_to_stderr(
    all_ranks: Group, verbosity: int, environment: Mapping[str, str] = os.environ
) -> None:
    """Log the package to standard error, one line each; quiet: no INFO; verbose: INFO from every
    rank.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(
            f"%(asctime)s %(levelname)s rank {all_ranks.rank} %(message)s", "%H:%M:%S"
        )
    )
    root = logging.getLogger("hpc_bnn")
    root.handlers = [handler]
    root.setLevel(_level(all_ranks.rank, verbosity, environment))


def _level(rank: int, verbosity: int, environment: Mapping[str, str]) -> int:
    if verbosity > 0 or (verbosity == 0 and rank == 0):
        return logging.INFO
    said = [environment[name] for name in NODE_RANKS if name in environment]
    is_first = rank == 0 or not said or said[0] == "0"  # where no launcher says, each is
    return logging.WARNING if is_first else logging.ERROR
