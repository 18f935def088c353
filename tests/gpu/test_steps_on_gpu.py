"""Whole steps on a device give the run of the CPU: of every loss, posterior and kind of pass.

The noise is the same function on both. What float32 sums in another order make of a run of a few
steps of Adam stays below 1e-3 of a loss; half precision has two digits.
"""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from workloads import WORKLOADS, settings_of, without_data

import hpc_bnn as hb
from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.config import Settings
from hpc_bnn.losses import LOSSES
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.train.run.build import build, step_settings

CPU = torch.device("cpu")
STEPS, BATCH, INPUTS, CHANNELS = 4, 6, 8, 3
MLP = {"name": "mlp", "hidden": [16], "dropout": 0.2}

LOSS_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "categorical_nll": [{}, {"predictive": True}],
    "gaussian_nll": [{}, {"variance": "predicted", "predictive": True}, {"variance": "learned"}],
    "gaussian_crps": [{}, {"predictive": True}],
    "gaussian_moments": [{}],
    "student_t_nll": [{}, {"predictive": True}],
    "crps": [{}],
    "fair_crps": [{}],
    "almost_fair_crps": [{}],
    "energy_score": [{}],
    "mae": [{}],
    "mse": [{}],
}
POSTERIOR_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dropout": [{}, {"masks": "sample"}],
    "ensemble": [{"anchored": True}],
    "gaussian": [{}, {"antithetic": True}, {"keep_noise": True}, {"prior_sigma": "fan_in"}],
    "low_rank": [{"rank": 2}],
    "rank1": [{}],
    "sghmc": [{"burn_in": 1, "collect_every": 1}],
    "sgld": [{"burn_in": 1, "collect_every": 1}],
    "swag": [{"start": 1, "collect_every": 1, "rank": 2}],
}
CASES = {
    **{
        f"loss {n} {o}": {"loss": {"name": n, **o}}
        for n, each in LOSS_OPTIONS.items()
        for o in each
    },
    **{
        f"posterior {name} {options}": {"posterior": {"name": name, **options}}
        for name, each in POSTERIOR_OPTIONS.items()
        for options in each
    },
    "ivon": {"optimizer": {"name": "ivon"}},
    "two samples a pass": {
        "posterior": {"samples_per_pass": 2},
        "model": {"name": "mlp", "hidden": [16]},
    },
    "two samples of swin a pass": {
        "posterior": {"samples_per_pass": 2},
        "model": {"name": "swin"},
        "loss": {"name": "fair_crps"},
    },
    "graphs kept": {"posterior": {"keep_graphs": True}, "loss": {"name": "fair_crps"}},
    "clipped, averaged": {"train": {"clip_norm": 0.5, "ema": 0.9}},
    "float64": {"train": {"precision": "float64"}},
    "bf16": {"train": {"precision": "bf16"}},
    "recomputed swin in bf16": {"train": {"precision": "bf16"}, "model": {"name": "swin"}},
}


def test_every_loss_and_posterior_is_here() -> None:
    assert LOSS_OPTIONS.keys() == LOSSES.keys()
    # The last is fitted to what was trained: test_commands_on_gpu.
    assert POSTERIOR_OPTIONS.keys() | {"last_layer_laplace"} == POSTERIORS.keys()


def settings(case: str, **train: object) -> Settings:
    sections = {key: dict(part) for key, part in CASES[case].items()}
    sections.setdefault("loss", {"name": "gaussian_nll"})
    sections["posterior"] = {"samples": 4, **sections.get("posterior", {})}
    sections.setdefault("model", MLP)
    if sections["model"]["name"] == "swin":
        small = {"width": 8, "depths": [2, 0, 0, 2], "heads": [2] * 4, "window": [2, 2]}
        sections["model"] |= {**small, "recompute": "recomputed" in case}
    sections["train"] = {"check": True, "guard_every": 2, **sections.get("train", {}), **train}
    return settings_of(4, BATCH, "synthetic_series", **sections)


def run(chosen: Settings, device: torch.device) -> tuple[list[float], torch.Tensor, hb.Step]:
    """Train some steps; return their losses, predictions (K, B, ...) after them, and the step."""
    fields = chosen.model.name == "swin"
    inputs = (CHANNELS, 8, 16) if fields else (INPUTS,)
    classes = chosen.loss.name == "categorical_nll"
    outputs = inputs if fields else (CHANNELS,)
    source = without_data("classification" if classes else "regression", inputs, outputs)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((BATCH, *inputs), generator=generator)
    y = torch.randn((BATCH, *outputs), generator=generator)
    y = torch.randint(CHANNELS, (BATCH,), generator=generator) if classes else y
    parts = build(chosen, source)
    parts.posterior.to(device), parts.loss.to(device)
    world, optimizer = hb.World(Grid(1, 1, 0), device), parts.optimizer(1e-3)
    step = hb.Step(parts.posterior, parts.loss, optimizer, world, step_settings(chosen, parts))
    losses = [float(step(x, y)) for _ in range(STEPS)]
    with torch.no_grad():
        x = step.settings.place(x, y, device)[0]
        predicted = parts.posterior.predict(x, samples=3)
    assert predicted.device.type == device.type
    return losses, predicted.double().cpu(), step


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("case", CASES)
def test_a_run_is_that_of_the_cpu(case: str, device: torch.device) -> None:
    chosen = settings(case)
    losses, predicted, _ = run(chosen, device)
    assert torch.isfinite(torch.tensor(losses)).all() and torch.isfinite(predicted).all()
    if device == CPU:  # where a run is itself, which tests/unit look at
        return
    expected, expected_prediction, _ = run(chosen, CPU)
    tolerance = 3e-2 if chosen.train.precision == "bf16" else 1e-3
    assert losses == pytest.approx(expected, rel=tolerance, abs=tolerance)
    scale = float(expected_prediction.abs().max())
    assert (predicted - expected_prediction).abs().max() <= tolerance * scale


@pytest.mark.parametrize("name", ["SWIN demo, B 4, K 4", "ViT tiny, B 256, K 16"])
@pytest.mark.parametrize("samples", [1, 2])
def test_attention_runs_in_fast_kernels(name: str, samples: int, device: torch.device) -> None:
    """Forward and backward, in float32 and in bf16; torch refuses where none of them fits."""
    if device.type != "cuda":
        pytest.skip("these kernels are for GPUs")
    workload = WORKLOADS[name](tiny=False)
    network = build(workload.settings, workload.source).posterior.to(device)
    x, _ = workload.batch(device)
    for half in (False, True):
        with (
            sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]),
            torch.autocast("cuda", torch.bfloat16, enabled=half),
        ):
            network(x[:4], network.key(0, range(samples))).float().square().mean().backward()
