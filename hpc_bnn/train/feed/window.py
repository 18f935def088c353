"""Batches that the sample ranks of a node read together into shared memory (``ring.py``).

All waiting is done by the thread that reads ahead, which looks at the counters of the others and
sleeps; no exchange is made. The training thread only takes what is complete.
"""

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from hpc_bnn.data import Batches
from hpc_bnn.data.prefetch import Prefetch
from hpc_bnn.data.sharding import part
from hpc_bnn.group import RankError
from hpc_bnn.train.feed.feed import AHEAD, Batch, Reads, Upload, depth
from hpc_bnn.train.feed.ring import Ring

SLOTS = AHEAD + 1  # and the one in use
# A look at the counters comes late by at most so much, and by at most a quarter of the wait.
FIRST_PAUSE_S, LONGEST_PAUSE_S, GROWTH = 5e-5, 1e-2, 1.25


class WindowFeed:
    """Collective over the ranks of the ring: start to read ``steps``, the same on each of them.

    Parameters
    ----------
    upload
        Copies a batch to the device, from the thread; None: it is used where it lies.
    stall_timeout_s
        Longest time that the training thread waits for a batch but the first while a rank lags;
        0: for ever.
    """

    def __init__(
        self,
        batches: Batches,
        steps: Sequence[int],
        ring: Ring,
        *,
        upload: Upload | None,
        stall_timeout_s: float,
    ) -> None:
        self.reads = Reads(ring.layout.batch_bytes)
        self._batches, self._steps, self._ring = batches, steps, ring
        self._upload, self._stall_timeout_s = upload, stall_timeout_s
        self._own = part(ring.layout.examples, ring.rank, ring.size)
        self._taken = 0
        self._asked_at: float | None = None
        self._stop = threading.Event()
        ring.begin()
        self._ahead = Prefetch(self._complete(), depth=depth(upload))

    def __next__(self) -> Batch:
        if self._upload is None:
            self._ring.release(self._taken - 1)
        self._asked_at = time.monotonic()
        batch = next(self._ahead)
        self._asked_at = None
        self._taken += 1
        return batch

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._ahead.close()

    def _complete(self) -> Iterator[Batch]:
        """Give the items when all ranks have put their parts; runs in the thread."""
        for item, step in enumerate(self._steps):
            if not self._wait(item, self._ring.occupied_by, "made room for"):
                return
            try:
                self._fill(item, step)
            except BaseException as error:  # whatever it is, the other ranks must hear of it
                said = "".join(traceback.format_exception_only(error)).strip()
                self._ring.fail(item, said)
                raise
            if not self._wait(item, self._ring.lacking, "read its part of"):
                return
            batch = self._ring.item(item)
            if self._upload is not None:
                batch = self._upload(batch)
                self._ring.release(item)
            yield batch

    def _fill(self, item: int, step: int) -> None:
        x, y = (whole[self._own.start : self._own.stop] for whole in self._ring.item(item))
        self.reads.count(lambda: self._batches.read_into(step, self._own, x, y))
        self._ring.fill(item)

    def _wait(self, item: int, behind: Callable[[int], list[int]], what: str) -> bool:
        """Wait until no rank is behind; False: the feed is closed."""
        pause = FIRST_PAUSE_S
        while ranks := behind(item):
            if self._stop.is_set():
                return False
            for rank, text in self._ring.failures(item).items():
                raise RankError(f"reading a batch: sample rank {rank} failed: {text}")
            asked_at = self._asked_at
            waited = 0.0 if asked_at is None else time.monotonic() - asked_at
            # The first batch takes each rank its own time: files are opened, caches are filled.
            if self._taken and self._stall_timeout_s and waited > self._stall_timeout_s:
                raise TimeoutError(
                    f"data.share = window: sample rank {ranks[0]} of {self._ring.size} has not "
                    f"{what} the batch of step {self._steps[item]} in "
                    f"{self._stall_timeout_s:g} s: it is stuck or gone; raise "
                    "train.stall_timeout if it was only slow"
                )
            time.sleep(pause)
            pause = min(GROWTH * pause, LONGEST_PAUSE_S)
        return True
