"""Runs of a second that a user could start: settings, the command line in this process, results."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from hpc_bnn import cli

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
