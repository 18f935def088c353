"""The arguments of ``hpc-bnn``: commands, options and their help."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import hpc_bnn
from hpc_bnn.cli.argument_types import (
    Once,
    above_zero,
    add_checkpoint,
    file_path,
    output_path,
    points,
    positive,
)
from hpc_bnn.cli.data_arguments import add_data_tools
from hpc_bnn.cli.parser import Parser
from hpc_bnn.cli.scaling_arguments import add_scaling_tools

TAKE_OVERRIDES = ("train", "scan", "evaluate", "predict", "forecast")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; overrides may stand on both sides of the options.

    The result holds ``command``, such as "train" or "data check", its options, and when this
    ``began`` (``time.monotonic()``).
    """
    began = time.monotonic()
    parser = new_parser()
    options, rest = parser.parse_known_args(arguments)
    if options.version:
        options.command = "version"
    if options.command is None or getattr(options, "tool", "") is None:
        options.parser.print_help()
        parser.exit()
    misplaced = [text for text in rest if text.startswith("-") or "=" not in text]
    if misplaced or (rest and options.command not in TAKE_OVERRIDES):
        options.parser.error(f"unrecognized arguments: {' '.join(misplaced or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    if options.command == "train":
        _without_config(options.parser, options)
    if options.command in ("data", "scaling"):
        options.command = f"{options.command} {options.tool}"
    options.began, options.verbosity = began, getattr(options, "verbosity", 0)
    del options.parser
    return options


def _without_config(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Take a first key=value for what it is; a run that goes on has its settings in its folder."""
    config = options.config
    if config is not None and "=" in str(config) and not config.exists():
        options.overrides = [str(config), *options.overrides]
        options.config = config = None
    if config is None and not (options.resume and options.run_folder):
        parser.error(
            "a settings file is missing: give one, or a bundled one such as demo.yaml; "
            "to go on with a run: train --resume --run DIR"
        )


def command_names() -> list[str]:
    """Return the names of all commands."""
    return list(commands_of(new_parser()))


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands below one, by name."""
    found = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def new_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog="hpc-bnn", description=(hpc_bnn.__doc__ or "").splitlines()[0])
    parser.add_argument("--version", action="store_true", help="show the versions of the stack")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    command = commands.add_parser("run", help="start a command or a script on several ranks")
    command.add_argument(
        "-n", "--ranks", type=positive, help="default: those of the allocation of Slurm"
    )
    command.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="a command of hpc-bnn, a script or -m MODULE, with its arguments",
    )

    command = commands.add_parser("train", help="train as a settings file says")
    command.add_argument(
        "config",
        type=Path,
        nargs="?",
        help="YAML file, or the name of a bundled one (demo.yaml); with --resume left out: that "
        "of the run",
    )
    command.add_argument("overrides", nargs="*", metavar="key=value", help="such as train.lr=0.001")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", dest="run_folder", type=Path, metavar="DIR")
    what.add_argument(
        "--estimate",
        action="store_true",
        help="only estimate memory and time of a rank; status 1: too much",
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
    command.add_argument(
        "--recalibrate",
        choices=["none", "conformal"],
        help="series: spreads times what covers the validation split; default: as the run says",
    )
    add_checkpoint(command)

    command = commands.add_parser(
        "report", help="runs side by side, or a scaling study, as one page of HTML"
    )
    command.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="of a run; or of one study"
    )
    command.add_argument("-o", "--output", type=file_path, required=True, metavar="FILE.html")

    command = commands.add_parser("export", help="a run for TensorBoard, MLflow or as CSV")
    command.add_argument("run_folder", type=Path, metavar="RUN")
    command.add_argument("--to", choices=["csv", "tensorboard", "mlflow"], required=True)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATH",
        help="csv: a file; tensorboard: a folder; mlflow: the folder of a store, new or not",
    )  # fmt: skip

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

    command = commands.add_parser(
        "predict", help="predict what follows a series, or classify images, with uncertainty"
    )
    command.add_argument("run_folder", type=Path, metavar="RUN")
    command.add_argument(
        "--input",
        type=Path,
        help="a series: a file like that of the training, which it is if left out; images: a "
        "folder or a file (png, jpg, npz)",
    )
    command.add_argument(
        "--from",
        dest="start",
        default="",
        metavar="TIME",
        help="of a series: the first row to predict; default: the one behind the last",
    )
    command.add_argument(
        "--samples", type=positive, metavar="K", help="default: posterior.predict_samples"
    )
    command.add_argument(
        "--calibrated",
        action="store_true",
        help="a series: with the spread recalibrated on the validation split",
    )
    command.add_argument(
        "--resize", action="store_true", help="images of another size to that of the training"
    )
    add_checkpoint(command)
    command.add_argument(
        "-o",
        "--output",
        type=output_path,
        required=True,
        metavar="FILE.csv",
        help="a series: also FILE-samples.csv and FILE.png",
    )

    command = commands.add_parser("forecast", help="forecast fields as an ensemble into a file")
    command.add_argument("run_folder", type=Path, metavar="DIR", help="of a run on fields")
    starts = command.add_mutually_exclusive_group()
    starts.add_argument(
        "--start",
        action="append",
        metavar="TIME",
        help="UTC, such as 2002-05-01T00:00; may be repeated; default: latest, the last state of "
        "the files",
    )
    starts.add_argument(
        "--starts",
        action=Once,
        default="",
        metavar="FIRST/LAST/STEP",
        help="many, such as 2002-01-01/2002-12-31/12h; the same command again goes on",
    )
    command.add_argument(
        "--steps", type=positive, help="lead times; default: evaluation.steps, or five days"
    )
    command.add_argument(
        "--members", type=positive, help="of the ensemble; default: posterior.predict_samples"
    )
    command.add_argument(
        "--plot", action="store_true", help="also draw maps of mean and spread beside the file"
    )
    command.add_argument(
        "--layout",
        choices=["cf", "weatherbench"],
        default="cf",
        help="weatherbench: the names and dimensions that WeatherBench-X opens",
    )
    add_checkpoint(command)
    command.add_argument(
        "-o",
        "--output",
        type=output_path,
        required=True,
        metavar="FILE.nc|DIR",
        help="one file, or a folder with a file of each start",
    )

    add_data_tools(commands.add_parser("data", help="tools for files of fields, such as ERA5"))

    add_scaling_tools(commands.add_parser("scaling", help="scaling studies: speed against ranks"))

    command = commands.add_parser(
        "settings", help="every key of a settings file: type, default, meaning"
    )
    command.add_argument(
        "section", nargs="?", default="", help="such as train, posterior or posterior.ensemble"
    )
    command.add_argument("--schema", action="store_true", help="as a JSON schema, for editors")

    command = commands.add_parser(
        "completion", help='let the shell complete words: eval "$(hpc-bnn completion bash)"'
    )
    command.add_argument("what", choices=["bash", "zsh", "words"], help="words: what a script asks")
    command.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

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
