"""``hpc-bnn forecast``: ensemble forecasts of a trained run, from one start or many, as files."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpc_bnn.cli.interrupts import leaving
from hpc_bnn.fields import times
from hpc_bnn.fields.forecast_set import file_name, is_folder, lock_path, require_output
from hpc_bnn.group import Group
from hpc_bnn.lock import Lock, LockError, hold, require_lock_file
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.forecast import (
    ForecastStop,
    default_steps,
    forecast,
    plan_forecast,
)
from hpc_bnn.train.score.forecast_writer import draw_forecast
from hpc_bnn.train.score.starts import LATEST, parse_starts, start_times
from hpc_bnn.train.score.trained import Trained, load_trained


def forecast_command(options: argparse.Namespace, all_ranks: Group) -> tuple[list[str], int]:
    """Collective: forecast into the file and return lines of text and the exit status."""
    folder = RunFolder(options.run_folder)
    given = options.start or [LATEST]
    for text in given:
        if text != LATEST:
            times.parse(text, end=False)
    starts = parse_starts(options.starts) if options.starts else None
    is_set = starts is not None or len(given) > 1
    if options.plot and (is_set or is_folder(options.output)):
        raise ValueError(
            "--plot draws the maps of one start into the folder of its file: give one --start and "
            "-o FILE.nc, or leave it out"
        )
    settings = all_ranks.on_first(folder.settings, name="settings")
    all_ranks.on_first(lambda: require_output(options.output), name="output")
    world = start(all_ranks, mode="data", device=settings.train.device)
    trained = load_trained(
        world, folder, checkpoint=options.checkpoint, overrides=options.overrides
    )
    lines = forecast_into(
        options.output,
        trained,
        world,
        begin=given,
        starts=starts,
        steps=options.steps,
        members=options.members,
        plots=options.plot,
        layout=options.layout,
    )
    return lines, 0


def forecast_into(
    path: Path,
    trained: Trained,
    world: World,
    *,
    begin: Sequence[str] = (),
    starts: Sequence[int] | None = None,
    steps: int | None,
    members: int | None,
    plots: bool,
    layout: str = "cf",
) -> list[str]:
    """Collective: forecast from the texts ``begin`` or from ``starts``, with the lead times and
    members of the run where none are given, and return lines of text.
    """
    members = members or trained.predict_samples
    fields = trained.parts.source.fields
    is_set = starts is not None or len(begin) > 1
    if starts is None and fields is not None:
        starts = world.all_ranks.together(lambda: start_times(fields, begin), name="start")
    steps = steps or (1 if fields is None else default_steps(trained, fields))
    plan = world.all_ranks.together(
        lambda: plan_forecast(
            trained, starts or (), steps=steps, members=members, is_set=is_set, layout=layout
        ),
        name="forecast",
    )
    starts_s = plan.forecast.starts_s
    with _locked(path, world), leaving(world), ForecastStop(world.all_ranks) as stop:
        drawn = forecast(trained, world, path, plan, draws=plots, stop=stop)
    lines = [f"{path}: {members} members, {steps} steps from {_text(starts_s)}"]
    if drawn is not None:
        assert fields is not None
        file = path / file_name(starts_s[0]) if is_folder(path) else path
        pictures = world.all_ranks.on_first(
            lambda: draw_forecast(fields, drawn, file, start_s=starts_s[0], members=members),
            name="pictures",
        )
        lines.append(f"pictures: {', '.join(map(str, pictures))}")
    return lines


def _text(starts_s: Sequence[int]) -> str:
    first, last = times.text(starts_s[0]), times.text(starts_s[-1])
    return first if len(starts_s) == 1 else f"each of {len(starts_s)} starts, {first} to {last}"


@contextmanager
def _locked(path: Path, world: World) -> Iterator[None]:
    """Collective: let no other job write the same output meanwhile."""
    file, held = lock_path(path), list[Lock]()

    def lock() -> None:
        require_lock_file(file)
        try:
            held.append(hold(file, takes_over=False, instead="give another path"))
        except LockError:
            raise
        except OSError as error:
            raise OSError(
                error.errno,
                f"{path}: nothing can be written into {path.parent}: {error.strerror}; make it "
                "writable, or give another path",
            ) from error

    world.all_ranks.on_first(lock, name="lock of the output")
    try:
        yield
    finally:
        for each in held:
            file.unlink(missing_ok=True)
            each.close()
