"""The arguments of ``hpc-bnn data``."""

import argparse
from pathlib import Path

from hpc_bnn.cli.argument_types import above_zero, names, numbers, positive

FIELDS_PATH = "a data file, a folder, a pattern in quotes, or a pack of data ingest"


def add_data_tools(parser: argparse.ArgumentParser) -> None:
    """Add the tools of ``hpc-bnn data``."""
    tools = parser.add_subparsers(dest="tool", metavar="TOOL")

    tool = tools.add_parser("check", help="list what files hold, and every defect")
    _add_selection(tool)
    _add_stale(tool)

    tool = tools.add_parser("statistics", help="compute what normalisation needs, as netCDF")
    _add_selection(tool)
    _add_stale(tool)
    tool.add_argument("--start", required=True, metavar="TIME", help="first time of the training")
    tool.add_argument("--end", required=True, metavar="TIME", help="last time, included")
    tool.add_argument("--step-hours", type=positive, required=True, help="of the tendencies")
    tool.add_argument("--pack", metavar="FOLDER", help="of the files; beside them if left out")
    tool.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.nc")

    tool = tools.add_parser(
        "ingest", aliases=["repack"], help="pack files once for training, or append to a pack"
    )
    _add_selection(tool)
    tool.add_argument(
        "--static", type=names, help="such as lsm; all without time, or with one, if left out"
    )
    tool.add_argument("--start", metavar="TIME", help="first time; the first there is if left out")
    tool.add_argument("--end", metavar="TIME", help="last time, included")
    tool.add_argument("--format", default="cache", help=argparse.SUPPRESS)  # of version 0.1
    tool.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)  # of version 0.1
    tool.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    tool.add_argument(
        "--verify",
        action="store_true",
        help="compare FOLDER with PATH and its checksums; PATH = FOLDER: checksums only",
    )

    tool = tools.add_parser("request", help="write a script that downloads what settings need")
    tool.add_argument("config", type=Path, help="YAML file, or the name of a bundled one")
    tool.add_argument("overrides", nargs="*", metavar="key=value", help="such as data.levels=[500]")
    tool.add_argument("--degrees", type=above_zero, required=True, help="of the grid, such as 1.5")
    tool.add_argument(
        "--every", type=positive, help="hours; 6, or what data.step_hours needs, if left out"
    )
    tool.add_argument("--folder", default="era5", help="for the files (%(default)s)")
    tool.add_argument("-o", "--output", type=Path, help="of the script; printed if left out")

    tool = tools.add_parser("toy", help="write files of a made-up atmosphere, for trying things")
    tool.add_argument("folder", type=Path)
    tool.add_argument("--years", type=positive, default=2, help="from 2001 on (%(default)s)")
    tool.add_argument("--rows", type=positive, default=32, help="odd: with poles (%(default)s)")
    tool.add_argument("--columns", type=positive, default=64, help="longitudes (%(default)s)")
    tool.add_argument("--step-hours", type=positive, default=6, help="(%(default)s)")
    tool.add_argument("--levels", type=numbers, default=[500.0, 850.0], help="in hPa (500,850)")
    tool.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    tool.add_argument(
        "--format", choices=["new", "legacy"], default="new", help="of CDS files (%(default)s)"
    )


def _add_selection(tool: argparse.ArgumentParser) -> None:
    tool.add_argument("path", help=FIELDS_PATH)
    tool.add_argument("--variables", type=names, help="such as t2m,z,u; all if left out")
    tool.add_argument("--levels", type=numbers, default=[], help="in hPa, such as 500,850")
    tool.add_argument("--member", type=int, help="of ensemble files")


def _add_stale(tool: argparse.ArgumentParser) -> None:
    tool.add_argument(
        "--stale",
        choices=["error", "allow"],
        default="error",
        help="a pack whose source changed since: refuse it or warn (%(default)s)",
    )
