"""The whole way of a series: trained on windows normalised one by one, recalibrated, scored beside
naive forecasts; the same on every grid as on one rank.

Tolerance: 1e-9 relative in float64; factors of the recalibration are those of bins, and equal.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_bnn.config import CONFIGS, Settings, load_settings
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate, told

LOSSES = {
    "crps": "loss={name: gaussian_crps}",
    "crps of the mixture": "loss={name: gaussian_crps, predictive: true}",
}
SMALL = (
    "posterior.samples=12",
    "posterior.predict_samples=12",
    "posterior.initial_sigma=0.05",
    "model.width=6",
    *("data.length=500", "data.channels=2", "data.history=24", "data.horizon=6"),
    *("train.steps=6", "train.batch_size=24", "train.precision=float64", "train.device=cpu"),
)


def settings(name: str) -> Settings:
    return load_settings(CONFIGS / "mlp_series.yaml", [*SMALL, LOSSES[name]])


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    ranks = connect()
    path = Path(ranks.on_first(lambda: tempfile.mkdtemp(), name="base"))
    yield path
    ranks.gather(None, name="done")
    ranks.on_first(lambda: shutil.rmtree(path), name="base")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of an evaluation, and are no matter of grids."""
    monkeypatch.setattr("hpc_bnn.train.score.evaluate._draw", lambda *_: None)
    monkeypatch.setattr("hpc_bnn.data.series.report.SeriesReport.draw", lambda *_: None)


def run(name: str, world: World, folder: Path) -> dict[str, Any]:
    """Collective over the world: train and evaluate, and return what evaluation.json holds."""
    train(settings(name), world, RunFolder(folder))
    return evaluate(world, RunFolder(folder))


@pytest.mark.parametrize("name", LOSSES)
def test_scores_are_those_of_one_rank(world: World, base: Path, name: str) -> None:
    grid = world.grid
    folder = base / f"{name} {grid.sample_ranks} {grid.data_ranks}"
    got = run(name, world, folder)

    def compare() -> None:
        alone = base / f"{name} alone"
        if not alone.exists():  # of the grid before
            run(name, World(Grid(1, 1, 0), torch.device("cpu")), alone)
        expected = json.loads((alone / "evaluation.json").read_text())
        kept = [json.loads((path / "recalibration.json").read_text()) for path in (folder, alone)]
        assert kept[0] == kept[1]
        assert len(kept[0]["factor"]) == 6
        for key in ("scores", "standardised"):
            assert got[key] == pytest.approx(expected[key], rel=1e-9)
        assert got["recalibration"]["before"] == pytest.approx(
            expected["recalibration"]["before"], rel=1e-9
        )
        assert list(got["skill"]) == ["last_value", "day_before", "climatology"]
        for naive, of in got["skill"].items():
            assert of == pytest.approx(expected["skill"][naive], rel=1e-9)
        assert any("spread recalibrated on validation" in line for line in told(got))

    world.all_ranks.on_first(compare, name="comparison")
