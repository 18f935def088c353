"""Captured and compiled steps are the eager ones: losses and posteriors, of every case.

On CPUs nothing is captured: the tests compare a run with itself there, and tests/unit/train has a
recorder that stands in for the GPU.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from step_figures import bayesian, launches, with_train
from test_steps_on_gpu import CASES, run, settings
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from workloads import WORKLOADS

import hpc_bnn as hb
from hpc_bnn.parallel.grid import Grid

REFUSED = ("graphs kept",)
INPUTS, OUTPUTS = 5, 3
MLP = next(iter(WORKLOADS))


@pytest.mark.parametrize("case", CASES)
def test_a_captured_run_is_the_eager_one(
    case: str, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    losses, predicted, step = run(settings(case, capture="auto"), device)
    expected, expected_prediction, _ = run(settings(case, capture="off"), device)
    # The same kernels, whose sums over samples have another order.
    tolerance = 1e-2 if step.settings.precision == "bf16" else 1e-4
    assert losses == pytest.approx(expected, rel=tolerance, abs=tolerance)
    scale = float(expected_prediction.abs().max())
    assert (predicted - expected_prediction).abs().max() <= tolerance * scale
    captured = device.type == "cuda" and case not in REFUSED
    assert step._capture.has_graphs == captured, caplog.text


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_networks_of_the_visit_are_captured(
    name: str, precision: str, device: torch.device
) -> None:
    made = WORKLOADS[name](tiny=True)
    found: dict[str, tuple[list[float], int]] = {}
    for mode in ("off", "auto"):
        workload = with_train(made, precision=precision, capture=mode)
        step = bayesian(workload.settings, workload, device)
        x, y = workload.batch(device)
        losses = [float(step(x, y)) for _ in range(4)]
        found[mode] = losses, launches(partial(step, x, y), device)
    tolerance = 1e-2 if precision == "bf16" else 1e-4
    assert found["auto"][0] == pytest.approx(found["off"][0], rel=tolerance)
    if device.type == "cuda":
        assert step._capture.has_graphs
        assert found["auto"][1] < found["off"][1]


def step_of(network: nn.Module, device: torch.device, *, steps: int = 0, **options: Any) -> hb.Step:
    """Return a step that has made some steps."""
    posterior = hb.Gaussian(network, initial_sigma=0.1).to(device)
    optimizer = torch.optim.SGD(posterior.parameters(), lr=0.01)
    loss, world = hb.losses.gaussian_nll(sigma=1.0), hb.World(Grid(1, 1, 0), device)
    made = hb.Step(posterior, loss, optimizer, world, samples=4, num_examples=100, **options)
    for k in range(steps):
        made(*batch(k, device))
    return made


def batch(k: int, device: torch.device, examples: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(k)
    x = torch.randn((examples, INPUTS), generator=generator).to(device)
    return x, x[:, :OUTPUTS] * 2


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 16), nn.Tanh(), nn.Linear(16, OUTPUTS))


def test_batches_of_several_shapes(device: torch.device) -> None:
    sizes = [6, 6, 6, 4, 6, 9, 9, 9, 6, 9]

    def losses(mode: str) -> list[float]:
        step = step_of(plain(), device, capture=mode)
        return [float(step(*batch(k, device, n))) for k, n in enumerate(sizes)]

    assert losses("auto") == pytest.approx(losses("off"), rel=1e-5)


def test_a_graph_outlives_what_else_is_made(device: torch.device) -> None:
    """The tables of its kernels, and all memory that it reads, are its own."""
    step, other = (step_of(plain(), device, steps=4, capture=mode) for mode in ("auto", "off"))
    for width in range(1, 400):
        network = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)).to(device)
        posterior = hb.Gaussian(network)
        weights = posterior.sample(posterior.key(0, [1, 2]))
        torch.autograd.backward([weight.sum() for weight in weights.values()])
        del network, posterior, weights
    if device.type == "cuda":
        torch.cuda.empty_cache()
        filling = [torch.full((1 << 20,), torch.nan, device=device) for _ in range(16)]
        del filling
    for k in range(4, 8):
        assert float(step(*batch(k, device))) == pytest.approx(
            float(other(*batch(k, device))), rel=1e-5
        )


class Asking(nn.Module):
    """Waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output if float(x.sum()) < 1e9 else -output


class Recomputed(nn.Module):
    """Saves the state of torch's generators for its dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(INPUTS, OUTPUTS), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return output


@pytest.mark.parametrize(
    ("make", "reason"),
    [(Asking, "waits for the device"), (Recomputed, "torch's own generator")],
)
def test_what_cannot_be_captured_leaves_the_gpu_as_it_was(
    make: Callable[[], nn.Module],
    reason: str,
    device: torch.device,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def losses(mode: str) -> list[float]:
        torch.manual_seed(0)
        step = step_of(make(), device, capture=mode)
        return [float(step(*batch(k, device))) for k in range(4)]

    with caplog.at_level(logging.WARNING):
        got = losses("auto")
    assert got == losses("off")
    lines = [record.message for record in caplog.records]
    if device.type != "cuda":
        assert not lines
        return
    if make is Recomputed and not lines:
        pytest.skip("this torch captures what saves the state of its generator")
    (line,) = lines
    assert line.startswith("train.capture: passes run without graphs: ") and reason in line
    with pytest.raises(ValueError, match=f"capture = on: .*{reason}"):
        losses("on")
    assert step_of(plain(), device, steps=3, capture="on")._capture.has_graphs


@pytest.mark.parametrize("capture", ["off", "auto"])
@pytest.mark.parametrize(
    "case", ["loss gaussian_nll {}", "loss fair_crps {}", "posterior dropout {}", "bf16"]
)
def test_a_compiled_run_is_the_eager_one(case: str, capture: str, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("tests/unit/train/test_compile.py compiles for CPUs")
    losses, predicted, step = run(settings(case, compile=True, capture=capture), device)
    expected, expected_prediction, _ = run(settings(case, capture="off"), device)
    tolerance = 3e-2 if case == "bf16" else 1e-4
    assert losses == pytest.approx(expected, rel=tolerance, abs=tolerance)
    scale = float(expected_prediction.abs().max())
    assert (predicted - expected_prediction).abs().max() <= tolerance * scale
    assert step._capture.has_graphs == (capture == "auto")
