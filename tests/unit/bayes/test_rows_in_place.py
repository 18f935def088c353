"""Gradients of members: a pass adds to its own rows of a gradient that is there."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpc_bnn.bayes.ensemble import Ensemble

K = 6
X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)


class Largest(TorchDispatchMode):
    """Knows the number of elements of the largest tensor of memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.is_mutable or any(a.alias_info for a in func._schema.arguments):
            return out
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def posterior(**options: Any) -> Ensemble:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Linear(40, 2)).double()
    made = Ensemble(network, samples=K, seed=3, **options)
    made.initialise()
    return made


def gradients(of: Ensemble, samples: list[int], *, prior: bool = True) -> list[Tensor | None]:
    """Go backward through one pass, and return what the rows have then."""
    value = of(X, of.key(0, samples)).square().sum()
    (value + of.complexity() if prior else value).backward()
    return [row.grad for row in of.rows.values()]


@pytest.mark.parametrize("samples", [[0], [4], [1, 2, 3], [5, 0]])
@pytest.mark.parametrize("anchored", [False, True])
def test_the_gradient_is_added_to_the_one_that_is_there(samples: list[int], anchored: bool) -> None:
    expected = gradients(posterior(anchored=anchored), samples)
    other = posterior(anchored=anchored)
    there = [torch.full_like(row, 0.5) for row in other.rows.values()]
    for row, grad in zip(other.rows.values(), there, strict=True):
        row.grad = grad
    got = gradients(other, samples)
    for grad, before, one in zip(got, there, expected, strict=True):
        assert grad is before and one is not None
        assert torch.allclose(grad, one + 0.5, rtol=0, atol=1e-13)


def test_a_pass_makes_no_tensor_of_all_rows() -> None:
    largest = max(row.numel() for row in posterior().rows.values())
    sizes = {}
    for there in (False, True):
        one = posterior()
        for row in one.rows.values():
            row.grad = torch.zeros_like(row) if there else None
        with Largest() as seen:
            gradients(one, [1], prior=False)
        sizes[there] = seen.elements
    # Without, one tensor has all rows; with, none is larger than a row or the activations.
    assert sizes[False] >= largest
    assert sizes[True] < largest
