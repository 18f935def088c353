"""Chains on conjugate Bayesian regression, where the exact posterior is known.

Scikit-learn's diabetes data as in test_exact_posterior.py: noise variance s2 = 1/2, prior N(0, I),
precision Lambda = X'X / s2 + I with eigenvalues l. With the gradient over all examples, which that
of a training step is shown to be, the chains are linear, so their covariance at the rate h is known
without any approximation,

    V diag(T / (l (1 - h l / (2 (2 - alpha) N)))) V',

and what is left is the Monte Carlo error of C chains, one draw of each: sd / sqrt(C) of a mean,
relative sqrt(2 / C) of a variance.
"""

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

datasets = pytest.importorskip("sklearn.datasets", reason="the diabetes data")

S2, K = 0.5, 256
ALONE = World(Grid(1, 1, 0), torch.device("cpu"))


@cache
def diabetes() -> tuple[Tensor, Tensor]:
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = torch.tensor(x), torch.tensor(y)
    return (x - x.mean(0)) / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0)


def precision(beta: float = 1.0) -> Tensor:
    x, _ = diabetes()
    return x.T @ x / S2 + beta * torch.eye(10, dtype=x.dtype)


def exact_mean(beta: float = 1.0) -> Tensor:
    x, y = diabetes()
    return torch.linalg.solve(precision(beta), x.T @ y / S2)


def step_of(posterior: hb.SGHMC, lr: float, beta: float = 1.0) -> hb.Step:
    return hb.Step(
        posterior,
        hb.losses.gaussian_nll(sigma=math.sqrt(S2)),
        posterior.optimizer(lr=lr),
        ALONE,
        samples=posterior.members,
        samples_per_pass=posterior.members,
        num_examples=len(diabetes()[0]),
        kl_weight=beta,
        precision="float64",
        check=False,
    )


def move(posterior: hb.SGHMC, x: Tensor, lr: float, steps: int, beta: float = 1.0) -> Tensor:
    """Make steps of the sampler with the gradient of the potential in closed form; return the
    weights (C, W) of all snapshots.
    """
    _, y = diabetes()
    posterior.initialise()
    optimizer = posterior.optimizer(lr=lr)
    posterior.begin(optimizer, num_examples=len(x))
    (rows,) = posterior.rows.values()
    linear = x.T @ y / S2
    quadratic = x.T @ x / S2 + beta * torch.eye(x.shape[1], dtype=x.dtype)
    for step in range(steps):
        rows.grad = (rows.detach() @ quadratic - linear) / len(x)
        optimizer.step()
        posterior.collect(step)
    (kept,) = posterior.snapshots.draws().values()
    return kept.flatten(0, 1).squeeze(1)


def linear(features: int) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(features, 1, bias=False).double()


@pytest.mark.parametrize("method", [hb.SGLD, hb.SGHMC])
def test_a_step_of_training_is_one_on_the_potential(method: type[hb.SGHMC]) -> None:
    """Every factor of every term, with a prior that counts 30 times; sigma is of float32."""
    x, y = diabetes()
    options = {"samples": 3, "burn_in": 2, "collect_every": 1, "snapshots": 4, "seed": 2}
    trained, moved = (method(linear(10), **options) for _ in range(2))
    step = step_of(trained, 0.05, beta=30.0)
    for _ in range(5):
        step(x, y[:, None])
    expected = move(moved, x, 0.05, 5, beta=30.0)
    (kept,) = trained.snapshots.draws().values()
    assert kept.shape == (3, 3, 1, 10)
    assert torch.allclose(kept.flatten(0, 1).squeeze(1), expected, rtol=0, atol=1e-7)


def assert_gaussian(w: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Compare the moments of draws in the axes of the covariance: 10 means and 55 products, each
    within 4 standard errors.
    """
    values, axes = torch.linalg.eigh(covariance)
    z = (w - mean) @ axes / values.sqrt()
    count = len(w)
    assert z.mean(0).abs().max() < 4 / math.sqrt(count)
    products = z.T @ z / count - torch.eye(10, dtype=z.dtype)
    assert products.diagonal().abs().max() < 4 * math.sqrt(2 / count)
    assert (products - products.diag().diag()).abs().max() < 4 / math.sqrt(count)


def stationary(lr: float, alpha: float, temperature: float, beta: float = 1.0) -> Tensor:
    values, axes = torch.linalg.eigh(precision(beta))
    shrink = 1 - lr * values / (2 * (2 - alpha) * len(diabetes()[0]))
    return axes @ torch.diag(temperature / (values * shrink)) @ axes.T


@pytest.mark.parametrize(
    ("temperature", "beta"), [(1.0, 1.0), (0.05, 1.0), (1.0, 30.0)], ids=["", "cold", "prior"]
)
def test_sghmc_samples_the_exact_posterior(temperature: float, beta: float) -> None:
    """A step takes 0.1 of the largest curvature: 2.5 % is the bias of the rate. The friction is
    2 sqrt(h l / N) of the smallest, critical: a chain forgets its start as exp(-t / 65).
    """
    x, _ = diabetes()
    alpha, steps = 0.03, 450
    lr = 0.1 * len(x) / float(torch.linalg.eigvalsh(precision(beta))[-1])
    posterior = hb.SGHMC(
        linear(10),
        samples=K,
        temperature=temperature,
        friction=alpha,
        burn_in=steps - 1,
        collect_every=1,
        seed=3,
    )
    w = move(posterior, x, lr, steps, beta)
    assert len(w) == K
    exact = temperature * torch.linalg.inv(precision(beta))
    reached = stationary(lr, alpha, temperature, beta)
    assert (reached - exact).norm() < 0.03 * exact.norm()
    assert_gaussian(w, exact_mean(beta), reached)
    assert_gaussian(w, exact_mean(beta), exact)


def test_sgld_samples_one_weight_with_the_bias_of_its_rate() -> None:
    """A step takes 0.8 of the curvature: the variance is 1 / (1 - 0.4) of the exact one, and 0.2^5
    the correlation of two draws of a chain.
    """
    x, y = diabetes()
    x = x[:, 2:3]
    curvature = float(x.square().sum()) / S2 + 1
    mean, lr = float((x.T @ y) / S2 / curvature), 0.8 * len(x) / curvature
    options = {"burn_in": 10, "collect_every": 5, "snapshots": 6, "initial_spread": 0.5}
    posterior = hb.SGLD(linear(1), samples=K, **options)
    w = move(posterior, x, lr, 40)
    assert w.shape == (6 * K, 1)
    variance = 1 / (curvature * (1 - 0.4))
    assert float(w.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / len(w)))
    assert float(w.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / len(w)))
