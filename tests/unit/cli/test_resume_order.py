"""Where a run stands in its data: kept in the checkpoint, and refused where it cannot be gone on
with.
"""

import json
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

import pytest
from tiny_run import SERIES, hpc_bnn, stopped, written

from hpc_bnn.data import Batches
from hpc_bnn.data.sharding import steps_per_epoch
from hpc_bnn.train.run.checkpoint import load

ROWS = 120


def table(path: Path, rows: int) -> Path:
    first = datetime(2020, 1, 1)
    lines = [f"{first + timedelta(hours=i):%Y-%m-%d %H:%M},{i % 7}" for i in range(rows)]
    path.write_text("time,load\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    data = {
        "name": "series",
        "path": str(table(tmp_path / "load.csv", ROWS)),
        "time_column": "time",
        "value_columns": ["load"],
        "history": 6,
        "horizon": 2,
    }
    train = {**SERIES["train"], "steps": 12, "checkpoint_every": 1, "keep_checkpoints": 99}
    return written(tmp_path / "series.yaml", {**SERIES, "data": data, "train": train})


def test_every_checkpoint_tells_where_the_data_stand(config: Path, tmp_path: Path) -> None:
    assert hpc_bnn("train", config, "--run", tmp_path / "run") == 0
    paths = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(paths) == 12
    for path in paths:
        saved = load(path)
        count = saved.position["examples"]
        epoch, cursor = divmod(saved.step, steps_per_epoch(count, 16))
        assert saved.position == {
            "epoch": epoch, "cursor": cursor, "seed": 3, "batch_size": 16, "examples": count,
        }  # fmt: skip
    assert saved.position["epoch"] > 1


def test_a_resumed_run_reads_the_examples_that_follow(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example of an epoch once, whatever was read ahead before the stop."""
    seen: list[list[int]] = []
    indices = Batches.indices

    def noted(self: Batches, step: int) -> object:
        found = indices(self, step)
        seen.append(found.tolist())
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "indices", noted)
        assert hpc_bnn("train", config, "--run", tmp_path / "whole") == 0
        whole, seen = seen, []
        stopped(tmp_path / "run", 7, config, monkeypatch)
        first, seen = seen, []
        assert hpc_bnn("train", config, "--run", tmp_path / "run", "--resume") == 0
    lines = (tmp_path / "run" / "restarts.jsonl").read_text(encoding="utf-8").splitlines()
    step = json.loads(lines[0])["step"]
    assert len(whole) == 12 and 4 <= step <= 7
    assert first == whole[: len(first)] and seen == whole[step:]
    count = load(tmp_path / "run" / "checkpoints" / "step-00000012.pt").position["examples"]
    per_epoch = steps_per_epoch(count, 16)
    for epoch in range(12 // per_epoch):
        of_epoch = list(chain(*whole[epoch * per_epoch : (epoch + 1) * per_epoch]))
        assert len(set(of_epoch)) == len(of_epoch) == per_epoch * 16


def test_other_data_are_refused_when_training_but_not_when_scoring(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    stopped(run, 7, config, monkeypatch)
    newest = max((run / "checkpoints").iterdir())
    before = load(newest).position["examples"]
    table(tmp_path / "load.csv", ROWS + 30)
    capsys.readouterr()
    assert hpc_bnn("train", config, "--run", run, "--resume") == 2
    err = capsys.readouterr().err
    assert f"{newest}: the order of the examples is another since this checkpoint" in err
    assert f"examples = {before} then, {before + 21} now" in err
    assert hpc_bnn("evaluate", run) == 0
    table(tmp_path / "load.csv", ROWS)
    assert hpc_bnn("train", config, "--run", run, "--resume") == 0


@pytest.mark.parametrize("change", ["train.batch_size=8", "seed=4"])
def test_another_batch_size_or_seed_is_refused(
    config: Path,
    tmp_path: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    stopped(run, 5, config, monkeypatch)
    capsys.readouterr()
    assert hpc_bnn("train", config, change, "--run", run, "--resume") == 2
    key, _, now = change.partition("=")
    err = capsys.readouterr().err
    assert f"{key} = " in err and f"in the run of this folder, now {now}" in err
