"""A run of about a second, small enough to be started many times."""

from collections.abc import Callable
from typing import Any

from launch import Ended

# Everything that makes noise is on: augmentation, dropout, weight draws, order.
SETTINGS: dict[str, dict[str, Any]] = {
    "posterior": {"samples": 12, "initial_sigma": 0.05, "kl_warmup_steps": 8},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.1},
    "data": {
        "name": "synthetic_series",
        "length": 300,
        "history": 12,
        "horizon": 4,
        "transform": {"name": "jitter", "sigma": 0.1},
    },
    "train": {"steps": 20, "batch_size": 12, "lr": 0.003, "clip_norm": 50.0, "guard_every": 5},
}

# The fixture of the same name: trains in a folder, on so many ranks.
Train = Callable[..., Ended]
