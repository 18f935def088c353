"""A checkpoint of another run, put among those of a run, is neither gone on from nor scored."""

import shutil
from pathlib import Path

import pytest
import yaml
from tiny_run import SERIES, hpc_bnn, written

from hpc_bnn.train.run import checkpoint

NEWEST = "step-00000012.pt"


def config(path: Path, steps: int, **changes: object) -> Path:
    train = {**SERIES["train"], "steps": steps, "checkpoint_every": 4, **changes}
    return written(path, {**SERIES, "train": train})


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, Path]:
    """Return the configuration and the folder of a run of 8 steps that holds a checkpoint of
    another one with 12.
    """
    own = config(tmp_path / "own.yaml", 8, lr=0.01)
    other = config(tmp_path / "other.yaml", 12, lr=0.02)
    assert hpc_bnn("train", own, "--run", tmp_path / "own") == 0
    assert hpc_bnn("train", other, "--run", tmp_path / "other") == 0
    shutil.copy(tmp_path / "other" / "checkpoints" / NEWEST, tmp_path / "own" / "checkpoints")
    return own, tmp_path / "own"


def test_it_is_refused_by_name(
    mixed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    own, run = mixed
    place = run / "checkpoints" / NEWEST
    says = (
        f"{place}: checkpoint of another run: train.lr = 0.02 there, 0.01 in {run / 'config.yaml'}"
    )
    for command in (
        ("train", own, "train.steps=16", "--run", run, "--resume"),
        ("evaluate", run),
        ("evaluate", run, "--checkpoint", "12"),
    ):
        capsys.readouterr()
        assert hpc_bnn(*command) == 2
        assert says in capsys.readouterr().err
    place.unlink()
    assert hpc_bnn("train", own, "train.steps=16", "--run", run, "--resume") == 0


def test_one_that_a_script_wrote_is_refused(
    mixed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = mixed
    place = run / "checkpoints" / NEWEST
    state = checkpoint.load(place)
    checkpoint.write(place, checkpoint.Checkpoint(**{**vars(state), "settings": ""}))
    capsys.readouterr()
    assert hpc_bnn("evaluate", run) == 2
    assert f"{place}: hb.save wrote it" in capsys.readouterr().err


def test_a_run_that_was_moved_and_whose_data_were_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, later = tmp_path / "first", tmp_path / "later"
    first.mkdir()
    rows = [f"2020-01-{1 + i // 24:02d} {i % 24:02d}:00,{i % 7}" for i in range(120)]
    (first / "load.csv").write_text("\n".join(["time,load", *rows]), encoding="utf-8")
    columns = {"time_column": "time", "value_columns": ["load"], "history": 6, "horizon": 2}
    data = {"name": "series", "path": str(first / "load.csv"), **columns}
    train = {**SERIES["train"], "steps": 4, "checkpoint_every": 4}
    chosen = written(first / "series.yaml", {**SERIES, "data": data, "train": train})
    assert hpc_bnn("train", chosen, "--run", first / "run") == 0
    first.rename(later)
    kept = later / "run" / "config.yaml"
    content = yaml.safe_load(kept.read_text(encoding="utf-8"))
    content["data"]["path"] = str(later / "load.csv")
    kept.write_text(yaml.safe_dump(content), encoding="utf-8")
    capsys.readouterr()
    assert hpc_bnn("train", "train.steps=8", "--run", later / "run", "--resume") == 0
    says = f"data.path = {str(first / 'load.csv')!r} there, {str(later / 'load.csv')!r} in"
    assert says in capsys.readouterr().err
