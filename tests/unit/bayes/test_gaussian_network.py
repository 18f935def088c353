"""The network of one sample for forecasts: what ``predict`` gives, again and again."""

import pytest
import torch
from torch import nn

from hpc_bnn.bayes.gaussian import Gaussian


def posterior(*, antithetic: bool = False) -> Gaussian:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Dropout(0.5), nn.Linear(5, 2))
    return Gaussian(network, initial_sigma=0.3, antithetic=antithetic, seed=9)


@pytest.mark.parametrize("antithetic", [False, True])
def test_it_equals_predict(antithetic: bool) -> None:
    made, x = posterior(antithetic=antithetic), torch.randn(4, 3)
    for sample in (0, 1, 6):
        network = made.network(sample)
        expected = made.predict(x, samples=1, first=sample)[0]
        assert torch.equal(network(x), expected)
        assert torch.equal(network(x), expected)
        assert not network(x).requires_grad
    assert not torch.equal(made.network(0)(x), made.network(1)(x))


def test_networks_do_not_mix() -> None:
    made, x = posterior(), torch.randn(4, 3)
    networks = [made.network(sample) for sample in range(3)]
    first = [network(x) for network in networks]
    again = [network(x) for network in reversed(networks)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))


def test_modes_and_parameters_stay_as_they_were() -> None:
    made, x = posterior(), torch.randn(4, 3)
    made.train()
    made.module.get_submodule("1").eval()
    modes = [layer.training for layer in made.module.modules()]
    parameters = [p.detach().clone() for p in made.parameters()]
    network = made.network(3)
    assert [layer.training for layer in made.module.modules()] == modes
    network(x)
    assert [layer.training for layer in made.module.modules()] == modes
    with pytest.raises(RuntimeError):
        network(torch.randn(4, 2))
    assert [layer.training for layer in made.module.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(parameters, made.parameters(), strict=True))


def test_its_weights_are_those_of_when_it_was_made() -> None:
    """Training goes on; a forecast that has begun keeps its member."""
    made, x = posterior(), torch.randn(4, 3)
    network = made.network(0)
    before = network(x)
    with torch.no_grad():
        made.module.get_parameter("0.weight").add_(1.0)
    assert torch.equal(network(x), before)
    assert not torch.equal(made.network(0)(x), before)
