"""Metrics for TensorBoard and MLflow: written without a network, read back by their own readers."""

import csv
import json
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import SERIES, hpc_bnn, metrics, stopped, written

from hpc_bnn.train.run import track


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"a network was asked for: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run = folder / "run"
    assert hpc_bnn("train", written(folder / "tiny.yaml", SERIES), "--run", run) == 0
    assert hpc_bnn("evaluate", run) == 0
    return run


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of every tag, as TensorBoard itself reads them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(event.step, event.value) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def expected(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the same of the rows of ``metrics.jsonl``."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if key == "step" or value is None or (key == "epoch" and "loss" not in row):
                continue
            group = "validation" if key.startswith("validation_") else "training"
            group = "time" if key.endswith("_time_s") else group
            tag = f"{group}/{key.removeprefix('validation_')}"
            found.setdefault(tag, []).append((row["step"], pytest.approx(value, rel=1e-6)))
    return found


def test_event_files_hold_what_the_metrics_hold(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    config = written(tmp_path / "tiny.yaml", SERIES)
    assert hpc_bnn("train", config, "train.track=[tensorboard]", "--run", run) == 0
    assert len(list(run.glob("events.out.tfevents.*"))) == 1, "beside metrics.jsonl"
    found = events(run)
    assert found == expected(metrics(run))
    assert [step for step, _ in found["training/loss"]] == list(range(6))
    assert [step for step, _ in found["validation/crps"]] == [2, 5]


def test_a_run_that_goes_on_hides_what_it_went_back_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    tracked = {**SERIES, "train": {**SERIES["train"], "track": ["tensorboard"]}}
    config = written(tmp_path / "tiny.yaml", tracked)
    stopped(run, 5, config, monkeypatch)
    assert hpc_bnn("train", config, "--run", run, "--resume") == 0
    found = events(run)
    assert [step for step, _ in found["training/loss"]] == list(range(6)), "each once"
    assert found["training/loss"] == expected(metrics(run))["training/loss"]


def test_a_run_may_be_tracked_from_a_resume_on(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run, config = tmp_path / "run", written(tmp_path / "tiny.yaml", SERIES)
    assert hpc_bnn("train", config, "--run", run) == 0
    more = ("train.track=[tensorboard]", "--run", run, "--resume")
    assert hpc_bnn("train", config, *more) == 0


def test_a_package_that_is_absent_is_named_before_anything_starts(
    tmp_path: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    run, config = tmp_path / "run", written(tmp_path / "tiny.yaml", SERIES)
    message = told("train", config, "train.track=[tensorboard]", "--run", run)
    assert message == (
        "train.track: tensorboard: is not installed: pip install 'hpc_bnn[tensorboard]' brings it"
    )
    assert not run.exists()


def test_an_unknown_tracker_is_refused(tmp_path: Path, told: Callable[..., str]) -> None:
    config = written(tmp_path / "tiny.yaml", SERIES)
    message = told("train", config, "train.track=[wandb]", "--run", tmp_path / "run")
    assert "train.track" in message
    assert "tensorboard" in message


def test_csv(finished: Path, tmp_path: Path, told: Callable[..., str]) -> None:
    output = tmp_path / "metrics.csv"
    assert hpc_bnn("export", finished, "--to", "csv", "-o", output) == 0
    with output.open(encoding="utf-8", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    held = [{k: v for k, v in row.items() if v is not None} for row in metrics(finished)]
    assert rows == held
    assert hpc_bnn("export", finished, "--to", "csv", "-o", output) == 0, "one's own is replaced"
    output.write_text("mine\n", encoding="utf-8")
    assert "no export of hpc-bnn" in told("export", finished, "--to", "csv", "-o", output)
    assert output.read_text(encoding="utf-8") == "mine\n"


def test_export_to_tensorboard(finished: Path, tmp_path: Path, told: Callable[..., str]) -> None:
    pytest.importorskip("tensorboard")
    asked = ("export", finished, "--to", "tensorboard", "-o", tmp_path / "events")
    assert hpc_bnn(*asked) == 0
    assert events(tmp_path / "events") == expected(metrics(finished))
    assert "holds event files already" in told(*asked)


def test_export_to_mlflow(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs in one store, which MLflow reads back."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    store = tmp_path / "store"
    for _ in range(2):
        assert hpc_bnn("export", finished, "--to", "mlflow", "-o", store) == 0
    assert str(store) in capsys.readouterr().out
    client = MlflowClient(tracking_uri=store.as_uri())
    experiment = client.get_experiment_by_name("hpc_bnn")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    run = runs[0]
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.batch_size"] == "16"
    assert run.data.params["model.name"] == "mlp"
    assert run.data.tags["version.torch"]
    for tag, values in expected(metrics(finished)).items():
        history = client.get_metric_history(run.info.run_id, tag)
        assert sorted((entry.step, entry.value) for entry in history) == values, tag
    crps = json.loads((finished / "evaluation.json").read_text())["scores"]["crps"]
    assert run.data.metrics["test/crps"] == pytest.approx(crps, rel=1e-12)
    assert math.isfinite(crps)
    artifacts = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {"config.yaml", "metrics.jsonl", "evaluation.json", "plots"}


def test_what_cannot_be_exported_is_named(
    finished: Path, tmp_path: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = ("--to", "csv", "-o", tmp_path / "metrics.csv")
    assert "no run in this folder" in told("export", tmp_path / "nowhere", *nowhere)
    monkeypatch.setattr(track.importlib.util, "find_spec", lambda name: None)
    for tool in ("tensorboard", "mlflow"):
        message = told("export", finished, "--to", tool, "-o", tmp_path / tool)
        assert message == (
            f"--to {tool}: {tool} is not installed: pip install 'hpc_bnn[{tool}]' brings it"
        )
        assert not (tmp_path / tool).exists()
