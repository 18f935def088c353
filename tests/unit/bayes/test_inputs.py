"""What a network may take and give: one tensor or a structure of them, changed in place or not."""

import re
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors, tensors_of


class Pair(NamedTuple):
    image: Tensor
    scale: float


class Two(nn.Module):
    """Adds what two layers make of the two tensors of its input."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.a, self.b, self.keys = nn.Linear(4, 3), nn.Linear(4, 3), (first, second)

    def forward(self, x: Any) -> Tensor:
        result: Tensor = self.a(x[self.keys[0]]) + self.b(x[self.keys[1]])
        return result


X, Z = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.ones(5, 4)
STRUCTURES: dict[str, tuple[Any, Any, Inputs]] = {
    "tuple": (0, 1, (X, Z)),
    "list": (0, 1, [X, Z]),
    "dict": ("image", "mask", {"image": X, "mask": Z, "length": 7}),
}


@pytest.mark.parametrize("samples_per_pass", [1, 3])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_structured_inputs_give_the_members_of_their_tensors(
    kind: str, samples_per_pass: int
) -> None:
    first, second, x = STRUCTURES[kind]
    torch.manual_seed(2)
    posterior = Gaussian(Two(first, second), initial_sigma=0.3)
    weights = posterior.sample(posterior.key(0, range(3)))
    outputs = posterior.apply_weights(x, weights)
    for sample in range(3):
        expected = X @ weights["a.weight"][sample].T + weights["a.bias"][sample]
        expected = expected + Z @ weights["b.weight"][sample].T + weights["b.bias"][sample]
        assert torch.allclose(outputs[sample], expected, atol=1e-6)
    members = posterior.predict(x, samples=3, samples_per_pass=samples_per_pass)
    assert members.shape == (3, 5, 3)


def test_tensors_of_structures() -> None:
    x = {"a": [X, 3], "b": Pair(Z, 2.0)}
    assert [t is u for t, u in zip(tensors_of(x), (X, Z), strict=True)] == [True, True]
    doubled = map_tensors(lambda t: 2 * t, x)
    assert torch.equal(doubled["a"][0], 2 * X) and doubled["a"][1] == 3
    assert isinstance(doubled["b"], Pair) and doubled["b"].scale == 2.0
    assert count_examples(x) == 5
    for nothing, message in (({"a": 3}, "without a tensor"), (torch.tensor(1.0), "a number")):
        with pytest.raises(ValueError, match=message):
            count_examples(nothing)


class Output(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.head, self.kind = nn.Linear(4, 3), kind

    def forward(self, x: Tensor) -> object:
        logits = self.head(x)
        return {"dict": {"logits": logits}, "tuple": (logits, x), "nothing": None}[self.kind]


@pytest.mark.parametrize("samples_per_pass", [1, 2])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dict", "the network gives a dict with 'logits', a loss needs one tensor"),
        ("tuple", "the network gives a tuple of 2, a loss needs one tensor"),
        ("nothing", "the network gives a NoneType, a loss needs one tensor"),
    ],
)
def test_an_output_that_is_no_tensor_is_refused(
    kind: str, message: str, samples_per_pass: int
) -> None:
    posterior = Gaussian(Output(kind))
    with pytest.raises(ValueError, match=re.escape(message)):
        posterior.predict(X, samples=2, samples_per_pass=samples_per_pass)


def in_place(kind: str) -> nn.Module:
    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 1:].mul_(0.5).new_zeros(()) + x  # a view of the input

    first = {"hardswish": nn.Hardswish(inplace=True), "view": Scale()}[kind]
    return nn.Sequential(first, nn.Linear(4, 3))


@pytest.mark.parametrize("samples_per_pass", [1, 2])
@pytest.mark.parametrize("kind", ["hardswish", "view"])
def test_members_of_a_network_that_writes_to_its_input(kind: str, samples_per_pass: int) -> None:
    torch.manual_seed(3)
    posterior, x = Gaussian(in_place(kind), initial_sigma=0.3), X.clone()
    members = posterior.predict(x, samples=4, samples_per_pass=samples_per_pass)
    assert torch.equal(x, X)
    for sample in range(4):
        alone = posterior.predict(x, samples=1, first=sample)[0]
        assert torch.allclose(members[sample], alone, atol=1e-6)
        assert torch.allclose(posterior.network(sample)(x), alone, atol=1e-6)
    assert torch.equal(x, X)
    assert posterior.writes_to_input


def test_prediction_in_inference_mode() -> None:
    torch.manual_seed(3)
    posterior = Gaussian(in_place("hardswish"), initial_sigma=0.3)
    expected = posterior.predict(X, samples=2)
    with torch.inference_mode():
        x = X.clone()
        assert torch.equal(posterior.predict(x, samples=2), expected)
        assert torch.equal(x, X)


def test_a_network_that_begins_to_write_to_its_input_is_refused() -> None:
    network = nn.Sequential(nn.Hardswish(), nn.Linear(4, 3))
    posterior = Gaussian(network)
    posterior.predict(X.clone(), samples=1)
    network[0].inplace = True
    with pytest.raises(RuntimeError, match="wrote to its input in this pass"):
        posterior.predict(X.clone(), samples=1)
