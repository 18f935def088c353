"""A last-layer Laplace posterior around a trained run, as a run folder of its own.

The new folder holds the settings of the run with ``posterior.name: last_layer_laplace``, one
checkpoint and ``laplace.json``: it is evaluated and forecast with like any run.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpc_bnn.bayes import LastLayerLaplace
from hpc_bnn.bayes.export import with_weights
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import SettingsError
from hpc_bnn.data.sharding import in_turn
from hpc_bnn.data.source import Examples
from hpc_bnn.files import write_json
from hpc_bnn.lock import release
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.snapshots import Snapshots
from hpc_bnn.train.score.trained import load_trained

log = logging.getLogger(__name__)


def fit_laplace(
    world: World,
    folder: RunFolder,
    target: RunFolder,
    *,
    layer: str = "",
    sample: int | None = None,
) -> dict[str, Any]:
    """Collective over the world: fit the posterior to the training split of the run in ``folder``,
    write it to ``target`` and return what ``laplace.json`` holds.

    The network is the mean of the run's posterior, or one of its samples.

    Parameters
    ----------
    layer
        Name of the linear layer; ``""``: the last one.
    sample
        The weight sample that is the network, such as a member of an ensemble; None: the mean.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If ``folder`` holds no run that was trained.
    SettingsError
        If ``target`` holds a run already.
    ValueError
        If the run has members and none is named, or from ``LastLayerLaplace.fit``.
    """
    trained = load_trained(world, folder)
    settings, parts = trained.settings, trained.parts
    world.all_ranks.on_first(lambda: _require_free(target), name="run folder")

    def make() -> LastLayerLaplace:
        network = _network(parts.posterior, sample)
        return LastLayerLaplace(network, layer=layer, seed=settings.seed).to(world.device)

    laplace = world.all_ranks.together(make, name="last layer")
    size = max(1, settings.train.batch_size // world.grid.data_ranks)
    laplace.fit(_own_batches(parts.source.train, world, size), parts.loss, world.data_axis)
    chosen = {
        "name": "last_layer_laplace",
        "samples": 1,
        "predict_samples": settings.posterior.predict_samples,
        "layer": laplace.layer,
        "blocks": len(laplace.factor),
    }
    posterior = type(settings.posterior).model_validate(chosen)
    settings = settings.model_copy(update={"posterior": posterior})
    result = {
        "run": str(folder.path),
        "sample": sample,
        "step": trained.step,
        "layer": laplace.layer,
        "parameters": laplace.factor.shape[0] * laplace.factor.shape[1],
        "examples": len(parts.source.train),
        "prior_precision": float(laplace.prior_precision),
        "log_evidence": float(laplace.log_evidence),
    }
    lock = world.all_ranks.together(
        lambda: (
            target.claim(settings, resume=False, source=parts.source) if world.is_first else None
        ),
        name="run folder",
    )
    try:
        unused = torch.optim.SGD(laplace.parameters())
        fitted = replace(parts, posterior=laplace)
        Snapshots(settings, world, target, fitted, unused).save(trained.step, steps_per_epoch=1)
        world.all_ranks.on_first(
            lambda: write_json(target.path / "laplace.json", result), name="laplace.json"
        )
    finally:
        release(lock)
    return result


def default_target(run_folder: Path) -> Path:
    """Return the folder beside a run that its posterior goes to where none is named."""
    return run_folder.resolve().with_name(f"{run_folder.resolve().name}-laplace")


def _require_free(target: RunFolder) -> None:
    if target.config.is_file():
        raise SettingsError([f"{target.path}: holds a run already; name another folder with -o"])


def _network(posterior: Posterior, sample: int | None) -> nn.Module:
    """Return the network of a weight sample; None: of the mean."""
    if sample is not None:
        available = posterior.prediction_samples(sample + 1)
        if not 0 <= sample < available:
            raise ValueError(f"--sample {sample}: the run has the samples 0 to {available - 1}")
        return posterior.to_module(sample)
    if posterior.members is not None:
        raise ValueError(
            f"the run has {posterior.members} members, and the Laplace approximation is around one "
            "network: name one, such as --sample 0"
        )
    return with_weights(posterior.module, posterior.mean())


def _own_batches(examples: Examples, world: World, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this data rank's part of all examples, ``size`` at a time."""
    place = {"data_rank": world.grid.data_rank, "data_ranks": world.grid.data_ranks}
    for indices in in_turn(len(examples), **place).split(size):
        yield examples.batch(indices)
