"""Batches copied to a device beside the step are the batches; no memory is used too early."""

import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.feed import Feed, upload_to

# Of an example, 4 MB on a GPU; of the matrix that keeps the device busy; steps.
SIZES = {"cuda": (1 << 20, 2048, 40), "cpu": (1 << 10, 64, 8)}


class Large:
    """Examples of ``size`` times one number."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return 16

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return indices[:, None].float().expand(-1, self._size).contiguous(), indices


def test_batches_arrive_whole(device: torch.device) -> None:
    """The kernels that use a batch are still queued when the next ones are copied."""
    size, edge, steps = SIZES[device.type]
    world = World(Grid(1, 1, 0), device)
    batches = Batches(Large(size), batch_size=4, world=world, seed=1)
    feed = Feed(batches, range(steps), upload=upload_to(device))
    busy = torch.randn(edge, edge, device=device)
    sums, labels = [], []
    for _ in range(steps):
        x, y = next(feed)
        assert x.device.type == y.device.type == device.type
        busy = (busy @ busy).clamp(-1, 1)
        sums.append((x + 0 * busy[0, 0]).double().sum(1))
        labels.append(y.clone())
    feed.close()
    for step, (total, label) in enumerate(zip(sums, labels, strict=True)):
        expected = batches.indices(step)
        assert torch.equal(label.cpu(), expected)
        assert torch.equal(total.cpu(), expected.double() * size)
