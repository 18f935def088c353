"""w = W * (r v^T) with Gaussian factors: the outputs of a linear layer and the complexity term in
closed form.

Tolerances: 1e-12 relative in float64, five standard errors for Monte Carlo.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import hpc_bnn as hb
from hpc_bnn.bayes.rank1 import _Product
from hpc_bnn.bayes.selection import fan_in


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(4, 6, 2, groups=2), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 3)
    )


def moved(posterior: hb.Rank1) -> hb.Rank1:
    """Give every factor a mean and scale of its own."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in posterior.factors.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return posterior


def moments(posterior: hb.Rank1, factor: str) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of a factor."""
    mean = posterior.factors.module.get_parameter(factor).detach() + 1
    return mean, posterior.factors.log_sigma[factor].detach().exp()


def test_outputs_of_a_linear_layer_have_the_mean_and_covariance_of_products() -> None:
    count = 40_000
    torch.manual_seed(3)
    layer = nn.Linear(4, 3).double()
    posterior = moved(hb.Rank1(layer, initial_sigma=0.3, seed=5))
    x = torch.randn(2, 4, dtype=torch.float64)
    outputs = posterior(x, posterior.key(0, range(count))).detach()  # (S, B, A)
    (r, sigma_r), (v, sigma_v) = (moments(posterior, f"weight/{factor}") for factor in "rv")
    # E r_a r_b = rr, E v_i v_j = vv; terms W_ai x_i of both examples (B, A, I)
    rr = torch.outer(r, r) + torch.diag(sigma_r.square())
    vv = torch.outer(v, v) + torch.diag(sigma_v.square())
    terms = layer.weight.detach() * x[:, None]
    mean = r * (terms @ v)
    assert torch.allclose(posterior.mean()["weight"], layer.weight * torch.outer(r, v), rtol=1e-12)
    second = torch.einsum("ab,xai,ybj,ij->xayb", rr, terms, terms, vv)
    covariance = second.reshape(6, 6) - torch.outer(mean.flatten(), mean.flatten())
    centred = (outputs - layer.bias.detach() - mean).reshape(count, 6)
    products = torch.einsum("sa,sb->sab", centred, centred)
    error = centred.std(0) / math.sqrt(count)
    assert (centred.mean(0).abs() / error).max() < 5
    error = products.std(0) / math.sqrt(count)
    assert ((products.mean(0) - covariance).abs() / error).max() < 5
    assert (covariance.abs() / error).min() > 10  # every pair is correlated, by far


def expected_complexity(posterior: hb.Rank1, tau: float, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for name, mean in posterior.factors.module.named_parameters():
        q = Normal(1 + mean, posterior.factors.log_sigma[name].exp())
        kl = kl_divergence(q, Normal(torch.ones_like(mean), tau))
        total = total + (kl + (1 - temperature) * q.entropy()).sum()
    for name in posterior.names:
        weight = posterior.module.get_parameter(name)
        rho = fan_in(posterior.module, name) ** -0.5
        total = total - Normal(torch.zeros_like(weight), rho).log_prob(weight).sum()
    return total


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_complexity_and_its_gradients_equal_torch_distributions(temperature: float) -> None:
    options = {"prior_sigma": 0.2, "weight_sigma": "fan_in", "temperature": temperature}
    posterior = moved(hb.Rank1(network().double(), **options))
    got, expected = posterior.complexity(), expected_complexity(posterior, 0.2, temperature)
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    assert got.dtype == torch.float64
    matrices = [posterior.module.get_parameter(name) for name in posterior.names]
    parameters = [*posterior.factors.parameters(), *matrices]
    for a, b in zip(
        torch.autograd.grad(0.37 * got, parameters),
        torch.autograd.grad(0.37 * expected, parameters),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))


def test_factors_belong_to_the_first_two_axes_and_the_rest_is_deterministic() -> None:
    posterior = hb.Rank1(network())
    assert posterior.names == ("0.weight", "3.weight")
    sizes = {name: len(p) for name, p in posterior.factors.module.named_parameters()}
    assert sizes == {"0/weight/r": 6, "0/weight/v": 2, "3/weight/r": 3, "3/weight/v": 24}
    weights = posterior.sample(posterior.key(0, range(2)))
    ratio = weights["0.weight"][1] / posterior.module[0].weight  # (6, 2, 2, 2)
    assert torch.allclose(ratio, ratio[..., :1, :1].expand_as(ratio), rtol=1e-5)
    matrix = ratio[..., 0, 0]
    assert torch.allclose(matrix[:1] * matrix[:, :1] / matrix[0, 0], matrix, rtol=1e-5)
    assert matrix.std() > 0.01
    assert not torch.equal(weights["3.weight"][0], weights["3.weight"][1])


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 4), (3, 2, 2, 2)])
def test_gradients_of_the_product(shape: tuple[int, ...]) -> None:
    torch.manual_seed(4)
    weight, r, v = (
        torch.randn(*size, dtype=torch.float64, requires_grad=True)
        for size in (shape, (5, 3), (5, 2))
    )
    assert torch.autograd.gradcheck(_Product.apply, (weight, r, v))
    rows = (1 + r).reshape(5, 3, *[1] * (len(shape) - 1))
    columns = (1 + v).reshape(5, 1, 2, *[1] * (len(shape) - 2))
    got = _Product.apply(weight, r, v)
    assert torch.allclose(got, weight * rows * columns, rtol=1e-14, atol=0)


def test_the_network_is_the_mean_at_the_start() -> None:
    posterior = hb.Rank1(network().double(), initial_sigma=1e-9)
    x = torch.randn(3, 4, 3, 3, dtype=torch.float64)
    output = posterior.predict(x, samples=2)
    assert torch.allclose(output, posterior.module(x).expand(2, -1, -1), rtol=0, atol=1e-7)


def test_a_network_in_half_precision_keeps_scales_in_float32() -> None:
    posterior = hb.Rank1(network()).to(torch.bfloat16)
    weights = posterior.sample(posterior.key(0, range(2)))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert {p.dtype for p in posterior.factors.log_sigma.values()} == {torch.float32}
    (sum(weight.float().sum() for weight in weights.values()) + posterior.complexity()).backward()
    drawn = [posterior.module.get_parameter(name) for name in posterior.names]
    assert all(p.grad is not None for p in [*posterior.factors.parameters(), *drawn])


def test_no_decay_pulls_at_scales() -> None:
    posterior = hb.Rank1(nn.Linear(2, 3))
    names = [name for name, _ in posterior.named_parameters()]
    assert set(posterior.scales()) <= set(names)
    assert len(list(posterior.scales())) == 2


def test_antithetic_pairs_mirror_the_factors() -> None:
    posterior = moved(hb.Rank1(nn.Linear(3, 2).double(), antithetic=True))
    drawn = posterior.factors.sample(posterior.key(0, range(2)))
    for name, mean in posterior.factors.module.named_parameters():
        assert torch.allclose(drawn[name].sum(0), 2 * mean, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="even number"):
        posterior.check_samples(3, samples_per_pass=1)


@pytest.mark.parametrize("option", ["prior_sigma", "initial_sigma", "weight_sigma", "temperature"])
def test_scales_that_are_none_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"posterior\.{option} = 0: must be a positive number"):
        hb.Rank1(nn.Linear(2, 3), **{option: 0})


def test_a_selection_without_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match=r"posterior\.random: none of bias is a matrix"):
        hb.Rank1(nn.Linear(2, 3), random=["bias"])
