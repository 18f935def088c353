"""Scores of a test split are the same numbers on every grid: samples and examples are spread."""

from collections.abc import Callable
from threading import Lock

import pytest
import torch
from thread_group import on_ranks
from toy_step import INPUTS, LOSSES, OUTPUTS, posterior_of

from hpc_bnn.data import InMemory
from hpc_bnn.group import Group
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.scoring import score

CPU = torch.device("cpu")
ONE_AT_A_TIME = Lock()  # initial weights come from torch's generator, which threads share


def scored(
    world: World,
    loss: str,
    *,
    examples: int,
    batch_size: int,
    interrupt: Callable[[], None] | None = None,
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(examples, INPUTS, generator=generator)
    regression = torch.randn(examples, OUTPUTS, generator=generator)
    task = "classification" if loss == "categorical" else "regression"
    y = (x[:, 0] > 0).long() if task == "classification" else regression
    kind = LOSSES[loss]()
    with ONE_AT_A_TIME:
        posterior = posterior_of(kind)
        posterior.predict(x[:1].double(), samples=1)  # checks the network, as training has
    return score(
        posterior,
        kind,
        InMemory(x, y),
        world,
        task=task,
        output_shape=(OUTPUTS,),
        scale=None,
        samples=12,
        batch_size=batch_size,
        interrupt=interrupt,
    ).result()


@pytest.mark.parametrize("loss", ["categorical", "gaussian predicted", "almost fair crps"])
@pytest.mark.parametrize(("sample_ranks", "data_ranks"), [(2, 1), (1, 2), (3, 1), (2, 2), (2, 3)])
def test_every_grid_gives_the_same_scores(loss: str, sample_ranks: int, data_ranks: int) -> None:
    def work(all_ranks: Group) -> dict[str, float]:
        grid = Grid(sample_ranks, data_ranks, all_ranks.rank)
        sample = all_ranks.split(grid.data_rank, grid.sample_rank)
        data = all_ranks.split(grid.sample_rank, grid.data_rank)
        world = World(grid, CPU, all_ranks, sample, data)
        return scored(world, loss, examples=11, batch_size=4)

    alone = scored(World(Grid(1, 1, 0), CPU), loss, examples=11, batch_size=11)
    for result in on_ranks(sample_ranks * data_ranks, work):
        assert result == pytest.approx(alone, rel=1e-11, nan_ok=True)


@pytest.mark.filterwarnings("ignore:var")  # of a rank without examples
def test_more_data_ranks_than_examples() -> None:
    def work(all_ranks: Group) -> dict[str, float]:
        world = World(Grid(1, 4, all_ranks.rank), CPU, all_ranks, data_axis=all_ranks)
        return scored(world, "gaussian", examples=3, batch_size=4)

    alone = scored(World(Grid(1, 1, 0), CPU), "gaussian", examples=3, batch_size=4)
    for result in on_ranks(4, work):
        assert result == pytest.approx(alone, rel=1e-11)


@pytest.mark.parametrize(("examples", "calls"), [(11, 4), (2, 1)])
def test_every_rank_may_be_interrupted_equally_often(examples: int, calls: int) -> None:
    """At the same places, though not all have equally many batches: 3 data ranks, 1 at a time."""

    def work(all_ranks: Group) -> int:
        grid = Grid(2, 3, all_ranks.rank)
        sample = all_ranks.split(grid.data_rank, grid.sample_rank)
        world = World(grid, CPU, all_ranks, sample)
        rounds: list[list[int]] = []

        def interrupt() -> None:
            rounds.append(all_ranks.gather(len(rounds), name="interrupt"))

        scored(world, "gaussian", examples=examples, batch_size=3, interrupt=interrupt)
        assert all(len(set(met)) == 1 for met in rounds)
        return len(rounds)

    assert on_ranks(6, work) == [calls] * 6


def test_samples_that_the_sample_ranks_cannot_share() -> None:
    with pytest.raises(ValueError, match=r"posterior\.samples = 12: .* 5 sample ranks"):
        scored(World(Grid(5, 1, 0), CPU), "gaussian", examples=3, batch_size=4)
