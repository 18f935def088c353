"""``hpc-bnn export``: a run for other tools, by files alone."""

import argparse

from hpc_bnn.group import Group
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.export import export_run


def export_command(options: argparse.Namespace, _: Group) -> tuple[list[str], int]:
    """Write the run for another tool; return lines of text and the status."""
    return [export_run(RunFolder(options.run_folder), to=options.to, output=options.output)], 0
