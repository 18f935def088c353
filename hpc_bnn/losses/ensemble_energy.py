"""Energy score of the weight samples as an ensemble of whole examples, exact on any grid.

    ES = mean_i |x_i - t| - c / 2 sum_{i != j} |x_i - x_j|
    |x|^2 = sum_p w_p x_p^2,   sum_p w_p = 1
    c = (1 - e) / (K (K - 1)),   e = (1 - alpha) / K

The CRPS of vectors: of one point it is the CRPS. Unlike a mean of CRPS over points it sees how
points vary together. alpha is as of the CRPS: 1 fair, 0 standard. Gradient to an own member:

    d/dx_i = w ( (x_i - t) / (K |x_i - t|) - c sum_{j != i} (x_i - x_j) / |x_i - x_j| ),

without the terms whose distance is 0, where the norm has a corner. Differences first, never
x_i . x_j, so nothing cancels far from zero; sums over points are in float64.

*Gather*: every rank receives all members. *Transposed*: it receives all members on its points, and
the squared distances, K (K + 1) numbers an example, are summed over the ranks before their roots.

Letters: S own samples, K samples in all, B batch, P points.
Source: Gneiting, Raftery 2007, doi:10.1198/016214506000001437, eq. 22.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpc_bnn.group import Group
from hpc_bnn.losses.base import JointLoss
from hpc_bnn.losses.ensemble_crps import CRPS, Layout
from hpc_bnn.losses.transpose import points_here, send_back, send_points


def squared_distances(own: Tensor, everyone: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return (S, 1 + K, B) float64: the squared distance of own members (S, B, P) to the target
    (B, P), then to every member (K, B, P).
    """
    others = [target, *everyone]
    squares = [((own - other).square() * weights).sum(-1, dtype=torch.float64) for other in others]
    return torch.stack(squares, 1)


def pair_factor(count: int, alpha: float) -> float:
    """Return c of K members; without a pair its value does not matter."""
    return (1.0 - (1.0 - alpha) / count) / max(1, count * (count - 1))


def score_of(distances: Tensor, alpha: float) -> Tensor:
    """Return the part (B,) of the score that members of ``distances`` (S, 1 + K, B) add."""
    count = distances.shape[1] - 1
    errors, gaps = distances[:, 0].sum(0), distances[:, 1:].sum((0, 1))
    return errors / count - 0.5 * pair_factor(count, alpha) * gaps


def gradient_of(
    own: Tensor, everyone: Tensor, target: Tensor, weights: Tensor, distances: Tensor, alpha: float
) -> Tensor:
    """Return the gradient (S, B, P) of the score to own members."""
    inverse = distances.reciprocal().masked_fill(distances == 0, 0.0).to(own.dtype).unsqueeze(-1)
    count = len(everyone)
    gradient = (own - target) * (inverse[:, 0] / count)
    c = pair_factor(count, alpha)
    for j, member in enumerate(everyone):
        gradient -= (own - member) * (c * inverse[:, 1 + j])
    return gradient.mul_(weights)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, target: Tensor, weights: Tensor, alpha: float, axis: Group
    ) -> Tensor:
        everyone = axis.all_gather(own.contiguous(), name="energy_score.members")
        distances = squared_distances(own, everyone, target, weights).sqrt()
        ctx.save_for_backward(gradient_of(own, everyone, target, weights, distances, alpha))
        return axis.all_reduce(
            score_of(distances, alpha), reduction="sum", name="energy_score.score"
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].unsqueeze(-1).to(gradient.dtype), None, None, None, None


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, target: Tensor, weights: Tensor, alpha: float, axis: Group
    ) -> Tensor:
        everyone = send_points(own, axis, name="energy_score.points")
        here = (points_here(target, axis), points_here(weights, axis))
        squares = squared_distances(everyone, everyone, *here)
        distances = axis.all_reduce(squares, reduction="sum", name="energy_score.squares").sqrt()
        ctx.gradient = gradient_of(everyone, everyone, *here, distances, alpha)
        ctx.axis, ctx.shape = axis, own.shape
        return score_of(distances, alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        mine = send_back(ctx.gradient, ctx.shape, ctx.axis, name="energy_score.gradients")
        return mine * grads[0].unsqueeze(-1).to(mine.dtype), None, None, None, None


class EnergyScore(CRPS):
    """Energy score of the weight samples under the weighted root mean square over the points of an
    example as norm. Parameters are those of ``CRPS``.
    """

    title = "energy_score"
    gathered, transposed = _Gathered, _Transposed


def energy_score(
    *,
    alpha: float = 0.95,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    layout: Layout = "auto",
    spectral: float = 0.0,
) -> JointLoss:
    """Return the energy score.

    Parameters
    ----------
    alpha
        Share of the fair score, the rest is the standard one: 1 fair, 0 standard.
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    layout
        How ranks share the work; the answer is the same (``CRPS``).
    spectral
        Times the score of amplitudes of waves along the last axis, a circle of longitude.
    """
    return EnergyScore(
        alpha=alpha, weights=weights, present=present, layout=layout, spectral=spectral
    )
