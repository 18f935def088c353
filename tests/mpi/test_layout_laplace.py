"""A last-layer Laplace posterior is the same on every grid, in a script and as a command.

Tolerance: 1e-10 in float64; only the order of sums over examples differs.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.config import Settings, SettingsError
from hpc_bnn.data.sharding import in_turn
from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate
from hpc_bnn.train.score.laplace import fit_laplace
from hpc_bnn.train.score.trained import load_trained

ALL_RANKS = connect()
IN, OUT = 5, 3
LOSSES = {"classes": hb.losses.categorical_nll, "points": hb.losses.gaussian_nll}


def examples(count: int, loss: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, IN, generator=generator, dtype=torch.float64)
    points = torch.randn(count, OUT, generator=generator, dtype=torch.float64)
    return x, points.argmax(1) if loss == "classes" else points


def fitted(loss: str, count: int, group: Group = ALONE) -> hb.LastLayerLaplace:
    """Collective: fit to this rank's part, a few examples at a time."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(IN, 7), nn.Tanh(), nn.Linear(7, OUT)).double()
    laplace = hb.LastLayerLaplace(network, seed=4)
    x, y = examples(count, loss)
    own = in_turn(count, data_rank=group.rank, data_ranks=group.size)
    laplace.fit([(x[part], y[part]) for part in own.split(3)], LOSSES[loss]().double(), group)
    return laplace


# 3 examples on 4 data ranks: one of them has none.
@pytest.mark.parametrize("count", [29, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_grid_gives_the_same(world: World, loss: str, count: int) -> None:
    laplace, alone = fitted(loss, count, world.data_axis), fitted(loss, count)
    for name in ("factor", "prior_precision", "log_evidence"):
        found, expected = getattr(laplace, name), getattr(alone, name)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10), name
    x, own = examples(6, loss)[0], world.grid.own_samples(12)
    outputs = laplace.predict(x, samples=len(own), first=own.start)
    expected = alone.predict(x, samples=12)[own.start : own.stop]
    assert torch.allclose(outputs, expected, rtol=0, atol=1e-10)
    assert outputs.std() > 0.1


def test_more_examples_are_another_posterior() -> None:
    """The comparison above could tell."""
    assert not torch.allclose(fitted("points", 29).factor, fitted("points", 28).factor)


def test_a_failure_on_one_rank_is_an_error_on_all(all_ranks: Group) -> None:
    x, y = examples(4, "points")
    laplace = hb.LastLayerLaplace(nn.Linear(IN, OUT).double())
    y = y[:, :2] if all_ranks.rank == all_ranks.size - 1 else y
    with pytest.raises((ValueError, RankError), match=r"gives \(4, 3\) for targets of \(4, 2\)"):
        laplace.fit([(x, y)], LOSSES["points"](), all_ranks)


CONTENT: dict[str, Any] = {
    "seed": 3,
    "posterior": {"name": "gaussian", "samples": 2, "predict_samples": 12},
    "loss": {"name": "gaussian_nll", "variance": "learned"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 4,
        "batch_size": 12,
        "lr": 0.01,
        "precision": "float64",
        "device": "cpu",
    },
}


@pytest.fixture(scope="module")
def runs() -> Iterator[Path]:
    """A folder with a run, and its posterior as one rank makes it in alone/."""
    path = Path(ALL_RANKS.on_first(lambda: tempfile.mkdtemp(), name="runs"))

    def make() -> None:
        world = start(ALONE, device="cpu")
        train(Settings.model_validate(CONTENT), world, RunFolder(path / "run"))
        fit_laplace(world, RunFolder(path / "run"), RunFolder(path / "alone"))
        evaluate(world, RunFolder(path / "alone"))

    ALL_RANKS.on_first(make, name="runs")
    yield path
    ALL_RANKS.gather(None, name="done")
    ALL_RANKS.on_first(lambda: shutil.rmtree(path), name="runs")


def test_a_run_folder_is_the_same_and_is_evaluated_like_any(all_ranks: Group, runs: Path) -> None:
    target = RunFolder(runs / f"of {all_ranks.size} ranks")
    world = start(all_ranks, mode="data", device="cpu")
    try:
        result = fit_laplace(world, RunFolder(runs / "run"), target)
        expected = json.loads((runs / "alone" / "laplace.json").read_text())
        for key, value in expected.items():
            same = pytest.approx(value, rel=1e-10) if isinstance(value, float) else value
            assert result[key] == same, key
        assert result["examples"] == len(load_trained(world, target).parts.source.train)
        scores = evaluate(world, target)
        assert scores["samples"] == 12
        alone = json.loads((runs / "alone" / "evaluation.json").read_text())
        assert scores["scores"] == pytest.approx(alone["scores"], rel=1e-9)
        with pytest.raises((SettingsError, RankError), match=r"holds a run already; .* with -o"):
            fit_laplace(world, RunFolder(runs / "run"), target)
    finally:
        world.stop()
    saved = [
        load(runs / name / "checkpoints" / "step-00000004.pt").posterior
        for name in (target.path.name, "alone", "run")
    ]
    assert torch.allclose(saved[0]["factor"], saved[1]["factor"], rtol=0, atol=1e-10)
    network = [name for name in saved[1] if name.startswith("module.")]
    assert all(torch.equal(saved[1][name], saved[2][name]) for name in network)
    with pytest.raises(ValueError, match="is fitted to a trained network"):
        train(target.settings(), start(ALONE, device="cpu"), RunFolder(runs / "never"))
