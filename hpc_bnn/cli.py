"""The command line: ``hpc-bnn``, or ``mpirun ... python -m mpi4py -m hpc_bnn`` on several ranks.

The only file that prints. Errors of the user's input end every rank with status 2 and one message
from world rank 0; all others end with a traceback.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import hpc_bnn
from hpc_bnn.config import CONFIGS, Settings, SettingsError, load_settings
from hpc_bnn.parallel.comms import Channel, LaunchError, RankError, abort, all_arrive, connect
from hpc_bnn.parallel.guards import GuardError
from hpc_bnn.parallel.world import World, split
from hpc_bnn.study.doctor import diagnose
from hpc_bnn.train.build import check_choices
from hpc_bnn.train.checkpoint import CheckpointError
from hpc_bnn.train.evaluate import evaluate
from hpc_bnn.train.folder import RunFolder
from hpc_bnn.train.loop import train

USER_ERRORS = (
    SettingsError,
    ValueError,
    FileNotFoundError,
    OSError,
    CheckpointError,
    GuardError,
    FloatingPointError,
    LaunchError,
)
# A rank that fails waits this long for the others to fail too, before it ends them.
PATIENCE_S = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 a check failed, 2 the input cannot be
    used.
    """
    options = _parse(arguments)
    try:
        world = connect()
    except LaunchError as error:  # each rank is alone, and each says so
        print(f"hpc-bnn {options.command}: {error}", file=sys.stderr, flush=True)
        return 2
    _log_to_stderr(world)
    try:
        status: int = options.run(options, world)
    except (*USER_ERRORS, RankError) as error:
        _explain(error, options.command, world)
        return 2
    return status


def _explain(error: Exception, command: str, world: Channel) -> None:
    """Print one message where all ranks fail; a rank that fails alone prints its own and ends all.

    ``python -m mpi4py`` ends every rank as soon as one leaves with an error, so none leaves before
    the message is out.
    """
    if all_arrive(world, within_s=PATIENCE_S):
        failed = world.gather_objects(not isinstance(error, RankError), name="errors")
        if world.rank == (failed.index(True) if True in failed else 0):
            print(f"hpc-bnn {command}: {error}", file=sys.stderr, flush=True)
        all_arrive(world, within_s=PATIENCE_S)
    else:
        print(f"hpc-bnn {command}: rank {world.rank}: {error}", file=sys.stderr, flush=True)
        abort(world, 2)


def _train(options: argparse.Namespace, channel: Channel) -> int:
    settings = _settings(options.config, options.overrides)
    world = _world(settings, channel)
    folder = RunFolder(options.run_folder)
    summary = train(settings, world, folder, resume=options.resume)
    if world.is_first:
        print(f"{folder.path}: {summary['steps']} steps, final loss {summary['final_loss']:.6g}")
        for name, value in summary["validation"].items():
            print(f"  validation {name:28s} {value:.6g}")
    return 0


def _evaluate(options: argparse.Namespace, channel: Channel) -> int:
    folder = RunFolder(options.run_folder)
    settings = folder.settings()
    # Every rank takes its own examples and all samples: nothing is exchanged until the sums.
    world = split(channel, mode="data", device=settings.train.device)
    result = evaluate(world, folder)
    if world.is_first:
        print(
            f"{folder.evaluation}: {result['data']}, test split, {result['samples']} weight samples"
        )
        for name, value in result["scores"].items():
            print(f"  {name:28s} {value:.6g}")
        print(f"pictures in {folder.plots}")
    return 0


def _doctor(options: argparse.Namespace, channel: Channel) -> int:
    findings = diagnose(channel)
    if channel.rank == 0:
        width = max(len(finding.what) for finding in findings)
        for finding in findings:
            print(f"{'ok ' if finding.good else 'BAD'}  {finding.what:{width}s}  {finding.value}")
            if not finding.good:
                print(f"     {'':{width}s}  -> {finding.remedy}")
    return 0 if all(finding.good for finding in findings) else 1


def _settings(config: Path, overrides: Sequence[str]) -> Settings:
    bundled = CONFIGS / config.name
    path = (
        bundled if not config.exists() and config.parent == Path() and bundled.exists() else config
    )
    settings = load_settings(path, overrides)
    check_choices(settings, f"{path} with the command line" if overrides else str(path))
    return settings


def _world(settings: Settings, channel: Channel) -> World:
    return split(
        channel,
        sample_ranks=settings.grid.sample_ranks,
        mode=settings.grid.mode,
        device=settings.train.device,
        stall_timeout_s=settings.train.stall_timeout,
    )


def _log_to_stderr(world: Channel) -> None:
    """INFO from world rank 0, warnings from every rank, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)s rank {world.rank} %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger("hpc_bnn")
    root.handlers = [handler]
    root.setLevel(logging.INFO if world.rank == 0 else logging.WARNING)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; overrides may stand on both sides of the options."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    misplaced = [text for text in rest if text.startswith("-") or "=" not in text]
    if misplaced or (rest and options.command != "train"):
        parser.error(f"unrecognized arguments: {' '.join(misplaced or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
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
    command.add_argument("--run", dest="run_folder", type=Path, required=True, metavar="DIR")
    command.add_argument(
        "--resume", action="store_true", help="go on from the newest good checkpoint"
    )
    command.set_defaults(run=_train)

    command = commands.add_parser(
        "evaluate", help="score the test split of a run and draw its pictures"
    )
    command.add_argument("run_folder", type=Path, metavar="DIR")
    command.set_defaults(run=_evaluate)

    command = commands.add_parser("doctor", help="show what is built and wired, with a collective")
    command.set_defaults(run=_doctor)
    return parser
