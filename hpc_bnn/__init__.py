"""Sampling-parallel Bayesian neural networks: one run, one answer, on any grid of ranks.

world = hb.start(sample_ranks="auto")             splits COMM_WORLD, connects ranks, picks the GPU
posterior = hb.Gaussian(network)                  network: any nn.Module
loader = hb.Batches(train_set, batch_size=64, world=world)
step = hb.Step(posterior, hb.losses.categorical_nll(), optimizer, world,
               samples=16, num_examples=len(train_set))
for x, y in loader:
    loss = step(x, y)
probabilities = posterior.predict(x, samples=64).softmax(-1)        (K, B, classes)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpc_bnn import losses
    from hpc_bnn.bayes import (
        IVON,
        SGHMC,
        SGLD,
        SWAG,
        Dropout,
        Ensemble,
        Gaussian,
        LastLayerLaplace,
        LowRank,
        Rank1,
        convert,
    )
    from hpc_bnn.bayes.batchnorm import freeze_batchnorm, replace_batchnorm
    from hpc_bnn.bayes.ensemble import perturbed_targets
    from hpc_bnn.data import Batches
    from hpc_bnn.parallel.world import World, start
    from hpc_bnn.train.run.script import save
    from hpc_bnn.train.run.stop import Stop
    from hpc_bnn.train.score.load import load
    from hpc_bnn.train.step.step import Step

__version__ = "0.1.0"

__all__ = [
    "IVON",
    "SGHMC",
    "SGLD",
    "SWAG",
    "Batches",
    "Dropout",
    "Ensemble",
    "Gaussian",
    "LastLayerLaplace",
    "LowRank",
    "Rank1",
    "Step",
    "Stop",
    "World",
    "convert",
    "freeze_batchnorm",
    "load",
    "losses",
    "perturbed_targets",
    "replace_batchnorm",
    "save",
    "start",
]

_MODULES = {"convert": "hpc_bnn.bayes.convert", "losses": "hpc_bnn.losses"}
_HOMES = {
    "SWAG": "hpc_bnn.bayes",
    "SGHMC": "hpc_bnn.bayes",
    "SGLD": "hpc_bnn.bayes",
    "Batches": "hpc_bnn.data",
    "Dropout": "hpc_bnn.bayes",
    "Ensemble": "hpc_bnn.bayes",
    "Gaussian": "hpc_bnn.bayes",
    "IVON": "hpc_bnn.bayes",
    "LastLayerLaplace": "hpc_bnn.bayes",
    "LowRank": "hpc_bnn.bayes",
    "Rank1": "hpc_bnn.bayes",
    "Step": "hpc_bnn.train.step.step",
    "Stop": "hpc_bnn.train.run.stop",
    "World": "hpc_bnn.parallel.world",
    "freeze_batchnorm": "hpc_bnn.bayes.batchnorm",
    "load": "hpc_bnn.train.score.load",
    "perturbed_targets": "hpc_bnn.bayes.ensemble",
    "replace_batchnorm": "hpc_bnn.bayes.batchnorm",
    "save": "hpc_bnn.train.run.script",
    "start": "hpc_bnn.parallel.world",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: ``hpc-bnn --help`` needs no torch."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted({*globals(), *__all__})
