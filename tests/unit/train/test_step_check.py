"""The check of the network at the first step, and inputs that are more than one tensor."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_step import alone

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.impure import ImpureError
from hpc_bnn.train.step.step import Step

X = torch.randn(16, 8, 4, generator=torch.Generator().manual_seed(1))  # as many times as half of B


def step_of(network: nn.Module, **options: Any) -> Step:
    posterior = Gaussian(network, initial_sigma=0.1)
    optimizer = torch.optim.SGD(posterior.parameters(), lr=0.1)
    given: dict[str, Any] = {"samples": 2, "num_examples": 64, **options}
    return Step(posterior, losses.categorical_nll(), optimizer, alone(), **given)


class Sequence(nn.Module):
    """Dropout on (T, B, E) or, with ``batch_first``, on (B, T, E)."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.i, self.d, self.o = nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 3)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        if not self.batch_first:
            h = h.transpose(0, 1)
        h = torch.relu(self.d(h)).mean(1 if self.batch_first else 0)
        result: Tensor = self.o(h)
        return result


@pytest.mark.parametrize("examples", [16, 8, 4, 1])
def test_dropout_that_takes_time_for_examples_is_refused_at_any_sizes(examples: int) -> None:
    x, y = X[:examples], torch.zeros(examples, dtype=torch.int64)
    step_of(Sequence(batch_first=True))(x, y)
    with pytest.raises((ImpureError, ValueError), match="first dimension"):
        step_of(Sequence(batch_first=False))(x, y)


def test_a_network_for_one_batch_size_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o = nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.o(x.reshape(8, 32))
            return result

    with pytest.raises(ImpureError, match="a batch of 8 examples but not one of 4"):
        step_of(Fixed())(X[:8], torch.zeros(8, dtype=torch.int64))


def test_dropout_of_a_table_of_positions_is_refused() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.d = nn.Parameter(torch.zeros(8, 4)), nn.Dropout(0.3)
            self.o = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.o((x + self.d(self.table)).mean(1))
            return result

    with pytest.raises(ImpureError, match=r"dropout on an activation of shape \(8, 4\)"):
        step_of(Positions())(X[:8], torch.zeros(8, dtype=torch.int64))


class Jitter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.o, self.calls = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.o(x.mean(1)) + random.random()
        return result


def test_it_runs_at_the_first_step_and_not_with_check_false() -> None:
    y = torch.zeros(16, dtype=torch.int64)
    network = Jitter()
    step, before = step_of(network), [p.clone() for p in network.parameters()]
    with pytest.raises(ImpureError, match="Python's random module"):
        step(X, y)
    assert all(map(torch.equal, before, network.parameters()))
    assert all(p.grad is None for p in network.parameters())
    network = Jitter()
    unchecked = step_of(network, check=False)
    unchecked(X, y)
    assert network.calls == 2, "one pass a sample"


def test_the_check_changes_no_answer() -> None:
    y = torch.arange(16) % 3
    results = []
    for check in (False, True):
        torch.manual_seed(4)
        step = step_of(Sequence(batch_first=True), check=check)
        results.append([float(step(X, y)) for _ in range(3)])
    assert results[0] == results[1]


def test_random_weights_without_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.o, self.spare = nn.Linear(4, 3), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.o(x.mean(1))
            return result

    step_of(Spare())(X, torch.zeros(16, dtype=torch.int64))
    assert "2 of the random weights reach no output" in caplog.text
    assert "spare.weight, spare.bias" in caplog.text


def test_structured_inputs_train_as_their_tensors_do() -> None:
    class Two(nn.Module):
        def __init__(self, keys: tuple[Any, Any] | None) -> None:
            super().__init__()
            self.a, self.b, self.keys = nn.Linear(4, 3), nn.Linear(4, 3), keys

        def forward(self, x: Any) -> Tensor:
            first, second = x.chunk(2, 1) if self.keys is None else (x[k] for k in self.keys)
            result: Tensor = self.a(first.mean(1)) + self.b(second.mean(1))
            return result

    y = torch.arange(16) % 3
    first, second = X.chunk(2, 1)
    inputs: list[tuple[Any, Any]] = [
        (None, X),
        ((0, 1), (first, second)),
        (("image", "mask"), {"image": first, "mask": second}),
    ]
    curves = []
    for keys, x in inputs:
        torch.manual_seed(4)
        step = step_of(Two(keys))
        curves.append([float(step(x, y)) for _ in range(3)])
    assert curves[0] == curves[1] == curves[2]


def test_dropout_that_never_ends_is_refused_in_training_already() -> None:
    class Always(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.o(nn.functional.dropout(torch.relu(self.a(x.mean(1))), 0.5))
            return result

    with pytest.raises(ImpureError, match=r"dropout training=self\.training"):
        step_of(Always())(X, torch.zeros(16, dtype=torch.int64))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:0], "holds no examples"),
        (X.clone().requires_grad_(), "x requires a gradient"),
        (X.double(), r"cannot take x of float64 with its weights of float32.*x\.float\(\)"),
        (X.where(X.isfinite().logical_and(X[3, 0, 0] != X), torch.nan), "x of example 3"),
    ],
)
def test_a_batch_that_cannot_be_trained_on_is_told(x: Tensor, message: str) -> None:
    step = step_of(Sequence(batch_first=True), guard_every=0)
    with pytest.raises(ValueError, match=message):
        step(x, torch.zeros(len(x), dtype=torch.int64))


def test_hooks_on_gradients_of_parameters_are_refused() -> None:
    network = Sequence(batch_first=True)
    network.o.weight.register_hook(lambda g: g.clamp(-0.01, 0.01))
    with pytest.raises(ValueError, match=r"module\.o\.weight has a gradient hook"):
        step_of(network)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_several_samples_a_pass_of_a_network_with_gradients_of_zero(precision: str) -> None:
    """The bias of keys moves no softmax: its gradient is rounding only."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            mixed = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1) @ self.v(x)
            result: Tensor = self.o(mixed.mean(1))
            return result

    step = step_of(Attention(), samples_per_pass=2, samples=4, precision=precision)
    assert torch.isfinite(step(X, torch.arange(16) % 3))
