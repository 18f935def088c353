"""Point weights: what they mean in each loss, and which are refused."""

import math

import pytest
import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import JointLoss, Loss

MAKERS = {
    "almost_fair_crps": losses.almost_fair_crps,
    "energy_score": losses.energy_score,
    "mae": losses.mae,
    "mse": losses.mse,
    "gaussian_nll": losses.gaussian_nll,
    "gaussian_nll predictive": lambda weights: losses.gaussian_nll(
        predictive=True, weights=weights
    ),
    "gaussian_moments": losses.gaussian_moments,
}
every_loss = pytest.mark.parametrize("name", MAKERS)


def value(loss: Loss, outputs: Tensor, target: Tensor) -> Tensor:
    if isinstance(loss, JointLoss):
        joint: Tensor = loss(outputs, target, ALONE)
        return joint
    return torch.stack([loss(output, target) for output in outputs]).mean(0)


def fields() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(4, 2, 3, 5, 6, generator=generator, dtype=torch.float64)
    return outputs, torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64)


@every_loss
def test_equal_weights_change_nothing(name: str) -> None:
    outputs, target = fields()
    plain = value(MAKERS[name](weights=None), outputs, target)
    equal = value(MAKERS[name](weights=torch.full((5, 1), 7.0)), outputs, target)
    torch.testing.assert_close(equal, plain, rtol=1e-13, atol=0)


@every_loss
def test_a_point_of_double_weight_counts_like_two(name: str) -> None:
    """Weights of mean 1: 3 points of weights 2, 1, 1 are 4 points of equal weight times 3 / 4."""
    outputs, target = fields()
    outputs, target = outputs[..., :1, :3], target[..., :1, :3]
    repeated = value(
        MAKERS[name](weights=None),
        torch.cat([outputs[..., :1], outputs], -1),
        torch.cat([target[..., :1], target], -1),
    )
    weighted = value(MAKERS[name](weights=torch.tensor([2.0, 1.0, 1.0])), outputs, target)
    if name in ("almost_fair_crps", "energy_score", "mae", "mse"):  # a mean over points
        torch.testing.assert_close(weighted, repeated, rtol=1e-12, atol=0)
    elif "predictive" not in name:  # sums over points
        torch.testing.assert_close(weighted, 0.75 * repeated, rtol=1e-12, atol=0)


def test_the_weighted_likelihood_by_hand() -> None:
    loss = losses.gaussian_nll(weights=torch.tensor([3.0, 1.0]))
    output, target = torch.tensor([[1.0, 5.0]]), torch.tensor([[0.0, 3.0]])
    expected = 1.5 * 0.5 * 1 + 0.5 * 0.5 * 4 + math.log(2 * math.pi)
    assert float(loss(output, target)) == pytest.approx(expected, rel=1e-6)


@every_loss
@pytest.mark.parametrize("bad", [[-1.0, 2.0], [math.nan, 1.0], [0.0, 0.0], [math.inf, 1.0]])
def test_what_is_no_weight_is_refused(name: str, bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"loss.weights: from .* expected finite numbers"):
        MAKERS[name](weights=torch.tensor(bad))


@every_loss
def test_weights_that_do_not_fit_are_refused(name: str) -> None:
    outputs, target = fields()
    with pytest.raises(ValueError, match=r"loss.weights of shape \(4,\) for examples of \(3, 5, 6"):
        value(MAKERS[name](weights=torch.ones(4)), outputs, target)


def test_a_million_points_are_summed_exactly() -> None:
    points = 1_000_000
    output, target = torch.zeros(1, points), torch.ones(1, points)
    expected = points * (0.5 + 0.5 * math.log(2 * math.pi))
    assert float(losses.gaussian_nll()(output, target)) == pytest.approx(expected, rel=1e-7)
