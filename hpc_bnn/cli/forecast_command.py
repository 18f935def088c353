"""``hpc-bnn forecast``: an ensemble forecast of a trained run as a file."""

import argparse
from pathlib import Path

from hpc_bnn.data.source import Fields
from hpc_bnn.fields import times
from hpc_bnn.fields.forecast_file import require_writable
from hpc_bnn.fields.weatherbench_file import levels_of, write_weatherbench
from hpc_bnn.group import Group
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.forecast import (
    LATEST,
    default_steps,
    draw_forecast,
    forecast,
    start_time,
)
from hpc_bnn.train.score.trained import Trained, load_trained


def forecast_command(options: argparse.Namespace, all_ranks: Group) -> tuple[list[str], int]:
    """Collective: forecast into the file and return lines of text and the exit status."""
    folder = RunFolder(options.run_folder)
    if options.start != LATEST:
        times.parse(options.start, end=False)
    settings = all_ranks.on_first(folder.settings, name="settings")
    all_ranks.on_first(lambda: require_writable(options.output), name="output")
    world = start(all_ranks, mode="data", device=settings.train.device)
    trained = load_trained(
        world, folder, checkpoint=options.checkpoint, overrides=options.overrides
    )
    in_weatherbench = options.layout == "weatherbench"
    if in_weatherbench:
        all_ranks.together(
            lambda: levels_of([one.name for one in _fields(trained).channels]), name="layout"
        )
    lines = forecast_into(
        options.output,
        trained,
        world,
        begin=options.start,
        steps=options.steps,
        members=options.members,
        plots=options.plot,
    )
    if in_weatherbench:
        all_ranks.on_first(
            lambda: write_weatherbench(options.output, options.output), name="layout"
        )
    return lines, 0


def forecast_into(
    path: Path,
    trained: Trained,
    world: World,
    *,
    begin: str,
    steps: int | None,
    members: int | None,
    plots: bool,
) -> list[str]:
    """Collective: forecast, with the lead times and members of the run where none are given, and
    return lines of text.
    """
    fields = world.all_ranks.together(lambda: _fields(trained), name="fields")
    start_s = world.all_ranks.together(lambda: start_time(fields, begin), name="start")
    steps = steps or default_steps(trained, fields)
    members = members or trained.predict_samples
    drawn = forecast(
        trained, world, path, start_s=start_s, steps=steps, members=members, draws=plots
    )
    lines = [f"{path}: {members} members, {steps} steps from {times.text(start_s)}"]
    if drawn is not None:
        pictures = world.all_ranks.on_first(
            lambda: draw_forecast(fields, drawn, path, start_s=start_s, members=members),
            name="pictures",
        )
        lines.append(f"pictures: {', '.join(map(str, pictures))}")
    return lines


def _fields(trained: Trained) -> Fields:
    source = trained.parts.source
    if source.fields is None:
        raise ValueError(
            f"{source.name}: forecasts are rolled out on data sets of fields only; what follows a "
            "series, or what images show: hpc-bnn predict"
        )
    return source.fields
