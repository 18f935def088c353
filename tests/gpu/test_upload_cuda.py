"""Batches copied to a GPU beside the step are the batches; no memory is used too early."""

import pytest
import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.feed import Feed, upload_to

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


def test_batches_arrive_whole() -> None:
    """The kernels that use a batch are still queued when the next ones are copied."""
    batches = Batches(Large(), batch_size=4, world=WORLD, seed=1)
    feed = Feed(batches, range(STEPS), upload=upload_to(WORLD.device))
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
