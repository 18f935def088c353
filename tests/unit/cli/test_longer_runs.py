"""A run goes on without its settings file, and for longer than it was begun for."""

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_run import (
    SERIES,
    assert_equal_runs,
    hpc_bnn,
    metrics,
    read_json,
    stopped,
    written,
)


def config(path: Path, **train: Any) -> Path:
    settings = copy.deepcopy(SERIES)
    settings["train"] |= {"schedule": "constant", **train}
    return written(path, settings)


def test_a_run_goes_on_without_a_settings_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run, file = tmp_path / "whole", tmp_path / "run", config(tmp_path / "a.yaml")
    assert hpc_bnn("train", file, "--run", whole) == 0
    stopped(run, 3, file, monkeypatch)
    file.unlink()
    assert hpc_bnn("train", "--resume", "--run", run) == 0
    assert_equal_runs(run, whole)


def test_a_longer_run_is_the_one_begun_for_as_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert hpc_bnn("train", config(tmp_path / "a.yaml", steps=12), "--run", whole) == 0
    assert hpc_bnn("train", config(tmp_path / "b.yaml"), "--run", run) == 0
    assert read_json(run / "summary.json")["steps"] == 6
    with caplog.at_level(logging.INFO):
        assert hpc_bnn("train", "--resume", "--run", run, "train.steps=12") == 0
    assert_equal_runs(run, whole)
    told = [line for line in caplog.messages if "instead of" in line]
    expected = (
        "12 steps instead of 6: train.schedule = constant is that of 12 steps from here on, with "
        "the rate 0.001 for step 6"
    )
    assert told == [expected]


def test_the_cosine_of_a_longer_run_rises_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, file = tmp_path / "run", config(tmp_path / "b.yaml", schedule="cosine")
    assert hpc_bnn("train", file, "--run", run) == 0
    with caplog.at_level(logging.INFO):
        assert hpc_bnn("train", file, "train.steps=12", "--run", run, "--resume") == 0
    assert "with the rate 0.0005 for step 6, where it was to be 0" in caplog.text
    rates = {row["step"]: row["lr"] for row in metrics(run) if "lr" in row}
    assert rates[6] == pytest.approx(0.0005)


def test_a_run_never_gets_shorter_and_grows_only_on_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", config(tmp_path / "a.yaml")
    assert hpc_bnn("train", file, "--run", run) == 0
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert hpc_bnn("train", "--resume", "--run", run, "train.steps=4") == 2
    assert "train.steps = 6 in the run of this folder, now 4; it may only grow" in (
        capsys.readouterr().err
    )
    assert hpc_bnn("train", file, "train.steps=8", "--run", run) == 2
    assert "a run goes on for longer with --resume" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_without_settings_or_a_run_it_says_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        hpc_bnn("train", "train.lr=0.1", "--run", tmp_path / "run")
    assert "a settings file is missing" in capsys.readouterr().err
    assert hpc_bnn("train", "--resume", "--run", tmp_path / "run") == 2
    assert "no run in this folder; start one with hpc-bnn train CONFIG" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    shutil.rmtree(tmp_path)
