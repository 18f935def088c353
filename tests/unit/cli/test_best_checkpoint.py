"""The best checkpoint, patience, and which checkpoint is evaluated."""

import copy
from pathlib import Path
from typing import Any

import pytest
from tiny_run import (
    SERIES,
    assert_equal_runs,
    checkpoints,
    hpc_bnn,
    metrics,
    read_json,
    stopped,
    written,
)

from hpc_bnn.train.run.checkpoint import digest, load


def config(path: Path, **train: Any) -> Path:
    """Return settings with so high a rate that the validation soon gets worse."""
    settings = copy.deepcopy(SERIES)
    settings["train"] |= {
        "steps": 60, "lr": 0.3, "schedule": "constant", "validate_every": 2, "checkpoint_every": 4,
        "keep_best": True, "patience": 4, **train,
    }  # fmt: skip
    return written(path, settings)


def validated(run: Path) -> dict[int, float]:
    rows = [row for row in metrics(run) if "validation_crps" in row]
    return {row["step"] + 1: row["validation_crps"] for row in rows}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    assert hpc_bnn("train", config(folder / "a.yaml"), "--run", folder / "run") == 0
    return folder / "run"


def test_a_run_ends_where_patience_does_and_keeps_the_best(run: Path) -> None:
    scores = validated(run)
    best = min(scores, key=lambda step: scores[step])
    last = max(scores)
    assert last == best + 4 * 2 < 60
    summary = read_json(run / "summary.json")
    assert summary["steps"] == last
    assert summary["best_validation"] == {"score": "crps", "value": scores[best], "step": best}
    assert load(run / "checkpoints" / "best.pt").step == best
    assert f"step-{last:08d}.pt" in checkpoints(run)
    assert hpc_bnn("train", "--resume", "--run", run) == 0  # nothing left to do
    assert read_json(run / "summary.json") == summary


@pytest.mark.parametrize("at", [3, 9])
def test_a_resumed_run_ends_at_the_same_step(
    run: Path, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "run"
    stopped(other, at, config(tmp_path / "a.yaml"), monkeypatch)
    assert hpc_bnn("train", "--resume", "--run", other) == 0
    assert_equal_runs(other, run)
    saved = [load(each / "checkpoints" / "best.pt") for each in (run, other)]
    assert digest(saved[0].posterior) == digest(saved[1].posterior)


def test_more_patience_goes_on(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    assert hpc_bnn("train", config(tmp_path / "a.yaml"), "--run", other) == 0
    before = validated(other)
    command = ("train", "--resume", "--run", other, "train.patience=9", "train.steps=64")
    assert hpc_bnn(*command) == 0
    after = validated(other)
    assert max(after) > max(before)
    assert {step: after[step] for step in before} == before


def test_which_checkpoint_is_evaluated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {}
    kept = int(checkpoints(run)[-1][5:13])
    for which in ("", "best", "last", str(kept)):
        options = ("--checkpoint", which) if which else ()
        assert hpc_bnn("evaluate", run, *options) == 0
        steps[which] = read_json(run / "evaluation.json")["step"]
    summary = read_json(run / "summary.json")
    best, last = summary["best_validation"]["step"], summary["steps"]
    assert steps == {"": best, "best": best, "last": last, str(kept): kept}
    capsys.readouterr()
    assert hpc_bnn("evaluate", run, "--checkpoint", "1") == 2
    assert "--checkpoint 1: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        hpc_bnn("evaluate", run, "--checkpoint", "newest")
    assert "expected best, last or a number of steps" in capsys.readouterr().err


def test_the_curve_of_the_validation_is_told(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    file = config(tmp_path / "a.yaml", steps=4, patience=0, keep_best=False)
    assert hpc_bnn("train", file, "--run", tmp_path / "run") == 0
    told = [line for line in caplog.messages if line.startswith("validation after step")]
    assert [line.split(":")[0] for line in told] == [
        "validation after step 2",
        "validation after step 4",
    ]
    assert told[0].endswith("the best so far")
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()
    assert hpc_bnn("evaluate", tmp_path / "run", "--checkpoint", "best") == 2


def test_patience_without_validations_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path / "a.yaml", validate_every=0)
    assert hpc_bnn("train", file, "--run", tmp_path / "run") == 2
    assert "patience counts validations; set validate_every" in capsys.readouterr().err
