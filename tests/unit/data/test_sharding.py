"""The order of examples: pure functions of seed and epoch, and passes in turn."""

import pytest
import torch

from hpc_bnn.data.sharding import epoch_order, in_turn, steps_per_epoch


@pytest.mark.parametrize("num_examples", [1, 2, 3, 7, 64, 1000])
def test_an_epoch_visits_every_example_once(num_examples: int) -> None:
    for epoch in range(3):
        order = epoch_order(num_examples, seed=5, epoch=epoch)
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(num_examples))


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = [epoch_order(50, seed=s, epoch=e) for s in range(4) for e in range(5)]
    assert len({tuple(order.tolist()) for order in orders}) == 20


def test_the_order_is_a_function_of_seed_and_epoch_only() -> None:
    first = epoch_order(100, seed=9, epoch=3)
    torch.manual_seed(1)
    epoch_order(7, seed=1, epoch=0)
    assert torch.equal(epoch_order(100, seed=9, epoch=3), first)


def test_every_example_comes_first_about_equally_often() -> None:
    """Chi-square over 2000 epochs of 10 examples; 9 degrees of freedom, 99.99 % below 33.7."""
    firsts = torch.stack([epoch_order(10, seed=0, epoch=e)[0] for e in range(2000)])
    counts = torch.bincount(firsts, minlength=10).double()
    assert float(((counts - 200).square() / 200).sum()) < 33.7


def test_steps_per_epoch_drops_what_is_left_over() -> None:
    assert [steps_per_epoch(n, 4) for n in (4, 7, 8, 11)] == [1, 1, 2, 2]


@pytest.mark.parametrize("data_ranks", range(1, 9))
def test_in_turn_partitions_in_order(data_ranks: int) -> None:
    for num_examples in range(51):
        parts = [
            in_turn(num_examples, data_rank=d, data_ranks=data_ranks) for d in range(data_ranks)
        ]
        assert torch.equal(torch.cat(parts), torch.arange(num_examples))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
