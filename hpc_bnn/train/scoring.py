"""Score a posterior on a set of examples, spread over the grid: samples along one axis, examples
along the other.
"""

import torch
from torch import Tensor

from hpc_bnn.bayes import Gaussian
from hpc_bnn.data.sharding import in_turn
from hpc_bnn.data.source import Examples, Scale
from hpc_bnn.losses import Loss
from hpc_bnn.parallel.world import World
from hpc_bnn.verify.tally import TALLIES, ClassificationTally, RegressionTally


def score(
    posterior: Gaussian,
    loss: Loss,
    examples: Examples,
    world: World,
    *,
    task: str,
    scale: Scale | None,
    samples: int,
    batch_size: int,
    tally: ClassificationTally | RegressionTally | None = None,
) -> ClassificationTally | RegressionTally:
    """Collective over the world: return the tally of ``examples`` under ``samples`` weight samples.

    The same on every rank and on any grid. ``samples`` must be a multiple of the sample ranks.
    ``tally``: an empty one to fill, where that of the task is not enough.
    """
    own = world.grid.own_samples(samples)
    tally = TALLIES[task]() if tally is None else tally
    indices = in_turn(
        len(examples), data_rank=world.grid.data_rank, data_ranks=world.grid.data_ranks
    )
    for part in torch.split(indices, batch_size):
        if len(part) == 0:  # fewer examples than data ranks: the whole sample axis has none
            continue
        x, y = examples.batch(part)
        outputs = posterior.predict(
            as_input(posterior, x, world.device), samples=len(own), first=own.start
        )
        gathered = world.sample_axis.all_gather(outputs, name="scoring.outputs")
        mean, sigma = loss.forecast(gathered)
        mean, sigma, y = physical(mean, sigma, y, scale)
        tally.add(mean, sigma, y)
    tally.sums = world.data.all_reduce(tally.sums, reduction="sum", name="scoring.sums")
    return tally


def as_input(posterior: Gaussian, x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on the device and in the floating type of the weights."""
    dtype = next(posterior.parameters()).dtype
    return x.to(device, dtype) if x.is_floating_point() else x.to(device)


def physical(
    mean: Tensor, sigma: Tensor | None, target: Tensor, scale: Scale | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return forecast and target in physical units where the data set has any."""
    mean, target = mean.detach(), target.to(mean.device)
    sigma = None if sigma is None else sigma.detach()
    if scale is None:
        return mean, sigma, target
    std = scale.std.to(mean.device)
    return (
        scale.physical(mean),
        None if sigma is None else sigma.double() * std,
        scale.physical(target),
    )
