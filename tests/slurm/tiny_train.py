"""A run that is small enough to be started many times, and what it leaves in its folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs import Job

# Enough to be caught in the middle.
STEPS = 200
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 4, "initial_sigma": 0.05},
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.1},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {"steps": STEPS, "batch_size": 12, "lr": 0.003, "log_every": 1, "device": "cpu"},
}
TWO_BY_TWO = ("--nodes=2", "--ntasks-per-node=2")
TWO_BY_ONE = ("--nodes=2", "--ntasks-per-node=1")

# The fixture of the same name: submits train.sbatch.
Train = Callable[..., Job]
# The fixture of the same name: trains to the end with such options, once.
Uninterrupted = Callable[[tuple[str, ...]], dict[str, Any]]


def summary(run: Path) -> dict[str, Any]:
    """Return the summary of a finished run."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found


def restarts(run: Path) -> list[dict[str, Any]]:
    """Return the restarts of a run."""
    lines = (run / "restarts.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
