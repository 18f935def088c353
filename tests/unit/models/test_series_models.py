"""Networks of series: what each computes, that channels are apart, and the inputs they refuse."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.models import MODELS
from hpc_bnn.models.channelwise import Channelwise
from hpc_bnn.models.dlinear import DLinear, moving_mean
from hpc_bnn.models.linear import Linear
from hpc_bnn.models.patch_transformer import PatchTransformer
from hpc_bnn.models.residual_mlp import ResidualMLP

HISTORY, HORIZON, CHANNELS, KNOWN = 10, 4, 3, 8
SMALL: dict[str, dict[str, Any]] = {
    "linear": {},
    "dlinear": {"trend": 3},
    "residual_mlp": {"width": 6, "depth": 2, "dropout": 0.0},
    "patch_transformer": {"patch": 4, "stride": 3, "width": 8, "heads": 2, "dropout": 0.0},
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(name: str, *, known: bool = False, horizon: int = HORIZON) -> Any:
    torch.manual_seed(1)
    shape = (HISTORY * CHANNELS + KNOWN,) if known else (HISTORY, CHANNELS)
    made = MODELS[name](shape, (horizon, CHANNELS), history=HISTORY, **SMALL[name])
    return made.double().eval()


def test_every_channelwise_network_is_tested() -> None:
    kinds = {name for name, kind in MODELS.items() if isinstance(kind, type(Channelwise))}
    assert {n for n in kinds if issubclass(MODELS[n], Channelwise)} == set(SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SMALL)
def test_a_channel_is_forecast_from_its_own_history(name: str) -> None:
    network, x = model(name), random(5, HISTORY, CHANNELS)
    before = network(x)
    assert before.shape == (5, HORIZON, CHANNELS)
    other = x.clone()
    other[:, :, 1] += 1
    after = network(other)
    assert torch.equal(before[..., [0, 2]], after[..., [0, 2]])
    assert not torch.allclose(before[..., 1], after[..., 1])


@pytest.mark.parametrize("name", SMALL)
def test_weights_are_the_same_for_all_channels_but_for_their_bias(name: str) -> None:
    network, x = model(name), random(5, HISTORY, CHANNELS)
    order = [2, 0, 1]
    # Tolerance: sums of another order.
    assert torch.allclose(network(x)[..., order], network(x[..., order]), atol=1e-12)
    with torch.no_grad():
        network.channel_bias.copy_(random(CHANNELS, HORIZON, seed=2))
    difference = network(x)[..., order] - network(x[..., order])
    expected = network.channel_bias[order] - network.channel_bias
    assert torch.allclose(difference, expected.T.expand_as(difference), atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_known_values_reach_every_channel(name: str) -> None:
    network, x = model(name, known=True), random(5, HISTORY * CHANNELS + KNOWN)
    other = x.clone()
    other[:, -1] += 1
    changed = (network(x) - network(other)).abs().amax((0, 1))
    assert bool((changed > 1e-6).all())
    without = model(name)
    past = x[:, : HISTORY * CHANNELS]
    assert without(past.reshape(5, HISTORY, CHANNELS)).shape == network(x).shape


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("posterior", ["gaussian", "ensemble", "low_rank", "rank1"])
def test_posteriors_draw_them(name: str, posterior: str) -> None:
    options: dict[str, Any] = {"samples": 2} if posterior == "ensemble" else {}
    drawn = POSTERIORS[posterior](model(name), **options)
    x = random(3, HISTORY, CHANNELS)
    members = drawn.predict(x, samples=2)
    assert members.shape == (2, 3, HORIZON, CHANNELS)
    assert not torch.allclose(members[0], members[1])
    both = drawn.predict(x, samples=2, samples_per_pass=2)
    assert torch.allclose(both, members, atol=1e-10)


@pytest.mark.parametrize("name", ["residual_mlp", "patch_transformer"])
def test_those_with_dropout_drop_by_key(name: str) -> None:
    options = {**SMALL[name], "dropout": 0.2}
    made = MODELS[name]((HISTORY, CHANNELS), (HORIZON, CHANNELS), **options).double()
    members = POSTERIORS["dropout"](made).predict(random(3, HISTORY, CHANNELS), samples=2)
    assert not torch.allclose(members[0], members[1])


def test_linear_is_a_product() -> None:
    network, x = model("linear"), random(5, HISTORY, CHANNELS)
    assert isinstance(network, Linear)
    expected = torch.einsum("ph,bhc->bpc", network.layer.weight, x)
    expected = expected + network.layer.bias[:, None]
    assert torch.allclose(network(x), expected, atol=1e-12)


def test_trend_is_the_mean_of_the_rows_around() -> None:
    rows = torch.tensor([1.0, 4.0, 7.0, 1.0])
    assert moving_mean(rows, 3).tolist() == pytest.approx([2.0, 4.0, 4.0, 3.0])
    assert torch.equal(moving_mean(rows, 1), rows)
    network, x = model("dlinear"), random(2, HISTORY, CHANNELS)
    assert isinstance(network, DLinear)
    trend = moving_mean(x.transpose(1, 2), 3)
    expected = network.trend_layer(trend) + network.rest_layer(x.transpose(1, 2) - trend)
    assert torch.allclose(network(x), expected.transpose(1, 2), atol=1e-12)


def test_patches_reach_the_end_of_the_history() -> None:
    network = model("patch_transformer")
    assert isinstance(network, PatchTransformer)
    # Rows 0-3, 3-6, 6-9: three tokens; of 11 rows four, the last two rows of the last repeated.
    assert network.positions.shape == (3, 8)
    longer = PatchTransformer((11, 1), (2, 1), **SMALL["patch_transformer"]).double().eval()
    assert longer.positions.shape == (4, 8)
    x = random(1, 11, 1)
    other = x.clone()
    other[0, -1] += 1
    assert not torch.allclose(longer(x), longer(other))


def test_residual_mlp_without_its_perceptron_is_linear() -> None:
    network, x = model("residual_mlp"), random(5, HISTORY, CHANNELS)
    assert isinstance(network, ResidualMLP)
    with torch.no_grad():
        network.decode.weight.zero_()
        network.decode.bias.zero_()
    expected = network.linear(x.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(network(x), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "shapes", "options", "told"),
    [
        ("linear", ((3, 8, 8), (10,)), {}, "expected windows of a series"),
        ("linear", ((10, 3), (4, 2)), {}, r"model\.history"),
        ("linear", ((38,), (4, 3)), {}, r"model\.history = 0"),
        ("linear", ((38,), (4, 3)), {"history": 13}, r"model\.history = 13"),
        ("dlinear", ((10, 3), (4, 3)), {"trend": 4}, r"model\.trend = 4: must be an odd"),
        ("residual_mlp", ((10, 3), (4, 3)), {"width": 0}, r"model\.width = 0"),
        ("residual_mlp", ((10, 3), (4, 3)), {"dropout": 1.0}, r"model\.dropout = 1\.0"),
        ("patch_transformer", ((10, 3), (4, 3)), {"patch": 11}, r"model\.patch = 11"),
        ("patch_transformer", ((10, 3), (4, 3)), {"patch": 4, "stride": 5}, r"stride = 5"),
        (
            "patch_transformer",
            ((10, 3), (4, 3)),
            {"patch": 4, "stride": 2, "width": 10, "heads": 4},
            r"model\.heads = 4",
        ),
    ],
)
def test_refused(name: str, shapes: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MODELS[name](*shapes, **options)
