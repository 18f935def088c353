"""The arguments of ``hpc-bnn scaling``."""

import argparse
from pathlib import Path

from hpc_bnn.cli.argument_types import above_zero, counts, positive


def add_scaling_tools(parser: argparse.ArgumentParser) -> None:
    """Add the tools of ``hpc-bnn scaling``."""
    tools = parser.add_subparsers(dest="tool", metavar="TOOL")

    tool = tools.add_parser("plan", help="turn a study file into runs, checked, one folder")
    tool.add_argument("study", type=Path, help="YAML file, or a bundled one (scaling_local.yaml)")
    tool.add_argument("--runs", dest="folder", type=Path, required=True, metavar="DIR")

    tool = tools.add_parser("run", help="run what is not finished here, by mpirun, in turn")
    _add_folder(tool)
    tool.add_argument(
        "--launcher", default="", help="words before -n RANKS, in quotes; default: mpirun here"
    )

    tool = tools.add_parser("collect", help="write scaling.csv; status 1 if points are missing")
    _add_folder(tool)
    tool.add_argument(
        "--allow-mixed", action="store_true", help="mark points of other machines or versions"
    )

    _add_folder(tools.add_parser("plot", help="draw scaling.csv and the losses"))

    tool = tools.add_parser("project", help="fit a model of the step time, predict more ranks")
    _add_folder(tool)
    tool.add_argument("--ranks-per-node", type=positive, help="of the machine that is projected")
    tool.add_argument("--max-ranks", type=positive, default=4096, help="(%(default)s)")
    tool.add_argument(
        "--hold-out", type=counts, default=[], metavar="3,4", help="predict these ranks, unseen"
    )
    tool.add_argument("--latency-us", type=above_zero, help="between nodes, of one message")
    tool.add_argument("--bandwidth-gbs", type=above_zero, help="between nodes, of one rank")
    tool.add_argument(
        "--measure", action="store_true", help="first time exchanges of the ranks it runs on"
    )


def _add_folder(tool: argparse.ArgumentParser) -> None:
    tool.add_argument("folder", type=Path, metavar="DIR", help="of a plan")
