"""``hpc-bnn laplace``: a trained run with a Gaussian posterior over its last layer."""

import argparse

from hpc_bnn.group import Group
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.laplace import default_target, fit_laplace


def laplace_command(options: argparse.Namespace, all_ranks: Group) -> tuple[list[str], int]:
    """Collective: fit the posterior of a run and write it; return lines of text and the status."""
    folder = RunFolder(options.run_folder)
    target = RunFolder(options.output or default_target(options.run_folder))
    settings = folder.settings()
    # Every rank takes its own examples: sums are exchanged once.
    world = start(all_ranks, mode="data", device=settings.train.device)
    result = fit_laplace(world, folder, target, layer=options.layer, sample=options.sample)
    fitted = (
        f"layer {result['layer']}, {result['parameters']} weights, log evidence "
        f"{result['log_evidence']:.6g} at prior precision {result['prior_precision']:.6g}"
    )
    return [f"{target.path}: {fitted}", f"score it with hpc-bnn evaluate {target.path}"], 0
