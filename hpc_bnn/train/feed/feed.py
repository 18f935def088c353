"""What the training loop sees of a feed, and the feed of a rank that reads all of its batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.data.prefetch import Prefetch
from hpc_bnn.data.read_count import bytes_read

Batch = tuple[Tensor, Tensor]
Upload = Callable[[Batch], Batch]

AHEAD = 2  # batches that wait to be used
COPIED_AHEAD = 1  # of them on a GPU, whose memory is scarcer


@dataclass
class Reads:
    """What a rank has read so far.

    batch_bytes: of x and y of one batch, as soon as that is known.
    items: batches of this size of which it has read its part, or all.
    bytes: asked of files.
    earlier_bytes: of x and y of batches of other sizes before these.
    """

    batch_bytes: int = 0
    items: int = 0
    bytes: int = 0
    earlier_bytes: int = 0

    @property
    def all_batch_bytes(self) -> int:
        """Bytes of x and y of all batches."""
        return self.earlier_bytes + self.items * self.batch_bytes

    def count(self, read: Callable[[], None]) -> None:
        """Run ``read`` and count what it asks of files."""
        before = bytes_read()
        read()
        self.bytes += bytes_read() - before
        self.items += 1

    def then(self, later: "Reads") -> "Reads":
        """Return these reads and later ones together."""
        return replace(
            later,
            bytes=self.bytes + later.bytes,
            earlier_bytes=self.all_batch_bytes + later.earlier_bytes,
        )


def depth(upload: Upload | None) -> int:
    """Return how many batches wait to be used."""
    return AHEAD if upload is None else COPIED_AHEAD


class Feed(Protocol):
    """The batches (x, y) of this rank at some steps, in their order, prepared ahead.

    A batch may be used until the next one is asked for.
    """

    @property
    def reads(self) -> Reads:
        """What this rank has read so far."""

    def __next__(self) -> Batch:
        """Collective over the sample axis for some feeds: return the next batch.

        Raises
        ------
        StopIteration
            Behind the last one.
        RankError
            If a sample rank could not read its part; that rank raises its own error.
        TimeoutError
            If a sample rank has not read its part within ``train.stall_timeout``.
        """

    def close(self) -> None:
        """End the thread; waits for what it is reading."""


class OwnFeed:
    """The feed of a rank that reads its batches by itself."""

    def __init__(self, batches: Batches, steps: Sequence[int], *, upload: Upload | None) -> None:
        self.reads = Reads()
        self._batches, self._upload = batches, upload
        self._ahead = Prefetch((self._read(step) for step in steps), depth=depth(upload))

    def __next__(self) -> Batch:
        return next(self._ahead)

    def close(self) -> None:
        """End the thread."""
        self._ahead.close()

    def _read(self, step: int) -> Batch:
        found: list[Batch] = []
        self.reads.count(lambda: found.append(self._batches.at(step)))
        batch = found[0]
        self.reads.batch_bytes = sum(tensor.nbytes for tensor in batch)
        return batch if self._upload is None else self._upload(batch)
