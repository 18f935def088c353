"""The memory of snapshots that is told before a run, against that of the files."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.estimate import estimate
from hpc_bnn.train.run import checkpoint
from hpc_bnn.train.run.build import build, read_source, step_settings
from hpc_bnn.train.run.handover import gathered
from hpc_bnn.train.step.step import Step

FILE_BYTES = 30_000  # of names and headers


@pytest.mark.parametrize("posterior", [{"samples": 4}, {"name": "ensemble", "samples": 4}])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_copy_and_three_files(posterior: dict[str, Any], ema: float, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "posterior": posterior,
            "loss": {"name": "gaussian_nll", "variance": "learned"},
            "model": {"name": "mlp", "hidden": [256, 256]},
            "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
            "train": {"steps": 2, "batch_size": 4, "snapshot_every": 1, "ema": ema},
        }
    )
    world, source = World(Grid(1, 1, 0), torch.device("cpu")), read_source(settings, ALONE)
    parts = build(settings, source)
    optimizer = parts.optimizer(1e-3)
    step = Step(parts.posterior, parts.loss, optimizer, world, step_settings(settings, parts))
    step(*source.train.batch(torch.arange(4)))
    state = gathered(
        world, parts.posterior, parts.loss, optimizer, step.ema,
        step=1, position={}, settings="", versions={},
    )  # fmt: skip
    size = checkpoint.save(tmp_path, state, keep=1).stat().st_size
    found = estimate(settings, source, world.grid).snapshots
    assert abs(found - 4 * size) < 4 * FILE_BYTES
    of_ranks = estimate(settings, source, Grid(2, 1, 0)).snapshots
    assert abs(of_ranks - found) < 0.01 * found  # a node has the rows of all
