"""Gaussian moment matching: moments against numpy in float64, the loss against its definition."""

import math

import numpy as np
import pytest
import torch
from thread_group import ThreadGroup, cotangent, on_ranks, own
from torch import Tensor
from torch.distributions import Normal

from hpc_bnn import losses
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.moments import moments


def members(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("count", [2, 3, 16])
def test_moments_equal_numpy(count: int) -> None:
    x = members(count, 5, 3)
    mean, variance = moments(x, ALONE)
    assert np.allclose(mean, x.numpy().mean(0), rtol=1e-13, atol=1e-15)
    assert np.allclose(variance, x.numpy().var(0, ddof=1), rtol=1e-13, atol=1e-15)


def test_gradients_equal_autograd_of_mean_and_variance() -> None:
    x = members(7, 4, 2).requires_grad_()
    for pick in (0, 1):
        got = moments(x, ALONE)[pick]
        expected = (x.mean(0), x.var(0, correction=1))[pick]
        weights = cotangent((4, 2))
        (gradient,) = torch.autograd.grad((got * weights).sum(), x)
        (gradient_expected,) = torch.autograd.grad((expected * weights).sum(), x)
        assert torch.allclose(gradient, gradient_expected, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(lambda y: moments(y, ALONE), x)


@pytest.mark.parametrize("ranks", [1, 4])
def test_small_spread_on_a_large_offset_survives_float32(ranks: int) -> None:
    """At 1e4 float32 resolves u = 1e-3; E[y^2] - E[y]^2 would resolve 8 where v is 0.0025."""
    x = 1e4 + 0.05 * members(16, 300, dtype=torch.float32)
    exact = x.double().numpy()

    def work(axis: Group) -> tuple[Tensor, Tensor]:
        return moments(own(x, axis), axis)

    for mean, variance in on_ranks(ranks, work):
        # The sum of 16 has a unit of 16 u and is rounded by half of that in each of its last 8
        # additions: the mean is off by at most 4 u, which adds its square to the variance.
        unit = 2.0**-10
        assert np.abs(mean.detach().numpy() - exact.mean(0)).max() <= 4 * unit
        assert np.abs(variance.detach().numpy() - exact.var(0, ddof=1)).max() < 20 * unit**2


def test_loss_and_gradient_of_a_small_spread_on_a_large_offset_survive_float32() -> None:
    x = 1e4 + 0.05 * members(16, 30, 4, dtype=torch.float32)
    target = (1e4 + 0.05 * members(30, 4, dtype=torch.float32)).float()
    loss = losses.gaussian_moments(sigma=0.01)
    single, double = x.requires_grad_(), x.detach().double().requires_grad_()
    value, exact = loss(single, target, ALONE), loss(double, target.double(), ALONE)
    assert torch.allclose(value.double(), exact, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(value.sum(), single)
    (gradient_exact,) = torch.autograd.grad(exact.sum(), double)
    largest = float(gradient_exact.abs().max())
    assert torch.allclose(gradient.double(), gradient_exact, rtol=0, atol=1e-5 * largest)


def test_equal_members_have_variance_zero_and_a_finite_loss() -> None:
    x = torch.full((4, 3, 2), 1e4, requires_grad=True)
    _, variance = moments(x, ALONE)
    assert torch.equal(variance, torch.zeros(3, 2))
    loss = losses.gaussian_moments(sigma=0.1)(x, torch.full((3, 2), 1e4), ALONE)
    expected = 2 * (math.log(0.1) + 0.5 * math.log(2 * math.pi))
    assert loss.tolist() == pytest.approx([expected] * 3, rel=1e-5)
    loss.sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("learned", [False, True])
def test_loss_is_the_nll_of_the_gaussian_with_the_moments(learned: bool) -> None:
    x, target = members(6, 5, 2, 3).requires_grad_(), members(5, 2, 3) + 1
    loss = losses.gaussian_moments(sigma=0.4, learned=learned).double()
    variance = x.var(0, correction=1) + torch.exp(2 * loss.log_sigma)
    expected = -Normal(x.mean(0), variance.sqrt()).log_prob(target).flatten(1).sum(1)
    got = loss(x, target, ALONE)
    assert torch.allclose(got, expected, rtol=1e-12)
    wanted = [x, *loss.parameters()]
    assert len(wanted) == 1 + learned
    weights = cotangent((5,))
    for gradient, gradient_expected in zip(
        torch.autograd.grad((got * weights).sum(), wanted, retain_graph=True),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        assert torch.allclose(gradient, gradient_expected, rtol=1e-11, atol=1e-14)


def test_forecast_is_a_mixture_with_the_observation_sigma() -> None:
    x = members(3, 4, 2)
    mean, sigma = losses.gaussian_moments(sigma=0.4).forecast(x)
    assert mean is x and sigma is not None and sigma.shape == x.shape
    assert torch.allclose(sigma.double(), torch.tensor(0.4, dtype=torch.float64), rtol=1e-6)


def test_one_sample_in_all_is_refused_and_one_a_rank_is_not() -> None:
    assert losses.gaussian_moments().min_samples == 2
    with pytest.raises(ValueError, match=r"at least 2 of them; raise posterior\.samples"):
        losses.gaussian_moments()(members(1, 3, 2), members(3, 2), ALONE)
    x = members(2, 3)

    def work(axis: Group) -> Tensor:
        return moments(own(x, axis), axis)[1]

    for variance in on_ranks(2, work):
        assert torch.allclose(variance, x.var(0, correction=1))


@pytest.mark.parametrize("target", [(3, 1), (3,), (1, 2), (3, 2, 1)])
def test_shapes_that_would_broadcast_are_refused(target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"gaussian_moments: the network gives \(3, 2\)"):
        losses.gaussian_moments()(members(4, 3, 2), torch.zeros(target), ALONE)


def test_two_reductions_in_forward_and_none_in_backward() -> None:
    x = members(6, 4)

    def work(axis: ThreadGroup) -> list[str]:
        mean, variance = moments(own(x, axis), axis)
        before = list(axis.calls)
        (mean + variance).sum().backward()
        assert axis.calls == before
        return before

    assert on_ranks(3, work) == [["moments.sum", "moments.squares"]] * 3
