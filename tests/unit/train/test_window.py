"""Batches that ranks read together, on threads as ranks: how long one waits for another."""

import time
from dataclasses import dataclass

import pytest
from test_ring import SLOTS, ring_of
from thread_group import on_ranks, outcomes
from torch import Tensor

from hpc_bnn.group import Group
from hpc_bnn.train.feed.window import WindowFeed

LIMIT_S, SLOW_S = 0.05, 0.2


@dataclass
class Slow:
    """Batches of zeros, one of which takes long to read."""

    slow_step: int | None

    def read_into(self, step: int, part: range, x: Tensor, y: Tensor) -> None:
        if step == self.slow_step:
            time.sleep(SLOW_S)
        x.zero_(), y.zero_()


def taken(channel: Group, slow_step: int) -> int:
    """Return how many batches a rank gets where reading one takes rank 1 longer than the limit."""
    batches = Slow(slow_step if channel.rank == 1 else None)
    feed = WindowFeed(
        batches,  # type: ignore[arg-type]
        range(2 * SLOTS),
        ring_of(channel),
        upload=None,
        stall_timeout_s=LIMIT_S,
    )
    try:
        return len([next(feed) for _ in range(2 * SLOTS)])
    finally:
        feed.close()


def test_the_first_batch_may_take_as_long_as_it_likes() -> None:
    assert on_ranks(2, lambda channel: taken(channel, 0)) == [2 * SLOTS] * 2


def test_a_later_one_may_not() -> None:
    first = outcomes(2, lambda channel: taken(channel, SLOTS + 1))[0]
    assert isinstance(first, TimeoutError)
    with pytest.raises(TimeoutError, match="sample rank 1 of 2 has not read its part of"):
        raise first
