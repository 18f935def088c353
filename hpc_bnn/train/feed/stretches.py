"""Batches whose shape changes along a run, as rollouts grow: a feed for each stretch of steps."""

from collections.abc import Callable, Sequence

from hpc_bnn.train.feed.feed import Batch, Feed, Reads


class StretchedFeed:
    """Read stretch after stretch; the next one is opened when the one before is used up.

    open_stretch: opens the feed of some steps; what it exchanges is exchanged between two batches.
    """

    def __init__(self, stretches: Sequence[range], open_stretch: Callable[[range], Feed]) -> None:
        self._left, self._open = list(stretches[1:]), open_stretch
        self._feed = open_stretch(stretches[0])
        self._before = Reads()

    @property
    def reads(self) -> Reads:
        """What was read in all stretches so far."""
        return self._before.then(self._feed.reads)

    def __next__(self) -> Batch:
        try:
            return next(self._feed)
        except StopIteration:
            if not self._left:
                raise
        self._feed.close()
        self._before = self.reads
        self._feed = self._open(self._left.pop(0))
        return next(self._feed)

    def close(self) -> None:
        """End the thread of the present stretch."""
        self._feed.close()
