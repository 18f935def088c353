"""The axis that the other tests rely on: its collectives, and what it refuses."""

from threading import BrokenBarrierError

import pytest
import torch
from thread_axis import ThreadAxis, on_ranks

from hpc_bnn.losses.axis import LocalAxis, SampleAxis

RANKS = (1, 2, 3, 4)


@pytest.mark.parametrize("size", RANKS)
def test_collectives_equal_their_definitions(size: int) -> None:
    held = torch.arange(size * size * 2, dtype=torch.float64).reshape(size, size, 2).cos()

    def work(axis: SampleAxis) -> tuple[torch.Tensor, ...]:
        mine = held[axis.rank]
        return (
            axis.all_reduce(mine, reduction="sum", name="sum"),
            axis.all_reduce(mine, reduction="max", name="max"),
            axis.all_gather(mine, name="gather"),
            axis.all_to_all(mine, name="exchange"),
        )

    for rank, (total, largest, gathered, exchanged) in enumerate(on_ranks(size, work)):
        assert torch.allclose(total, held.sum(0), rtol=1e-15, atol=1e-15)
        assert torch.equal(largest, held.amax(0))
        assert torch.equal(gathered, held.flatten(0, 1))
        assert torch.equal(exchanged, held[:, rank])


def test_local_axis_is_an_axis_of_one_rank() -> None:
    x = torch.randn(1, 3)
    local = LocalAxis()
    assert (local.size, local.rank) == (1, 0)
    summed = local.all_reduce(x, reduction="sum", name="sum")
    assert torch.equal(summed, x) and summed.data_ptr() != x.data_ptr()  # a new tensor
    assert torch.equal(local.all_gather(x, name="gather"), x)
    assert torch.equal(local.all_to_all(x, name="exchange"), x)


def test_ranks_that_meet_in_different_collectives_are_refused() -> None:
    def work(axis: SampleAxis) -> torch.Tensor:
        return axis.all_reduce(torch.ones(axis.rank + 1), reduction="sum", name="uneven")

    with pytest.raises(ValueError, match="different collectives"):
        on_ranks(2, work)


def test_the_error_of_one_rank_ends_all() -> None:
    def work(axis: SampleAxis) -> None:
        if axis.rank == 1:
            raise KeyError("rank 1")
        with pytest.raises(BrokenBarrierError):
            axis.all_gather(torch.ones(1), name="never")

    with pytest.raises(KeyError, match="rank 1"):
        on_ranks(3, work)


def test_calls_are_recorded() -> None:
    def work(axis: SampleAxis) -> list[str]:
        axis.all_gather(torch.ones(1), name="first")
        axis.all_reduce(torch.ones(1), reduction="max", name="second")
        assert isinstance(axis, ThreadAxis)
        return axis.calls

    assert on_ranks(2, work) == [["first", "second"]] * 2
