"""The command line: ``hpc-bnn``, or ``mpirun ... python -m mpi4py -m hpc_bnn`` on several ranks.

The only file that prints, but for how a job ends (``hpc_bnn.parallel.control``). Errors of the
user's input end every rank with status 2 and each message once; all others end with a traceback.

What only one command needs is imported in it: netCDF4 and matplotlib cost every rank of a job.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hpc_bnn.cli.arguments import parse
from hpc_bnn.cli.interrupts import INTERRUPTED, Asked, end_at_once, leaving, listening
from hpc_bnn.cli.log_lines import log_to_stderr
from hpc_bnn.config import CONFIGS, Settings, SettingsError, load_settings
from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.parallel.control import BUG, STALLED, Word, leave_note, settle
from hpc_bnn.parallel.guards import GuardError, agree
from hpc_bnn.parallel.launcher import LaunchError, launched_size
from hpc_bnn.parallel.mpi import connect, fail, leave_together
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.plan.auto_grid import start_auto
from hpc_bnn.train.run.build import check_choices, resolved
from hpc_bnn.train.run.checkpoint import CheckpointError
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.run.stop import REQUEUE, NotBegun, Unfinished
from hpc_bnn.verify.score_text import score_lines

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
MAKE_STEPS = ("train", "scan", "forecast")
SAVES_MEMORY = (
    "out of memory: lower train.batch_size or posterior.samples_per_pass, set "
    "posterior.keep_... to false, or use more data ranks; swin: model.recompute=true"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 a check failed, 2 the input cannot be
    used, 85 not finished in the time given: run it again; 86 the same after a rank was stuck.
    """
    return run(parse(arguments))


def run(options: argparse.Namespace) -> int:
    """Run the command of a parsed command line; see ``main``."""
    try:
        all_ranks = _alone(options) if _is_alone(options) else connect()
    except LaunchError as error:  # each rank is alone, and each says so
        print(f"hpc-bnn {options.command}: {error}", file=sys.stderr, flush=True)
        return 2
    log_to_stderr(all_ranks, options.verbosity)
    return settle(_run(options, all_ranks))


def _run(options: argparse.Namespace, all_ranks: Group) -> int:
    """Collective: run the command and return the status, where all ranks end with the same."""
    try:
        action = COMMANDS.get(options.command) or COMMANDS[options.command.partition(" ")[0]]
        words = {key: value for key, value in vars(options).items() if key != "began"}
        advice = "start all ranks by the same command"
        with listening(makes_steps=options.command in MAKE_STEPS):
            agree(all_ranks, words, name="command line", advice=advice)
            return action(options, all_ranks)
    except (*USER_ERRORS, RankError) as error:
        if options.verbosity > 0:
            logging.getLogger("hpc_bnn").info("the error came from here", exc_info=error)
        # A rank that waited for another; a file system that does not answer has a number.
        is_stall = isinstance(error, TimeoutError) and error.errno is None
        if is_stall:
            leave_note(STALLED)
        return _explain(error, options.command, all_ranks, status=STALLED if is_stall else 2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _explain(MemoryError(f"{error}\n{SAVES_MEMORY}"), options.command, all_ranks)
    except Unfinished as reason:
        if all_ranks.rank == 0:
            print(f"hpc-bnn {options.command}: {reason}", file=sys.stderr, flush=True)
        status = leave_together(all_ranks, REQUEUE)
        if status != REQUEUE and all_ranks.rank == 0:  # another rank failed instead
            leave_note(status)
        return status
    except SystemExit as left:
        if all_ranks.size == 1:
            raise
        # A rank that left alone would wait in the end of MPI for the others, and they for it.
        code = left.code if isinstance(left.code, int) and 0 < left.code < 256 else BUG
        text = f"a rank's own code left Python in the midst of the command (SystemExit: {left})"
        return fail(all_ranks, Word(f"hpc-bnn {options.command}", text, code))
    except NotBegun as reason:
        end_at_once()
        leave_note(REQUEUE)
        return fail(all_ranks, Word(f"hpc-bnn {options.command}", str(reason), REQUEUE))
    except KeyboardInterrupt as asked:  # a training that makes steps ends in good order instead
        end_at_once()
        status = asked.status if isinstance(asked, Asked) else INTERRUPTED
        text = "interrupted" if status == INTERRUPTED else f"ended by {asked}"
        # An echo: where a rank has failed, the launcher asks the others to end.
        word = Word(f"hpc-bnn {options.command}", text, status, is_echo=True)
        return fail(all_ranks, word)


def _is_alone(options: argparse.Namespace) -> bool:
    if options.command.startswith("scaling "):
        return not getattr(options, "measure", False)
    return options.command in ("data request", "report", "export", "settings", "help", "version")


def _alone(options: argparse.Namespace) -> Group:
    """Return the group of a command that starts ranks or reads files: it never touches MPI, which
    login nodes may not have.
    """
    variable, size = launched_size(os.environ)
    if size > 1 or variable.startswith(("OMPI", "PMI")):
        raise LaunchError(f"{variable} = {size}: start this command without mpirun or srun")
    return ALONE


def _scaling(options: argparse.Namespace, all_ranks: Group) -> int:
    from hpc_bnn.cli.scaling_commands import SCALING

    return _print(SCALING[options.command](options, all_ranks), all_ranks)


def _command(name: str) -> Callable[[argparse.Namespace, Group], int]:
    """Return what runs the command that has a file of its own."""

    def action(options: argparse.Namespace, all_ranks: Group) -> int:
        module = importlib.import_module(f"hpc_bnn.cli.{name}_command")
        return _print(getattr(module, f"{name}_command")(options, all_ranks), all_ranks)

    return action


def _print(result: tuple[Sequence[str], int], all_ranks: Group) -> int:
    lines, status = result
    if all_ranks.rank == 0 and lines:
        try:
            print(*lines, sep="\n", flush=True)
        except BrokenPipeError:  # such as of ``head``; nor may Python flush at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    on_cpu = "allocate memory" in str(error)  # torch has no class of its own for it
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or on_cpu


def _explain(error: Exception, command: str, all_ranks: Group, *, status: int = 2) -> int:
    """Print one message where all ranks fail and return the exit status; a rank that fails alone
    prints its own and ends all.
    """
    word = Word(f"hpc-bnn {command}", str(error), status, is_echo=isinstance(error, RankError))
    return fail(all_ranks, word)


def _train(options: argparse.Namespace, all_ranks: Group) -> int:
    folder = RunFolder(options.run_folder) if options.run_folder else None
    config = options.config
    if config is None and folder is not None:
        all_ranks.on_first(folder.require_run, name="settings")
        config = folder.config
    settings = all_ranks.on_first(
        lambda: _settings(config, options.overrides, options.defaults), name="settings"
    )
    if folder is None:
        from hpc_bnn.cli.estimate_command import estimate_command

        return _print(estimate_command(options, settings, all_ranks), all_ranks)
    auto = None
    if settings.grid.mode == "auto":
        world, auto = start_auto(settings, all_ranks, folder, resume=options.resume)
    else:
        world = _start(settings, all_ranks)
    with leaving(world):
        summary = train(
            settings, world, folder, resume=options.resume, began=options.began, auto=auto
        )
    if world.is_first:
        print(f"{folder.path}: {summary['steps']} steps, final loss {summary['final_loss']:.6g}")
        units = summary.get("validation_units", "")
        for line in score_lines(summary["validation"], units, of="validation "):
            print(line)
    return 0


def _scan(options: argparse.Namespace, all_ranks: Group) -> int:
    from hpc_bnn.study.scan import report, runs_of, scan

    runs = all_ranks.on_first(
        lambda: runs_of(
            options.tries, lambda more: _settings(options.config, options.overrides + more)
        ),
        name="settings",
    )
    world = _start(runs[0][1], all_ranks)
    with leaving(world):
        rows = scan(runs, world, options.folder, began=options.began)
    return _print((report(rows, options.folder), 0), all_ranks)


def _start(settings: Settings, all_ranks: Group) -> World:
    assert settings.grid.mode != "auto"
    return start(
        all_ranks,
        sample_ranks=settings.grid.sample_ranks,
        mode=settings.grid.mode,
        device=settings.train.device,
        engine=settings.grid.engine,
        stall_timeout_s=settings.train.stall_timeout,
    )


def _data(options: argparse.Namespace, all_ranks: Group) -> int:
    from hpc_bnn.cli.data_commands import DATA

    return _print(DATA[options.command](options, all_ranks), all_ranks)


def _data_request(options: argparse.Namespace, all_ranks: Group) -> int:
    from hpc_bnn.fields.request import request_command

    settings = _settings(options.config, options.overrides)
    return _print(request_command(options, settings.data.name, settings.data.options), all_ranks)


def _settings(config: Path, overrides: Sequence[str], defaults: Sequence[str] = ()) -> Settings:
    bundled = CONFIGS / config.name
    path = (
        bundled if not config.exists() and config.parent == Path() and bundled.exists() else config
    )
    settings = load_settings(path, overrides, defaults=defaults)
    check_choices(settings, f"{path} with the command line" if overrides else str(path))
    return resolved(settings)


# Each with a file of its own.
OF_FILES = (
    *("report", "export", "laplace", "forecast", "predict", "settings", "help", "version"),
    "doctor",
)
COMMANDS: dict[str, Callable[[argparse.Namespace, Group], int]] = {
    "train": _train,
    "scan": _scan,
    "evaluate": _command("evaluate"),
    "data": _data,
    "data request": _data_request,
    "scaling": _scaling,
    **{name: _command(name) for name in OF_FILES},
}
