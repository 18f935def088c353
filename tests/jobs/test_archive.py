"""An archive of two years in five files, of both formats of the data store, from its check to a run
that loses a rank and goes on: as a user types it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch import Ended, Job, run
from outcome import assert_same, killed_behind, read
from tiny_job import Train

from hpc_bnn.train.checkpoint import load

TOY = ("--years", "2", "--rows", "8", "--columns", "16", "--step-hours", "24")
SELECTION = ("--variables", "t2m,z", "--levels", "500")
STEPS, BATCH = 70, 12
SETTINGS: dict[str, Any] = {
    "seed": 11,
    "posterior": {"samples": 4, "initial_sigma": 0.05},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [4], "dropout": 0.1},
    "data": {
        "name": "era5",
        "variables": ["t2m", "z"],
        "levels": [500],
        "static": ["lsm"],
        "step_hours": 24,
        "train": ["2001-01-01", "2001-12-31"],
        "validation": ["2002-01-01", "2002-01-20"],
        "test": ["2002-02-01", "2002-12-31"],
    },
    "train": {
        "steps": STEPS,
        "batch_size": BATCH,
        "precision": "float64",
        "checkpoint_every": 1,
        "device": "cpu",
    },
}


@pytest.mark.parametrize(("stored", "format"), [("new", "netcdf"), ("legacy", "cache")])
def test_from_files_to_a_run_that_goes_on(
    train: Train, tmp_path: Path, stored: str, format: str
) -> None:
    source, made, statistics = tmp_path / "era5", tmp_path / "made", tmp_path / "statistics.nc"

    def data(*words: str | Path, ranks: int) -> Ended:
        ended = run("-m", "hpc_bnn", "data", *words, ranks=ranks, cwd=tmp_path)
        assert ended.status == 0, ended.text
        return ended

    data("toy", source, *TOY, "--format", stored, ranks=0)
    assert len(list(source.iterdir())) == 5
    checked = data("check", source, *SELECTION, ranks=0)
    assert "times     730, every 24 h, 2001-01-01T00:00 to 2002-12-31T00:00" in checked.out
    assert "0 of them make files unusable" in checked.out
    span = ("--start", "2001-01-01", "--end", "2001-12-31", "--step-hours", "24")
    data("statistics", source, *SELECTION, *span, "-o", statistics, ranks=2)
    repacked = data("repack", source, *SELECTION, "--format", format, "-o", made, ranks=2)
    assert "730 times of 2 channels as float32" in repacked.out
    data("repack", source, "-o", made, "--verify", ranks=0)

    config = tmp_path / "weather.yaml"
    config.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    with_statistics = f"data.statistics={statistics}"
    # Packed integers are scaled once more where they are read normalised: not the same bits.
    path = source if stored == "new" else made
    alone = train(tmp_path / "whole", f"data.path={path}", with_statistics, ranks=0, given=config)
    assert alone.status == 0, alone.text
    assert "made of other files" not in alone.err
    whole = read(tmp_path / "whole")
    assert sorted(whole.losses) == list(range(STEPS))

    folder, options = tmp_path / "run", (f"data.path={made}", with_statistics)
    words = ("train", config, "--run", folder, *options, "grid.sample_ranks=2")
    killed_behind(Job("-m", "hpc_bnn", *words, ranks=4, cwd=tmp_path), folder, step=STEPS // 2)
    resumed = train(folder, *options, "grid.sample_ranks=1", "--resume", ranks=2, given=config)
    assert resumed.status == 0, resumed.text
    assert "made of other files" not in resumed.err

    # Every step once, each on the examples of the run that nothing happened to: a step on others
    # has another loss.
    got = read(folder)
    assert_same(got, whole, 1e-10)
    assert len(set(whole.losses.values())) == STEPS
    (restart,) = [json.loads(line) for line in (folder / "restarts.jsonl").read_text().splitlines()]
    per_epoch = 364 // BATCH
    assert per_epoch < STEPS // 2 <= restart["step"] < STEPS  # in the middle of another epoch
    last = load(folder / "checkpoints" / f"step-{STEPS:08d}.pt")
    epoch, cursor = divmod(STEPS, per_epoch)
    assert last.position == {
        "epoch": epoch, "cursor": cursor, "seed": 11, "batch_size": BATCH, "examples": 364,
    }  # fmt: skip
