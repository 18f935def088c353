"""``hpc-bnn scan``: every combination once, each its own run, in the order of the validation."""

import csv
import json
import logging
from pathlib import Path

import pytest
import yaml

from hpc_bnn.cli import program as cli
from hpc_bnn.config import SettingsError
from hpc_bnn.study.scan import Point, points

SETTINGS = {
    "posterior": {"samples": 2, "predict_samples": 4},
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {"device": "cpu", "steps": 6, "batch_size": 16},
}


def config(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    return path


def scan(folder: Path, *arguments: str) -> int:
    return cli.main(["scan", str(config(folder)), "--runs", str(folder / "scan"), *arguments])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "scan" / "scan.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_points_are_all_combinations() -> None:
    each = points(["train.lr=0.1,0.2", "posterior.prior_sigma=fan_in,1.0"])
    assert [point.overrides for point in each] == [
        ["train.lr=0.1", "posterior.prior_sigma=fan_in"],
        ["train.lr=0.1", "posterior.prior_sigma=1.0"],
        ["train.lr=0.2", "posterior.prior_sigma=fan_in"],
        ["train.lr=0.2", "posterior.prior_sigma=1.0"],
    ]
    assert [point.name for point in each][1] == "lr=0.1,prior_sigma=1.0"


def test_a_value_may_be_a_list() -> None:
    [short, long] = points(["model.hidden=[8],[16, 16]"])
    assert short == Point({"model.hidden": [8]})
    assert long.overrides == ["model.hidden=[16, 16]"]


@pytest.mark.parametrize(
    "tries", [["train.lr"], ["=1"], ["train.lr="], ["train.lr=[1"], ["a.b=1", "a.b=2"]]
)
def test_what_is_no_list_of_values_is_named(tries: list[str]) -> None:
    with pytest.raises(SettingsError, match=f"--try '{tries[-1].replace('[', '.')}'"):
        points(tries)


def test_too_many_are_counted() -> None:
    with pytest.raises(SettingsError, match="1331 combinations: at most 1000"):
        points([f"a.{key}={','.join('0123456789')},10" for key in "xyz"])


def test_every_run_is_one_that_train_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scan(tmp_path, "--try", "train.lr=0.0001,0.05", "seed=5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("scan.csv: by crps, the best first")
    assert [row["train.lr"] for row in rows(tmp_path)] == ["0.05", "0.0001"]
    alone = tmp_path / "alone"
    given = ["train.lr=0.05", "seed=5"]
    assert cli.main(["train", str(config(tmp_path)), *given, "--run", str(alone)]) == 0
    summary = json.loads((alone / "summary.json").read_text())
    assert float(rows(tmp_path)[0]["crps"]) == summary["validation"]["crps"]
    assert float(rows(tmp_path)[0]["final_loss"]) == summary["final_loss"]


def test_the_same_command_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert scan(tmp_path, "--try", "train.lr=0.001,0.05") == 0
    before, first = rows(tmp_path), tmp_path / "scan" / "lr=0.05" / "summary.json"
    made = first.stat().st_mtime_ns
    caplog.set_level(logging.INFO, logger="hpc_bnn")
    assert scan(tmp_path, "--try", "train.lr=0.001,0.05,0.01") == 0
    assert first.stat().st_mtime_ns == made
    assert len(rows(tmp_path)) == 3
    assert [row for row in rows(tmp_path) if row in before] == before


def test_a_run_that_diverges_is_a_row(tmp_path: Path) -> None:
    assert scan(tmp_path, "--try", "train.lr=0.001,1e30") == 0
    assert [row["final_loss"] == "diverged" for row in rows(tmp_path)] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--try", "train.lr=0.1,fast"], "train.lr = 'fast'"),
        (["--try", "grid.sample_ranks=1,2"], "all runs of a scan share one grid"),
        (["--try", "train.lr=0.1", "grid.mode=auto"], "all runs of a scan share one grid"),
    ],
)
def test_nothing_starts_with_wrong_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert scan(tmp_path, *arguments) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "scan").exists()


def test_a_table_that_no_scan_wrote_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scan").mkdir()
    table = tmp_path / "scan" / "scan.csv"
    table.write_text("mine\n")
    assert scan(tmp_path, "--try", "train.lr=0.1") == 2
    assert "is no scan of hpc-bnn" in capsys.readouterr().err
    assert table.read_text() == "mine\n"
