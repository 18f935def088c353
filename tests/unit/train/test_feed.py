"""The feed of a rank: what it gives, counts and copies."""

import pytest
import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.files import count_read
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.feed import Batch, Feed, upload_to

WORLD = World(Grid(1, 1, 0), torch.device("cpu"))


class Counted:
    """Examples that take 30 bytes of a file each; y grows with the rollout."""

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Tensor, rollout: int = 1) -> tuple[Tensor, Tensor]:
        count_read(30 * len(indices))
        return indices[:, None].float(), indices[:, None] + torch.arange(rollout)


def test_batches_come_in_their_order_and_their_bytes_are_counted() -> None:
    batches = Batches(Counted(), batch_size=2, world=WORLD)
    feed = Feed(batches, range(1, 6), upload=None)
    for step in range(1, 6):
        for got, expected in zip(next(feed), batches.at(step), strict=True):
            assert torch.equal(got, expected)
    with pytest.raises(StopIteration):
        next(feed)
    feed.close()
    assert feed.bytes_read == 5 * 2 * 30


def test_batches_change_their_shape_where_rollouts_grow() -> None:
    rollouts = {0: 2, 1: 1}
    batches = Batches(
        Counted(), batch_size=4, world=WORLD, rollout=lambda epoch: rollouts.get(epoch, 3)
    )
    feed = Feed(batches, range(5), upload=None)
    assert [next(feed)[1].shape[1] for _ in range(5)] == [2, 2, 1, 1, 3]
    feed.close()


def test_batches_are_copied_by_the_thread_that_reads() -> None:
    """In front of the step; on a CPU nothing is copied."""

    def twice(batch: Batch) -> Batch:
        x, y = batch
        return 2 * x, y

    batches = Batches(Counted(), batch_size=2, world=WORLD)
    feed = Feed(batches, range(3), upload=twice)
    for step in range(3):
        assert torch.equal(next(feed)[0], 2 * batches.at(step)[0])
    feed.close()
    assert upload_to(torch.device("cpu")) is None


class Broken(Counted):
    """The third read fails."""

    agreed = True  # nothing is read at the start
    reads = 0

    def batch(self, indices: Tensor, rollout: int = 1) -> tuple[Tensor, Tensor]:
        self.reads += 1
        if self.reads == 3:
            raise OSError("era5.nc: 't2m' at 2001-01-01T06:00 cannot be read")
        return super().batch(indices)


def test_an_error_of_reading_is_raised_at_its_step() -> None:
    feed = Feed(Batches(Broken(), batch_size=2, world=WORLD), range(9), upload=None)
    next(feed), next(feed)
    with pytest.raises(OSError, match=r"^era5\.nc: 't2m' at 2001-01-01T06:00 cannot be read$"):
        next(feed)
    feed.close()
