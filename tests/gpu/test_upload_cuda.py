"""Batches copied to a GPU beside the step are the batches; no memory is used too early."""

import pytest
import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.data.batch_layout import BatchLayout
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.feed.feed import Feed, OwnFeed
from hpc_bnn.train.feed.ring import Ring
from hpc_bnn.train.feed.upload import upload_to
from hpc_bnn.train.feed.window import SLOTS, WindowFeed

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

STEPS = 40
WORLD = World(Grid(1, 1, 0), torch.device("cuda", 0))


class Large:
    """Examples of 4 MB, each of one number."""

    def __len__(self) -> int:
        return 16

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return indices[:, None].float().expand(-1, 1 << 20).contiguous(), indices


def feed_of(way: str, batches: Batches) -> Feed:
    upload = upload_to(WORLD.device)
    assert upload is not None
    if way == "each":
        return OwnFeed(batches, range(STEPS), upload=upload)
    layout: BatchLayout = batches.layout(0)
    memory = ALONE.shared_memory(Ring.bytes_needed(layout, ranks=1, slots=SLOTS))
    ring = Ring(memory, layout, ALONE, slots=SLOTS)
    return WindowFeed(batches, range(STEPS), ring, upload=upload, stall_timeout_s=60.0)


@pytest.mark.parametrize("way", ["each", "window"])
def test_batches_arrive_whole(way: str) -> None:
    """The kernels that use a batch are still queued when the next ones are copied."""
    batches = Batches(Large(), batch_size=4, world=WORLD, seed=1)
    feed = feed_of(way, batches)
    busy = torch.randn(2048, 2048, device=WORLD.device)
    sums, labels = [], []
    for _ in range(STEPS):
        x, y = next(feed)
        assert x.device == y.device == WORLD.device
        busy = (busy @ busy).clamp(-1, 1)
        sums.append((x + 0 * busy[0, 0]).double().sum(1))
        labels.append(y.clone())
    feed.close()
    for step, (total, label) in enumerate(zip(sums, labels, strict=True)):
        expected = batches.indices(step)
        assert torch.equal(label.cpu(), expected)
        assert torch.equal(total.cpu(), expected.double() * (1 << 20))
