"""IVON on every grid what it is on one rank, also where another grid goes on with a run.

Tolerance: 1e-10 in float64, relative to the largest loss or parameter.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import BATCH, NUM_EXAMPLES, SAMPLES, Recipe, batch, deviation, parts
from torch import Tensor

from hpc_bnn.bayes.ivon import IVON
from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run.checkpoint import Checkpoint, load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.step.step import Step

ALL_RANKS = connect()
LOSSES = {"separable": "gaussian expected learned", "joint": "almost fair crps transposed"}
OPTIONS = {
    "plain": {},
    "one sample a pass": {"samples_per_pass": 1},
    "warm-up": {"kl_warmup_steps": 5},
    "two stages": {"reduction": "two_stage"},
    "clipping": {"clip_norm": 0.05},
}


def trained(world: World, loss: str, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Collective: return the losses of three steps, and all parameters and h at the end."""
    recipe = Recipe(LOSSES[loss])
    posterior, function = parts(recipe, world)
    optimizer = IVON(posterior, function, lr=0.05, beta2=0.9)
    settings = {"samples_per_pass": SAMPLES, "precision": "float64", "guard_every": 1, **options}
    shape = {"samples": SAMPLES, "num_examples": NUM_EXAMPLES}
    step = Step(posterior, function, optimizer, world, **shape, **settings)
    own, losses = world.grid.own_examples(BATCH), []
    for i in range(3):
        x, y = batch(recipe, i)
        losses.append(step(x[own.start : own.stop], y[own.start : own.stop]))
    state = [value for values in optimizer.state.values() for value in values.values()]
    values = [*posterior.parameters(), *function.parameters(), *state]
    return torch.stack(losses), torch.cat([value.detach().flatten() for value in values])


@cache
def on_one_rank(loss: str, option: str) -> tuple[Tensor, Tensor]:
    return trained(World(Grid(1, 1, 0), torch.device("cpu")), loss, OPTIONS[option])


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_grid_gives_the_same(world: World, loss: str, option: str) -> None:
    got, expected = trained(world, loss, OPTIONS[option]), on_one_rank(loss, option)
    assert deviation(got[0], expected[0]) <= 1e-10
    assert deviation(got[1], expected[1]) <= 1e-10


def test_options_do_something() -> None:
    plain = on_one_rank("joint", "plain")[1]
    for option in ("warm-up", "clipping"):
        assert deviation(on_one_rank("joint", option)[1], plain) > 1e-4


# A run as the command makes it

CONTENT: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 12, "samples_per_pass": 5, "kl_warmup_steps": 3},
    "loss": {"name": "gaussian_nll", "variance": "learned"},
    "optimizer": {"name": "ivon", "beta2": 0.9},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 4,
        "batch_size": 12,
        "lr": 0.05,
        "precision": "float64",
        "device": "cpu",
        "guard_every": 1,
        "checkpoint_every": 2,
    },
}


def run(ranks: Group, folder: Path, sample_ranks: int = 1, *, resume: bool = False) -> Checkpoint:
    """Collective: train and return the last checkpoint."""
    world = start(ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        train(Settings.model_validate(CONTENT), world, RunFolder(folder), resume=resume)
    finally:
        world.stop()
    last = load(folder / "checkpoints" / "step-00000004.pt")
    ranks.gather(None, name="read")  # before another rank removes it
    return last


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


@pytest.mark.parametrize("first", divisors(ALL_RANKS.size))
def test_another_grid_goes_on_with_a_run(all_ranks: Group, folder: Path, first: int) -> None:
    """The checkpoint at step 2 holds h and momentum."""
    alone = folder / "alone"
    expected = all_ranks.on_first(lambda: run(ALONE, alone), name="alone")
    newest = folder / "run" / "checkpoints" / "step-00000004.pt"
    then = ALL_RANKS.size // first
    results = [run(all_ranks, folder / "run", first)]
    all_ranks.on_first(
        lambda: (newest.unlink(), RunFolder(folder / "run").summary.unlink()), name="newest"
    )
    results.append(run(all_ranks, folder / "run", then, resume=True))
    for result in results:
        for name, tensor in expected.posterior.items():
            assert torch.allclose(result.posterior[name], tensor, rtol=0, atol=1e-10), name
        assert result.optimizer["param_groups"][0]["steps"] == 4
        hessians = 0
        for number, state in expected.optimizer["state"].items():
            for key, value in state.items():
                hessians += key == "hessian"
                got = result.optimizer["state"][number][key]
                assert torch.allclose(got, value, rtol=1e-10, atol=1e-10), key
        assert hessians == 4
