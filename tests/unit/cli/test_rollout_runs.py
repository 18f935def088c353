"""Runs with rollouts by the command line: schedule, resume, scores, forecast."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from tiny_run import assert_equal_runs, hpc_bnn, metrics, read_json, stopped, written
from toy_weather import toy_settings, write_small_toy

from hpc_bnn.train.run.checkpoint import load

# 102 states in the training range, 99 windows of three steps: 4 batches of 24 an epoch.
SETTINGS: dict[str, dict[str, Any]] = {
    "train": {
        "steps": 10,
        "batch_size": 24,
        "lr": 0.003,
        "rollout": {0: 1, 1: 3, 2: 2},
        "redraw": "each_step",
        "checkpoint_every": 2,
        "validate_every": 4,
    },
    "data": {"variables": ["t2m", "z"]},
    "evaluation": {"starts": 2, "steps": 2},
    "model": {"depths": [0, 0, 0, 2]},
    "posterior": {"predict_samples": 2},
}
LAST = "step-00000010.pt"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole run; tests only read it."""
    folder = tmp_path_factory.mktemp("rollout")
    write_small_toy(folder / "toy")
    config = written(folder / "toy.yaml", toy_settings(folder / "toy", **SETTINGS))
    assert hpc_bnn("train", config, "--run", folder / "run") == 0
    return folder / "run"


def config_of(run: Path) -> Path:
    return run.parent / "toy.yaml"


def test_the_rollout_follows_the_schedule(finished: Path) -> None:
    rows = [row for row in metrics(finished) if "loss" in row]
    assert [row["epoch"] for row in rows] == [step / 4 for step in range(10)]
    assert [row["rollout"] for row in rows] == [1, 1, 1, 1, 3, 3, 3, 3, 2, 2]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert rows[4]["loss"] > rows[3]["loss"]  # changes over three steps are larger


def test_what_comes_later_does_not_change_the_steps_before(finished: Path, tmp_path: Path) -> None:
    """The windows of an epoch depend on the longest rollout, not on that of the epoch."""
    constant = "train.schedule=constant"
    losses = []
    for name, rollout in (("late", "{0: 1, 9: 3}"), ("soon", "{0: 1, 1: 3}")):
        options = [f"train.rollout={rollout}", constant, "train.steps=5", "--run", tmp_path / name]
        assert hpc_bnn("train", config_of(finished), *options) == 0
        losses.append([row["loss"] for row in metrics(tmp_path / name) if "loss" in row])
    assert losses[0][:4] == losses[1][:4]
    assert losses[0][4] < losses[1][4]


@pytest.mark.parametrize("at", [3, 4, 7])
def test_a_resumed_run_equals_the_uninterrupted_one(
    finished: Path, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within an epoch of each length, and between two of them."""
    run = tmp_path / "run"
    stopped(run, at, config_of(finished), monkeypatch)
    assert hpc_bnn("train", config_of(finished), "--run", run, "--resume") == 0
    assert_equal_runs(run, finished)
    own, other = (load(f / "checkpoints" / LAST).posterior for f in (run, finished))
    assert all(bool((own[key] == other[key]).all()) for key in other)


def test_kept_samples_are_another_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    options = ["train.redraw=never", "--run", finished, "--resume"]
    assert hpc_bnn("train", config_of(finished), *options) == 2
    assert "train.redraw = 'each_step' in the run of this" in capsys.readouterr().err


def test_another_schedule_is_another_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    options = ["train.rollout={0: 1, 1: 2}", "--run", finished, "--resume"]
    assert hpc_bnn("train", config_of(finished), *options) == 2
    assert "train.rollout.1 = 3 in the run of this folder, now 2" in capsys.readouterr().err


def test_parameters_have_the_names_of_a_run_of_single_steps(finished: Path, tmp_path: Path) -> None:
    options = ["train.rollout={0: 1}", "train.steps=1", "--run", tmp_path / "run"]
    assert hpc_bnn("train", config_of(finished), *options) == 0
    plain = load(tmp_path / "run" / "checkpoints" / "step-00000001.pt").posterior
    rolled = load(finished / "checkpoints" / LAST).posterior
    assert {key: value.shape for key, value in plain.items()} == {
        key: value.shape for key, value in rolled.items()
    }
    assert all("rollout" not in row for row in metrics(tmp_path / "run"))


def test_scores_and_forecast(finished: Path, tmp_path: Path) -> None:
    assert hpc_bnn("evaluate", finished) == 0
    scores = read_json(finished / "evaluation.json")["scores"]
    assert all(np.isfinite(scores[name]["rmse"]).all() for name in ("t2m", "z500"))
    asked = ("--start", "2001-03-05T12:00", "--steps", 3, "--members", 2)
    assert hpc_bnn("forecast", finished, *asked, "-o", tmp_path / "forecast.nc") == 0
    with xarray.open_dataset(tmp_path / "forecast.nc", decode_timedelta=True) as file:
        assert file.t2m.shape == (2, 3, 7, 16)
        assert np.isfinite(file.t2m.values).all()
