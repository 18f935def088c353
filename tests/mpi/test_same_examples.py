"""Ranks that hold different data sets are refused on every rank, and equal ones are accepted."""

import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

import hpc_bnn as hb
from hpc_bnn.data import InMemory
from hpc_bnn.group import Group
from hpc_bnn.parallel.grid import Grid

N = 60
X, Y = torch.arange(float(N)).repeat(6, 1).T.contiguous() / N, torch.arange(N) % 3
WHOLE = TensorDataset(X, Y)


class Batched:
    """Examples of a user's own that read a batch at a time."""

    def __init__(self, order: Tensor) -> None:
        self.order = order

    def __len__(self) -> int:
        return N

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return X[self.order[indices]], Y[self.order[indices]]


class Views(Dataset[tuple[Tensor, int]]):
    """Examples with a random view at every read, in an order of their own."""

    def __init__(self, order: list[int], draw: Callable[[], float]) -> None:
        self.order, self.draw = order, draw

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[self.order[index]] + self.draw(), self.order[index]


class Fails(Views):
    """An example that some rank cannot read."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        raise OSError(f"image_{index}.png is not there")


def batches(data: Any, all_ranks: Group, *, sample_ranks: int = 1) -> hb.Batches:
    grid = Grid(sample_ranks, all_ranks.size // sample_ranks, all_ranks.rank)
    world = hb.World(grid, torch.device("cpu"), all_ranks)
    return hb.Batches(data, batch_size=all_ranks.size * 2, world=world)


def shuffled(seed: int) -> list[int]:
    order = list(range(N))
    random.Random(seed).shuffle(order)
    return order


def states() -> tuple[object, ...]:
    """Return those of the generators that a user's transforms draw from."""
    arrays: Any = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), arrays[1].tolist(), random.getstate()


def generator(rank: int) -> torch.Generator:
    return torch.Generator().manual_seed(rank)


DIFFERENT: dict[str, Callable[[int], Any]] = {
    "split": lambda rank: random_split(WHOLE, [48, 12], generator(rank))[0],
    "list": lambda rank: [WHOLE[i] for i in shuffled(rank)],
    "own batches": lambda rank: Batched(torch.tensor(shuffled(rank))),
    "in memory": lambda rank: InMemory(X[shuffled(rank)], Y[shuffled(rank)]),
    "targets only": lambda rank: InMemory(X, (Y + rank) % 3),
    # Two of 60 are exchanged: none of them is read.
    "subset": lambda rank: Subset(WHOLE, [*range(58), 58 + rank % 2, 59 - rank % 2]),
    "concatenated": lambda rank: ConcatDataset(
        [Subset(WHOLE, range(20)), Subset(WHOLE, [*range(39), 39 + rank])]
    ),
    "nested": lambda rank: Subset(Subset(WHOLE, [*range(58), 58 + rank % 2]), range(59)),
    "length": lambda rank: TensorDataset(X[: N - rank], Y[: N - rank]),
    "type": lambda rank: TensorDataset(X.double() if rank else X, Y),
    "views": lambda rank: Views(shuffled(rank), lambda: float(torch.rand(()))),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_every_rank_hears_that_the_data_sets_differ(all_ranks: Group, kind: str) -> None:
    if all_ranks.size == 1:
        batches(DIFFERENT[kind](0), all_ranks)
        return
    with pytest.raises(ValueError, match="the examples of equal index differ between ranks"):
        batches(DIFFERENT[kind](all_ranks.rank), all_ranks)


def test_the_example_and_the_ranks_are_named(all_ranks: Group) -> None:
    if all_ranks.size == 1:
        pytest.skip("one rank cannot differ from another")
    odd = all_ranks.rank == 1
    with pytest.raises(ValueError, match=r"example 0 of 60 .* world rank 1 than on world rank 0"):
        batches(Batched(torch.arange(N).flip(0) if odd else torch.arange(N)), all_ranks)
    with pytest.raises(ValueError, match="world rank 0 holds 60 of them, world rank 1 7"):
        batches(TensorDataset(X[:7], Y[:7]) if odd else WHOLE, all_ranks)


def test_a_rank_that_cannot_read_is_named_on_all(all_ranks: Group) -> None:
    last = all_ranks.size - 1
    data = Fails(shuffled(0), float) if all_ranks.rank == last else WHOLE
    if all_ranks.size == 1:
        with pytest.raises(OSError, match="image_"):
            batches(data, all_ranks).at(0)
        return
    error, words = (
        (OSError, "image_0.png")
        if all_ranks.rank == last
        else (ValueError, f"world rank {last} cannot be read: OSError: image_0.png is not there")
    )
    with pytest.raises(error, match=words):
        batches(data, all_ranks)


@pytest.mark.parametrize("sample_ranks", [1, 2])
def test_equal_data_sets_are_accepted_and_generators_stay(
    all_ranks: Group, sample_ranks: int
) -> None:
    if all_ranks.size % sample_ranks:
        pytest.skip("no such grid")
    torch.manual_seed(all_ranks.rank)
    np.random.seed(all_ranks.rank)  # noqa: NPY002
    random.seed(all_ranks.rank)
    before = states()
    for data in (WHOLE, random_split(WHOLE, [48, 12], generator(0))[0], Batched(torch.arange(N))):
        assert len(batches(data, all_ranks, sample_ranks=sample_ranks)) > 0
    for draw in (random.random, np.random.rand, lambda: float(torch.rand(()))):
        batches(Views(shuffled(0), draw), all_ranks, sample_ranks=sample_ranks)
    assert states() == before


@pytest.mark.parametrize("own", [False, True])
def test_random_views_are_told_once(
    all_ranks: Group, caplog: pytest.LogCaptureFixture, own: bool
) -> None:
    """Drawn from torch's generator or from one of the data set's own."""
    numbers = np.random.default_rng(all_ranks.rank)
    draw = numbers.random if own else lambda: float(torch.rand(()))
    with caplog.at_level(logging.WARNING):
        batches(Views(shuffled(0), draw), all_ranks)
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == (all_ranks.size > 1 and all_ranks.rank == 0)
    assert all("example 0 of the data set is another one at every read" in text for text in told)


def test_an_order_is_seen_beside_random_views(all_ranks: Group) -> None:
    """Labels tell it where no seed makes the views equal."""
    if all_ranks.size == 1:
        pytest.skip("one rank cannot differ from another")
    numbers = np.random.default_rng(all_ranks.rank)
    with pytest.raises(ValueError, match="the examples of equal index differ"):
        batches(Views(shuffled(all_ranks.rank), numbers.random), all_ranks)
