"""A run as ``hpc-bnn train`` does it from settings, on a given grid, without its files."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch
from small_run import Outcome

from hpc_bnn.config import Settings
from hpc_bnn.data import Batches, Source
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import build, step_settings
from hpc_bnn.train.step.schedule import rollout_steps
from hpc_bnn.train.step.step import Step


def run_settings(chosen: Settings, source: Source, world: World) -> Outcome:
    """Collective over the world: train and return what came out."""
    parts = build(chosen, source)
    optimizer = parts.optimizer(chosen.train.lr)
    options = replace(step_settings(chosen, parts), guard_every=1)
    step = Step(parts.posterior, parts.loss, optimizer, world, options)
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


def alone(cases: Iterable[str], run: Callable[[str, World], Outcome]) -> dict[str, Outcome]:
    """Collective: return what comes out of each case on one rank. The ranks share the cases, and
    tell each other, so that none works out all.
    """
    all_ranks, solo = connect(), World(Grid(1, 1, 0), torch.device("cpu"))
    own = list(cases)[all_ranks.rank :: all_ranks.size]
    made = all_ranks.together(lambda: {case: run(case, solo) for case in own}, name="references")
    everyone = all_ranks.gather(made, name="references")
    return {case: outcome for part in everyone for case, outcome in part.items()}
