"""KL(q || p) and its cold variant against torch.distributions, Monte Carlo and autograd.

Tolerances: 1e-12 relative in float64, five standard errors for Monte Carlo.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from hpc_bnn.bayes import Gaussian
from hpc_bnn.bayes.selection import fan_in

TEMPERATURES = (1.0, 0.1, 3.0)


def posterior_with(
    *, spread: float = 1.0, random: list[str] | None = None, **options: object
) -> Gaussian:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv1d(3, 4, 2), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 5), nn.Linear(5, 2)
    )
    posterior = Gaussian(network, random=random, **options).double()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return posterior


def layers(posterior: Gaussian) -> list[tuple[str, Tensor, Tensor]]:
    return [
        (name, posterior.module.get_parameter(name), posterior.log_sigma[name.replace(".", "/")])
        for name in posterior.names
    ]


def expected_kl(posterior: Gaussian, taus: dict[str, float], temperature: float = 1.0) -> Tensor:
    """Return E_q[-log p] - T H(q) = KL + (1 - T) H(q) by torch.distributions."""
    total = torch.zeros((), dtype=torch.float64)
    for name, mu, log_sigma in layers(posterior):
        q = Normal(mu, log_sigma.exp())
        kl = kl_divergence(q, Normal(torch.zeros_like(mu), taus[name]))
        total = total + (kl + (1 - temperature) * q.entropy()).sum()
    return total


def same_tau(posterior: Gaussian, tau: float) -> dict[str, float]:
    return dict.fromkeys(posterior.names, tau)


@pytest.mark.parametrize("tau", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_value_and_gradients_equal_torch_distributions(tau: float, temperature: float) -> None:
    posterior = posterior_with(prior_sigma=tau, temperature=temperature)
    parameters = [p for _, mu, log_sigma in layers(posterior) for p in (mu, log_sigma)]
    got, expected = (
        posterior.complexity(),
        expected_kl(posterior, same_tau(posterior, tau), temperature),
    )
    assert got.shape == ()
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    # Under a factor, as in the objective.
    for gradient, gradient_expected in zip(
        torch.autograd.grad(0.37 * got, parameters),
        torch.autograd.grad(0.37 * expected, parameters),
        strict=True,
    ):
        largest = float(gradient_expected.abs().max())
        assert torch.allclose(gradient, gradient_expected, rtol=0, atol=1e-12 * largest)


def test_prior_by_fan_in_gives_each_layer_its_own_scale() -> None:
    posterior = posterior_with(prior_sigma="fan_in")
    taus = {name: 1 / math.sqrt(fan_in(posterior.module, name)) for name in posterior.names}
    assert taus["0.weight"] == taus["0.bias"] == pytest.approx(6**-0.5)
    assert taus["3.weight"] == pytest.approx(8**-0.5)
    assert posterior.complexity().item() == pytest.approx(
        expected_kl(posterior, taus).item(), rel=1e-12
    )


def test_only_random_weights_count() -> None:
    posterior = posterior_with(random=["4.weight"])
    before = posterior.complexity().item()
    assert before == pytest.approx(expected_kl(posterior, same_tau(posterior, 1.0)).item())
    with torch.no_grad():
        posterior.module.get_parameter("4.bias").add_(5.0)
        posterior.module.get_parameter("2.weight").add_(5.0)
    assert posterior.complexity().item() == before


def test_single_weight_by_hand() -> None:
    """KL = log(tau / sigma) + (sigma^2 + mu^2) / (2 tau^2) - 1/2 = log 4 + 1.25 / 8 - 1/2."""
    linear = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(linear.weight, 1.0)
    posterior = Gaussian(linear, prior_sigma=2.0, initial_sigma=0.5)
    assert posterior.complexity().item() == pytest.approx(math.log(4) + 1.25 / 8 - 0.5, rel=1e-12)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_monte_carlo_of_the_drawn_weights_agrees(temperature: float) -> None:
    posterior = posterior_with(spread=0.3, prior_sigma=0.8, temperature=temperature)
    posterior.requires_grad_(False)
    draws = posterior.key(0, range(5_000))
    terms = torch.zeros(5_000, dtype=torch.float64)
    for (_, mu, log_sigma), weights in zip(
        layers(posterior), posterior.sample(draws).values(), strict=True
    ):
        log_q = Normal(mu, log_sigma.exp()).log_prob(weights)
        log_p = Normal(0.0, 0.8).log_prob(weights)
        terms += (temperature * log_q - log_p).flatten(1).sum(1)
    error = terms.mean() - posterior.complexity()
    assert abs(error) < 5 * terms.std() / math.sqrt(len(terms))


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_kl_and_its_gradient_vanish_at_the_prior(tau: float) -> None:
    posterior = posterior_with(prior_sigma=tau, initial_sigma=tau, spread=0.0)
    with torch.no_grad():
        for _, mu, log_sigma in layers(posterior):
            mu.zero_()
            log_sigma.fill_(math.log(tau))
    parameters = [p for _, mu, log_sigma in layers(posterior) for p in (mu, log_sigma)]
    kl = posterior.complexity()
    assert abs(kl.item()) < 1e-12
    for gradient in torch.autograd.grad(kl, parameters):
        assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_cold_complexity_is_least_at_the_cold_prior(temperature: float) -> None:
    """Minimised alone, E_q[-log p] - T H(q) gives N(0, T tau^2)."""
    tau = 0.7
    posterior = posterior_with(prior_sigma=tau, temperature=temperature, spread=0.0)
    with torch.no_grad():
        for _, mu, log_sigma in layers(posterior):
            mu.zero_()
            log_sigma.fill_(math.log(tau * math.sqrt(temperature)))
    parameters = [p for _, mu, log_sigma in layers(posterior) for p in (mu, log_sigma)]
    for gradient in torch.autograd.grad(posterior.complexity(), parameters):
        assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("initial_sigma", [0.02, 0.0495])
def test_kl_of_a_million_float32_weights_is_exact_to_its_terms(initial_sigma: float) -> None:
    """Near the prior, sums of 4e6 cancel to a KL of 1e2, so they must not be in float32."""
    linear = nn.Linear(1000, 1000)
    for parameter in linear.parameters():
        nn.init.normal_(parameter, std=1e-4)
    posterior = Gaussian(linear, prior_sigma=0.05, initial_sigma=initial_sigma)
    single = posterior.complexity()
    # A million times sigma^2 / (2 tau^2) <= 1/2, all the same and so all rounded alike, by 1e-7.
    assert single.item() == pytest.approx(posterior.double().complexity().item(), rel=0, abs=0.05)


def test_a_second_derivative_is_refused() -> None:
    posterior = posterior_with()
    _, mu, _ = layers(posterior)[0]
    (gradient,) = torch.autograd.grad(posterior.complexity(), mu, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
