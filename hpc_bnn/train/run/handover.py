"""A checkpoint made of what the ranks of a world hold, and handed out to them again: for a run, and
for a script of a user's own.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses import Loss
from hpc_bnn.parallel.guards import agree
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import Checkpoint, digest
from hpc_bnn.train.run.state import (
    Optimizer,
    gather_ema,
    gather_optimizer,
    gather_posterior,
    outline,
    restore,
    restore_ema,
)
from hpc_bnn.train.step.ema import EMA

log = logging.getLogger(__name__)


def gathered(
    world: World,
    posterior: Posterior,
    loss: Loss,
    optimizer: Optimizer,
    ema: EMA | None,
    **facts: Any,
) -> Checkpoint:
    """Collective over the sample axis: return a checkpoint, with all rows on its first rank and
    outlines of them elsewhere; ``facts`` are its other fields.
    """
    return Checkpoint(
        posterior=gather_posterior(posterior, world.sample_axis),
        loss=loss.state_dict(),
        optimizer=gather_optimizer(optimizer, posterior, world.sample_axis),
        per_sample=list(posterior.per_sample()),
        ema=gather_ema(ema, posterior, world.sample_axis),
        **facts,
    )


def require_finite(posterior: Posterior, state: Checkpoint) -> None:
    """Raise FloatingPointError where a parameter that is to be saved is not finite."""
    for name, _ in posterior.named_parameters():
        if not torch.isfinite(state.posterior[name]).all():
            raise FloatingPointError(
                f"step {state.step}: parameter {name} is not finite; the checkpoint was not "
                "written and the one before is kept"
            )


def take(
    world: World,
    read: Callable[[], tuple[Path, Checkpoint] | None],
    parts_of: Callable[[Checkpoint], tuple[Posterior, Loss]],
    optimizer: Optimizer | None = None,
    ema: EMA | None = None,
) -> tuple[Path, Checkpoint] | None:
    """Collective: restore what ``read`` returns on world rank 0, the only one that reads, into
    ``parts_of`` its outline; return the path and the outline, None where it returns none.

    optimizer: None: not its state, which ``read`` may leave out, and moving averages, where there
    are some, take the place of the weights.
    """
    whole: list[Checkpoint] = []

    def read_outline() -> tuple[Path, Checkpoint] | None:
        found = read()
        if found is None:
            return None
        path, state = found
        whole.append(state if optimizer else replace(state, optimizer={}))
        return path, outline(whole[0])

    found = world.all_ranks.on_first(read_outline, name="reading the checkpoint")
    if found is None:
        return None
    path, outlined = found
    posterior, loss = world.all_ranks.together(lambda: parts_of(outlined), name="parts")
    state = whole[0] if whole else outlined
    restore(path, state, posterior, loss, optimizer, world.all_ranks)
    if state.ema and (ema or not optimizer):
        restore_ema(path, state, posterior, loss, ema, world.all_ranks)
    if state.ema and not optimizer:
        log.info(
            "the weights are moving averages of %d steps (train.ema = %g)",
            state.ema["steps"],
            state.ema["decay"],
        )
    restored: dict[str, Mapping[str, Any]] = {
        "posterior": posterior.state_dict(),
        "loss": loss.state_dict(),
    }
    if optimizer is not None:
        restored["optimizer"] = optimizer.state_dict()
    if ema is not None:
        restored["ema"] = ema.weights
    # Where members are spread over the sample axis, the same ones are on a data axis.
    spread = posterior.own_samples != range(posterior.members or 0)
    ranks = world.data_axis if spread else world.all_ranks
    agree(ranks, {"checkpoint": digest(restored)}, name="restored state")
    return path, outlined
