"""The memory of a validation that is told before a run, against that of the same validation."""

from typing import Any

import pytest
import torch
from test_estimate import SWIN, VIT, settings_of, source_of

from hpc_bnn.config import Settings
from hpc_bnn.data.source import Source
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.counting_axis import CountingAxis
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.plan.traced import validation_bytes
from hpc_bnn.train.run.build import build
from hpc_bnn.train.score import dealing
from hpc_bnn.train.score.scoring import score

CPU = torch.device("cpu")
NLL = "loss={name: gaussian_nll, variance: predicted}"
CASES: dict[str, tuple[str, list[str]]] = {
    "swin": ("swin_era5.yaml", SWIN),
    "swin, float64": ("swin_era5.yaml", [*SWIN, "train.precision=float64"]),
    "swin, variances": ("swin_era5.yaml", [*SWIN, NLL]),
    "swin, one sample": ("swin_era5.yaml", [*SWIN, "posterior.samples=1", NLL]),
    "vit": ("vit_cifar10.yaml", VIT),
    "mlp": ("mlp_series.yaml", ["model={name: mlp, hidden: [2]}", "data.horizon=600"]),
}


def measured(settings: Settings, source: Source, world: World) -> int:
    """Return the most that the tensors of a validation take, all of them on the host."""
    parts = build(settings, source)
    modules = (parts.posterior, parts.loss)
    # Training has checked the network by then.
    x = source.validation.batch(torch.tensor([0]))[0].to(next(parts.posterior.parameters()).dtype)
    parts.posterior.predict(x, samples=1)
    known = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    with LiveMemory(known) as live:
        score(
            parts.posterior,
            parts.loss,
            source.validation,
            world,
            task=source.task,
            output_shape=source.output_shape,
            scale=source.scale,
            samples=settings.posterior.samples,
            batch_size=settings.train.batch_size,
        )
    return live.peak


def told(settings: Settings, source: Source, grid: Grid) -> int:
    found = validation_bytes(build(settings, source), settings, grid)
    return max(found.forecast, found.held + found.scores)


@pytest.mark.parametrize("slice_bytes", [1 << 14, 1 << 24])
@pytest.mark.parametrize("case", CASES)
def test_a_validation_takes_what_was_told(
    case: str, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "SLICE_BYTES", slice_bytes)
    config, overrides = CASES[case]
    settings = settings_of(config, *overrides)
    source = source_of(settings)
    expected = measured(settings, source, World(Grid(1, 1, 0), CPU))
    assert told(settings, source, Grid(1, 1, 0)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("sample_ranks", [2, 4])
def test_of_several_ranks_too(sample_ranks: int) -> None:
    settings = settings_of("swin_era5.yaml", *SWIN)
    source, grid = source_of(settings), Grid(sample_ranks, 2, 0)
    axis: Any = CountingAxis(sample_ranks)  # own members come back as those of all
    expected = measured(settings, source, World(grid, CPU, sample_axis=axis))
    assert told(settings, source, grid) == pytest.approx(expected, rel=0.01)
