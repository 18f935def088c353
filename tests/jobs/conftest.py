"""Whole jobs: ``python -m pytest tests/jobs``, without mpirun: each test launches its own."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch import Ended, run

from hpc_bnn.parallel.comms import launched_size

# Everything that makes noise is on: augmentation, dropout, weight draws, order.
SETTINGS: dict[str, dict[str, Any]] = {
    "posterior": {"samples": 12, "initial_sigma": 0.05, "kl_warmup_steps": 8},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.1},
    "data": {
        "name": "synthetic_series",
        "length": 300,
        "history": 12,
        "horizon": 4,
        "transform": {"name": "jitter", "sigma": 0.1},
    },
    "train": {"steps": 20, "batch_size": 12, "lr": 0.003, "clip_norm": 50.0, "guard_every": 5},
}

Train = Callable[..., Ended]


def pytest_configure() -> None:
    variable, size = launched_size(os.environ)
    if size > 1:
        pytest.exit(f"{variable} = {size}: these tests start their own ranks", returncode=3)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file of a run of a second."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"seed": 3, **SETTINGS}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train(config: Path) -> Train:
    """Train to the end: ``train(folder, "train.lr=1", ranks=2)``."""

    def start(
        folder: Path, *overrides: str, ranks: int, given: Path = config, cwd: Path = config.parent
    ) -> Ended:
        return run(
            "-m", "hpc_bnn", "train", given, "--run", folder, *overrides, ranks=ranks, cwd=cwd
        )  # fmt: skip

    return start
