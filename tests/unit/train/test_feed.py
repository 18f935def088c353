"""The feed of a rank that reads by itself: what it gives, counts and copies."""

import math

import pytest
import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.data.read_count import count_read
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.feed.feed import Batch, OwnFeed
from hpc_bnn.train.feed.report import data_report
from hpc_bnn.train.feed.sharing import Sharing, cheapest
from hpc_bnn.train.feed.upload import upload_to

WORLD = World(Grid(1, 1, 0), torch.device("cpu"))


class Counted:
    """Examples of 12 bytes that take 30 bytes of a file each."""

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        count_read(30 * len(indices))
        return indices[:, None].float(), indices


def test_a_rank_alone_reads_its_batches_whatever_is_asked() -> None:
    for asked in ("auto", "window", "allgather", "each"):
        batches = Batches(Counted(), batch_size=2, world=WORLD)
        sharing = Sharing(WORLD, batches, asked=asked, reads_files=True, stall_timeout_s=0.0)
        sharing.choose(range(3))
        feed = sharing.open(range(3))
        for step in range(3):
            for got, expected in zip(next(feed), batches.at(step), strict=True):
                assert torch.equal(got, expected)
        with pytest.raises(StopIteration):
            next(feed)
        feed.close()
        sharing.free()
        assert (sharing.mode, sharing.tested_s) == ("each", {})
        report = data_report(
            WORLD, sharing, feed.reads, batch_size=2, samples=3, times_s=[1.0, 2.0], waits_s=[1, 0]
        )
        assert report == {
            "share": "each",
            "share_test_s": {},
            "bytes_read": 180,
            "batch_bytes": 24,
            "read_amplification": 60 / 24,
            "wait_share": 0.25,
            "examples_per_s": 1.0,
            "samples_per_s": 3.0,
        }


def test_a_report_of_no_step() -> None:
    batches = Batches(Counted(), batch_size=2, world=WORLD)
    sharing = Sharing(WORLD, batches, asked="auto", reads_files=True, stall_timeout_s=0.0)
    sharing.choose(range(0))
    feed = sharing.open(range(0))
    feed.close()
    report = data_report(
        WORLD, sharing, feed.reads, batch_size=2, samples=3, times_s=[], waits_s=[]
    )
    assert report["bytes_read"] == 0
    for rate in ("read_amplification", "wait_share", "examples_per_s", "samples_per_s"):
        assert math.isnan(report[rate]), rate  # not measured, and not zero


def test_batches_are_copied_by_the_thread_that_reads() -> None:
    """In front of the step; on a CPU nothing is copied."""

    def twice(batch: Batch) -> Batch:
        x, y = batch
        return 2 * x, y

    batches = Batches(Counted(), batch_size=2, world=WORLD)
    feed = OwnFeed(batches, range(3), upload=twice)
    for step in range(3):
        assert torch.equal(next(feed)[0], 2 * batches.at(step)[0])
    feed.close()
    assert upload_to(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("each", "allgather", "window", "expected"),
    [
        (14.8, 12.2, 13.8, "window"),  # an exchange that nothing hides saves too little
        (13.8, 12.2, 14.8, "each"),
        (40.0, 10.0, 25.0, "allgather"),
        (40.0, 10.0, 15.0, "window"),
    ],
)
def test_an_exchange_between_steps_must_save_more_than_one_beside_them(
    each: float, allgather: float, window: float, expected: str
) -> None:
    assert cheapest({"each": each, "allgather": allgather, "window": window}) == expected
    assert cheapest({"each": 3 * allgather, "allgather": allgather}) == "allgather"
