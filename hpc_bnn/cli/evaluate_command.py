"""``hpc-bnn evaluate``: scores and pictures of a trained run."""

import argparse
from collections.abc import Sequence

from hpc_bnn.group import Group
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.away import is_away, results_folder, settings_with
from hpc_bnn.train.score.evaluate import evaluate, told


def evaluate_command(options: argparse.Namespace, all_ranks: Group) -> tuple[list[str], int]:
    """Collective: score the test split, or other data, and return lines of text and the status."""
    folder = RunFolder(options.run_folder)
    settings = folder.settings()
    # Every rank takes its own examples and all samples: nothing is exchanged until the sums.
    world = start(all_ranks, mode="data", device=settings.train.device)
    result = evaluate(
        world,
        folder,
        recalibrate=options.recalibrate,
        checkpoint=options.checkpoint,
        overrides=options.overrides,
    )
    where = all_ranks.on_first(lambda: _results(folder, options.overrides), name="results")
    return [*told(result), where], 0


def _results(folder: RunFolder, overrides: Sequence[str]) -> str:
    settings = settings_with(folder, overrides)
    place = results_folder(folder, settings) if is_away(folder, settings) else folder
    return f"scores in {place.evaluation}, pictures in {place.plots}"
