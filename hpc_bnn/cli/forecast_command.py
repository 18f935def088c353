"""``hpc-bnn forecast``: an ensemble forecast of a trained run as a file."""

import argparse

from hpc_bnn.fields import times
from hpc_bnn.fields.forecast_file import require_writable
from hpc_bnn.group import Group
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.forecast import forecast
from hpc_bnn.train.score.trained import load_trained


def forecast_command(options: argparse.Namespace, all_ranks: Group) -> tuple[list[str], int]:
    """Collective: forecast into the file and return lines of text and the exit status."""
    folder = RunFolder(options.run_folder)
    start_s = times.parse(options.start, end=False)
    settings = folder.settings()
    all_ranks.on_first(lambda: require_writable(options.output), name="output")
    world = start(all_ranks, mode="data", device=settings.train.device)
    trained = load_trained(world, folder, checkpoint=options.checkpoint)
    forecast(
        trained,
        world,
        options.output,
        start_s=start_s,
        steps=options.steps,
        members=options.members,
        layout=options.layout,
    )
    what = f"{options.members} members, {options.steps} steps from {options.start}"
    return [f"{options.output}: {what}"], 0
