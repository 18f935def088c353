"""The contract of a posterior, on one that draws nothing: only dropout makes its samples differ."""

from collections.abc import Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import KeyedDropout
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior, Weights
from hpc_bnn.bayes.rows import Rows


class Plain(Posterior):
    def __init__(self, module: nn.Module, members: int | None = None) -> None:
        super().__init__(module, (), seed=4, members=members)
        self.register_buffer("moments", torch.arange(6.0).view(3, 2))

    def sample(self, key: Key) -> Weights:
        return {}

    def complexity(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64)

    def per_sample(self) -> Iterable[str]:
        return ("moments",) if self.members else ()


X = torch.linspace(-1, 1, 8).view(4, 2)


def test_without_drawn_weights_it_is_the_network() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    posterior = Plain(network)
    key = posterior.key(7, (3,))
    masks = partial(posterior.dropout, key, examples=4, first_example=0)
    assert posterior.check(key, X, gradients=True, surroundings=masks) == []
    with posterior.dropout(key, examples=4, first_example=0) as dropout:
        first = posterior(X, key)
    assert isinstance(dropout, KeyedDropout)
    with posterior.dropout(key, examples=4, first_example=0):
        assert torch.equal(posterior(X, key), first)
    with posterior.dropout(posterior.key(7, (4,)), examples=4, first_example=0):
        assert not torch.equal(posterior(X, key), first)
    expected = network.eval()(X).expand(3, 4, 3)
    assert torch.equal(posterior.predict(X, samples=3, samples_per_pass=2), expected)
    assert torch.equal(posterior.network(5)(X), expected[0])
    with pytest.raises(ValueError, match=r"samples_per_pass = 2: Plain draws no weights"):
        posterior.check_samples(4, samples_per_pass=2)


def test_rows_are_held_saved_and_found_by_the_global_index() -> None:
    posterior = Plain(nn.Linear(2, 3), members=3)
    assert posterior.prediction_samples(64) == 3
    assert Plain(nn.Linear(2, 3)).prediction_samples(64) == 64
    posterior.hold(range(1, 3))
    saved = posterior.saved()
    assert isinstance(saved["moments"], Rows)
    assert saved["moments"].samples == range(1, 3)
    assert saved["moments"].tensor.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert isinstance(saved["module.weight"], Tensor)
    assert posterior.places((2, 1)) == [1, 0]
    for call in (posterior.places, posterior.hold):
        with pytest.raises(ValueError, match=r"samples 0 to 2: .* members 1 to 2 of 3"):
            call(range(3))
    with pytest.raises(ValueError, match=r"posterior\.samples = 4: this posterior has 3 members"):
        posterior.check_samples(4, samples_per_pass=1)
