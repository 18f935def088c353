"""Whole runs that read files: how they end where one rank cannot read, or stops."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import yaml
from launch import Job, run, run_here

from hpc_bnn.fields.toy_atmosphere import write_toy

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 4, "initial_sigma": 0.05},
    "loss": {"name": "gaussian_nll"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {
        "name": "era5",
        "variables": ["t2m", "z"],
        "levels": [500],
        "calendar": False,
        "step_hours": 12,
        "train": ["2001-01-01", "2001-02-20"],
        "validation": ["2001-02-21", "2001-02-25"],
        "test": ["2001-03-01", "2001-03-12"],
    },
    "train": {"device": "cpu", "steps": 6, "batch_size": 10, "checkpoint_every": 0},
}
SOON_S = 60.0
FAILING = Path(__file__).with_name("failing_rank.py")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a run on a toy atmosphere, stored step by step."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder / "files", years=1, rows=7, columns=16, step_hours=12, levels=[500.0])
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "path": str(folder / "files")}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "toy.yaml"


def test_a_value_that_is_missing(toy: Path, tmp_path: Path) -> None:
    """One rank meets it: it says file, variable and time, and all end."""
    whole = run_here("data", "statistics", toy.parent / "files", "--variables", "t2m,z",
        "--levels", "500", "--start", "2001-01-01", "--end", "2001-02-20", "--step-hours", "12",
        "-o", tmp_path / "statistics.nc", cwd=tmp_path)  # fmt: skip
    assert whole.status == 0, whole.text
    damaged = tmp_path / "damaged"
    write_toy(damaged, years=1, rows=7, columns=16, step_hours=12, levels=[500.0])
    with netCDF4.Dataset(damaged / "single_levels_2001.nc", "a") as dataset:
        dataset.variables["t2m"][20] = np.nan
    ended = run("-m", "hpc_bnn", "train", toy, f"data.path={damaged}",
        f"data.statistics={tmp_path / 'statistics.nc'}", "train.epochs=1", "train.steps=0",
        "grid.sample_ranks=2", "--run", tmp_path / "run", ranks=2, cwd=tmp_path)  # fmt: skip
    assert ended.status == 2, ended.text
    assert ended.seconds < SOON_S
    assert "damaged.pack/2001.f32: 't2m' at 2001-01-11T00" in ended.err, ended.text
    assert ended.err.count("hpc-bnn train: ") == 1, ended.text


@pytest.mark.parametrize("at", ["0", "1", "1,2"])
def test_a_rank_that_cannot_read_the_data(toy: Path, tmp_path: Path, at: str) -> None:
    """Its node has not mounted the file system, or not for this user: it says which file, once."""
    made = run_here(
        "data", "ingest", toy.parent / "files", "-o", tmp_path / "toy.pack", cwd=tmp_path
    )
    assert made.status == 0, made.text
    ended = run(FAILING, "data", at, "train", toy, f"data.path={tmp_path / 'toy.pack'}",
        "grid.sample_ranks=1", "train.batch_size=9", "--run", tmp_path / "run", ranks=3,
        cwd=tmp_path)  # fmt: skip
    assert ended.status == 2, ended.text
    assert ended.seconds < SOON_S
    assert "Traceback" not in ended.err, ended.text
    said = [line for line in ended.err.splitlines() if line.startswith("hpc-bnn train: ")]
    assert len(said) == 1, ended.text
    assert f"{tmp_path}/toy.pack" in said[0] and "Permission denied" in said[0], ended.text
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_rank_that_stops(toy: Path, tmp_path: Path, number: signal.Signals) -> None:
    """In the midst of a run."""
    job = Job("-m", "hpc_bnn", "train", toy, "train.steps=1000000",
        "grid.sample_ranks=2", "train.stall_timeout=5", "--run", tmp_path / "run",
        ranks=2, cwd=tmp_path)  # fmt: skip
    ranks = job.ranks()
    metrics = tmp_path / "run" / "metrics.jsonl"
    began = time.monotonic()
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() - began < SOON_S, "no step was made"
        time.sleep(0.05)
    os.kill(ranks[1], number)
    ended = job.wait()
    assert ended.status != 0, ended.text
    assert ended.seconds < SOON_S
