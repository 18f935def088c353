"""Opens the feed of a run as ``data.share`` says; ``auto`` is decided by a test of about a second.

The test reads batches of the coming steps in each way, in turns, each way another batch, so that
none finds in memory what the one before it has read. A way takes as long as its slowest rank. What
is timed is a batch alone; ``cheapest`` says what of it a step would feel.
"""

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from statistics import median

import torch

from hpc_bnn.data import Batches
from hpc_bnn.data.batch_layout import BatchLayout
from hpc_bnn.parallel.guards import agree
from hpc_bnn.parallel.world import World
from hpc_bnn.train.feed.feed import Feed, OwnFeed
from hpc_bnn.train.feed.gathered import GatheredFeed
from hpc_bnn.train.feed.memory import APART, make_ring
from hpc_bnn.train.feed.ring import Ring
from hpc_bnn.train.feed.stretches import StretchedFeed
from hpc_bnn.train.feed.upload import upload_to
from hpc_bnn.train.feed.window import SLOTS, WindowFeed

log = logging.getLogger(__name__)

TEST_S = 1.0
MOST_TURNS = 8
# Reading goes on beside the step, the exchange of allgather does not: it must save more than that.
EXPOSED = 2.0


class Sharing:
    """How the ranks of a sample axis come by their batches.

    Parameters
    ----------
    asked
        ``data.share``.
    reads_files
        False: the examples are in memory, so that there is nothing to test.
    stall_timeout_s
        Longest time that ranks wait for one another; 0: for ever.

    Attributes
    ----------
    mode
        ``each``, ``window`` or ``allgather``, once it is chosen.
    tested_s
        What a batch took in each way where it was tested.
    """

    def __init__(
        self,
        world: World,
        batches: Batches,
        *,
        asked: str,
        reads_files: bool,
        stall_timeout_s: float,
    ) -> None:
        self.mode = "each"
        self.tested_s: dict[str, float] = {}
        self._world, self._batches, self._asked = world, batches, asked
        self._reads_files, self._stall_timeout_s = reads_files, stall_timeout_s
        self._upload = upload_to(world.device)
        self._ring: Ring | None = None

    def choose(self, steps: range) -> None:
        """Collective over the world: choose the way in which batches of ``steps`` come.

        Raises
        ------
        MemoryError
            If MPI fails to make shared memory on some ranks only.
        """
        if self._alone(steps):
            return
        steps = self._batches.stretches(steps)[0]
        self._layout = self._layout_of(steps)
        if self._asked in ("auto", "window"):
            self._make_ring()
        if self._asked == "auto":
            self._test(steps)
        else:
            self.mode = self._asked
        if self._ring is None and self.mode == "window":
            self.mode = "allgather"
        if self.mode != "window":
            self.free()

    def open(self, steps: range) -> Feed:
        """Collective over the world: start to read the batches of ``steps`` in the way that was
        chosen; the feed before must be closed on all ranks.
        """
        stretches = self._batches.stretches(steps)
        if len(stretches) == 1:
            return self._start(self.mode, steps)
        return StretchedFeed(stretches, self._open_stretch)

    def _open_stretch(self, steps: range) -> Feed:
        """Collective over the world: make room for batches of another shape, and read them."""
        if self.mode != "each":
            layout = self._layout_of(steps)
            if self.mode == "window" and layout != self._layout:
                self.free()
                self._layout = layout
                self._make_ring()
                self.mode = "window" if self._ring is not None else "allgather"
            self._layout = layout
        return self._start(self.mode, steps)

    def free(self) -> None:
        """Collective over the world: give shared memory back; the feed must be closed, and its last
        batch no longer used.
        """
        if self._ring is not None:
            self._ring.free()
            self._ring = None

    def _alone(self, steps: Sequence[int]) -> bool:
        """Tell whether each rank reads by itself without further ado."""
        if self._asked == "each" or self._world.grid.sample_ranks == 1 or not steps:
            return True
        few = len(self._batches.indices(steps[0])) < 2
        return self._asked == "auto" and (few or not self._reads_files)

    def _layout_of(self, steps: range) -> BatchLayout:
        """Collective over the world: learn what batches look like."""
        layout = self._world.all_ranks.together(
            lambda: self._batches.layout(steps[0]), name="the first example"
        )
        agree(self._world.all_ranks, {"batch": layout}, name="data.share")
        return layout

    def _make_ring(self) -> None:
        made = make_ring(self._world, self._layout, slots=SLOTS)
        if isinstance(made, Ring):
            self._ring = made
        elif self._world.is_first:
            # Where nobody asked for it and it cannot be, that is no news.
            expected = self._asked == "auto" and made == APART
            log.log(
                logging.INFO if expected else logging.WARNING,
                "data.share = %s: no shared memory, %s instead: %s",
                self._asked,
                "allgather or each" if self._asked == "auto" else "allgather",
                made,
            )

    def _start(self, mode: str, steps: Sequence[int]) -> Feed:
        if mode == "each":
            return OwnFeed(self._batches, steps, upload=self._upload)
        if mode == "allgather":
            return GatheredFeed(self._batches, steps, self._layout, self._world.sample_axis)
        assert self._ring is not None
        return WindowFeed(
            self._batches,
            steps,
            self._ring,
            upload=self._upload,
            stall_timeout_s=self._stall_timeout_s,
        )

    def _test(self, steps: Sequence[int]) -> None:
        """Collective over the world: time a batch in each way and choose the fastest."""
        world = self._world.all_ranks
        ways = ["each", "allgather"] + (["window"] if self._ring is not None else [])
        timings: dict[str, list[float]] = {way: [] for way in ways}
        turn, coming, began = 0, itertools.cycle(steps), time.perf_counter()
        while True:
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                world.gather(None, name="test of data.share")
                timings[way].append(self._timed(way, next(coming)))
            turn += 1
            spent = torch.tensor([time.perf_counter() - began])
            spent = world.all_reduce(spent, reduction="max", name="test of data.share")
            if turn == MOST_TURNS or float(spent) > TEST_S:
                break
        table = torch.tensor([timings[way] for way in ways], dtype=torch.float64)
        slowest = world.all_reduce(table, reduction="max", name="test of data.share")
        # The first turn opens files.
        kept = slowest[:, 1:] if turn > 1 else slowest
        self.tested_s = {way: median(row) for way, row in zip(ways, kept.tolist(), strict=True)}
        self.mode = cheapest(self.tested_s)
        found = ", ".join(f"{way} {1e3 * self.tested_s[way]:.4g}" for way in ways)
        log.info("data.share = auto: %s (ms a batch: %s)", self.mode, found)

    def _timed(self, way: str, step: int) -> float:
        began = time.perf_counter()
        feed = self._start(way, [step])
        try:
            for tensor in next(feed):
                tensor.to(self._world.device)  # as the step does, where the feed has not
            return time.perf_counter() - began
        finally:
            feed.close()


def cheapest(tested_s: Mapping[str, float]) -> str:
    """Return the way that costs a step least, of the seconds that a batch alone took in each."""
    costs = {way: EXPOSED * s if way == "allgather" else s for way, s in tested_s.items()}
    return min(costs, key=costs.__getitem__)
