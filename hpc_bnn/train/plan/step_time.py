"""How long a step will take, from a few passes on the device at hand: ``train --estimate``.

    step = passes(K/S, B/D) + loss(K/S, B/D) + update

What a rank of the grid computes is timed as ``grid.mode=auto`` does (``grid_probe``), on real
examples where there are some. First on one example: where passes over all of a rank's examples
would take too long for an estimate, those of one stand for them.
"""

from dataclasses import dataclass

import torch

from hpc_bnn.config import Settings
from hpc_bnn.data import Source
from hpc_bnn.data.sharding import steps_per_epoch
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.grid_probe import Accumulation, GridProbe
from hpc_bnn.train.run.build import build
from hpc_bnn.train.run.summary import device_name

BUDGET_S = 20.0  # that the timed passes over a rank's examples may take
RUNS = 4  # how often a pass is run to be timed


@dataclass(frozen=True)
class StepTime:
    """Seconds of the parts of a step on one rank, without exchanges between ranks.

    Attributes
    ----------
    examples
        Number of examples that were timed; fewer than a rank has where they stand for all.
    """

    passes_s: float
    loss_s: float
    update_s: float
    examples: int

    @property
    def step_s(self) -> float:
        """Seconds of the whole step."""
        return self.passes_s + self.loss_s + self.update_s


def step_time(
    settings: Settings, source: Source, grid: Grid, device: torch.device
) -> StepTime | None:
    """Return what a step of a rank of ``grid`` takes on ``device``, None where memory is too small
    or there is nothing to time (a joint loss that needs the samples of other ranks).
    """
    own = len(grid.own_examples(settings.train.batch_size))
    one = _timed(settings, source, grid, device, examples=1)
    if one is None or own == 1:
        return one
    num_passes = len(grid.own_samples(settings.posterior.samples))
    num_passes = max(1, num_passes // settings.posterior.samples_per_pass)
    is_long = RUNS * own * one.passes_s / num_passes > BUDGET_S
    if is_long or len(source.train) < own:
        return StepTime(own * one.passes_s, own * one.loss_s, one.update_s, 1)
    return _timed(settings, source, grid, device, examples=own)


def _timed(
    settings: Settings, source: Source, grid: Grid, device: torch.device, *, examples: int
) -> StepTime | None:
    """Time a step over so many examples; the sample axis is that of ``grid``."""
    training = settings.train.model_copy(update={"batch_size": examples})
    settings = settings.model_copy(update={"train": training})
    world = World(Grid(grid.sample_ranks, 1, 0), device)
    probe = GridProbe(settings, world, build(settings, source))
    if not probe.hold(1):
        return None
    found: Accumulation = probe.accumulation(world.grid)
    if found.passes_s == float("inf"):
        return None
    return StepTime(found.passes_s, found.loss_s, found.update_s, examples)


def told_time(
    found: StepTime, settings: Settings, grid: Grid, device: torch.device, *, num_examples: int
) -> list[str]:
    """Return the times as lines of text.

    num_examples: of the training set; less than a batch where the files are not here.
    """
    batch_size, own = settings.train.batch_size, len(grid.own_examples(settings.train.batch_size))
    where = device_name(device)
    if device.type == "cpu":
        where += f", {torch.get_num_threads()} thread(s)"
    stands = "" if found.examples == own else f", {found.examples} example timed for {own}"
    others = " (exchanges with other ranks come on top)" if grid.world_size > 1 else ""
    rest = f"{found.loss_s:.3g} s, {found.update_s:.3g} s"
    if settings.train.longest_rollout > settings.train.rollout[0]:
        others += f", with rollouts of {settings.train.rollout[0]} as at the start"
    lines = [
        f"time, measured here ({where}{stands}):",
        f"  a step                             {_seconds(found.step_s)}{others}",
        f"  of it passes, loss, KL and update  {_seconds(found.passes_s)}, {rest}",
    ]
    per_epoch = steps_per_epoch(num_examples, batch_size) if num_examples >= batch_size else 0
    if per_epoch:
        lines.append(
            f"  an epoch of {f'{per_epoch} steps':22s} {_seconds(per_epoch * found.step_s)}"
        )
    total = settings.train.steps or settings.train.epochs * per_epoch
    if total:
        lines.append(
            f"  the run of {f'{total} steps':23s} {_seconds(total * found.step_s)}, "
            "without validations and checkpoints"
        )
    return lines


def _seconds(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:9.3g} s"
    return f"{seconds / 3600:9.3g} h"
