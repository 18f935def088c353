"""One sample of a posterior as an ordinary module (kinds of layers: ``test_layer_kinds``)."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import hpc_bnn as hb
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior, Weights

X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)


class Members(Posterior):
    """Rows of weights, those of member m being m."""

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__(module, [n for n, _ in module.named_parameters()], seed=0, members=count)

    def sample(self, key: Key) -> Weights:
        rows = torch.tensor(self.places(key.samples), dtype=torch.float64)
        rows = rows + self.own_samples.start
        return {
            name: torch.einsum(
                "s,...->s...", rows, torch.ones_like(self.module.get_parameter(name))
            )
            for name in self.names
        }

    def complexity(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Tied(nn.Module):
    """One matrix in three places, twice as itself and once doubled by a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3, bias=False) for _ in range(3))
        self.second.weight = self.first.weight
        self.third.weight = self.first.weight
        parametrize.register_parametrization(self.third, "weight", Doubled())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(torch.tanh(self.second(torch.tanh(self.first(x)))))
        return out


def test_tied_weights_stay_tied_and_parametrized_ones_do_not_change_them() -> None:
    posterior = hb.Gaussian(Tied().double(), initial_sigma=0.5, seed=2)
    expected = posterior.predict(X, samples=2, first=4)
    for sample, outputs in zip((4, 5), expected, strict=True):
        network = posterior.to_module(sample)
        assert torch.allclose(network(X), outputs, rtol=0, atol=1e-12)
        assert network.first.weight is network.second.weight
        assert torch.equal(network.third.weight, 2 * network.first.weight)


def test_it_is_a_copy_in_evaluation_mode_that_can_be_saved_as_a_whole() -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    posterior = hb.Gaussian(module, seed=1)
    before = [p.detach().clone() for p in module.parameters()]
    network = posterior.to_module(0)
    assert type(network) is nn.Sequential
    assert not any(layer.training for layer in network.modules())
    expected = posterior.predict(X, samples=1)[0]
    assert torch.equal(network(X), expected)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))
    file = io.BytesIO()
    torch.save(posterior.to_module(0), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(X), expected)


def test_a_member_that_is_held_elsewhere_is_refused() -> None:
    posterior = Members(nn.Linear(3, 2).double(), 4)
    posterior.hold(range(2, 4))
    assert torch.equal(posterior.to_module(3)(X), 3 * X.sum(1, keepdim=True).expand(4, 2) + 3)
    with pytest.raises(ValueError, match=r"weight samples 1 to 1: .* members 2 to 3 of 4"):
        posterior.to_module(1)
