"""``hb.save`` and ``hb.load``: a script that was stopped goes on, on any grid."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.data import InMemory
from hpc_bnn.group import Group
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import CheckpointError

TOTAL, SAVED, BATCH, SAMPLES = 6, 3, 12, 12
X = torch.linspace(-1, 1, 144, dtype=torch.float64).reshape(48, 3)
EXAMPLES = InMemory(X, X[:, :2].sin())


class Script:
    """A script of a user's own on some grid."""

    def __init__(self, world: World, method: str, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.posterior = (
            hb.Gaussian(network) if method == "gaussian" else hb.Ensemble(network, samples=SAMPLES)
        )
        loss = hb.losses.gaussian_nll(sigma=0.5)
        self.optimizer = torch.optim.Adam(self.posterior.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.8)
        self.step = hb.Step(
            self.posterior, loss, self.optimizer, world, samples=SAMPLES, num_examples=48
        )
        self.batches = hb.Batches(EXAMPLES, batch_size=BATCH, world=world)

    def go(self, until: int) -> list[float]:
        losses = []
        for number in range(self.step.step, until):
            losses.append(float(self.step(*self.batches.at(number))))
            self.scheduler.step()
        return losses

    def save(self, path: Path) -> None:
        hb.save(path, self.posterior, self.optimizer, self.step, scheduler=self.scheduler)

    def load(self, path: Path) -> int:
        return hb.load(path, self.posterior, self.optimizer, self.step, scheduler=self.scheduler)

    def state(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.posterior.state_dict().items()}


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


@pytest.mark.parametrize("method", ["gaussian", "ensemble"])
def test_the_same_grid_goes_on_bit_for_bit(world: World, folder: Path, method: str) -> None:
    whole, first = Script(world, method), Script(world, method)
    losses = whole.go(TOTAL)
    first.go(SAVED)
    first.save(folder / f"{method}.pt")
    resumed = Script(world, method, seed=1)
    assert resumed.load(folder / f"{method}.pt") == SAVED
    assert resumed.go(TOTAL) == losses[SAVED:]
    for name, tensor in whole.state().items():
        assert torch.equal(resumed.state()[name], tensor), name


@pytest.mark.parametrize("method", ["gaussian", "ensemble"])
def test_another_grid_goes_on(world: World, solo: World, folder: Path, method: str) -> None:
    """One rank begins, all of them go on; and back."""
    path = folder / f"alone-{method}.pt"
    whole = Script(solo, method)
    losses = whole.go(TOTAL)
    if world.is_first:
        begun = Script(solo, method)
        begun.go(SAVED)
        begun.save(path)
    world.all_ranks.gather(None, name="saved")
    spread = Script(world, method, seed=1)
    assert spread.load(path) == SAVED
    assert spread.go(SAVED + 1) == pytest.approx(losses[SAVED : SAVED + 1], rel=1e-12)
    spread.save(path)
    back = Script(solo, method, seed=2)
    assert back.load(path) == SAVED + 1
    assert back.go(TOTAL) == pytest.approx(losses[SAVED + 1 :], rel=1e-12)
    for name, tensor in whole.state().items():
        torch.testing.assert_close(back.state()[name], tensor, rtol=1e-9, atol=1e-12)


def test_a_file_that_is_not_there_ends_every_rank(world: World, folder: Path) -> None:
    script = Script(world, "gaussian")
    with pytest.raises((CheckpointError, RuntimeError), match=r"no such checkpoint"):
        script.load(folder / "none.pt")
    path = folder / "none.pt"
    assert hb.load(path, script.posterior, script.optimizer, script.step, missing_ok=True) == 0
