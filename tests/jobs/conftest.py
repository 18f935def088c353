"""Whole jobs: ``python -m pytest tests/jobs``, without mpirun: each test launches its own."""

import os
from pathlib import Path

import pytest
import yaml
from launch import Ended, run, run_here
from tiny_job import SETTINGS, Train

from hpc_bnn.parallel.launcher import launched_size


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
    """Train to the end: ``train(folder, "train.lr=1", ranks=2)``; 0 ranks: in this process."""

    def start(
        folder: Path, *overrides: str, ranks: int, given: Path = config, cwd: Path = config.parent
    ) -> Ended:
        words = ("train", given, "--run", folder, *overrides)
        if ranks == 0:
            return run_here(*words, cwd=cwd)
        return run("-m", "hpc_bnn", *words, ranks=ranks, cwd=cwd)

    return start
