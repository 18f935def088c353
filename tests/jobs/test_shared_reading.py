"""Whole runs whose sample ranks share the reading of files: the same run, and how it ends."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import yaml
from launch import Job, run, run_commands, run_here
from tiny_job import Train

from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.train.feed.sharing import cheapest

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


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of a run on a toy atmosphere, stored step by step."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder / "files", years=1, rows=7, columns=16, step_hours=12, levels=[500.0])
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "path": str(folder / "files")}}
    (folder / "toy.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "toy.yaml"


def summary_of(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return read


def test_the_run_is_the_same(train: Train, toy: Path, tmp_path: Path) -> None:
    """Whatever `data.share` is, on 2 x 1 and 2 x 2 ranks, and after an early end."""
    losses, shares = {}, ("each", "allgather", "window", "auto")
    commands = [
        ("train", toy, "--run", tmp_path / share, f"data.share={share}", "grid.sample_ranks=2")
        for share in shares
    ]
    jobs = run_commands(*commands, ranks=2, cwd=tmp_path)
    for share, ended in zip(shares, jobs, strict=True):
        assert ended.status == 0, ended.text
        found = summary_of(tmp_path / share)
        losses[share] = (found["final_loss"], found["parameter_checksum"], found["validation"])
        data = found["data"]
        if share == "auto":
            assert set(data["share_test_s"]) == {"each", "allgather", "window"}
            assert data["share"] == cheapest(data["share_test_s"])
            assert ended.err.count(f"data.share = auto: {data['share']} (ms a batch: ") == 1
        else:
            assert (data["share"], data["share_test_s"]) == (share, {})
            # x is a state and y another one; some are both, in windows side by side of one part
            assert data["batch_bytes"] == 10 * 2 * 2 * 7 * 16 * 4
            least, most = (1.4, 2.0) if share == "each" else (0.7, 1.0)
            assert least < data["read_amplification"] <= most
            assert 0 < data["bytes_read"] <= 8 * most * data["batch_bytes"]
        assert 0.0 <= data["wait_share"] < 1.0
        assert data["samples_per_s"] == pytest.approx(4 * data["examples_per_s"])
    assert set(map(str, losses.values())) == {str(losses["each"])}

    folder = tmp_path / "resumed"
    options = ("data.share=window", "grid.sample_ranks=2")
    first = train(folder, *options, "train.max_time=0.001", ranks=4, given=toy)
    assert first.status == 85, first.text
    second = train(folder, "data.share=allgather", "--resume", ranks=4, given=toy)
    assert second.status == 0, second.text
    found = summary_of(folder)
    assert found["final_loss"] == pytest.approx(losses["each"][0], rel=1e-5)


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
    ended = run("-m", "hpc_bnn", "train", toy, f"data.path={damaged}", "data.share=window",
        f"data.statistics={tmp_path / 'statistics.nc'}", "train.epochs=1", "train.steps=0",
        "grid.sample_ranks=2", "--run", tmp_path / "run", ranks=2, cwd=tmp_path)  # fmt: skip
    assert ended.status == 2, ended.text
    assert ended.seconds < SOON_S
    assert "single_levels_2001.nc: 't2m' (t2m) at 2001-01-11T00" in ended.err, ended.text
    assert ended.err.count("hpc-bnn train: ") == 1, ended.text


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_rank_that_stops(toy: Path, tmp_path: Path, number: signal.Signals) -> None:
    """In the midst of a run; nothing is left in the shared memory of the machine."""
    job = Job("-m", "hpc_bnn", "train", toy, "data.share=window", "train.steps=1000000",
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
    windows = [path.name for path in Path("/dev/shm").glob("osc_sm*")]
    assert not windows, f"left behind: {windows}"
