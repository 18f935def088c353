"""Activation checkpointing inside a network: the gradients are those of the network without it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from toy_step import LOSSES, alone

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.train.step import passes
from hpc_bnn.train.step.step import Step

WIDTH = 8


class Block(nn.Module):
    """A perceptron with dropout by a layer and by a function."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.drop, self.p = nn.LayerNorm(WIDTH), nn.Dropout(p), p

    def forward(self, h: Tensor) -> Tensor:
        inner = self.drop(torch.tanh(self.a(self.norm(h))))
        return h + functional.dropout(self.b(inner), self.p, self.training)


class Net(nn.Module):
    """Blocks that are run as ``how`` says: None as they are, else with use_reentrant=how."""

    def __init__(self, how: bool | None, p: float, *, preserve: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 4)
        self.blocks = nn.ModuleList([Block(p) for _ in range(3)])
        self.how, self.preserve = how, preserve

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            if self.how is None:
                h = block(h)
            else:
                h = checkpoint(block, h, use_reentrant=self.how, preserve_rng_state=self.preserve)
        result: Tensor = self.last(h)
        return result


def gradients(network: nn.Module, loss: str, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    posterior = Gaussian(network, initial_sigma=0.3, keep_noise=options.pop("keep_noise", False))
    kind = LOSSES[loss]()
    every = [*posterior.parameters(), *kind.parameters()]
    step = Step(
        posterior,
        kind,
        torch.optim.SGD(every, lr=0.0),
        alone(),
        samples=4,
        num_examples=10,
        precision="float64",
        **options,
    )
    posterior.double()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    step(x, x.flip(1))
    return {name: p.grad for name, p in posterior.named_parameters() if p.grad is not None}


OPTIONS: list[dict[str, Any]] = [
    {"loss": "gaussian"},
    {"loss": "gaussian", "keep_noise": True},
    {"loss": "almost fair crps"},
    {"loss": "almost fair crps", "keep_graphs": True},
]


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(map(str, o.values())))
@pytest.mark.parametrize("largest", [0, passes.LARGEST])
def test_gradients_are_those_without_it(
    options: dict[str, Any],
    reentrant: bool,
    p: float,
    largest: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = gradients(Net(None, p), **options)
    monkeypatch.setattr(passes, "LARGEST", largest)
    result = gradients(Net(reentrant, p), **options)
    assert result.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(result[name], gradient, rtol=1e-10, atol=1e-13), name


def test_masks_that_cannot_be_found_again_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="preserve_rng_state"):
        gradients(Net(False, 0.4, preserve=False), "gaussian")


def test_switching_reentrant_checkpoints_on_after_the_first_step_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a large network; a small one computes with leaves anyway."""
    torch.manual_seed(1)
    network = Net(None, 0.0)
    posterior = Gaussian(network)
    optimizer = torch.optim.SGD(posterior.parameters(), lr=0.0)
    options: dict[str, Any] = {"samples": 2, "num_examples": 9}
    small = Step(posterior, losses.gaussian_nll(), optimizer, alone(), **options)
    monkeypatch.setattr(passes, "LARGEST", 0)
    step = Step(posterior, losses.gaussian_nll(), optimizer, alone(), **options)
    x = torch.randn(6, 4)
    step(x, x)
    small(x, x)
    network.how = False  # the other kind may be switched at any time
    step(x, x)
    network.how = True
    small(x, x)
    with pytest.raises(RuntimeError, match="switched on after the first step"):
        step(x, x)
