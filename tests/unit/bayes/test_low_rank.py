"""N(mu, D + U U^T): its draw, its KL against torch.distributions, and how a step adds up the
gradient of U.

Tolerances: 1e-12 relative in float64, five standard errors for Monte Carlo.
"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, Normal, kl_divergence

import hpc_bnn as hb
from hpc_bnn.bayes import low_rank
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.bayes.selection import fan_in
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

RANK = 3
ALONE = World(Grid(1, 1, 0), torch.device("cpu"))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 2))


def posterior_with(**options: object) -> hb.LowRank:
    """Return a posterior whose D and U U^T are of one size."""
    posterior = hb.LowRank(network().double(), **{"rank": RANK, "initial_sigma": 0.3, **options})
    with torch.no_grad():
        for name, columns in posterior.columns.items():
            columns.mul_(10)
            posterior.log_sigma[name] += 0.3 * torch.randn_like(posterior.log_sigma[name])
    return posterior


def flat(posterior: hb.LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """Return mu (P,), sigma (P,) and U (P, R)."""
    keys = [name.replace(".", "/") for name in posterior.names]
    return (
        torch.cat([posterior.module.get_parameter(name).flatten() for name in posterior.names]),
        torch.cat([posterior.log_sigma[key].flatten() for key in keys]).exp(),
        torch.cat([posterior.columns[key].flatten(1) for key in keys], 1).T * posterior.unit,
    )


def drawn(posterior: hb.LowRank, samples: range, **key: object) -> Tensor:
    """Return the weights (S, P)."""
    weights = posterior.sample(replace(posterior.key(3, samples), **key))
    return torch.cat([weight.flatten(1) for weight in weights.values()], 1).detach()


def expected_complexity(posterior: hb.LowRank, taus: Tensor, temperature: float) -> Tensor:
    mu, sigma, factor = flat(posterior)
    q = LowRankMultivariateNormal(mu, factor, sigma.square())
    none = torch.zeros(len(mu), 1, dtype=mu.dtype)
    prior = LowRankMultivariateNormal(torch.zeros_like(mu), none, taus.square())
    return kl_divergence(q, prior) + (1 - temperature) * q.entropy()


@pytest.mark.parametrize("columns", [5, 1 << 14])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("prior_sigma", [0.5, "fan_in"])
def test_kl_and_its_gradients_equal_torch_distributions(
    prior_sigma: float | str, temperature: float, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_rank, "CACHED", columns)
    posterior = posterior_with(prior_sigma=prior_sigma, temperature=temperature)
    taus = torch.cat(
        [
            torch.full(
                (posterior.module.get_parameter(name).numel(),),
                fan_in(posterior.module, name) ** -0.5 if prior_sigma == "fan_in" else prior_sigma,
                dtype=torch.float64,
            )
            for name in posterior.names
        ]
    )
    got = posterior.complexity()
    expected = expected_complexity(posterior, taus, temperature)
    assert got.dtype == torch.float64
    assert got.shape == ()
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    parameters = list(posterior.parameters())
    for gradient, gradient_expected in zip(
        torch.autograd.grad(0.37 * got, parameters),
        torch.autograd.grad(0.37 * expected, parameters),
        strict=True,
    ):
        largest = float(gradient_expected.abs().max())
        assert torch.allclose(gradient, gradient_expected, rtol=0, atol=1e-12 * largest)


def test_rank_0_is_the_gaussian() -> None:
    options = {"prior_sigma": 0.5, "initial_sigma": 0.3, "antithetic": True, "seed": 4}
    both = [hb.Gaussian(network(), **options), hb.LowRank(network(), rank=0, **options)]
    key = both[0].key(3, range(4))
    first, second = (posterior.sample(key) for posterior in both)
    assert all(torch.equal(first[name], second[name]) for name in both[0].names)
    assert torch.equal(both[0].complexity(), both[1].complexity())


def test_mean_and_covariance_of_many_draws() -> None:
    posterior, count = posterior_with(), 20_000
    mu, sigma, factor = flat(posterior)
    covariance = torch.diag(sigma.square()) + factor @ factor.T
    weights = drawn(posterior, range(count))
    variance = covariance.diagonal()
    assert (weights.mean(0) - mu).abs().div((variance / count).sqrt()).max() < 5
    # Of Gaussians: var of (w_i - mu_i)(w_j - mu_j) is C_ii C_jj + C_ij^2.
    error = ((variance[:, None] * variance + covariance.square()) / count).sqrt()
    found = (weights - mu).T @ (weights - mu) / count
    assert (found - covariance).abs().div(error).max() < 5
    off = covariance - torch.diag(variance)
    assert off.abs().div(error).max() > 25  # U shows, also between layers
    assert off[:15, -10:].abs().div(error[:15, -10:]).max() > 25


def test_eps2_is_one_vector_for_all_layers_with_a_stretch_for_each_purpose() -> None:
    posterior = posterior_with(seed=6)
    mu, _, factor = flat(posterior)
    with torch.no_grad():
        for log_sigma in posterior.log_sigma.values():
            log_sigma.fill_(-60)
    for purpose, offset in ((Purpose.WEIGHTS, 0), (Purpose.PREDICTION, RANK)):
        eps = normals(Stream(6, Purpose.FACTOR, 3, 9), (RANK,), offset=offset).double()
        weights = drawn(posterior, range(9, 10), purpose=purpose)
        assert torch.allclose(weights[0], mu + factor @ eps, rtol=0, atol=1e-12)


def test_antithetic_pairs_are_mirrored_at_mu() -> None:
    posterior = posterior_with(antithetic=True)
    weights = drawn(posterior, range(4))
    mu, *_ = flat(posterior)
    assert torch.allclose(weights[0] + weights[1], 2 * mu, rtol=0, atol=1e-12)
    assert not torch.allclose(weights[0], weights[2])


# Gradients of a step


def trained(samples_per_pass: int, *, frozen: str = "", steps: int = 3) -> hb.LowRank:
    posterior = posterior_with(keep_noise=True)
    if frozen:
        posterior.columns[frozen].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in posterior.parameters() if p.requires_grad], lr=0.01)
    loss = hb.losses.gaussian_nll(sigma=0.7)
    step = hb.Step(
        posterior,
        loss,
        optimizer,
        ALONE,
        samples=6,
        samples_per_pass=samples_per_pass,
        num_examples=50,
        precision="float64",
    )
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        x = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
        step(x, torch.randn(5, 2, generator=generator, dtype=torch.float64))
    return posterior


@pytest.mark.parametrize("samples_per_pass", [1, 2, 4])
def test_passes_add_up(samples_per_pass: int) -> None:
    """From the second pass on, U's part goes into its gradient in place."""
    several, one = trained(samples_per_pass), trained(6)
    start = posterior_with()
    for name, p in one.named_parameters():
        assert torch.allclose(several.get_parameter(name), p, rtol=0, atol=1e-11), name
        assert (p - start.get_parameter(name)).abs().max() > 1e-3, name


def test_columns_may_be_frozen() -> None:
    posterior, start = trained(2, frozen="2/weight"), posterior_with()
    assert torch.equal(posterior.columns["2/weight"], start.columns["2/weight"])
    assert posterior.columns["2/weight"].grad is None
    assert not torch.equal(posterior.columns["2/bias"], start.columns["2/bias"])


def test_the_gradient_of_the_columns_is_the_outer_product() -> None:
    posterior = posterior_with(seed=6)
    key = posterior.key(0, (5,))
    pull = {n: torch.randn_like(w) for n, w in posterior.sample(key).items()}
    weights = posterior.sample(key)
    torch.autograd.backward([weights[n] for n in pull], list(pull.values()))
    eps = normals(Stream(6, Purpose.FACTOR, 0, 5), (RANK,)).double()
    for name, gradient in pull.items():
        expected = torch.einsum("r,...->r...", 0.3 * eps, gradient[0])
        columns = posterior.columns[name.replace(".", "/")]
        assert torch.allclose(columns.grad, expected, rtol=0, atol=1e-12)
        assert torch.equal(posterior.module.get_parameter(name).grad, gradient[0])


# Start, number types, refusals


def test_the_start_is_a_tenth_of_sigma_and_keyed() -> None:
    wide = nn.Linear(200, 100)
    start, again, other = (
        hb.LowRank(wide, rank=4, initial_sigma=0.2, seed=seed).factor()["weight"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(start, again)
    assert not torch.equal(start, other)
    size = start.square().sum(0).mean().sqrt().item()  # relative error 1 / sqrt(2 * 80000)
    assert size == pytest.approx(0.02, rel=5 / math.sqrt(160_000))


def test_u_of_a_network_in_half_precision_is_float32() -> None:
    posterior = hb.LowRank(network(), rank=2, initial_sigma=0.3, prior_sigma="fan_in")
    before = posterior.factor()
    posterior.to(torch.bfloat16)
    assert all(torch.equal(factor, before[name]) for name, factor in posterior.factor().items())
    weights = posterior.sample(posterior.key(0, range(2)))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    sum(weight.float().square().sum() for weight in weights.values()).backward()
    posterior.complexity().backward()
    assert {p.grad.dtype for p in posterior.columns.values()} == {torch.float32}
    assert {p.grad.dtype for p in posterior.module.parameters()} == {torch.bfloat16}


def test_no_decay_pulls_at_u() -> None:
    posterior = hb.LowRank(nn.Linear(2, 3), random=["weight"])
    assert set(posterior.scales()) == {"log_sigma.weight", "columns.weight"}
    assert set(posterior.scales()) <= {name for name, _ in posterior.named_parameters()}


@pytest.mark.parametrize("rank", [-1, 2.0, None])
def test_a_rank_that_is_none_is_refused(rank: object) -> None:
    with pytest.raises(ValueError, match=rf"posterior\.rank = {rank}: must be an integer"):
        hb.LowRank(network(), rank=rank)


# The regression whose evidence is known


def test_the_bound_rises_with_the_rank_to_the_evidence() -> None:
    """Scikit-learn's diabetes data under noise variance 1/2 and prior N(0, I): the largest bound of
    a mean-field posterior is -500.404720, and at full rank it is the log evidence, -496.599190.
    """
    datasets = pytest.importorskip("sklearn.datasets", reason="the diabetes data")
    x, y = map(torch.tensor, datasets.load_diabetes(return_X_y=True))
    x, y = (x - x.mean(0)) / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0)

    def best(rank: int) -> float:
        torch.manual_seed(0)
        linear = nn.Linear(10, 1, bias=False).double()
        posterior = hb.LowRank(linear, rank=rank, initial_sigma=0.03)
        optimizer = torch.optim.LBFGS(
            list(posterior.parameters()),
            max_iter=3000,
            tolerance_grad=1e-9,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def minus_elbo() -> Tensor:
            mu, sigma, factor = flat(posterior)
            spread = x.square() @ sigma.square() + (x @ factor).square().sum(1)
            fit = Normal(x @ mu, math.sqrt(0.5)).log_prob(y).sum() - spread.sum()
            return posterior.complexity() - fit

        def closure() -> float:
            optimizer.zero_grad()
            value = minus_elbo()
            value.backward()
            return value.item()

        optimizer.step(closure)
        return -minus_elbo().item()

    bounds = {rank: best(rank) for rank in (0, 1, 2, 4, 7, 10)}
    assert bounds[0] == pytest.approx(-500.404720, abs=1e-6)
    assert bounds[10] == pytest.approx(-496.599190, abs=1e-6)
    values = list(bounds.values())
    assert values == sorted(values)
    assert min(b - a for a, b in pairwise(values)) > 1e-4


def test_a_sigma_that_nearly_vanishes_is_no_error() -> None:
    """det M is of 1 + U^T D^-1 U, whose 1 is lost to round-off beside 1e30."""
    posterior = hb.LowRank(nn.Linear(10, 2).double(), rank=8)
    with torch.no_grad():
        for log_sigma in posterior.log_sigma.values():
            log_sigma.flatten()[:3] = -40.0
    value = posterior.complexity()
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in posterior.parameters() if p.grad is not None)
