"""The arguments of ``hpc-bnn``: commands, options and their help."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import hpc_bnn
from hpc_bnn.cli.argument_types import above_zero, points, positive
from hpc_bnn.cli.data_arguments import add_data_tools
from hpc_bnn.cli.scaling_arguments import add_scaling_tools


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; overrides may stand on both sides of the options.

    The result holds ``command``, such as "train" or "data check", its options, and when this
    ``began`` (``time.monotonic()``).
    """
    began = time.monotonic()
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    misplaced = [text for text in rest if text.startswith("-") or "=" not in text]
    if misplaced or (rest and options.command not in ("train", "scan")):
        parser.error(f"unrecognized arguments: {' '.join(misplaced or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    if options.command in ("data", "scaling"):
        options.command = f"{options.command} {options.tool}"
    options.began = began
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hpc-bnn", description=(hpc_bnn.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--version", action="version", version=hpc_bnn.__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("train", help="train as a settings file says")
    command.add_argument(
        "config", type=Path, help="YAML file, or the name of a bundled one (demo.yaml)"
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.lr=0.001")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", dest="run_folder", type=Path, metavar="DIR")
    what.add_argument(
        "--estimate",
        action="store_true",
        help="only estimate the memory of a rank; status 1: too much",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on from the newest good checkpoint"
    )
    command.add_argument(
        "--default",
        dest="defaults",
        action="append",
        default=[],
        metavar="key=value",
        help="where neither the file nor key=value sets the key; may be repeated",
    )
    estimate = command.add_argument_group("with --estimate")
    estimate.add_argument("--ranks", type=positive, help="of the run; default: those it runs on")
    estimate.add_argument("--ranks-per-node", type=positive, help="of the run")
    estimate.add_argument(
        "--points",
        type=points,
        metavar="ROWSxCOLUMNS",
        help="grid of fields that are not here yet",
    )
    estimate.add_argument(
        "--device-memory", type=above_zero, metavar="GIB", help="of a GPU that is not here"
    )

    command = commands.add_parser(
        "scan", help="train every combination of some values and compare them on validation"
    )
    command.add_argument("config", type=Path, help="YAML file, or the name of a bundled one")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="of all runs")
    command.add_argument(
        "--try",
        dest="tries",
        action="append",
        required=True,
        metavar="key=value,value,...",
        help="such as posterior.kl_weight=0.01,0.1,1; repeated: every combination",
    )
    command.add_argument("--runs", dest="folder", type=Path, required=True, metavar="DIR")

    command = commands.add_parser(
        "evaluate", help="score the test split of a run and draw its pictures"
    )
    command.add_argument("run_folder", type=Path, metavar="DIR")

    command = commands.add_parser(
        "report", help="runs side by side, or a scaling study, as one page of HTML"
    )
    command.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="of a run; or of one study"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.html")

    command = commands.add_parser(
        "laplace", help="give the last layer of a trained run a Gaussian posterior"
    )
    command.add_argument("run_folder", type=Path, metavar="RUN")
    command.add_argument("-o", "--output", type=Path, metavar="NEWRUN", help="default: RUN-laplace")
    command.add_argument(
        "--layer", default="", metavar="NAME", help="the linear layer; default: the last one"
    )
    command.add_argument(
        "--sample", type=int, metavar="K", help="of an ensemble: the member that is the network"
    )

    command = commands.add_parser("forecast", help="forecast fields as an ensemble into a file")
    command.add_argument("run_folder", type=Path, metavar="DIR", help="of a run on fields")
    command.add_argument(
        "--start", required=True, metavar="TIME", help="UTC, such as 2002-05-01T00:00"
    )
    command.add_argument("--steps", type=positive, required=True, help="lead times")
    command.add_argument("--members", type=positive, required=True, help="size of the ensemble")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.nc")

    add_data_tools(commands.add_parser("data", help="tools for files of fields, such as ERA5"))

    add_scaling_tools(commands.add_parser("scaling", help="scaling studies: speed against ranks"))

    command = commands.add_parser(
        "settings", help="every key of a settings file: type, default, meaning"
    )
    command.add_argument(
        "section", nargs="?", default="", help="such as train, posterior or posterior.ensemble"
    )
    command.add_argument("--schema", action="store_true", help="as a JSON schema, for editors")

    command = commands.add_parser("help", help="the guide")
    command.add_argument("page", nargs="?", default="", help="default: the list of pages")

    command = commands.add_parser(
        "doctor", help="show what is built and wired, and time exchanges; status 1 if bad"
    )
    command.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where runs would be written (the current folder)",
    )
    return parser
