"""Windows normalised one by one: exact values, the way back, and whose statistics they are."""

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.models.normalised import FLOOR, NormalisedWindows

HISTORY, HORIZON, CHANNELS, KNOWN = 6, 2, 3, 4


class Keep(nn.Module):
    """Give a fixed output (B, R, C) and remember the input."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output
        self.given = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.given = x
        return self.output


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wrapped(network: nn.Module, loss: losses.Loss, *, last: bool = False) -> NormalisedWindows:
    return NormalisedWindows(network, HISTORY, CHANNELS, last=last, rescale=loss.rescale)


@pytest.mark.parametrize("last", [False, True])
def test_inputs_and_members_by_the_formula(last: bool) -> None:
    x = 5 + 3 * random(4, HISTORY, CHANNELS)
    network = Keep(random(4, HORIZON, CHANNELS, seed=1))
    got = wrapped(network, losses.fair_crps(), last=last)(x)
    location = x[:, -1] if last else x.mean(1)
    scale = (((x - x.mean(1, keepdim=True)) ** 2).mean(1) + FLOOR**2) ** 0.5
    assert torch.allclose(network.given, (x - location[:, None]) / scale[:, None], atol=1e-12)
    expected = location[:, None] + scale[:, None] * network.output
    assert torch.allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("predictive", [False, True])
def test_predicted_scales_are_put_back_too(predictive: bool) -> None:
    x = 5 + 3 * random(4, HISTORY, CHANNELS)
    loss = losses.gaussian_nll(variance="predicted", min_sigma=1e-3, predictive=predictive)
    raw = random(4, 2 * HORIZON, CHANNELS, seed=1)
    got = wrapped(Keep(raw), loss)(x)
    mean, sigma = loss.forecast(got[None])
    plain_mean, plain_sigma = loss.forecast(raw[None])
    assert sigma is not None
    assert plain_sigma is not None
    scale = (x.var(1, correction=0) + FLOOR**2).sqrt()[:, None]
    assert torch.allclose(mean[0], x.mean(1)[:, None] + scale * plain_mean[0], atol=1e-12)
    assert torch.allclose(sigma[0] - 1e-3, scale * (plain_sigma[0] - 1e-3), rtol=1e-9)


def test_likelihood_is_that_of_normalised_targets() -> None:
    """NLL(y) of the outputs put back = NLL((y - m) / s) + sum log s: one model in two units."""
    x, y = 5 + 3 * random(4, HISTORY, CHANNELS), 5 + random(4, HORIZON, CHANNELS, seed=2)
    loss = losses.gaussian_nll(variance="predicted", min_sigma=1e-12)
    assert isinstance(loss, losses.SeparableLoss)
    raw = random(4, 2 * HORIZON, CHANNELS, seed=1)
    scale = (x.var(1, keepdim=True, correction=0) + FLOOR**2).sqrt()
    inside = loss(raw, (y - x.mean(1, keepdim=True)) / scale)
    expected = inside + HORIZON * scale.log().sum((1, 2))
    assert torch.allclose(loss(wrapped(Keep(raw), loss)(x), y), expected, rtol=1e-9)


@pytest.mark.parametrize("variance", ["fixed", "learned"])
def test_a_sigma_that_is_no_output_stays(variance: str) -> None:
    loss = losses.gaussian_nll(variance=variance, sigma=0.3)  # type: ignore[arg-type]
    x = random(4, HISTORY, CHANNELS)
    got = wrapped(Keep(random(4, HORIZON, CHANNELS, seed=1)), loss)(x)
    assert got.shape == (4, HORIZON, CHANNELS)
    sigma = loss.forecast(got[None])[1]
    assert sigma is not None
    assert torch.allclose(sigma, torch.tensor(0.3, dtype=sigma.dtype))


def test_known_values_pass_unchanged() -> None:
    past, known = 5 + random(4, HISTORY * CHANNELS), random(4, KNOWN, seed=3)
    network = Keep(random(4, HORIZON, CHANNELS, seed=1))
    wrapped(network, losses.fair_crps())(torch.cat([past, known], 1))
    assert torch.equal(network.given[:, -KNOWN:], known)
    means = network.given[:, :-KNOWN].unflatten(1, (HISTORY, CHANNELS)).mean(1)
    assert torch.allclose(means, torch.zeros_like(means), atol=1e-12)


def test_a_level_that_all_share_moves_the_forecast_by_itself() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 6), nn.Tanh(), nn.Unflatten(1, (2, 3)))
    whole = wrapped(network.double(), losses.fair_crps())
    x = random(4, HISTORY, CHANNELS)
    assert torch.allclose(whole(x + 1000), whole(x) + 1000, atol=1e-9)


def test_a_constant_window_has_a_finite_answer_and_gradient() -> None:
    loss = losses.gaussian_nll(variance="predicted")
    assert isinstance(loss, losses.SeparableLoss)
    torch.manual_seed(0)
    linear = nn.Linear(HISTORY * CHANNELS, 2 * HORIZON * CHANNELS)
    shape = (2 * HORIZON, CHANNELS)
    whole = wrapped(nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, shape)), loss)
    x = torch.full((2, HISTORY, CHANNELS), 7.0)
    with torch.no_grad():
        linear.bias[HORIZON * CHANNELS :] = -200.0  # softplus(raw) is 0 in float32
    value = loss(whole(x), torch.full((2, HORIZON, CHANNELS), 7.1)).sum()
    value.backward()
    assert bool(value.isfinite())
    assert linear.weight.grad is not None
    assert bool(linear.weight.grad.isfinite().all())
