"""``train`` and ``evaluate`` as a user runs them: what they write; a resume changes nothing."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
import yaml
from tiny_run import (
    DIGITS,
    SERIES,
    assert_equal_runs,
    checkpoints,
    hpc_bnn,
    metrics,
    read_json,
    stopped,
    timeless,
    written,
)

from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.versions import versions
from hpc_bnn.train.step.phases import PHASES

SUMMARY_KEYS = {
    "steps",
    "final_loss",
    "parameter_checksum",
    "grid",
    "samples",
    "batch_size",
    "step_time_s",
    "examples_per_s",
    "peak_memory_bytes",
    "communication_share",
    "data_wait_share",
    "versions",
}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole run of the tiny series; tests only read it."""
    folder = tmp_path_factory.mktemp("series")
    run = folder / "run"
    assert hpc_bnn("train", written(folder / "tiny.yaml", SERIES), "--run", run) == 0
    return run


def settings_of(run: Path) -> Path:
    return run.parent / "tiny.yaml"


def test_train_writes_what_other_tools_rely_on(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        ".run",
        "checkpoints",
        "config.yaml",
        "data.json",
        "lock",
        "metrics.jsonl",
        "summary.json",
    ]
    assert checkpoints(finished) == [f"step-{step:08d}.pt" for step in (2, 4, 6)]


@pytest.mark.parametrize(("steps", "traced"), [(6, 2), (3, 1), (2, 0)])
def test_a_trace_of_some_steps(tmp_path: Path, steps: int, traced: int) -> None:
    """It begins after the first two, and has fewer where the run ends before."""
    settings, run = written(tmp_path / "tiny.yaml", SERIES), tmp_path / "run"
    assert hpc_bnn("train", settings, "train.profile=2", f"train.steps={steps}", "--run", run) == 0
    path = run / "trace.json"
    if not traced:
        assert not path.exists()
        return
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    names = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert names["step: draw"] == traced  # of all samples of a small network
    assert {f"step: {phase}" for phase in PHASES} <= set(names)
    assert any(event["name"] == "aten::addmm" for event in events)
    assert [row["step"] for row in metrics(run) if "loss" in row] == list(range(steps))


def test_metrics_have_one_row_a_step_and_one_a_validation(finished: Path) -> None:
    rows = metrics(finished)
    steps = [row for row in rows if "loss" in row]
    validations = [row for row in rows if "loss" not in row]
    assert [row["step"] for row in steps] == list(range(6))
    for row in steps:
        assert set(row) >= {"step", "epoch", "loss", "nll", "kl", "lr", "step_time_s"}
        assert row["step_time_s"] > 0
    assert [row["step"] for row in validations] == [2, 5]
    assert all("validation_crps" in row for row in validations)
    # 300 hours, 70 % for training: 210 - 15 windows, in batches of 16.
    assert [row["epoch"] for row in steps] == [step / 12 for step in range(6)]


def test_the_loss_of_a_row_is_its_parts(finished: Path) -> None:
    for row in metrics(finished):
        if "loss" in row:
            assert row["loss"] == pytest.approx(row["nll"] + row["kl"] / 195, rel=1e-12)


def test_summary(finished: Path) -> None:
    summary = read_json(finished / "summary.json")
    assert set(summary) >= SUMMARY_KEYS
    assert summary["steps"] == 6
    assert summary["final_loss"] == [r["loss"] for r in metrics(finished) if "loss" in r][-1]
    assert (summary["samples"], summary["batch_size"]) == (2, 16)
    assert (summary["grid"]["sample_ranks"], summary["grid"]["data_ranks"]) == (1, 1)
    timed = [row for row in metrics(finished) if "loss" in row][2:]
    times = [row["step_time_s"] for row in timed]
    assert summary["step_time_s"]["median"] == pytest.approx(median(times))
    assert median(times) <= summary["step_time_s"]["p90"] <= max(times)
    whole = sum(times) + sum(row["data_wait_time_s"] for row in timed)
    assert summary["examples_per_s"] == pytest.approx(16 * len(timed) / whole)
    assert summary["examples_per_s"] == summary["data"]["examples_per_s"]
    assert summary["peak_memory_bytes"] > 1e6
    assert 0 <= summary["communication_share"] <= 1
    assert summary["energy_of"] == ([] if summary["energy_j"] is None else ["package"])
    assert summary["versions"] == versions()
    state = load(finished / "checkpoints" / "step-00000006.pt").posterior
    total = sum(float(tensor.double().sum()) for tensor in state.values())
    squares = sum(float(tensor.double().square().sum()) for tensor in state.values())
    assert summary["parameter_checksum"]["sum"] == pytest.approx(total, rel=1e-12)
    assert summary["parameter_checksum"]["sum_of_squares"] == pytest.approx(squares, rel=1e-12)


def test_summary_and_log_tell_what_a_checkpoint_costs(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_json(finished / "summary.json")["checkpoints"]
    newest = finished / "checkpoints" / "step-00000006.pt"
    assert (found["measured"], found["bytes"]) == (3, newest.stat().st_size)
    assert (found["mtbf_hours"], found["cost_s"] > 0) == (4000.0, True)
    assert found["suggested_interval_s"] == pytest.approx(
        math.sqrt(2 * found["cost_s"] * 4000 * 3600)
    )
    run, config = tmp_path / "run", settings_of(finished)
    capsys.readouterr()
    assert hpc_bnn("train", config, "train.mtbf_hours=1", "--run", run) == 0
    err = capsys.readouterr().err
    told = [line for line in err.splitlines() if "a checkpoint takes" in line]
    assert len(told) == 2  # after the first one, and at the end
    assert all("if a node fails every 1 h (train.mtbf_hours)" in line for line in told)
    assert told[0].endswith("; train.checkpoint_every = 2")


def test_resolved_settings_and_checkpoint_agree(finished: Path) -> None:
    resolved = yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8"))
    assert resolved["train"]["reduction"] == "world"
    assert resolved["model"] == SERIES["model"]
    saved = load(finished / "checkpoints" / "step-00000004.pt")
    assert yaml.safe_load(saved.settings) == resolved
    assert saved.step == 4
    assert saved.versions == versions()


def test_progress_is_told_in_log_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path / "tiny.yaml", SERIES)
    assert hpc_bnn("train", config, "train.steps=2", "--run", tmp_path / "run") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'run'}: 2 steps, final loss ")
    assert "validation crps" in out
    assert "step 2 of 2, loss" in err
    assert "ETA 0:00:00" in err
    assert "\r" not in err


def test_the_same_command_gives_the_same_run(finished: Path, tmp_path: Path) -> None:
    """In a process that has drawn other numbers before, too."""
    torch.manual_seed(1234)
    torch.rand(17)
    assert hpc_bnn("train", settings_of(finished), "--run", tmp_path / "again") == 0
    assert timeless(metrics(tmp_path / "again")) == timeless(metrics(finished))
    first, second = (read_json(run / "summary.json") for run in (finished, tmp_path / "again"))
    assert first["parameter_checksum"] == second["parameter_checksum"]


def test_another_seed_gives_another_run(finished: Path, tmp_path: Path) -> None:
    assert hpc_bnn("train", settings_of(finished), "seed=4", "--run", tmp_path / "other") == 0
    first, second = (read_json(run / "summary.json") for run in (finished, tmp_path / "other"))
    assert first["parameter_checksum"] != second["parameter_checksum"]


@pytest.mark.parametrize("at", [1, 3])
def test_a_resumed_run_equals_the_uninterrupted_one(
    finished: Path, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tmp_path / "run", settings_of(finished)
    stopped(run, at, config, monkeypatch)
    assert hpc_bnn("train", config, "--run", run, "--resume") == 0
    assert_equal_runs(run, finished)


def test_a_damaged_newest_checkpoint_costs_steps_not_the_answer(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, config = tmp_path / "run", settings_of(finished)
    stopped(run, 5, config, monkeypatch)
    newest = run / "checkpoints" / "step-00000004.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    capsys.readouterr()
    assert hpc_bnn("train", config, "--run", run, "--resume") == 0
    err = capsys.readouterr().err
    assert f"WARNING rank 0 {newest}: damaged or truncated checkpoint" in err
    assert "taking the next one" in err
    assert "at step 2" in err
    assert_equal_runs(run, finished)


def test_a_resume_may_change_what_does_not_change_the_answer(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tmp_path / "run", settings_of(finished)
    stopped(run, 4, config, monkeypatch)
    more = ["posterior.samples_per_pass=2", "train.checkpoint_every=1", "grid.mode=local"]
    assert hpc_bnn("train", config, *more, "--run", run, "--resume") == 0
    assert_equal_runs(run, finished)


def test_resuming_a_finished_run_leaves_its_results(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last job of a chain often starts after the run is done."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert hpc_bnn("train", settings_of(finished), "--run", run, "--resume") == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert "nan" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def evaluated(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(finished, run)
    assert hpc_bnn("evaluate", run) == 0
    return run


def test_evaluate_scores_the_test_split(evaluated: Path) -> None:
    result = read_json(evaluated / "evaluation.json")
    assert (result["split"], result["step"], result["samples"]) == ("test", 6, 4)
    scores = result["scores"]
    assert scores["points"] == 57 * 4  # 60 test rows give 57 windows of 4 hours
    assert set(scores) >= {"rmse", "crps", "coverage_50", "coverage_90", "spread_skill_ratio"}
    assert scores["crps"] < scores["rmse"]


def test_evaluate_draws_pictures(evaluated: Path) -> None:
    pictures = sorted((evaluated / "plots").iterdir())
    assert [path.name for path in pictures] == ["forecast.png", "loss.png", "pit.png", "scores.png"]
    assert all(path.read_bytes().startswith(PNG) for path in pictures)


def test_evaluate_gives_the_same_numbers_again(evaluated: Path) -> None:
    before = (evaluated / "evaluation.json").read_bytes()
    assert hpc_bnn("evaluate", evaluated) == 0
    assert (evaluated / "evaluation.json").read_bytes() == before


def test_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert hpc_bnn("train", written(tmp_path / "digits.yaml", DIGITS), "--run", run) == 0
    assert [row["step"] for row in metrics(run) if "loss" in row] == list(range(5))
    assert checkpoints(run) == ["step-00000005.pt"]
    assert hpc_bnn("evaluate", run) == 0
    evaluation = read_json(run / "evaluation.json")
    scores = evaluation["scores"]
    assert scores["examples"] == 360
    assert set(evaluation["foreign"]) == {"noise", "shuffled", "shifted"}
    bins = evaluation["reliability"]
    assert sum(bins["count"]) == evaluation["scores"]["examples"]
    hits = [c * a for c, a in zip(bins["count"], bins["accuracy"], strict=True) if c]
    accuracy = sum(hits) / sum(bins["count"])
    assert accuracy == pytest.approx(evaluation["scores"]["accuracy"], rel=1e-12)
    guess = {"accuracy": 0.1, "nll": math.log(10), "brier": 0.9}
    assert evaluation["naive"]["uniform_guess"] == pytest.approx(guess, rel=1e-12)
    assert read_json(run / "memory.json")["bytes"] > 0
    assert all(0 <= of["auroc"] <= 1 for of in evaluation["foreign"].values())
    assert scores["accuracy"] > 0.2  # five steps: better than chance, 0.1
    assert set(scores) >= {"nll", "accuracy", "brier", "expected_calibration_error"}
    names = sorted(path.name for path in (run / "plots").iterdir())
    assert names == ["loss.png", "reliability.png"]
    told = capsys.readouterr().out
    assert "accuracy" in told
    assert "shuffled: auroc" in told


@pytest.mark.parametrize("loss", ["almost_fair_crps", "gaussian_moments"])
def test_joint_losses_and_strict_json(tmp_path: Path, loss: str) -> None:
    """An ensemble has no NLL; what is undefined may not make the file unreadable."""
    config: dict[str, Any] = {**SERIES, "loss": {"name": loss}}
    run = tmp_path / "run"
    path = written(tmp_path / "tiny.yaml", config)
    assert hpc_bnn("train", path, "train.steps=2", "--run", run) == 0
    assert hpc_bnn("evaluate", run) == 0
    assert hpc_bnn("train", path, "train.steps=2", "--run", run, "--resume") == 0
    assert read_json(run / "summary.json")["steps"] == 2
    assert read_json(run / "evaluation.json")["scores"]["crps"] > 0


def test_a_bundled_config_by_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["data.length=400", "data.history=24", "posterior.samples=1", "model.width=4"]
    assert hpc_bnn("train", "mlp_series.yaml", *small, "train.steps=1", "--run", "here") == 0
    assert read_json(tmp_path / "here" / "summary.json")["samples"] == 1


def test_a_file_of_that_name_here_wins_over_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "mlp_series.yaml", SERIES)
    assert hpc_bnn("train", "mlp_series.yaml", "train.steps=1", "--run", "here") == 0
    assert read_json(tmp_path / "here" / "summary.json")["batch_size"] == 16


def test_a_run_may_be_evaluated_from_another_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert hpc_bnn("evaluate", "moved") == 0
    assert (tmp_path / "moved" / "evaluation.json").exists()
