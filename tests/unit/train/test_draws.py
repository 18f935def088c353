"""How many passes share a draw of weights changes no answer: gradients are those of a draw for each
pass, to round-off.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_step import INPUTS, LOSSES, NUM_EXAMPLES, OUTPUTS, alone, batch

from hpc_bnn import bayes
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.train.step import passes
from hpc_bnn.train.step.step import Step

SAMPLES, HIDDEN = 6, 5
ONE = 8 * ((INPUTS + 1) * HIDDEN + (HIDDEN + 1) * OUTPUTS)  # bytes of the weights of a sample
POSTERIORS: dict[str, Callable[[nn.Module], Posterior]] = {
    "gaussian": lambda network: bayes.Gaussian(network, initial_sigma=0.3),
    "gaussian keep_noise": lambda network: bayes.Gaussian(network, keep_noise=True),
    "gaussian antithetic": lambda network: bayes.Gaussian(network, antithetic=True),
    "low_rank": lambda network: bayes.LowRank(network, rank=2, initial_sigma=0.3),
    "rank1": lambda network: bayes.Rank1(network),
    "dropout": lambda network: bayes.Dropout(network),
    "ensemble": lambda network: bayes.Ensemble(network, samples=SAMPLES),
}


def network_of(loss: Loss, *, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(11)
    shape = loss.output_shape((OUTPUTS,))
    return MLP((INPUTS,), shape, hidden=[HIDDEN], activation="tanh", dropout=dropout).double()


def step_of(posterior: Posterior, loss: Loss, **options: Any) -> Step:
    trained = [p for p in (*posterior.parameters(), *loss.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0)
    sizes = {"samples": SAMPLES, "num_examples": NUM_EXAMPLES, "precision": "float64"}
    return Step(posterior, loss, optimizer, alone(), **{**sizes, **options})


def gradients(posterior: Posterior, loss: Loss, **options: Any) -> dict[str, Tensor | None]:
    step_of(posterior, loss, **options)(*batch())
    named = (*posterior.named_parameters(), *loss.named_parameters())
    return {name: p.grad for name, p in named}


def assert_same(got: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        other = got[name]
        if gradient is None:
            assert other is None, name
        else:
            assert other is not None, name
            assert torch.allclose(other, gradient, rtol=1e-12, atol=1e-14), name


@pytest.mark.parametrize("together", [2, 4, SAMPLES, 100])
@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("gaussian learned", {}),
        ("gaussian learned", {"samples_per_pass": 4}),
        ("almost fair crps", {}),
        ("almost fair crps", {"keep_graphs": True}),
    ],
)
def test_gradients_are_those_of_a_draw_for_each_pass(
    loss: str,
    options: dict[str, Any],
    name: str,
    together: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "dropout":
        options = {**options, "samples_per_pass": 1}
    found = []
    for largest in (0, together * ONE):
        monkeypatch.setattr(passes, "LARGEST", largest)
        made = LOSSES[loss]().double()
        network = network_of(made, dropout=0.3 if name == "dropout" else 0.0)
        found.append(gradients(POSTERIORS[name](network), made, **options))
    assert_same(found[1], found[0])


class TwoHeads(nn.Module):
    """Of its weights some are frozen, some are normalised, and some reach no output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.first, self.norm = nn.Linear(INPUTS, HIDDEN), nn.LayerNorm(HIDDEN)
        self.last, self.unused = nn.Linear(HIDDEN, OUTPUTS), nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(torch.tanh(self.first(x)))
        self.unused(hidden)
        result: Tensor = self.last(hidden)
        return result


def test_frozen_and_unused_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for largest in (0, passes.LARGEST):
        monkeypatch.setattr(passes, "LARGEST", largest)
        posterior = bayes.Gaussian(TwoHeads().double())
        frozen = ["module.first.weight", "log_sigma.first/bias"]
        frozen += ["module.last.bias", "log_sigma.last/bias"]
        for name in frozen:
            posterior.get_parameter(name).requires_grad_(False)
        found.append(gradients(posterior, LOSSES["gaussian"](), check=False))
    assert_same(found[1], found[0])
    assert {name for name, gradient in found[1].items() if gradient is None} == set(frozen)


def test_all_weights_are_frozen() -> None:
    posterior = bayes.Gaussian(TwoHeads().double())
    for name in posterior.names:
        posterior.module.get_parameter(name).requires_grad_(False)
        posterior.log_sigma[name.replace(".", "/")].requires_grad_(False)
    found = gradients(posterior, LOSSES["gaussian"](), check=False)
    reached = {name for name, gradient in found.items() if gradient is not None}
    assert reached == {"module.norm.weight", "module.norm.bias"}


@pytest.mark.parametrize(
    ("largest", "per_pass", "draws"),
    [
        (0, 1, [1] * 6),
        (ONE - 1, 1, [1] * 6),
        (2 * ONE, 1, [2, 2, 2]),
        (4 * ONE, 1, [4, 2]),
        (4 * ONE, 2, [2, 1]),
        (4 * ONE, 4, [1, 1]),
        (6 * ONE, 4, [1, 1]),
        (8 * ONE, 4, [2]),
    ],
)
def test_weights_that_are_drawn_at_once_are_limited_in_bytes(
    largest: int, per_pass: int, draws: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "LARGEST", largest)
    made = LOSSES["gaussian"]().double()
    posterior = bayes.Gaussian(network_of(made))
    drawn: list[tuple[int, ...]] = []
    sample = posterior.sample
    step = step_of(posterior, made, samples_per_pass=per_pass, check=False, guard_every=0)
    step.step = 1  # guards and the check draw, too
    posterior.sample = lambda key: drawn.append(key.samples) or sample(key)  # type: ignore
    step(*batch())
    assert [len(parts) for parts in step._passes.draws] == draws
    assert sum(drawn, ()) == tuple(range(SAMPLES)), "each sample is drawn once"
    assert len(drawn) == len(draws)


def test_a_joint_loss_draws_once_where_all_passes_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for largest, times in ((passes.LARGEST, 1), (2 * ONE, 6), (0, 12)):
        monkeypatch.setattr(passes, "LARGEST", largest)
        made = LOSSES["crps"]().double()
        posterior, drawn = bayes.Gaussian(network_of(made)), []
        sample = posterior.sample
        step = step_of(posterior, made, check=False, guard_every=0)
        step.step = 1
        posterior.sample = lambda key, sample=sample, drawn=drawn: (  # type: ignore
            drawn.append(key) or sample(key)
        )
        step(*batch())
        assert len(drawn) == times
