"""Negative log-likelihood of Student-t observations whose location and scale the network predicts.

    p(y) = t_nu((y - mu) / sigma) / sigma,    t_nu(z) ~ (1 + z^2 / nu)^(-(nu + 1) / 2)

Heavy tails: an outlier costs the logarithm of its distance, not the square. ``expected`` and
``predictive`` are as of a Gaussian (``nll``).

As a forecast it is a mixture of Gaussians: t_nu is N(0, w) with w = nu / X, X chi-square of nu
degrees of freedom. Cut into ``NODES`` equally probable parts, w has in part q, x from a to b,

    E[w | q] = NODES nu / (nu - 2) (F_(nu - 2)(b) - F_(nu - 2)(a))

with F_k the distribution function of chi-square: the variance nu / (nu - 2) is exact, quantiles of
90 % intervals are to 1 %.

Letters: S own samples, B batch, Q nodes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hpc_bnn.group import Group
from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss, check_finite_sigma, same_shape
from hpc_bnn.losses.predictive import log_mean_exp
from hpc_bnn.losses.scales import location_and_scale, rescaled
from hpc_bnn.losses.weights import checked_weights, share_of, weighted_sum

NODES = 8


def scale_nodes(nu: float) -> Tensor:
    """Return the standard deviations (Q,) float64 of the Gaussians that make up t_nu, nu > 2."""
    # Here: of all losses this one alone needs scipy.
    from scipy.special import chdtr, chdtri  # type: ignore[import-untyped]

    ends = [0.0, *(float(chdtri(nu, 1 - q / NODES)) for q in range(1, NODES)), math.inf]
    below = torch.tensor([float(chdtr(nu - 2, end)) for end in ends], dtype=torch.float64)
    return (NODES * nu / (nu - 2) * below.diff()).sqrt()


class _StudentT(nn.Module):
    """What both kinds share."""

    nodes: Tensor

    def __init__(
        self, nu: float, min_sigma: float, weights: Tensor | None, present: Tensor | None
    ) -> None:
        super().__init__()
        if not 2 < nu < math.inf:
            raise ValueError(
                f"loss.degrees_of_freedom = {nu!r}: must be a number above 2, where there is a "
                "variance; large ones are Gaussian"
            )
        self.weights: Tensor | None
        self.register_buffer("weights", checked_weights(weights, present), persistent=False)
        self.register_buffer("nodes", scale_nodes(nu), persistent=False)
        self.share, self.nu = share_of(present), nu
        self.min_sigma = check_finite_sigma("min_sigma", min_sigma)
        self._constant = (
            math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        )

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2 * target_shape[0], *target_shape[1:])

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return Gaussians (S Q, B, ...), all nodes of a sample one after the other."""
        mean, sigma = location_and_scale(outputs.flatten(0, 1), self.min_sigma)
        both = outputs.shape[:2]
        mean, sigma = (torch.unflatten(part, 0, both) for part in (mean, sigma))
        nodes = self.nodes.to(sigma.dtype).reshape(-1, *[1] * (sigma.dim() - 1))
        each = (sigma.unsqueeze(1) * nodes).flatten(0, 1)
        return mean.repeat_interleave(NODES, dim=0), each

    def rescale(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        return rescaled(output, location, scale)

    def log_likelihood(self, output: Tensor, target: Tensor) -> Tensor:
        """Return log p (B,) of one sample's output (B, ...), a sum over points."""
        mean, sigma = location_and_scale(output, self.min_sigma)
        same_shape(mean, target, "student_t_nll")
        tail = torch.log1p(((target - mean) / sigma).square() / self.nu)
        points = self._constant - torch.log(sigma) - 0.5 * (self.nu + 1) * tail
        return weighted_sum(points, self.weights, self.share)


class ExpectedStudentT(_StudentT, SeparableLoss):
    """Mean over weight samples of -log p(y | x, w_s)."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return -self.log_likelihood(output, target)


class PredictiveStudentT(_StudentT, JointLoss):
    """-log of the mean over weight samples of p(y | x, w_s)."""

    def forward(self, outputs: Tensor, target: Tensor, axis: Group) -> Tensor:
        each = torch.stack([self.log_likelihood(output, target) for output in outputs])
        return -log_mean_exp(each, axis)


def student_t_nll(
    *,
    degrees_of_freedom: float = 5.0,
    min_sigma: float = 1e-3,
    predictive: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
) -> Loss:
    """NLL of a Student-t observation whose location and scale the network predicts.

    Parameters
    ----------
    degrees_of_freedom
        nu, above 2: the smaller, the heavier the tails.
    min_sigma
        Smallest scale that is predicted, in units of the target.
    predictive
        False: the mean of the samples' NLL, the data term of the ELBO; true: the NLL of their
        mixture, a joint loss.
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    """
    kind: Callable[..., Loss] = PredictiveStudentT if predictive else ExpectedStudentT
    return kind(degrees_of_freedom, min_sigma, weights, present)
