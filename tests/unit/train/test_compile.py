"""A network that torch.compile compiled gives the run of the same network that it did not."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from toy_step import INPUTS, LOSSES, NUM_EXAMPLES, OUTPUTS, alone, batch

from hpc_bnn import bayes
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.models.mlp import MLP
from hpc_bnn.train.step.step import Step

STEPS, SAMPLES = 4, 4

POSTERIORS: dict[str, Callable[[nn.Module], Posterior]] = {
    "gaussian": lambda network: bayes.Gaussian(network),
    "gaussian with dropout": lambda network: bayes.Gaussian(network),
    "ensemble": lambda network: bayes.Ensemble(network, samples=SAMPLES),
    "dropout": lambda network: bayes.Dropout(network),
}


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the package logged, without the diary of the compiler."""
    return [record.message for record in caplog.records if record.name.startswith("hpc_bnn")]


def network_of(name: str) -> nn.Module:
    torch.manual_seed(11)
    dropout = 0.3 if "dropout" in name else 0.0
    shape = (INPUTS,), (OUTPUTS,)
    return MLP(*shape, hidden=[5, 4], activation="tanh", dropout=dropout).double()


def run(name: str, network: nn.Module, loss: str = "gaussian", **options: Any) -> list[float]:
    posterior, made = POSTERIORS[name](network), LOSSES[loss]().double()
    parameters = [p for p in posterior.parameters() if p.requires_grad]
    step = Step(
        *(posterior, made, torch.optim.Adam(parameters, lr=0.01), alone()),
        samples=SAMPLES,
        num_examples=NUM_EXAMPLES,
        precision="float64",
        **options,
    )
    losses = [float(step(*batch(loss, k))) for k in range(STEPS)]
    return [*losses, *torch.cat([p.detach().flatten() for p in parameters]).tolist()]


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_answer_is_that_of_the_network_as_it_is(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    got = run(name, network_of(name), compile=True)
    compiled = counters["stats"]["unique_graphs"]
    assert got == pytest.approx(run(name, network_of(name)), rel=1e-10, abs=1e-10)
    # Once, between calls of dropout: not for each pass, step or object that holds a key.
    assert 1 <= compiled <= (6 if "dropout" in name else 1)
    assert not lines_of(caplog)


def test_joint_losses_compile_the_passes_of_both_kinds() -> None:
    """Those without gradients, then those with."""
    loss = "almost fair crps"
    got = run("gaussian", network_of("gaussian"), loss, compile=True)
    assert counters["stats"]["unique_graphs"] in (1, 2)
    assert got == pytest.approx(run("gaussian", network_of("gaussian"), loss), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_backward_runs_again(reentrant: bool) -> None:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(INPUTS, 4), nn.Linear(4, OUTPUTS)
            self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            tokens = checkpoint(self.block, self.first(x), use_reentrant=reentrant)
            result: Tensor = self.last(tokens)
            return result

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Recomputed().double()

    got = run("gaussian", make(), compile=True)
    assert got == pytest.approx(run("gaussian", make()), rel=1e-10, abs=1e-10)


def test_without_a_compiler_the_network_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(INPUTS, 17), nn.Tanh(), nn.Linear(17, OUTPUTS)).double()

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/c++",))
    with torch._inductor.utils.fresh_cache(), caplog.at_level(logging.WARNING):
        got = run("gaussian", network(), compile=True)
    assert got == run("gaussian", network())
    (line,) = lines_of(caplog)
    assert line.startswith("train.compile: the network runs uncompiled: ")
    assert "compiler" in line


def test_several_samples_a_pass_are_refused() -> None:
    with pytest.raises(ValueError, match=r"compile = True with samples_per_pass = 2: .* to 1"):
        run("gaussian", network_of("gaussian"), compile=True, samples_per_pass=2)
