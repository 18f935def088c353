"""Networks of torch-blue and bayesian-torch with the same mu and sigma, to 1e-7.

Stand-ins have the class names and attributes of the libraries' layers, which are tested themselves
where they are installed.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb

X = torch.linspace(-1, 1, 12).view(4, 3)


def filled(seed: int, *shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def sigmas(posterior: hb.Gaussian) -> dict[str, Tensor]:
    return {
        name: posterior.log_sigma[name.replace(".", "/")].detach().exp() for name in posterior.names
    }


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=0, atol=1e-7)


# bayesian-torch


class BaseVariationalLayer_(nn.Module):
    dnn_to_bnn_flag = True
    prior_mean, prior_variance = 0, 0.7

    def fill(self, leaf: str, shape: tuple[int, ...], bias: int | None) -> None:
        for seed, what in enumerate(("mu", "rho")):
            self.register_parameter(f"{what}_{leaf}", filled(seed, *shape))
            self.register_parameter(
                f"{what}_bias", None if bias is None else filled(5 + seed, bias)
            )


class LinearReparameterization(BaseVariationalLayer_):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = 3, 2
        self.fill("weight", (2, 3), 2 if bias else None)


class LinearFlipout(LinearReparameterization):
    pass


class ConvTranspose1dFlipout(BaseVariationalLayer_):
    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = 4, 6, 3
        self.stride, self.padding, self.output_padding, self.dilation, self.groups = 2, 1, 1, 1, 2
        self.fill("kernel", (4, 3, 3), 6)


class LSTMReparameterization(BaseVariationalLayer_):
    pass


def test_bayesian_torch() -> None:
    head = LinearFlipout(bias=False)
    between = nn.Linear(2, 3)
    module = nn.Sequential(
        LinearReparameterization(), nn.LayerNorm(2), between, head, between, head
    )
    network, posterior = hb.convert.from_bayesian_torch(module, seed=4)
    assert isinstance(posterior, hb.Gaussian)
    assert posterior.module is network
    assert posterior.prior_sigma == 0.7
    assert [type(layer) for layer in network] == [nn.Linear, nn.LayerNorm, *[nn.Linear] * 4]
    assert network[3] is network[5]
    assert posterior.names == ("0.weight", "0.bias", "3.weight")
    scales = sigmas(posterior)
    for i, leaf in ((0, "weight"), (0, "bias"), (3, "weight")):
        mu, rho = getattr(module[i], f"mu_{leaf}"), getattr(module[i], f"rho_{leaf}")
        assert close(network.get_parameter(f"{i}.{leaf}"), mu)
        assert close(scales[f"{i}.{leaf}"], torch.log1p(rho.exp()))
    assert isinstance(module[0], LinearReparameterization)  # itself as it was
    assert posterior.predict(X, samples=2).shape == (2, 4, 2)


def test_bayesian_torch_convolutions_have_their_geometry() -> None:
    layer = ConvTranspose1dFlipout()
    network, posterior = hb.convert.from_bayesian_torch(layer, prior_sigma=2.0)
    x = torch.randn(2, 4, 5)
    expected = nn.functional.conv_transpose1d(x, layer.mu_kernel, layer.mu_bias, 2, 1, 1, groups=2)
    assert close(network(x), expected)
    assert posterior.prior_sigma == 2.0
    assert posterior.module is network


def test_bayesian_torch_layers_that_cannot_be_converted() -> None:
    alone = LinearReparameterization()
    alone.dnn_to_bnn_flag = False
    shifted = LinearReparameterization()
    shifted.prior_mean = 1.0
    for module, message in (
        (
            nn.Sequential(LSTMReparameterization()),
            r"0 is a LSTMReparameterization: expected linear",
        ),
        (nn.Sequential(alone), r"0 is a LinearReparameterization that gives its KL beside"),
        (
            shifted,
            r"the layers have the priors N\(1, 0\.7\^2\), and hb\.Gaussian has one of mean 0",
        ),
        (nn.Linear(2, 2), "Linear has no Gaussian layer of the library"),
    ):
        with pytest.raises(ValueError, match=message):
            hb.convert.from_bayesian_torch(module)


# torch-blue


class MeanFieldNormal:
    distribution_parameters = ("mean", "log_std")

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean, self.log_std = torch.tensor(mean), torch.tensor(math.log(std))


class NonBayesian:
    distribution_parameters = ("mean",)


class MeanFieldStudentT:
    distribution_parameters = ("mean", "log_scale")


class VIModule(nn.Module):
    def give(
        self, shapes: dict[str, tuple[int, ...] | None], distribution: Any, std: float
    ) -> None:
        self.variational_distribution = {
            name: None if shape is None else distribution for name, shape in shapes.items()
        }
        self.prior = {
            name: None if shape is None else MeanFieldNormal(std=std)
            for name, shape in shapes.items()
        }
        for seed, (name, shape) in enumerate(shapes.items()):
            for key in distribution.distribution_parameters if shape is not None else ():
                setattr(self, f"_{name}_{key}", filled(seed + len(key), *shape))

    def route(self) -> "VIModule":
        self._module_forward, self.forward = self.forward, self.sampled_forward
        return self

    def sampled_forward(self, x: Tensor) -> Tensor:
        raise AssertionError("draws samples")


class VILinear(VIModule):
    def __init__(
        self, bias: bool = True, distribution: Any = None, std: float = 1.0, inputs: int = 3
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, 2
        shapes = {"weight": (2, inputs), "bias": (2,) if bias else None}
        self.give(shapes, distribution or MeanFieldNormal(), std)
        self.route()


class AVIGain(VIModule, nn.LayerNorm):
    """A class that convert_to_vimodule makes."""


class VISequential(VIModule, nn.Sequential):
    pass


class Residual(VIModule):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.route()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x[:, :2]


class VIOwn(VIModule):
    def __init__(self) -> None:
        super().__init__()
        self.give({"gain": (2,)}, MeanFieldNormal(), 1.0)


def test_torch_blue() -> None:
    gain = nn.LayerNorm(2)
    gain._parameters.clear()
    gain.__class__ = AVIGain
    gain.give({"weight": (2,), "bias": (2,)}, MeanFieldNormal(), 0.3)
    sure = VILinear(bias=False, distribution=NonBayesian(), inputs=2)
    module = VISequential(Residual(VILinear(std=0.3)), gain, sure).route()
    network, posterior = hb.convert.from_torch_blue(module, seed=4)
    assert posterior.module is network
    assert posterior.prior_sigma == pytest.approx(0.3)
    assert type(network) is nn.Sequential
    assert type(network[0].layer) is nn.Linear
    assert type(network[1]) is nn.LayerNorm
    assert network[2].bias is None
    assert posterior.names == ("0.layer.weight", "0.layer.bias", "1.weight", "1.bias")
    scales = sigmas(posterior)
    for name in posterior.names:
        path, _, leaf = name.rpartition(".")
        layer = module.get_submodule(path)
        assert close(network.get_parameter(name), getattr(layer, f"_{leaf}_mean"))
        assert close(scales[name], getattr(layer, f"_{leaf}_log_std").exp())
    (weight, bias), x = (network[0].layer.weight, network[0].layer.bias), X
    plain = nn.functional.linear(x, weight, bias) + x[:, :2]
    plain = nn.functional.layer_norm(plain, (2,), network[1].weight, network[1].bias)
    assert close(network(x), plain @ sure._weight_mean.T)
    assert posterior.predict(x, samples=2).shape == (2, 4, 2)
    assert type(module) is VISequential  # itself as it was
    assert set(dict(module[2].named_parameters())) == {"_weight_mean"}


def test_torch_blue_layers_that_cannot_be_converted() -> None:
    for module, message in (
        (VISequential(VIOwn()), r"0 is a VIOwn with random variables of its own \(gain\)"),
        (VISequential(VILinear(distribution=MeanFieldStudentT())), r"0\.weight has a MeanFieldSt"),
        (VISequential(VILinear(), VILinear(std=0.3, inputs=2)), r"priors N\(0, .*\), N\(0, .*\), "),
        (VISequential(nn.ReLU()), "VISequential has no Gaussian layer of the library"),
    ):
        with pytest.raises(ValueError, match=message):
            hb.convert.from_torch_blue(module)


# The libraries themselves


def plain() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.ReLU()),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 2, bias=False),
    )


def of_torch_blue(network: nn.Module) -> tuple[nn.Module, Callable[..., Any]]:
    convert = pytest.importorskip("torch_blue.vi.utils.convert")
    distributions = pytest.importorskip("torch_blue.vi.distributions")
    convert.convert_to_vimodule(
        network,
        keep_weights=True,
        variational_distribution=distributions.MeanFieldNormal(std=0.02),
        kaiming_initialization=False,
    )
    return network, hb.convert.from_torch_blue


def of_bayesian_torch(network: nn.Module) -> tuple[nn.Module, Callable[..., Any]]:
    models = pytest.importorskip("bayesian_torch.models.dnn_to_bnn")
    options = {
        "prior_mu": 0.0,
        "prior_sigma": 1.0,
        "posterior_mu_init": 0.0,
        "posterior_rho_init": math.log(math.expm1(0.02)),
        "type": "Reparameterization",
        "moped_enable": True,
        "moped_delta": 0.02,
    }
    models.dnn_to_bnn(network, options)
    for layer in network.modules():  # its sigma is a share of mu
        for leaf in ("kernel", "weight", "bias"):
            if getattr(layer, f"rho_{leaf}", None) is not None:
                getattr(layer, f"rho_{leaf}").data.fill_(math.log(math.expm1(0.02)))
    return network, hb.convert.from_bayesian_torch


@pytest.mark.parametrize("convert", [of_torch_blue, of_bayesian_torch])
def test_there_and_back(convert: Callable[[nn.Module], Any]) -> None:
    module, back = convert(plain())
    network, posterior = back(module)
    expected, x = plain(), torch.randn(3, 2, 4, 4)
    assert {type(layer) for layer in network.modules()} == {
        type(layer) for layer in expected.modules()
    }
    assert posterior.names == ("0.0.weight", "0.0.bias", "3.weight")
    for name, parameter in expected.named_parameters():
        assert close(network.get_parameter(name), parameter), name
    for sigma in sigmas(posterior).values():
        assert close(sigma, torch.full_like(sigma, 0.02))
    assert close(network(x), expected(x))
    assert posterior.prior_sigma == 1.0
    assert posterior.predict(x, samples=3).std(0).min() > 0
