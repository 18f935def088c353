"""Gaussian moment matching: the NLL of a Gaussian with the mean and variance of all weight samples.

    m = mean_s y_s,   v = sum_s (y_s - m)^2 / (K - 1) + sigma^2
    loss = sum_points [ (t - m)^2 / v + log(2 pi v) ] / 2

Two passes: the sum of the members, then of the squared deviations from the common mean; never
E[y^2] - E[y]^2. Backward is local, since every rank knows m and v:

    dL/dy_s = dL/dm / K + 2 (y_s - m) dL/dv / (K - 1).

Letters: S own samples, K samples in all, B batch.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpc_bnn.group import Group
from hpc_bnn.losses.base import (
    JointLoss,
    check_finite_sigma,
    same_shape,
    share_parameter,
    to_float,
)
from hpc_bnn.losses.weights import checked_weights, share_of, weighted_sum


def moments(members: Tensor, axis: Group) -> tuple[Tensor, Tensor]:
    """Collective over the sample axis: return mean and unbiased variance (B, ...) of all members
    (S, B, ...).

    Raises
    ------
    ValueError
        If there are fewer than two members in all.
    """
    if len(members) * axis.size < 2:
        raise ValueError(
            "moments: the variance over weight samples needs at least 2 of them; raise "
            "posterior.samples"
        )
    mean, variance = _Moments.apply(members, axis)  # type: ignore[no-untyped-call]
    return mean, variance


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, members: Tensor, axis: Group) -> tuple[Tensor, Tensor]:
        count = len(members) * axis.size
        mean = axis.all_reduce(members.sum(0), reduction="sum", name="moments.sum") / count
        deviation = members - mean
        squares = axis.all_reduce(
            deviation.square().sum(0), reduction="sum", name="moments.squares"
        )
        ctx.save_for_backward(deviation)
        ctx.count = count
        return mean, squares / (count - 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (deviation,) = ctx.saved_tensors
        to_mean, to_variance = grads
        return to_mean / ctx.count + deviation * (2 / (ctx.count - 1)) * to_variance, None


class GaussianMoments(JointLoss):
    """NLL of the Gaussian that has the moments of the samples plus an observation variance sigma^2.

    Parameters
    ----------
    sigma
        Observation standard deviation in target units; also the floor under the variance.
    learned
        Train sigma.
    weights
        Point weights that broadcast against an example; they count relative to their mean.
    present
        Bool, of the shape of an example: points that have values; the others do not count.
    """

    min_samples = 2

    def __init__(
        self,
        *,
        sigma: float = 0.1,
        learned: bool = False,
        weights: Tensor | None = None,
        present: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.weights: Tensor | None
        self.register_buffer("weights", checked_weights(weights, present), persistent=False)
        self.share = share_of(present)
        log_sigma = torch.tensor(math.log(check_finite_sigma("sigma", sigma)))
        if learned:
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma, persistent=False)

    def forward(self, outputs: Tensor, target: Tensor, axis: Group) -> Tensor:
        outputs = to_float(outputs)
        same_shape(outputs[0], target, "gaussian_moments")
        # Of the errors: in float32 a mean far from zero is rounded coarser than a small spread.
        bias, spread = moments(outputs - target, axis)
        log_sigma = share_parameter(self.log_sigma.to(outputs.dtype), axis)
        variance = spread + torch.exp(2 * log_sigma)
        points = 0.5 * (bias.square() / variance + torch.log(2 * math.pi * variance))
        return weighted_sum(points, self.weights, self.share)

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return outputs, torch.exp(self.log_sigma).expand_as(outputs)


def gaussian_moments(
    *,
    sigma: float = 0.1,
    learned: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
) -> JointLoss:
    """Moment-matching NLL over the weight samples; see ``GaussianMoments``.

    Parameters
    ----------
    sigma
        Standard deviation of an observation, in units of the target, that is added to the spread
        of the samples.
    learned
        Train it, from ``sigma`` on.
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    """
    return GaussianMoments(sigma=sigma, learned=learned, weights=weights, present=present)
