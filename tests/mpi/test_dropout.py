"""Monte Carlo dropout of fields: scored and forecast on all ranks as on one."""

from pathlib import Path
from typing import Any

import netCDF4
import pytest
import torch
from torch import Tensor

from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.forecast import forecast, plan_forecast
from hpc_bnn.train.score.trained import load_trained
from hpc_bnn.train.score.weather import score_weather


def run(
    content: dict[str, Any], all_ranks: Group, folder: Path, sample_ranks: int, **more: Any
) -> dict[str, Any]:
    """Collective: train in ``folder`` as the command does; return the summary."""
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(Settings.model_validate(content), world, RunFolder(folder), **more)
    finally:
        world.stop()


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Path:
    """A folder of rank 0 that all ranks use."""
    return Path(all_ranks.broadcast(str(tmp_path), name="folder"))


@pytest.mark.parametrize("masks", ["example", "sample"])
def test_weather_is_scored_and_forecast_alike(
    all_ranks: Group, toy_folder: Path, folder: Path, masks: str
) -> None:
    """On all ranks, by members and start times, as on one."""
    content: dict[str, Any] = {
        "seed": 3,
        "posterior": {"name": "dropout", "samples": 12, "predict_samples": 4, "masks": masks},
        "loss": {"name": "almost_fair_crps"},
        "model": {
            "name": "swin",
            "width": 8,
            "depths": [2, 0, 0, 0],
            "heads": [2, 2, 2, 2],
            "window": [2, 2],
            "dropout": 0.3,
        },
        "data": {
            "name": "era5",
            "path": str(toy_folder),
            "variables": ["t2m", "u10", "v10"],
            "step_hours": 24,
            "train": ["2001-01-01", "2001-01-30"],
            "validation": ["2001-07-01", "2001-07-10"],
            "test": ["2001-07-11", "2001-07-20"],
        },
        "train": {"steps": 2, "batch_size": 12, "precision": "float64", "device": "cpu"},
        "evaluation": {"steps": 2, "starts": 5, "climatology_states": 10},
    }
    run(content, all_ranks, folder, all_ranks.size)
    fields, scores = [], []
    for name, ranks in (("alone", ALONE), ("spread", all_ranks)):
        path = folder / f"{name}.nc"

        def on(ranks: Group = ranks, path: Path = path) -> dict[str, Any]:
            world = start(ranks, mode="data", device="cpu")
            try:
                trained = load_trained(world, RunFolder(folder))
                plan = plan_forecast(trained, [994_809_600], steps=3, members=5)
                forecast(trained, world, path, plan)
                record = trained.parts.source.fields
                assert record is not None
                return dict(score_weather(trained, world).by_channel)
            finally:
                world.stop()

        scores.append(on() if ranks.size > 1 else all_ranks.on_first(on, name="alone"))

        def read(path: Path = path) -> Tensor:
            with netCDF4.Dataset(path) as file:
                return torch.as_tensor(file["t2m"][:].data, dtype=torch.float64)

        fields.append(all_ranks.on_first(read, name="forecast"))
    assert torch.equal(*fields)
    assert float(fields[0].std(fields[0].shape.index(5)).min()) > 0  # members differ
    for channel, expected in scores[0].items():
        for score in ("crps", "rmse", "spread_skill_ratio"):
            assert scores[1][channel][score] == pytest.approx(expected[score], rel=1e-6), channel
