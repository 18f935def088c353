"""The factor of the KL, and the shares that add up to the objective (ranks are threads)."""

import copy
import math

import pytest
import torch
from thread_group import on_ranks
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.bayes import Gaussian
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.base import JointLoss, Loss
from hpc_bnn.losses.objective import joint_share, kl_factor, separable_share


def test_factor_without_warm_up_is_the_weight_per_example() -> None:
    for step in (0, 1, 10_000):
        assert kl_factor(step, kl_weight=0.3, warmup_steps=0, num_examples=50) == 0.3 / 50


def test_factor_rises_linearly_and_stays() -> None:
    factors = [kl_factor(t, kl_weight=2.0, warmup_steps=4, num_examples=10) for t in range(7)]
    assert factors == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.2], rel=1e-15)


def test_factor_of_a_weight_of_zero_is_zero() -> None:
    assert kl_factor(3, kl_weight=0.0, warmup_steps=2, num_examples=10) == 0.0


K, B, N = 12, 4, 100
TARGET = torch.sin(torch.arange(B * 2.0)).reshape(B, 2).double()
X = torch.cos(torch.arange(B * 3.0)).reshape(B, 3).double()
FACTOR = kl_factor(1, kl_weight=0.7, warmup_steps=4, num_examples=N)

LOSSES: dict[str, Loss] = {
    "expected": losses.gaussian_nll(sigma=0.5).double(),
    "predictive": losses.gaussian_nll(sigma=0.5, predictive=True).double(),
    "moments": losses.gaussian_moments(sigma=0.5).double(),
    "fair_crps": losses.fair_crps(),
}


def posterior() -> Gaussian:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    return Gaussian(network, initial_sigma=0.2, seed=3).double()


def share_and_gradients(start: Gaussian, loss: Loss, axis: Group) -> tuple[Tensor, list[Tensor]]:
    """Return a rank's share of the objective for its part of the K samples, and its gradient."""
    q, count = copy.deepcopy(start), K // axis.size
    samples = range(axis.rank * count, (axis.rank + 1) * count)
    outputs = torch.cat([q(X, q.key(6, (s,))) for s in samples])
    if isinstance(loss, JointLoss):
        share = joint_share(loss, outputs, TARGET, axis)
    else:
        share = separable_share(loss, outputs, TARGET, K)
    objective = share + FACTOR * q.complexity() / axis.size
    return share.detach(), list(torch.autograd.grad(objective, list(q.parameters())))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_the_shares_sum_to_that_of_the_objective(name: str, ranks: int) -> None:
    """To the weights: through the draw, the network, the loss and its exchange, and the KL."""
    loss = LOSSES[name]
    start = posterior()  # here, not on the ranks: threads share torch's generator
    value, expected = share_and_gradients(start, loss, ALONE)
    results = on_ranks(ranks, lambda axis: share_and_gradients(start, loss, axis))
    shares = [share.item() for share, _ in results]
    if isinstance(loss, JointLoss):
        assert shares == pytest.approx([value.item()] * ranks, rel=1e-12)
    else:
        assert sum(shares) == pytest.approx(value.item(), rel=1e-12)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for i, gradient in enumerate(expected):
        summed = torch.stack([gradients[i] for _, gradients in results]).sum(0)
        assert torch.allclose(summed, gradient, rtol=0, atol=1e-12 * largest)


def test_objective_is_the_negative_elbo_per_example() -> None:
    """-ELBO / N with N = B examples: mean_b mean_s -log p(y_b | w_s) + KL / N."""
    q = posterior()
    outputs = torch.cat([q(X, q.key(0, (s,))) for s in range(K)])
    share = separable_share(losses.gaussian_nll(sigma=1.0).double(), outputs, TARGET, K)
    objective = share + kl_factor(0, kl_weight=1.0, warmup_steps=0, num_examples=B) * q.complexity()
    log_likelihood = (-0.5 * (outputs - TARGET).square() - 0.5 * math.log(2 * math.pi)).sum((1, 2))
    elbo = log_likelihood.mean() - q.complexity()
    assert objective.item() == pytest.approx(-elbo.item() / B, rel=1e-12)
