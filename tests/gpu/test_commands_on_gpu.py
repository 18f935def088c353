"""The commands on a device, as a user runs them: what a GPU wrote a CPU reads, and memory that is
too small is told.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hpc_bnn.cli.program import main

SERIES: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 2, "predict_samples": 4, "initial_sigma": 0.05},
    "loss": {"name": "gaussian_nll", "variance": "learned"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {"steps": 6, "batch_size": 12, "checkpoint_every": 3, "validate_every": 3},
}
FIELDS: dict[str, Any] = {
    "posterior": {"samples": 2, "initial_sigma": 0.05, "predict_samples": 2},
    "loss": {"name": "almost_fair_crps"},
    "model": {
        "name": "swin",
        "width": 8,
        "depths": [2, 0, 0, 2],
        "heads": [2, 2, 2, 2],
        "window": [2, 2],
    },
    "data": {
        "name": "era5",
        "variables": ["t2m", "z"],
        "levels": [500],
        "step_hours": 12,
        "train": ["2001-01-01", "2001-02-20"],
        "validation": ["2001-02-21", "2001-02-25"],
        "test": ["2001-03-01", "2001-03-12"],
    },
    "train": {"steps": 2, "batch_size": 4},
    "evaluation": {"starts": 2, "steps": 2},
}


def hpc_bnn(*words: object) -> int:
    return main([str(word) for word in words])


def written(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Path:
    """Return the folder of a whole run on the device."""
    folder = tmp_path_factory.mktemp("series")
    settings, run = written(folder / "series.yaml", SERIES), folder / "run"
    assert hpc_bnn("train", settings, f"train.device={device.type}", "--run", run) == 0
    return run


def test_the_run_is_that_of_the_cpu(finished: Path, tmp_path: Path, device: torch.device) -> None:
    if device.type == "cpu":
        pytest.skip("it is one")
    settings, run = written(tmp_path / "series.yaml", SERIES), tmp_path / "run"
    assert hpc_bnn("train", settings, "train.device=cpu", "--run", run) == 0
    got, expected = (read(each / "summary.json") for each in (finished, run))
    assert got["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-4)
    assert got["peak_memory_bytes"] > 0


def test_a_cpu_goes_on_where_a_gpu_stopped(finished: Path, tmp_path: Path) -> None:
    """From a checkpoint in the midst of the run, to what came out at its end."""
    settings, run = written(tmp_path / "series.yaml", SERIES), tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    middle = finished / "checkpoints" / "step-00000003.pt"
    (run / "checkpoints" / middle.name).write_bytes(middle.read_bytes())
    (run / "config.yaml").write_text((finished / "config.yaml").read_text())
    assert hpc_bnn("train", settings, "train.device=cpu", "--run", run, "--resume") == 0
    got, expected = (read(each / "summary.json") for each in (run, finished))
    assert got["steps"] == 6
    assert got["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-4)


def test_evaluate_and_laplace(finished: Path, tmp_path: Path) -> None:
    assert hpc_bnn("evaluate", finished) == 0
    assert read(finished / "evaluation.json")
    assert hpc_bnn("laplace", finished, "-o", tmp_path / "laplace") == 0
    assert hpc_bnn("evaluate", tmp_path / "laplace") == 0


def test_train_evaluate_and_forecast_fields(tmp_path: Path, device: torch.device) -> None:
    pytest.importorskip("netCDF4")
    from hpc_bnn.fields.toy_atmosphere import write_toy

    toy = tmp_path / "toy"
    write_toy(toy, years=1, rows=7, columns=16, step_hours=12, levels=[500.0])
    settings = {**FIELDS, "data": {**FIELDS["data"], "path": str(toy)}}
    path, run = written(tmp_path / "fields.yaml", settings), tmp_path / "run"
    for precision in ("float32", "bf16") if device.type == "cuda" else ("bf16",):
        options = [f"train.device={device.type}", f"train.precision={precision}"]
        assert hpc_bnn("train", path, *options, "--run", run / precision) == 0
    assert hpc_bnn("evaluate", run / "bf16") == 0
    out = tmp_path / "forecast.nc"
    words = ["--start", "2001-03-02T00", "--steps", 2, "--members", 2, "-o", out]
    assert hpc_bnn("forecast", run / "bf16", *words) == 0
    assert out.stat().st_size > 0


@pytest.fixture
def too_small(device: torch.device) -> Iterator[int]:
    """Leave little of the memory of a GPU; gives the width of a network that does not fit."""
    if device.type == "cpu":
        yield 10**7
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((512 << 20) / total)
    yield 8192
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_out_of_memory_says_what_to_lower(
    tmp_path: Path, device: torch.device, too_small: int, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {**SERIES, "model": {"name": "mlp", "hidden": [too_small, too_small]}}
    path = written(tmp_path / "large.yaml", settings)
    options = [f"train.device={device.type}", "--run", tmp_path / "run"]
    assert hpc_bnn("train", path, *options) == 2
    assert "out of memory: lower train.batch_size" in capfd.readouterr().err
