"""Dropout of the bundled networks: keyed by Monte Carlo dropout, and nothing where it is 0."""

from typing import Any

import pytest
import torch

from hpc_bnn.bayes import Dropout
from hpc_bnn.models import MLP, Swin, ViT

MODELS: dict[str, Any] = {
    "mlp": lambda p: MLP((8, 8), (2,), hidden=(12,), dropout=p),
    "vit": lambda p: ViT((1, 8, 8), (2,), width=8, depth=2, heads=2, dropout=p),
    "swin": lambda p: Swin(
        *((1, 8, 16), (1, 8, 16)),
        width=8,
        depths=(2, 0, 0, 0),
        heads=(2,) * 4,
        window=(2, 2),
        dropout=p,
    ),
    "swin, recomputed": lambda p: Swin(
        *((1, 8, 16), (1, 8, 16)),
        width=8,
        depths=(2, 0, 0, 0),
        heads=(2,) * 4,
        window=(2, 2),
        dropout=p,
        recompute=True,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_bundled_networks_drop(name: str) -> None:
    """The gradient of a pass is that of the same pass again; without dropout nothing changes."""
    torch.manual_seed(0)
    plain = MODELS[name](0.0).double()
    torch.manual_seed(0)
    module = MODELS[name](0.2).double()
    assert [p.shape for p in plain.parameters()] == [p.shape for p in module.parameters()]
    if name != "mlp":
        assert list(plain.state_dict()) == list(module.state_dict())
    x = torch.randn(4, 1, 8, 16 if "swin" in name else 8, dtype=torch.float64)
    module.eval()
    assert torch.equal(module(x), plain(x))  # in training: nothing is dropped with p = 0
    module.train()
    posterior = Dropout(module)
    key = posterior.key(1, (0,))
    gradients = []
    for _ in range(2):
        module.zero_grad()
        with posterior.dropout(key, examples=4, first_example=0) as dropout:
            outputs = posterior(x, key)
        with dropout.in_backward():
            torch.autograd.backward(outputs.square().sum())
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    assert torch.equal(*gradients)
    assert not torch.allclose(outputs[0], plain(x))
    members = posterior.predict(x, samples=2)
    assert not torch.allclose(members[0], members[1])


@pytest.mark.parametrize("model", [ViT, Swin])
def test_a_probability_out_of_range_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.dropout = 1\.0: must be at least 0"):
        model((1, 32, 64), (1, 32, 64), dropout=1.0)
