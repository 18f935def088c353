"""Batches of which each sample rank reads a part, and which an exchange makes whole.

The exchange is made where the batch is handed over, by the training thread, as exchanges of all
ranks must come in one order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.data.batch_layout import BatchLayout
from hpc_bnn.data.prefetch import Prefetch
from hpc_bnn.data.sharding import part
from hpc_bnn.group import Group
from hpc_bnn.train.feed.feed import AHEAD, Batch, Reads


class GatheredFeed:
    """Start to read this rank's parts at ``steps``, the same on every rank of ``channel``."""

    def __init__(
        self, batches: Batches, steps: Sequence[int], layout: BatchLayout, channel: Group
    ) -> None:
        self.reads = Reads(layout.batch_bytes)
        self._batches, self._layout, self._channel = batches, layout, channel
        self._left = len(steps)
        parts = [part(layout.examples, rank, channel.size) for rank in range(channel.size)]
        self._own = parts[channel.rank]
        # An exchange moves equally much of each rank: smaller parts are filled up, and cut again.
        self._most = max(map(len, parts))
        rows = [rank * self._most + i for rank, own in enumerate(parts) for i in range(len(own))]
        self._rows = torch.tensor(rows) if layout.examples % channel.size else None
        self._ahead = Prefetch((self._read(step) for step in steps), depth=AHEAD)

    def __next__(self) -> Batch:
        """Collective over the channel: return the next batch."""
        if not self._left:
            raise StopIteration
        self._left -= 1
        x, y = self._channel.together(lambda: next(self._ahead), name="reading a batch")
        return self._whole(x), self._whole(y)

    def close(self) -> None:
        """End the thread."""
        self._ahead.close()

    def _read(self, step: int) -> Batch:
        x, y = self._layout.empty(self._most)
        count = len(self._own)
        for filled_up in (x[count:], y[count:]):
            filled_up.zero_()
        self.reads.count(lambda: self._batches.read_into(step, self._own, x[:count], y[:count]))
        return x, y

    def _whole(self, mine: Tensor) -> Tensor:
        gathered = self._channel.all_gather(mine, name="batch")
        return gathered if self._rows is None else gathered[self._rows]
