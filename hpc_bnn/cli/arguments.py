"""The arguments of ``hpc-bnn``: commands, options and their help."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import hpc_bnn

FIELDS_PATH = "a netCDF file, a folder, a pattern in quotes, or a pack of data ingest"


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
    estimate.add_argument("--ranks", type=_positive, help="of the run; default: those it runs on")
    estimate.add_argument("--ranks-per-node", type=_positive, help="of the run")
    estimate.add_argument(
        "--points",
        type=_points,
        metavar="ROWSxCOLUMNS",
        help="grid of fields that are not here yet",
    )
    estimate.add_argument(
        "--device-memory", type=_above_zero, metavar="GIB", help="of a GPU that is not here"
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
    command.add_argument("--steps", type=_positive, required=True, help="lead times")
    command.add_argument("--members", type=_positive, required=True, help="size of the ensemble")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.nc")

    _data_parsers(commands.add_parser("data", help="tools for files of fields, such as ERA5"))

    _scaling_parsers(commands.add_parser("scaling", help="scaling studies: speed against ranks"))

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


def _data_parsers(parser: argparse.ArgumentParser) -> None:
    tools = parser.add_subparsers(dest="tool", required=True)

    tool = tools.add_parser("check", help="list what files hold, and every defect")
    _add_selection(tool)
    _add_stale(tool)

    tool = tools.add_parser("statistics", help="compute what normalisation needs, as netCDF")
    _add_selection(tool)
    _add_stale(tool)
    tool.add_argument("--start", required=True, metavar="TIME", help="first time of the training")
    tool.add_argument("--end", required=True, metavar="TIME", help="last time, included")
    tool.add_argument("--step-hours", type=_positive, required=True, help="of the tendencies")
    tool.add_argument("--pack", metavar="FOLDER", help="of the files; beside them if left out")
    tool.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.nc")

    tool = tools.add_parser(
        "ingest", aliases=["repack"], help="pack files once for training, or append to a pack"
    )
    _add_selection(tool)
    tool.add_argument(
        "--static", type=_names, help="such as lsm; all without time, or with one, if left out"
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
    tool.add_argument("--degrees", type=_above_zero, required=True, help="of the grid, such as 1.5")
    tool.add_argument(
        "--every", type=_positive, help="hours; 6, or what data.step_hours needs, if left out"
    )
    tool.add_argument("--folder", default="era5", help="for the files (%(default)s)")
    tool.add_argument("-o", "--output", type=Path, help="of the script; printed if left out")

    tool = tools.add_parser("toy", help="write files of a made-up atmosphere, for trying things")
    tool.add_argument("folder", type=Path)
    tool.add_argument("--years", type=_positive, default=2, help="from 2001 on (%(default)s)")
    tool.add_argument("--rows", type=_positive, default=32, help="odd: with poles (%(default)s)")
    tool.add_argument("--columns", type=_positive, default=64, help="longitudes (%(default)s)")
    tool.add_argument("--step-hours", type=_positive, default=6, help="(%(default)s)")
    tool.add_argument("--levels", type=_numbers, default=[500.0, 850.0], help="in hPa (500,850)")
    tool.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    tool.add_argument(
        "--format", choices=["new", "legacy"], default="new", help="of CDS files (%(default)s)"
    )


def _scaling_parsers(parser: argparse.ArgumentParser) -> None:
    tools = parser.add_subparsers(dest="tool", required=True)

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
    tool.add_argument("--ranks-per-node", type=_positive, help="of the machine that is projected")
    tool.add_argument("--max-ranks", type=_positive, default=4096, help="(%(default)s)")
    tool.add_argument(
        "--hold-out", type=_counts, default=[], metavar="3,4", help="predict these ranks, unseen"
    )
    tool.add_argument("--latency-us", type=_above_zero, help="between nodes, of one message")
    tool.add_argument("--bandwidth-gbs", type=_above_zero, help="between nodes, of one rank")
    tool.add_argument(
        "--measure", action="store_true", help="first time exchanges of the ranks it runs on"
    )


def _add_folder(tool: argparse.ArgumentParser) -> None:
    tool.add_argument("folder", type=Path, metavar="DIR", help="of a plan")


def _add_selection(tool: argparse.ArgumentParser) -> None:
    tool.add_argument("path", help=FIELDS_PATH)
    tool.add_argument("--variables", type=_names, help="such as t2m,z,u; all if left out")
    tool.add_argument("--levels", type=_numbers, default=[], help="in hPa, such as 500,850")
    tool.add_argument("--member", type=int, help="of ensemble files")


def _add_stale(tool: argparse.ArgumentParser) -> None:
    tool.add_argument(
        "--stale",
        choices=["error", "allow"],
        default="error",
        help="a pack whose source changed since: refuse it or warn (%(default)s)",
    )


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def _points(text: str) -> tuple[int, int]:
    rows, cross, columns = text.partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r}: expected rows x columns such as 721x1440")
    return _positive(rows), _positive(columns)


def _counts(text: str) -> list[int]:
    return [_positive(number) for number in _names(text)]


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
    return value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in _names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers such as 500,850") from None
