"""Chains: one answer on every grid, momenta and snapshots too, also where another grid goes on.

Tolerance: 1e-10 in float64, relative to the largest number.
"""

import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import BATCH, INPUTS, OUTPUTS, Recipe, batch, deviation
from torch import Tensor

import hpc_bnn as hb
from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses import almost_fair_crps, gaussian_nll
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate

K, STEPS = 12, 5
SOLO = World(Grid(1, 1, 0), torch.device("cpu"))
LOSSES = {
    "separable": lambda: gaussian_nll(sigma=0.7),
    "joint": lambda: almost_fair_crps(layout="transposed"),
}
METHODS: dict[str, dict[str, Any]] = {
    "sgld": {"friction": 1.0},
    "sghmc": {},
    "cyclical": {"cycle": 2, "exploration": 0.5, "preconditioning": True},
}


def started(world: World, method: str, loss: str) -> tuple[hb.SGHMC, hb.Step]:
    torch.manual_seed(world.grid.world_rank)  # the network of rank 0 is that of all
    network = MLP((INPUTS,), (OUTPUTS,), hidden=(6,)).double()
    posterior = hb.SGHMC(
        network, samples=K, burn_in=2, collect_every=1, snapshots=2, seed=5, **METHODS[method]
    )
    step = hb.Step(
        posterior,
        LOSSES[loss](),
        posterior.optimizer(lr=1e-2),
        world,
        samples=K,
        num_examples=100,
        precision="float64",
        guard_every=1,
    )
    return posterior, step


def trained(world: World, step: hb.Step, steps: int = STEPS) -> Tensor:
    """Collective: train; return the losses and norms of all steps."""
    own, rows = world.grid.own_examples(BATCH), []
    for i in range(steps):
        x, y = batch(Recipe("gaussian"), i)
        step(x[own.start : own.stop], y[own.start : own.stop])
        assert step.report is not None
        rows.append([step.report.loss, step.report.gradient_norm])
    return torch.tensor(rows, dtype=torch.float64)


def tensors(posterior: hb.SGHMC, step: hb.Step) -> dict[str, Tensor]:
    """Return rows, snapshots, momenta and squares by name, all with a row for each chain held."""
    found = {name: posterior.state_dict()[name] for name in posterior.per_sample()}
    for number, state in step._optimizer.state_dict()["state"].items():
        found |= {f"{number}.{key}": value for key, value in state.items()}
    return found


@cache
def on_one_rank(method: str, loss: str) -> tuple[Tensor, dict[str, Tensor]]:
    posterior, step = started(SOLO, method, loss)
    return trained(SOLO, step), tensors(posterior, step)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", METHODS)
def test_every_grid_gives_the_same(world: World, method: str, loss: str) -> None:
    posterior, step = started(world, method, loss)
    figures = trained(world, step)
    expected, whole = on_one_rank(method, loss)
    assert deviation(figures, expected) <= 1e-10
    own = world.grid.own_samples(K)
    held = tensors(posterior, step)
    assert held.keys() == whole.keys()
    assert ("0.momentum" in held, "0.squares" in held) == (method != "sgld", method == "cyclical")
    for name, rows in held.items():
        assert deviation(rows, whole[name][own.start : own.stop]) <= 1e-10, name
    assert posterior.snapshots.count == (1 if method == "cyclical" else 2)


def test_a_chain_that_diverges_is_named_on_every_rank(world: World) -> None:
    posterior, step = started(world, "sghmc", "separable")
    trained(world, step, 1)
    if world.grid.sample_rank == world.grid.sample_ranks - 1:
        posterior.rows["layers/0/bias"].data[-1] = torch.inf
    with pytest.raises(FloatingPointError, match=r"step 1: .* diverged: member 11; the parameters"):
        trained(world, step, 1)


# Runs of the command line

CONTENT: dict[str, Any] = {
    "seed": 3,
    "posterior": {
        "name": "sghmc",
        "samples": K,
        "burn_in": 2,
        "collect_every": 1,
        "snapshots": 4,
        "preconditioning": True,
    },
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 6,
        "batch_size": 12,
        "lr": 1e-3,
        "schedule": "constant",
        "precision": "float64",
        "device": "cpu",
        "guard_every": 1,
        "checkpoint_every": 3,
    },
}
NEWEST = Path("checkpoints", "step-00000006.pt")


def run(
    all_ranks: Group, folder: Path, sample_ranks: int = 1, *, resume: bool = False
) -> dict[str, Any]:
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(Settings.model_validate(CONTENT), world, RunFolder(folder), resume=resume)
    finally:
        world.stop()


@pytest.fixture(scope="module")
def alone() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of a run on one rank, and its summary."""
    ranks = connect()
    path = Path(ranks.on_first(lambda: tempfile.mkdtemp(), name="alone"))
    yield path / "run", ranks.on_first(lambda: run(ALONE, path / "run"), name="alone")
    ranks.gather(None, name="done")
    ranks.on_first(lambda: shutil.rmtree(path), name="alone")


@pytest.mark.parametrize("then", divisors(connect().size))
def test_another_grid_goes_on(
    all_ranks: Group, tmp_path: Path, alone: tuple[Path, dict[str, Any]], then: int
) -> None:
    """With all ranks on the sample axis, and from step 3 on again with ``then`` of them."""
    folder = Path(all_ranks.broadcast(str(tmp_path), name="folder"))
    reference, expected = alone
    results = [run(all_ranks, folder, all_ranks.size)]
    assert_same(all_ranks, folder / NEWEST, reference / NEWEST)
    all_ranks.on_first(
        lambda: ((folder / NEWEST).unlink(), RunFolder(folder).summary.unlink()), name="newest"
    )
    results.append(run(all_ranks, folder, then, resume=True))
    assert_same(all_ranks, folder / NEWEST, reference / NEWEST)
    for result in results:
        assert result["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
        assert result["validation"] == pytest.approx(expected["validation"], rel=1e-6)
        assert (result["diagnostics"]["chains"], result["diagnostics"]["snapshots"]) == (K, 4)
        for of in ("outputs", "weights"):
            figures = result["diagnostics"][of]
            assert figures == pytest.approx(expected["diagnostics"][of], rel=1e-6)


def assert_same(all_ranks: Group, path: Path, other: Path) -> None:
    """Compare what two checkpoints hold."""

    def compare() -> None:
        found, whole = load(path), load(other)
        assert set(found.per_sample) == set(whole.per_sample)
        assert found.posterior.keys() == whole.posterior.keys()
        for name, tensor in whole.posterior.items():
            assert torch.allclose(found.posterior[name], tensor, rtol=0, atol=1e-10), name
            assert name not in found.per_sample or len(tensor) == K
        for number, state in whole.optimizer["state"].items():
            assert state.keys() == {"momentum", "squares"}
            for key, value in state.items():
                got = found.optimizer["state"][number][key]
                assert got.shape == value.shape
                assert torch.allclose(got, value, rtol=0, atol=1e-10), key

    all_ranks.on_first(compare, name="comparison")


def test_evaluation_predicts_with_all_snapshots(
    all_ranks: Group, alone: tuple[Path, dict[str, Any]]
) -> None:
    world = start(all_ranks, mode="data", device="cpu")
    try:
        assert evaluate(world, RunFolder(alone[0]))["samples"] == 4 * K  # of 64 that are wished
    finally:
        world.stop()
