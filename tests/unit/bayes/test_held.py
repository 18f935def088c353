"""Weights that stand in several places of a network: a layer registered twice, tied weights."""

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.held import held, places_of


def one_layer_twice() -> nn.Sequential:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    return nn.Sequential(layer, nn.Identity(), layer)


class Tied(nn.Module):
    """y = w * w * x, with one parameter in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.encode.weight)
        self.decode.weight = self.encode.weight
        self.alias = self.encode

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.decode(self.alias(x))
        return result


@pytest.mark.parametrize("make", [one_layer_twice, Tied])
@pytest.mark.parametrize("samples_per_pass", [1, 50])
def test_a_shared_weight_is_drawn_once_a_sample(
    make: type[nn.Module], samples_per_pass: int
) -> None:
    posterior = Gaussian(make(), initial_sigma=0.1)
    (name,) = posterior.names
    members = posterior.predict(torch.ones(1, 1), samples=2000, samples_per_pass=samples_per_pass)
    # E[w^2] = 1.01 and its standard deviation 0.2; four standard errors of 2000 members.
    assert float(members.mean()) == pytest.approx(1.01, abs=4 * 0.2 / 2000**0.5)
    assert float(members.std()) == pytest.approx(0.2, rel=0.1)
    assert float(posterior.module.get_parameter(name).detach()) == 1.0
    again = posterior.predict(torch.ones(1, 1), samples=3)
    assert torch.equal(again, posterior.predict(torch.ones(1, 1), samples=3))
    assert torch.allclose(again, members[:3])


@pytest.mark.parametrize("make", [one_layer_twice, Tied])
def test_its_gradient_is_that_of_both_places(make: type[nn.Module]) -> None:
    posterior = Gaussian(make(), initial_sigma=0.1)
    draws = posterior.key(0, (0,))
    (weight,) = posterior.sample(draws).values()
    torch.autograd.backward(posterior(torch.full((1, 1), 3.0), draws).sum())
    mu = posterior.module.get_parameter(posterior.names[0])
    assert mu.grad is not None
    assert float(mu.grad) == pytest.approx(2 * float(weight.detach()) * 3.0)


def test_every_place_gets_its_parameter_back_after_an_error() -> None:
    network = one_layer_twice()
    parameter = network[0].weight
    places = places_of(network, ["0.weight"])
    with pytest.raises(RuntimeError, match="stop"), held(places, {"0.weight": torch.zeros(1, 1)}):
        assert float(network(torch.ones(1, 1))) == 0.0
        raise RuntimeError("stop")
    assert network[0].weight is parameter and network[2].weight is parameter


def test_blocks_within_blocks_give_back_what_they_found() -> None:
    network = nn.Linear(1, 1, bias=False)
    places = places_of(network, ["weight"])
    outer, inner = torch.full((1, 1), 2.0), torch.full((1, 1), 3.0)
    with held(places, {"weight": outer}):
        with held(places, {"weight": inner}):
            assert float(network(torch.ones(1, 1))) == 3.0
        assert float(network(torch.ones(1, 1))) == 2.0


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_holds_no_drawn_weights_afterwards(kind: type[nn.RNNBase]) -> None:
    network = kind(2, 3, batch_first=True)
    parameters = dict(network.named_parameters())
    weights = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with held(places_of(network, weights), weights):
        assert not network(torch.ones(1, 4, 2))[0].any()
    assert all(any(w is p for p in parameters.values()) for w in network._flat_weights)
    assert network(torch.ones(1, 4, 2))[0].any()
