"""A trained run away from its training data: other files, by the scale of the training; absolute
paths; what may not change.
"""

import copy
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from test_predict import load_table
from tiny_run import SERIES, hpc_bnn, read_json, written

import hpc_bnn as hb
from hpc_bnn.train.score.prediction import SeriesPrediction

HISTORY, HORIZON = 12, 4


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was given its file by a relative path."""
    monkeypatch.chdir(tmp_path)
    load_table(Path("load.csv"), 200)
    settings = copy.deepcopy(SERIES)
    settings["data"] = {
        "name": "series", "path": "load.csv", "time_column": "time", "group_column": "where",
        "value_columns": ["load"], "history": HISTORY, "horizon": HORIZON,
    }  # fmt: skip
    assert hpc_bnn("train", written(tmp_path / "a.yaml", settings), "--run", "run") == 0
    return tmp_path / "run"


def test_a_run_is_found_again_from_any_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["path"] == str(tmp_path / "load.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert hpc_bnn("evaluate", run) == 0
    assert hpc_bnn("train", "--resume", "--run", run) == 0


def test_other_data_are_scored_by_the_scale_of_the_training(run: Path, tmp_path: Path) -> None:
    assert hpc_bnn("evaluate", run) == 0
    own = (run / "evaluation.json").read_bytes()
    rows = [f"2024-06-01T{hour:02d}:00,{30 + 5 * (hour % 3)}" for hour in range(HISTORY + HORIZON)]
    Path("new.csv").write_text("\n".join(["time,load", *rows]) + "\n", encoding="utf-8")
    command = ("evaluate", run, "data.path=new.csv", "data.group_column=null")
    assert hpc_bnn(*command) == 0
    assert (run / "evaluation.json").read_bytes() == own
    found = read_json(run / "evaluation-new" / "evaluation.json")
    assert (found["split"], found["data"]) == ("all", str(tmp_path / "new.csv"))
    assert (run / "evaluation-new" / "plots" / "scores.png").is_file()
    values = torch.tensor([[30.0 + 5 * (hour % 3)] for hour in range(HISTORY + HORIZON)])
    told = hb.load(run).predict(values[:HISTORY])
    assert isinstance(told, SeriesPrediction)
    error = told.mean.mean(0)[0] - values[HISTORY:]
    assert found["scores"]["points"] == HORIZON
    assert found["scores"]["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-6)


def test_what_was_trained_may_not_change(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for override, told in (
        ("train.lr=0.5", "train.lr: the run was trained with another"),
        ("data.name=digits", "data.name: the run was trained with another"),
        ("data.pathh=x.csv", "data.pathh: unknown key"),
        ("data.path=gone.csv", "gone.csv: no such file"),
        ("data.history=8", "it was asked for with data.history = 8, where the run has 12"),
    ):
        assert hpc_bnn("evaluate", run, override) == 2
        assert told in capsys.readouterr().err
    (run / "data.json").unlink()
    shutil.copy("load.csv", "copy.csv")
    assert hpc_bnn("evaluate", run, "data.path=copy.csv") == 2
    assert "data.json: is not there" in capsys.readouterr().err


def test_predict_takes_other_data_too(run: Path) -> None:
    load_table(Path("new.csv"), 30, first="2024-07-01")
    assert hpc_bnn("predict", run, "data.path=new.csv", "-o", "a.csv") == 0
    assert hpc_bnn("predict", run, "--input", "new.csv", "-o", "b.csv") == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
