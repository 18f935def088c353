"""Methods whose parameters all weight samples share, beside the Gaussian: one answer on every grid,
also of a run that another grid goes on with.

Tolerance: 1e-10 in float64, relative to the largest loss, gradient or parameter.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import BATCH, INPUTS, NUM_EXAMPLES, OUTPUTS, SAMPLES, Recipe, batch, deviation
from torch import Tensor

import hpc_bnn as hb
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.guards import GuardError
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.plan.estimate import estimate
from hpc_bnn.train.run.build import read_source
from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train

ALL_RANKS = connect()
SOLO = World(Grid(1, 1, 0), torch.device("cpu"))
METHODS: dict[str, tuple[type[Posterior], dict[str, Any]]] = {
    "low_rank": (hb.LowRank, {"rank": 3, "initial_sigma": 0.1}),
    "low_rank antithetic": (hb.LowRank, {"rank": 2, "prior_sigma": "fan_in", "antithetic": True}),
    "rank1": (hb.Rank1, {"initial_sigma": 0.1, "antithetic": True}),
}
LOSSES = {
    "separable": lambda: hb.losses.gaussian_nll(sigma=0.7),
    "joint": lambda: hb.losses.almost_fair_crps(layout="transposed"),
}
PASSES: dict[str, dict[str, Any]] = {
    "one a pass": {"samples_per_pass": 1},
    "several a pass": {"samples_per_pass": 5},
    "graphs kept": {"samples_per_pass": 1, "keep_graphs": True},
    "two stages": {"reduction": "two_stage", "clip_norm": 0.05},
}


def make_step(world: World, method: str, loss: Loss, **options: Any) -> tuple[Posterior, hb.Step]:
    """Networks start differently on every rank: world rank 0's must win."""
    torch.manual_seed(world.grid.world_rank)
    network = MLP((INPUTS,), (OUTPUTS,), hidden=(16,)).double()
    kind, settings = METHODS[method]
    posterior = kind(network, **settings, seed=7)
    step = hb.Step(
        posterior,
        loss,
        torch.optim.Adam(posterior.parameters(), lr=1e-2),
        world,
        samples=SAMPLES,
        num_examples=NUM_EXAMPLES,
        precision="float64",
        guard_every=1,
        **options,
    )
    return posterior, step


def trained(world: World, method: str, loss: str, passes: str) -> tuple[Tensor, Tensor, Tensor]:
    """Collective: return the losses of all steps, the last gradients and the parameters."""
    posterior, step = make_step(world, method, LOSSES[loss](), **PASSES[passes])
    own, values = world.grid.own_examples(BATCH), []
    for i in range(3):
        x, y = batch(Recipe("gaussian"), i)
        values.append(step(x[own.start : own.stop], y[own.start : own.stop]))
    return (
        torch.stack(values),
        torch.cat([p.grad.flatten() for p in posterior.parameters()]),
        torch.cat([p.detach().flatten() for p in posterior.parameters()]),
    )


@cache
def on_one_rank(method: str, loss: str, passes: str) -> tuple[Tensor, Tensor, Tensor]:
    return trained(SOLO, method, loss, passes)


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", METHODS)
def test_every_grid_gives_the_same(world: World, method: str, loss: str, passes: str) -> None:
    got, expected = trained(world, method, loss, passes), on_one_rank(method, loss, passes)
    assert [deviation(a, b) <= 1e-10 for a, b in zip(got, expected, strict=True)] == [True] * 3


@pytest.mark.parametrize("method", METHODS)
def test_passes_do_not_matter(method: str) -> None:
    several, one = (on_one_rank(method, "separable", p) for p in ("several a pass", "one a pass"))
    assert max(deviation(a, b) for a, b in zip(several, one, strict=True)) <= 1e-10


@pytest.mark.parametrize("method", METHODS)
def test_a_parameter_that_differs_on_one_rank_is_named(world: World, method: str) -> None:
    if world.grid.world_size < 2:
        pytest.skip("one rank cannot differ from another")
    posterior, step = make_step(world, method, LOSSES["separable"]())
    name, last = list(posterior.named_parameters())[-1]
    if world.grid.world_rank == world.grid.world_size - 1:
        last.data.flatten()[-1] += 1e-12
    x, y = batch(Recipe("gaussian"), 0)
    own = world.grid.own_examples(BATCH)
    with pytest.raises(GuardError, match=f"step 0: parameter {name} "):
        step(x[own.start : own.stop], y[own.start : own.stop])


# Runs

CONTENT: dict[str, Any] = {
    "seed": 3,
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 4,
        "batch_size": 12,
        "lr": 0.01,
        "precision": "float64",
        "device": "cpu",
        "guard_every": 1,
        "checkpoint_every": 2,
    },
}
OPTIONS: dict[str, dict[str, Any]] = {
    "low_rank": {"rank": 3, "initial_sigma": 0.1},
    "rank1": {"weight_sigma": "fan_in"},
}


def settings(name: str, **options: Any) -> Settings:
    chosen = {"name": name, "samples": 12, "samples_per_pass": 2, **OPTIONS.get(name, {})}
    return Settings.model_validate({**CONTENT, "posterior": {**chosen, **options}})


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


def run(
    all_ranks: Group, name: str, folder: Path, sample_ranks: int = 1, *, resume: bool = False
) -> dict[str, Any]:
    """Collective: train and return the summary."""
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(settings(name), world, RunFolder(folder), resume=resume)
    finally:
        world.stop()


@pytest.mark.parametrize("first", divisors(ALL_RANKS.size))
@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_goes_on_on_another_grid(
    all_ranks: Group, folder: Path, name: str, first: int
) -> None:
    expected = all_ranks.on_first(lambda: run(ALONE, name, folder / "alone"), name="alone")
    run(all_ranks, name, folder / "run", first)
    newest = folder / "run" / "checkpoints" / "step-00000004.pt"
    all_ranks.on_first(
        lambda: (newest.unlink(), RunFolder(folder / "run").summary.unlink()), name="newest"
    )
    then = all_ranks.size // first
    result = run(all_ranks, name, folder / "run", then, resume=True)
    assert result["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
    assert result["validation"] == pytest.approx(expected["validation"], rel=1e-6)

    def compare() -> None:
        got, whole = load(newest), load(folder / "alone" / "checkpoints" / newest.name)
        for key, tensor in whole.posterior.items():
            assert torch.allclose(got.posterior[key], tensor, rtol=0, atol=1e-10), key

    all_ranks.on_first(compare, name="comparison")


def test_the_estimate_counts_u() -> None:
    """U has 8 rows: 64 bytes a random weight, its optimizer twice that, its gradient once."""
    source = read_source(settings("gaussian"), ALONE)
    grid = Grid(1, 1, 0)
    without, with_u = (estimate(settings("low_rank", rank=rank), source, grid) for rank in (0, 8))
    weights = 12 * 8 + 8 + 8 * 8 + 8  # 12 inputs, 8 hidden, mean and variance of 4 outputs
    assert with_u.parameters - without.parameters == 64 * weights
    assert with_u.optimizer - without.optimizer == 128 * weights
    assert with_u.step - without.step >= 64 * weights
