"""The best validation and the end by patience are the same on every rank and grid."""

from pathlib import Path
from typing import Any

from hpc_bnn.config import Settings
from hpc_bnn.group import Group
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train

SETTINGS: dict[str, Any] = {
    "posterior": {"samples": 12, "predict_samples": 4},
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "device": "cpu", "steps": 40, "batch_size": 12, "precision": "float64", "lr": 0.3,
        "schedule": "constant", "validate_every": 2, "keep_best": True, "patience": 3,
    },
}  # fmt: skip


def test_a_run_ends_at_the_same_step_on_every_grid(
    world: World, solo: World, all_ranks: Group, tmp_path: Path
) -> None:
    folder = Path(all_ranks.broadcast(str(tmp_path), name="folder"))
    settings = Settings.model_validate(SETTINGS)
    alone = train(settings, solo, RunFolder(tmp_path / f"alone-{world.grid.world_rank}"))
    summary = train(settings, world, RunFolder(folder / "run"))
    assert len(set(all_ranks.gather(summary["steps"], name="steps"))) == 1
    assert summary["steps"] == alone["steps"] < 40
    best, expected = summary["best_validation"], alone["best_validation"]
    assert (best["score"], best["step"]) == (expected["score"], expected["step"])
    assert abs(best["value"] - expected["value"]) < 1e-9 * abs(expected["value"])
    assert load(folder / "run" / "checkpoints" / "best.pt").step == best["step"]
    all_ranks.gather(None, name="read")
