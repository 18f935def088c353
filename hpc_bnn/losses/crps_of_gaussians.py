"""CRPS of Gaussians whose mean and scale the network predicts, in closed form.

    A(m, v) = E|N(m, v^2)| = 2 v phi(m / v) + m (2 Phi(m / v) - 1)
    expected:    mean_s [ A(y - mu_s, sigma_s) - A(0, sqrt(2) sigma_s) / 2 ]             separable
    predictive:  mean_s A(y - mu_s, sigma_s)
                 - 1 / (2 K^2) sum_st A(mu_s - mu_t, sqrt(sigma_s^2 + sigma_t^2))        joint

The second is the CRPS of the mixture of all weight samples, never larger than the first. Both grow
with an error where the NLL grows with its square: one outlier counts less. As a mean over points
they weigh less against a KL than a likelihood, which is a sum.

    dA/dm = 2 Phi(m / v) - 1,    dA/dv = 2 phi(m / v)

Letters: S own samples, K samples in all, B batch, P points.
Sources: Gneiting et al. 2005, doi:10.1175/MWR2904.1; Grimit et al. 2006, doi:10.1256/qj.05.235.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpc_bnn.group import Group
from hpc_bnn.losses.base import (
    JointLoss,
    Loss,
    SeparableLoss,
    check_finite_sigma,
    flat_points,
    same_shape,
)
from hpc_bnn.losses.scales import location_and_scale, rescaled
from hpc_bnn.losses.weights import checked_weights, point_weights


def expected_distance(mean: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return A(m, v) and its derivatives to m and to v, all (...)."""
    z = mean / sigma
    slope = torch.erf(z / math.sqrt(2))
    density = torch.exp(-0.5 * z.square()) * math.sqrt(2 / math.pi)  # 2 phi
    return sigma * density + mean * slope, slope, density


def mixture_share(own: Tensor, everyone: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share (...) of the CRPS that the own components add, and its gradient.

    own: (2, S, ...), their means and scales, which are some of everyone's (2, K, ...); the gradient
    has its shape. target: (...).
    """
    (mu, sigma), count = own, everyone.shape[1]
    distance, slope, density = expected_distance(target - mu, sigma)
    score, to_mu, to_sigma = distance.sum(0), -slope, density
    for other_mu, other_sigma in everyone.unbind(1):
        both = torch.hypot(sigma, other_sigma)
        distance, slope, density = expected_distance(mu - other_mu, both)
        score = score - distance.sum(0) / (2 * count)
        # A pair stands in the sum twice.
        to_mu = to_mu - slope / count
        to_sigma = to_sigma - density * (sigma / both) / count
    return score / count, torch.stack([to_mu, to_sigma]) / count


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, target: Tensor, weights: Tensor, axis: Group) -> Tensor:
        everyone = axis.all_gather(own.transpose(0, 1).contiguous(), name="crps.components")
        score, gradient = mixture_share(own, everyone.transpose(0, 1), target)
        ctx.save_for_backward(gradient * weights)
        return axis.all_reduce((score * weights).sum(-1), reduction="sum", name="crps.score")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].unsqueeze(-1), None, None, None


class _Predicted(nn.Module):
    """What both kinds share: outputs of means, then raw scales, and weights of points."""

    def __init__(self, min_sigma: float, weights: Tensor | None, present: Tensor | None) -> None:
        super().__init__()
        self.weights: Tensor | None
        self.register_buffer("weights", checked_weights(weights, present), persistent=False)
        self.min_sigma = check_finite_sigma("min_sigma", min_sigma)

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2 * target_shape[0], *target_shape[1:])

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, sigma = location_and_scale(outputs.flatten(0, 1), self.min_sigma)
        both = outputs.shape[:2]
        return torch.unflatten(mean, 0, both), torch.unflatten(sigma, 0, both)

    def rescale(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        return rescaled(output, location, scale)

    def _points(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return means and scales (B, P) of one sample and the weights (P,), whose sum is 1."""
        mean, sigma = location_and_scale(output, self.min_sigma)
        same_shape(mean, target, "gaussian_crps")
        weights = point_weights(self.weights, target, mean.dtype)
        return flat_points(mean, 1), flat_points(sigma, 1), weights / len(weights)


class ExpectedGaussianCRPS(_Predicted, SeparableLoss):
    """Mean over weight samples of the CRPS of each one's Gaussians."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        mean, sigma, weights = self._points(output, target)
        error = flat_points(target, 1).to(mean.dtype) - mean
        points = expected_distance(error, sigma)[0] - sigma / math.sqrt(math.pi)
        return (points * weights).sum(-1)


class PredictiveGaussianCRPS(_Predicted, JointLoss):
    """CRPS of the mixture of the Gaussians of all weight samples."""

    def forward(self, outputs: Tensor, target: Tensor, axis: Group) -> Tensor:
        each = [self._points(output, target) for output in outputs]
        own = torch.stack([torch.stack(part) for part in list(zip(*each, strict=True))[:2]])
        truth = flat_points(target, 1).to(own.dtype)
        score: Tensor = _Mixture.apply(own, truth, each[0][2], axis)  # type: ignore[no-untyped-call]
        return score


def gaussian_crps(
    *,
    min_sigma: float = 1e-3,
    predictive: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
) -> Loss:
    """CRPS of a Gaussian observation whose mean and scale the network predicts.

    Parameters
    ----------
    min_sigma
        Smallest standard deviation that is predicted, in units of the target.
    predictive
        False: the mean of the samples' CRPS; true: the CRPS of their mixture, a joint loss.
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    """
    kind: Callable[..., Loss] = PredictiveGaussianCRPS if predictive else ExpectedGaussianCRPS
    return kind(min_sigma, weights, present)
