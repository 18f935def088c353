"""What a captured step takes as a change of its network, and what not."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hpc_bnn import bayes
from hpc_bnn.train.step.unchanged import Unchanged


class Network(nn.Module):
    more: int
    other: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale, self._power = nn.Linear(2, 2), 1.0, 1
        self.table: torch.Tensor
        self.register_buffer("table", torch.ones(2))


Change = Callable[[bayes.Gaussian, Network], object]
CHANGES: dict[str, Change] = {
    "an attribute": lambda _, network: setattr(network, "scale", 0.5),
    "a private attribute of a layer": lambda _, network: setattr(network, "_power", 2),
    "an attribute that is new": lambda _, network: setattr(network, "more", 2),
    "a mode": lambda _, network: network.layer.eval(),
    "a frozen weight": lambda _, network: network.layer.weight.requires_grad_(False),
    "memory": lambda _, network: setattr(network.layer.bias, "data", torch.ones(2)),
    "a buffer": lambda _, network: setattr(network, "table", torch.ones(2)),
    "a parameter": lambda _, network: setattr(network.layer, "bias", nn.Parameter(torch.ones(2))),
    "a layer": lambda _, network: setattr(network, "layer", nn.Linear(2, 2)),
    "one more layer": lambda _, network: setattr(network, "other", nn.Linear(2, 2)),
    "a setting of the method": lambda posterior, _: setattr(posterior, "antithetic", True),
}
NONE: dict[str, Change] = {
    "nothing": lambda *_: None,
    "numbers": lambda _, network: network.layer.weight.data.add_(1),
    "gradients": lambda _, network: setattr(network.layer.weight, "grad", torch.ones(2, 2)),
    "a note of the method": lambda posterior, _: setattr(posterior, "_checked", True),
}


@pytest.mark.parametrize("name", [*CHANGES, *NONE])
def test_what_is_a_change(name: str) -> None:
    network = Network()
    posterior = bayes.Gaussian(network)
    watch = Unchanged(posterior)
    before, held = watch.state(), [*posterior.parameters(), *posterior.buffers()]
    (CHANGES | NONE)[name](posterior, network)
    assert (watch.state() == before) == (name in NONE)
    assert watch.state() == watch.state() and hash(watch.state()) is not None
    assert held  # so that no memory is used again


def test_what_came_later_is_watched_too() -> None:
    network = Network()
    watch = Unchanged(bayes.Gaussian(network))
    network.more = 1
    network.other = nn.Linear(2, 2)
    before = watch.state()
    network.more = 2
    after = watch.state()
    network.other.eval()
    assert len({before, after, watch.state()}) == 3
