"""The optimizer of a run is PyTorch's Adam, step for step."""

import torch
from torch import Tensor, optim

from hpc_bnn.train.run.adam import Adam


def trained(kind: type[optim.Adam], *, steps: int, resumed_at: int | None = None) -> Tensor:
    """Return weights after some steps, with an optimizer made anew and loaded in between."""
    weight = torch.linspace(-1, 1, 7, requires_grad=True)
    optimizer = kind([weight], lr=0.1, fused=True)
    for step in range(steps):
        if step == resumed_at:
            state = optimizer.state_dict()
            optimizer = kind([weight], lr=0.3, fused=True)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (weight**3 - weight).sum().square().backward()
        optimizer.step()
    return weight.detach()


def test_it_takes_the_steps_of_adam_and_is_resumed_like_it() -> None:
    expected = trained(optim.Adam, steps=6)
    assert torch.equal(trained(Adam, steps=6), expected)
    assert torch.equal(trained(Adam, steps=6, resumed_at=3), expected)
    assert not torch.equal(expected, torch.linspace(-1, 1, 7))
