"""SWAG on every grid: moments, draws and runs that go on elsewhere are those of one rank.

Tolerance: 1e-10 in float64, relative to the largest number.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import INPUTS, OUTPUTS, Recipe, batch, deviation
from test_per_sample import ALONE, LOSSES, SEED, K, started, trained
from torch import Tensor

from hpc_bnn.bayes.swag import SWAG
from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE as ONE_RANK
from hpc_bnn.group import Group
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.plan.estimate import estimate
from hpc_bnn.train.run.build import read_source
from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate

STEPS, RANK = 6, 3
RANKS = divisors(connect().size)
CONTENT: dict[str, Any] = {
    "seed": 3,
    "posterior": {
        "name": "swag",
        "samples": 12,
        "predict_samples": 24,
        "rank": 2,
        "start": 1,
        "collect_every": 1,
    },
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 6,
        "batch_size": 12,
        "lr": 0.05,
        "schedule": "constant",
        "precision": "float64",
        "device": "cpu",
        "guard_every": 1,
        "checkpoint_every": 3,
    },
}


def run_of(world: World, loss: str) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Collective: train; return moments, and predictions by sample: two of each own member."""
    torch.manual_seed(world.grid.world_rank)
    network = MLP((INPUTS,), (OUTPUTS,), hidden=(6,)).double()
    posterior = SWAG(network, samples=K, rank=RANK, start=1, collect_every=1, seed=SEED)
    trained(world, started(world, posterior, LOSSES[loss]()), STEPS)
    x, _ = batch(Recipe("gaussian"), 0)
    samples = [i * K + k for i in (0, 3) for k in posterior.own_samples]
    outputs = {i: posterior.predict(x, samples=1, first=i) for i in samples}
    moments = {n: b for n, b in posterior.named_buffers() if n in posterior.per_sample()}
    return moments, outputs


@pytest.mark.parametrize("loss", LOSSES)
def test_moments_and_predictions_are_those_of_one_rank(world: World, loss: str) -> None:
    (expected, outputs), (moments, here) = run_of(ALONE, loss), run_of(world, loss)
    own = world.grid.own_samples(K)
    assert len(moments) == len(expected) == 3 * 4
    for name, moment in expected.items():
        assert deviation(moments[name], moment[own.start : own.stop]) <= 1e-10, name
    assert len(here) == 2 * len(own)
    for sample, output in here.items():
        assert deviation(output, outputs[sample]) <= 1e-10
        assert not torch.equal(output, here[(sample + 3 * K) % (6 * K)])


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


def run(
    all_ranks: Group, path: Path, sample_ranks: int = 1, *, resume: bool = False
) -> dict[str, Any]:
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(Settings.model_validate(CONTENT), world, RunFolder(path), resume=resume)
    finally:
        world.stop()


@pytest.mark.parametrize(("first", "then"), [(a, max(RANKS) // a) for a in RANKS])
def test_a_run_goes_on_amid_its_collections_on_another_grid(
    all_ranks: Group, folder: Path, first: int, then: int
) -> None:
    """From step 3, after two of five collections."""
    expected = all_ranks.on_first(lambda: run(ONE_RANK, folder / "alone"), name="alone")
    newest = folder / "run" / "checkpoints" / "step-00000006.pt"
    run(all_ranks, folder / "run", first)
    all_ranks.on_first(
        lambda: (newest.unlink(), (folder / "run" / "summary.json").unlink()), name="newest"
    )
    got = run(all_ranks, folder / "run", then, resume=True)
    assert got["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
    assert got["validation"] == pytest.approx(expected["validation"], rel=1e-6)

    def compare() -> None:
        found = load(newest)
        whole = load(folder / "alone" / "checkpoints" / "step-00000006.pt")
        assert found.posterior["collected"] == whole.posterior["collected"] == 5
        assert found.posterior["deviations.layers/0/weight"].shape == (12, 2, 8, 12)
        assert set(found.per_sample) == set(whole.per_sample)
        for name, tensor in whole.posterior.items():
            assert torch.allclose(found.posterior[name], tensor, rtol=0, atol=1e-10), name

    all_ranks.on_first(compare, name="comparison")


def test_evaluation_is_the_same_alone_and_on_all_ranks(all_ranks: Group, folder: Path) -> None:
    run(all_ranks, folder / "run", RANKS[-1])

    def scored(ranks: Group) -> dict[str, Any]:
        world = start(ranks, mode="data", device="cpu")
        try:
            return evaluate(world, RunFolder(folder / "run"))
        finally:
            world.stop()

    expected = all_ranks.on_first(lambda: scored(ONE_RANK), name="alone")
    got = scored(all_ranks)
    assert got["samples"] == expected["samples"] == 24  # of twelve members
    for key, value in expected["scores"].items():
        assert got["scores"][key] == pytest.approx(value, rel=1e-9), key


def test_the_estimate_counts_moments_of_own_members_only() -> None:
    chosen = Settings.model_validate(CONTENT)
    source = read_source(chosen, ONE_RANK)
    alone, spread = (estimate(chosen, source, Grid(s, 1, s - 1)) for s in (1, 4))
    network = sum(p.numel() for p in MLP((12,), (8,), hidden=(8,)).parameters()) * 8
    rank = CONTENT["posterior"]["rank"]
    assert alone.parameters - spread.parameters == 9 * (1 + 2 + rank) * network
