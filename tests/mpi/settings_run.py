"""A run as ``hpc-bnn train`` does it from settings, on a given grid, without its files."""

from functools import partial

import torch
from small_run import Outcome

from hpc_bnn.config import Settings
from hpc_bnn.data import Batches, Source
from hpc_bnn.parallel.world import World
from hpc_bnn.train.build import build
from hpc_bnn.train.schedule import rollout_steps
from hpc_bnn.train.step import Step


def run_settings(chosen: Settings, source: Source, world: World) -> Outcome:
    """Collective over the world: train and return what came out."""
    parts = build(chosen, source)
    step = Step(
        parts.posterior,
        parts.loss,
        parts.optimizer(chosen.train.lr),
        world,
        samples=chosen.posterior.samples,
        num_examples=len(source.train),
        samples_per_pass=chosen.posterior.samples_per_pass,
        keep_graphs=chosen.posterior.keep_graphs,
        augment=parts.augment,
        views=chosen.data.augmentation,
        unroll=parts.unroll,
        precision=chosen.train.precision,
        reduction=chosen.train.reduction,
        guard_every=1,
    )
    rollout = partial(rollout_steps, rollout=chosen.train.rollout)
    batches = Batches(
        source.train,
        batch_size=chosen.train.batch_size,
        world=world,
        seed=chosen.seed,
        rollout=rollout if parts.unroll else None,
    )
    values = torch.stack([step(*batches.at(i)) for i in range(chosen.train.steps)])
    trained = [*parts.posterior.parameters(), *parts.loss.parameters()]
    return Outcome(
        values,
        torch.cat([p.grad.flatten() for p in trained if p.grad is not None]),
        torch.cat([p.detach().flatten() for p in trained]),
    )
