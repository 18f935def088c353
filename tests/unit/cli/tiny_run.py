"""Runs of a second that a user could start: settings, the command line in this process, results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from hpc_bnn.cli import program as cli
from hpc_bnn.data import Batches

SERIES: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 2, "predict_samples": 4},
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "device": "cpu",
        "steps": 6,
        "batch_size": 16,
        "precision": "float64",
        "checkpoint_every": 2,
        "validate_every": 3,
        "log_every": 2,
    },
}
DIGITS: dict[str, Any] = {
    "posterior": {"samples": 2, "predict_samples": 3},
    "loss": {"name": "categorical_nll"},
    "model": {"name": "mlp", "hidden": [16]},
    "data": {"name": "digits", "transform": {"name": "shift", "pixels": 1}},
    "train": {"device": "cpu", "epochs": 1, "batch_size": 256, "lr": 0.01},
}


def written(path: Path, settings: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def hpc_bnn(*arguments: object) -> int:
    """Run one command as ``hpc-bnn`` does and return its exit status."""
    return cli.main([str(argument) for argument in arguments])


def read_json(path: Path) -> Any:
    """Read JSON as strict parsers do, which know neither NaN nor Infinity."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{path}: {constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.endswith("time_s")} for row in rows]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


class Stopped(BaseException):
    """The job ends here, as by a signal: nothing of hpc_bnn catches it."""


def stopping_at(step: int, at: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``Batches.at`` of a job that ends before it has read the batch of ``step``."""

    def read(self: Any, asked: int) -> Any:
        if asked == step:
            raise Stopped
        return at(self, asked)

    return read


def stopped(run: Path, at: int, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the job ends before step ``at``."""
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "at", stopping_at(at, Batches.at))
        with pytest.raises(Stopped):
            hpc_bnn("train", config, "--run", run)
    assert not (run / "summary.json").exists()


def assert_equal_runs(run: Path, other: Path) -> None:
    assert timeless(metrics(run)) == timeless(metrics(other))
    first, second = (read_json(folder / "summary.json") for folder in (run, other))
    for key in ("sum", "sum_of_squares"):
        assert first["parameter_checksum"][key] == pytest.approx(
            second["parameter_checksum"][key], rel=1e-12
        )
    assert first["final_loss"] == pytest.approx(second["final_loss"], rel=1e-12)
    assert set(first["validation"]) == set(second["validation"])
    for key, value in first["validation"].items():  # None where the loss has no such score
        assert (value, second["validation"][key]) == (None, None) or value == pytest.approx(
            second["validation"][key], rel=1e-12
        ), key
