"""Slots in memory that ranks share, which they fill and empty together without any exchange.

The items of a run are its batches in their order, counted from 0; item i lies in slot i mod slots.
Every rank puts its part of every item into the slot and reads all of it. Each rank writes its own
counters only, and the others look at them:

    filled      items that this rank has put its part of
    released    items that this rank needs no more
    failed      1 + the item that this rank could not read, and its error as text

A rank may write into the slot of item i once all have released item i - slots, and may read it once
all have filled item i. The order of writes is kept by a memory barrier (``sync``) between the data
and the counter that speaks of them, on both sides: processors other than x86 reorder writes.
"""

import numpy as np
import torch
from torch import Tensor

from hpc_bnn.data.batch_layout import ALIGNED, BatchLayout
from hpc_bnn.group import Group
from hpc_bnn.parallel.shared_memory import SharedMemory

FILLED, RELEASED, FAILED = 0, 1, 2
TEXT_BYTES = 4096  # of an error, for the other ranks


class Ring:
    """One rank's view of the slots.

    Parameters
    ----------
    memory
        ``bytes_needed`` bytes, the same on every rank of ``channel``.
    channel
        The ranks that share them.
    """

    def __init__(
        self, memory: SharedMemory, layout: BatchLayout, channel: Group, *, slots: int
    ) -> None:
        self.layout, self.slots = layout, slots
        self.rank, self.size = channel.rank, channel.size
        self._memory, self._channel = memory, channel
        counters, texts = self.size * ALIGNED, self.size * TEXT_BYTES
        # A line of the cache for each rank: no rank slows another one's counters.
        self._counters = memory.array[:counters].view(np.int64).reshape(self.size, -1)
        self._texts = memory.array[counters : counters + texts].reshape(self.size, TEXT_BYTES)
        slot = layout.slot_bytes
        places = memory.array[counters + texts :][: slots * slot].reshape(slots, slot)
        self._items = [layout.place(torch.from_numpy(place)) for place in places]

    @staticmethod
    def bytes_needed(layout: BatchLayout, *, ranks: int, slots: int) -> int:
        """Return how much memory the slots and counters take."""
        return ranks * (ALIGNED + TEXT_BYTES) + slots * layout.slot_bytes

    def begin(self) -> None:
        """Collective over the ranks that share the memory: count from 0 again; nobody may be at
        work.
        """
        self._channel.gather(None, name="slots of batches")
        self._counters[self.rank] = 0
        self._memory.sync()
        self._channel.gather(None, name="slots of batches")

    def item(self, item: int) -> tuple[Tensor, Tensor]:
        """Return x and y of an item, in place."""
        return self._items[item % self.slots]

    def occupied_by(self, item: int) -> list[int]:
        """Return the ranks that still need what lies in the slot of an item."""
        return self._behind(RELEASED, item - self.slots)

    def lacking(self, item: int) -> list[int]:
        """Return the ranks that have not put their part of an item."""
        return self._behind(FILLED, item)

    def failures(self, item: int) -> dict[int, str]:
        """Return the ranks that could not read an item, or one before it, and why."""
        self._memory.sync()
        found = [r for r in range(self.size) if 0 < self._counters[r, FAILED] <= item + 1]
        self._memory.sync()
        return {r: bytes(self._texts[r]).rstrip(b"\0").decode(errors="replace") for r in found}

    def fill(self, item: int) -> None:
        """Say that this rank's part of an item, and of all before it, is there."""
        self._set(FILLED, item + 1)

    def release(self, item: int) -> None:
        """Say that this rank needs an item, and all before it, no more."""
        self._set(RELEASED, item + 1)

    def fail(self, item: int, text: str) -> None:
        """Say that this rank cannot read an item."""
        said = text.encode()[:TEXT_BYTES]
        self._texts[self.rank, : len(said)] = np.frombuffer(said, np.uint8)
        self._texts[self.rank, len(said) :] = 0
        self._set(FAILED, item + 1)

    def free(self) -> None:
        """Collective over the ranks that share the memory: give it back; no item may be in use."""
        self._items = []
        self._counters, self._texts = np.empty((0, 0), np.int64), np.empty((0, 0), np.uint8)
        self._memory.free()

    def _behind(self, counter: int, item: int) -> list[int]:
        self._memory.sync()
        behind = np.flatnonzero(self._counters[:, counter] <= item).tolist()
        self._memory.sync()
        return behind

    def _set(self, counter: int, value: int) -> None:
        self._memory.sync()
        self._counters[self.rank, counter] = value
        self._memory.sync()
