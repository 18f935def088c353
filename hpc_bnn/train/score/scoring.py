"""Score a posterior on a set of examples, spread over the grid: samples along one axis, examples
along the other, and the points of their forecasts along the first again.

What a rank holds is bounded, whatever the size of a forecast: the own members of as many examples
as fit ``MEMBER_BYTES`` (at least one, at most its part of a batch), and work space for a slice of
the points (``dealing``).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.data.sharding import in_turn
from hpc_bnn.data.source import Examples, Scale
from hpc_bnn.group import Group
from hpc_bnn.losses import Loss
from hpc_bnn.losses.base import same_shape
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.dealing import deal, own_part, slices
from hpc_bnn.train.step.input_noise import InputNoise
from hpc_bnn.verify.recalibration import RecalibratedTally, SpreadTally
from hpc_bnn.verify.tally import TALLIES, ClassificationTally, RegressionTally

Filled = ClassificationTally | RegressionTally | RecalibratedTally | SpreadTally

MEMBER_BYTES = 1 << 27  # of the forecasts of all members that a rank holds together


def score(
    posterior: Posterior,
    loss: Loss,
    examples: Examples,
    world: World,
    *,
    task: str,
    output_shape: tuple[int, ...],
    scale: Scale | None,
    samples: int,
    batch_size: int,
    tally: Filled | None = None,
    noise: InputNoise | None = None,
    interrupt: Callable[[], None] | None = None,
) -> Filled:
    """Collective over the world: return the tally of ``examples`` under ``samples`` weight samples.

    The same on every rank and on any grid. ``samples`` must be a multiple of the sample ranks.
    ``output_shape``: of what is predicted for an example, as a ``Source`` tells it.
    ``batch_size``: most examples at a time over the whole grid.
    ``tally``: an empty one to fill, where that of the task is not enough.
    ``noise``: on the states of inputs, of each sample and example.
    ``interrupt``: called by every rank equally often, between two batches; may be collective, and
    may raise on every rank.
    """
    own = world.grid.own_samples(samples)
    filled: Filled = TALLIES[task]() if tally is None else tally
    indices = in_turn(
        len(examples), data_rank=world.grid.data_rank, data_ranks=world.grid.data_ranks
    )
    at_once = own_examples_at_once(
        posterior, loss, output_shape, world.grid, samples=samples, batch_size=batch_size
    )

    def forecast(part: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        x, y = examples.batch(part)
        x, places = as_input(posterior, x, world.device), part.tolist()
        if noise is None:
            outputs = posterior.predict(x, samples=len(own), first=own.start, positions=places)
        else:
            outputs = _perturbed(posterior, noise, x, own, places)
        return physical(*loss.forecast(outputs), y, scale)

    most = -(-len(examples) // world.grid.data_ranks)  # of any rank
    for first in range(0, most, at_once):
        if interrupt is not None:
            interrupt()
        part = indices[first : first + at_once]
        if len(part):  # else no more than on other data ranks: the whole sample axis has none
            # Not held by a name: it would live on while the next one is made.
            add_dealt(filled, *forecast(part), world.sample_axis)
    filled.sums = world.all_ranks.all_reduce(filled.sums, reduction="sum", name="scoring.sums")
    return filled


def _perturbed(
    posterior: Posterior, noise: InputNoise, x: Tensor, own: range, places: list[int]
) -> Tensor:
    """Return what samples predict (S, B, ...) from states with noise, as changes of ``x``."""

    def one(sample: int) -> Tensor:
        key = Key(posterior.seed, 0, (sample,))
        return noise.around_places(partial(predict, sample), x, key, places)[0]

    def predict(sample: int, wrong: Tensor) -> Tensor:
        return posterior.predict(wrong[0], samples=1, first=sample, positions=places)

    first = one(own.start)
    outputs = first.new_empty(len(own), *first.shape)  # filled: a stack would hold all twice
    outputs[0] = first
    for row, sample in enumerate(own[1:], 1):
        outputs[row] = one(sample)
    return outputs


def examples_at_once(example_bytes: int, most: int) -> int:
    """Return how many examples fit ``MEMBER_BYTES``: at least one and not more than ``most``.

    example_bytes: of the forecasts of all members that a rank holds of one example.
    """
    return max(1, min(most, MEMBER_BYTES // example_bytes))


def own_examples_at_once(
    posterior: Posterior,
    loss: Loss,
    output_shape: tuple[int, ...],
    grid: Grid,
    *,
    samples: int,
    batch_size: int,
) -> int:
    """Return how many examples a rank scores together."""
    size = next(posterior.parameters()).element_size()
    member_bytes = size * math.prod(loss.output_shape(output_shape))
    return examples_at_once(
        len(grid.own_samples(samples)) * member_bytes, batch_size // grid.data_ranks
    )


def add_dealt(
    tally: Filled,
    mean: Tensor,
    sigma: Tensor | None,
    target: Tensor,
    axis: Group,
) -> None:
    """Collective over the sample axis: add forecasts of the own members (S, B, ...) to the tallies
    of all ranks, each of which scores all members of a part of the points.
    """
    if not tally.whole_examples:
        mean, sigma, target = as_points(mean, sigma, target)
    for part in slices(mean, axis):
        everyone = deal(mean[:, part], axis, name="scoring.members")
        sigmas = None if sigma is None else deal(sigma[:, part], axis, name="scoring.sigmas")
        here = own_part(len(target[part]), axis)
        if here.start < here.stop:
            on_host = None if sigmas is None else sigmas.cpu()
            mine = target[part][here].cpu()
            if isinstance(tally, RegressionTally) and not tally.whole_examples:
                tally.add(everyone.cpu(), on_host, mine, first=part.start + here.start)
            else:
                tally.add(everyone.cpu(), on_host, mine)


def as_points(
    mean: Tensor, sigma: Tensor | None, target: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return forecasts (S, B, ...) and targets (B, ...) as (S, P) and (P,)."""
    same_shape(mean[0], target, "scoring")
    return mean.flatten(1), None if sigma is None else sigma.flatten(1), target.flatten()


def as_input(posterior: Posterior, x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` on the device and in the floating type of the weights."""
    dtype = next(posterior.parameters()).dtype
    return x.to(device, dtype) if x.is_floating_point() else x.to(device)


def physical(
    mean: Tensor, sigma: Tensor | None, target: Tensor, scale: Scale | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return forecast and target in physical units where the data set has any, each on its own
    device.
    """
    mean = mean.detach()
    sigma = None if sigma is None else sigma.detach()
    if scale is None:
        return mean, sigma, target
    spread = None if sigma is None else scale.spread(sigma)
    return scale.physical(mean), spread, scale.physical(target)
