"""The whole method on a problem with a known answer: conjugate Bayesian linear regression.

Scikit-learn's diabetes data, 442 x 10, X and y standardised (ddof = 0), noise variance s2 = 1/2,
prior N(0, I). The mean-field optimum for this Gaussian target has the exact posterior mean and the
variance 1 / Lambda_ii, and since X is standardised every Lambda_ii is N / s2 + 1 = 885:

    log evidence -496.599190,    sd 885^-1/2 = 0.033615,    largest ELBO -500.404720.

A KL weight beta changes the variance to beta / (N / s2 + beta), a temperature T to
T / (N / s2 + 1), so any factor that is wrong anywhere between draw and optimizer shows.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import hpc_bnn as hb
from hpc_bnn.group import ALONE
from hpc_bnn.losses.predictive import log_mean_exp
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

datasets = pytest.importorskip("sklearn.datasets", reason="the diabetes data")

S2 = 0.5
LOG_EVIDENCE, BEST_ELBO, BEST_SD = -496.599190, -500.404720, 0.033615
MEAN = (-0.00586, -0.14762, 0.32146, 0.19998, -0.43427, 0.2508, 0.03813, 0.10279, 0.44314, 0.04212)


def diabetes() -> tuple[Tensor, Tensor]:
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = torch.tensor(x), torch.tensor(y)
    return (x - x.mean(0)) / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0)


X, Y = diabetes()
N = len(X)


def precision(beta: float = 1.0) -> Tensor:
    """Return Lambda of the exact posterior under a prior precision ``beta``."""
    return X.T @ X / S2 + beta * torch.eye(X.shape[1], dtype=X.dtype)


def exact_mean(beta: float = 1.0) -> Tensor:
    return torch.linalg.solve(precision(beta), X.T @ Y / S2)


def elbo(mu: Tensor, sigma: Tensor) -> float:
    """Return E_q log p(y | w) - KL(q || p) in closed form."""
    residual = (Y - X @ mu).square() + X.square() @ sigma.square()
    fit = -0.5 * N * math.log(2 * math.pi * S2) - residual.sum() / (2 * S2)
    kl = (-torch.log(sigma) + (sigma.square() + mu.square()) / 2 - 0.5).sum()
    return float(fit - kl)


def test_the_closed_forms_are_the_published_numbers() -> None:
    covariance = S2 * torch.eye(N, dtype=X.dtype) + X @ X.T
    evidence = MultivariateNormal(torch.zeros(N, dtype=X.dtype), covariance).log_prob(Y)
    assert evidence.item() == pytest.approx(LOG_EVIDENCE, abs=1e-6)
    assert exact_mean().tolist() == pytest.approx(MEAN, abs=5e-6)
    assert torch.allclose(precision().diagonal(), torch.full((10,), 885.0, dtype=X.dtype))
    sd = precision().diagonal().rsqrt()
    assert sd.tolist() == pytest.approx([BEST_SD] * 10, abs=5e-7)
    assert elbo(exact_mean(), sd) == pytest.approx(BEST_ELBO, abs=1e-6)


# Training

SAMPLES = 16


def log_sigma_error(steps: int) -> float:
    """Return a bound on the standard deviation of a trained log_sigma.

    A step moves log_sigma by a Monte Carlo mean over SAMPLES / 2 mirrored pairs. The variance of
    one term, eps_i sum_j rho_ij eps_j, is 1 + sum_j rho_ij^2 < 6, and the curvature is 2. With step
    sizes of 1 / (2 t) the end is the average over all steps.
    """
    return math.sqrt(6 / (SAMPLES / 2 * steps)) / 2


def train(
    steps: int, *, kl_weight: float = 1.0, temperature: float = 1.0, sigma: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Return mu and sigma after training by the library's own step on one rank.

    Mirrored pairs make the gradient to mu exact (the loss is quadratic): momentum converges at a
    rate. Natural steps of 1 / (2 t) make log_sigma the average of what the noise says.
    """
    linear = nn.Linear(10, 1, bias=False)
    nn.init.zeros_(linear.weight)
    posterior = hb.Gaussian(
        linear, prior_sigma=1.0, initial_sigma=sigma, antithetic=True, temperature=temperature
    )
    (log_sigma,) = posterior.log_sigma.values()
    optimizer = torch.optim.SGD(
        [
            {"params": [linear.weight], "lr": 0.3, "momentum": 0.9},
            {"params": [log_sigma], "lr": 0.0},
        ]
    )
    step = hb.Step(
        posterior,
        hb.losses.gaussian_nll(sigma=math.sqrt(S2)),
        optimizer,
        World(Grid(1, 1, 0), torch.device("cpu")),
        samples=SAMPLES,
        samples_per_pass=SAMPLES,
        num_examples=N,
        kl_weight=kl_weight,
    )
    x, y = X.float(), Y.float().unsqueeze(1)
    # The entropy's weight in the objective, beta T / N, is half the curvature in log_sigma.
    unit = N / (kl_weight * temperature)
    for t in range(1, steps + 1):
        optimizer.param_groups[1]["lr"] = unit / (2 * (t + 5))
        loss = step(x, y)
    assert torch.isfinite(loss)
    return linear.weight.detach().double().flatten(), log_sigma.detach().double().exp().flatten()


def assert_sigma(sigma: Tensor, expected: float, steps: int) -> None:
    error = torch.log(sigma / expected)
    assert error.abs().max() < 5 * log_sigma_error(steps)
    assert abs(error.mean()) < 3 * log_sigma_error(steps)


def test_training_reaches_the_mean_field_optimum() -> None:
    mu, sigma = train(1000)
    assert (mu - exact_mean()).abs().max() < 1e-4
    assert_sigma(sigma, BEST_SD, 1000)
    # Second order in the errors: sum of 885 / 2 dmu^2 and of dlog_sigma^2.
    reached = elbo(mu, sigma)
    assert reached <= BEST_ELBO + 1e-6
    assert reached > BEST_ELBO - 10 * (885 / 2 * 1e-8 + 4 * log_sigma_error(1000) ** 2)


@pytest.mark.parametrize("beta", [0.05, 30.0])
def test_kl_weight_scales_the_variance_as_it_must(beta: float) -> None:
    expected = math.sqrt(beta / (N / S2 + beta))
    mu, sigma = train(300, kl_weight=beta, sigma=0.8 * expected)
    assert (mu - exact_mean(beta)).abs().max() < 1e-4
    assert_sigma(sigma, expected, 300)


@pytest.mark.parametrize("temperature", [0.05, 5.0])
def test_temperature_scales_the_variance_and_not_the_mean(temperature: float) -> None:
    expected = math.sqrt(temperature / (N / S2 + 1))
    mu, sigma = train(300, temperature=temperature, sigma=0.8 * expected)
    assert (mu - exact_mean()).abs().max() < 1e-4
    assert_sigma(sigma, expected, 300)


@pytest.mark.parametrize(("beta", "temperature"), [(1.0, 1.0), (30.0, 0.05)])
def test_ivon_reaches_the_same_optimum(beta: float, temperature: float) -> None:
    """h becomes the diagonal of the Hessian of the mean loss, 1 / s2 for standardised columns."""
    steps = 300
    linear = nn.Linear(10, 1, bias=False).double()
    nn.init.zeros_(linear.weight)
    posterior = hb.Gaussian(linear, antithetic=True, temperature=temperature)
    optimizer = hb.IVON(posterior, lr=4.0, hess_init=1.0, debias=False)
    step = hb.Step(
        posterior,
        hb.losses.gaussian_nll(sigma=math.sqrt(S2)),
        optimizer,
        World(Grid(1, 1, 0), torch.device("cpu")),
        samples=SAMPLES,
        samples_per_pass=SAMPLES,
        num_examples=N,
        kl_weight=beta,
        precision="float64",
    )
    for t in range(steps):
        optimizer.param_groups[0]["beta2"] = 1 - 1 / (t + 5)  # h: the mean of all estimates
        step(X, Y.unsqueeze(1))
    (log_sigma,) = posterior.log_sigma.values()
    hessian = optimizer.state[log_sigma]["hessian"]
    assert torch.allclose(hessian.log(), torch.tensor(1 / S2).log().double(), rtol=0, atol=0.2)
    assert abs(hessian.log().mean() - math.log(1 / S2)) < 6 * log_sigma_error(steps)
    mu, sigma = linear.weight.detach().flatten(), log_sigma.detach().exp().flatten()
    assert (mu - exact_mean(beta)).abs().max() < 1e-6
    assert_sigma(sigma, math.sqrt(temperature * beta / (N / S2 + beta)), steps)
    if (beta, temperature) == (1.0, 1.0):
        reached = elbo(mu, sigma)
        assert BEST_ELBO - 40 * log_sigma_error(steps) ** 2 < reached <= BEST_ELBO + 1e-6


# Bounds: log p(y) >= IWAE_K >= ELBO


def log_weights(posterior: hb.Gaussian, x: Tensor, count: int) -> Tensor:
    """Return log p(y | w) + log p(w) - log q(w) (count,) of drawn weights."""
    posterior.requires_grad_(False)
    ((name, weights),) = posterior.sample(posterior.key(0, range(count))).items()
    weights = weights.squeeze(1)  # (count, features)
    mu, (log_sigma,) = posterior.module.get_parameter(name), posterior.log_sigma.values()
    fit = Normal(weights @ x.T, math.sqrt(S2)).log_prob(Y).sum(1)
    log_p = Normal(0.0, 1.0).log_prob(weights).sum(1)
    log_q = Normal(mu[0], log_sigma[0].exp()).log_prob(weights).sum(1)
    return fit + log_p - log_q


def linear_posterior(mean: Tensor, sd: Tensor) -> hb.Gaussian:
    linear = nn.Linear(len(mean), 1, bias=False).double()
    posterior = hb.Gaussian(linear).double()
    with torch.no_grad():
        linear.weight.copy_(mean)
        posterior.log_sigma["weight"].copy_(sd.log())
    return posterior


def test_bounds_are_ordered_and_tighten_with_the_number_of_samples() -> None:
    count = 1 << 13
    posterior = linear_posterior(exact_mean(), precision().diagonal().rsqrt())
    terms = log_weights(posterior, X, count)
    standard_error = terms.std() / math.sqrt(count)
    assert abs(terms.mean() - BEST_ELBO) < 5 * standard_error
    bounds = []
    for k in (1, 2, 4, 16, 64, 256):
        # K samples to a bound: (K, count / K); the bound of one sample is the ELBO
        values = log_mean_exp(terms.reshape(-1, k).T, ALONE)
        bounds.append(values.mean().item())
        error = values.std() / math.sqrt(len(values))
        assert bounds[-1] < LOG_EVIDENCE + 5 * error
    assert bounds[0] == pytest.approx(terms.mean().item(), rel=1e-12)
    assert bounds == sorted(bounds)
    assert bounds[-1] > BEST_ELBO + 1.0  # and by far


def test_at_the_exact_posterior_every_single_sample_gives_the_evidence() -> None:
    """One weight: the mean-field posterior is exact, so the bound has no variance."""
    x = X[:, 2:3]
    lam = float(x.square().sum()) / S2 + 1
    mean = (x.T @ Y / S2) / lam
    covariance = S2 * torch.eye(N, dtype=X.dtype) + x @ x.T
    evidence = MultivariateNormal(torch.zeros(N, dtype=X.dtype), covariance).log_prob(Y)
    posterior = linear_posterior(mean, torch.tensor([lam**-0.5], dtype=X.dtype))
    terms = log_weights(posterior, x, 50)
    assert torch.allclose(terms, evidence.expand(50), rtol=0, atol=1e-9)
