"""The batches of a rank, read and copied to its GPU beside the training step.

Every rank reads its own batches. All sample ranks of a data rank need the same one: on a node the
page cache reads each byte of a file once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.data.prefetch import Prefetch
from hpc_bnn.files import bytes_read

Batch = tuple[Tensor, Tensor]
Upload = Callable[[Batch], Batch]

AHEAD = 2  # batches that wait to be used
COPIED_AHEAD = 1  # of them on a GPU, whose memory is scarcer


class Feed:
    """Iterate over the batches (x, y) at ``steps``, prepared by one background thread.

    Parameters
    ----------
    upload
        Copies a batch to the device, from the thread; None: it is used where it lies.

    Attributes
    ----------
    bytes_read
        What the batches so far took of files.
    """

    def __init__(self, batches: Batches, steps: Sequence[int], *, upload: Upload | None) -> None:
        self.bytes_read = 0
        self._batches, self._upload = batches, upload
        depth = AHEAD if upload is None else COPIED_AHEAD
        self._ahead = Prefetch(map(self._read, steps), depth=depth)

    def __next__(self) -> Batch:
        return next(self._ahead)

    def close(self) -> None:
        """End the thread; waits for what it is reading."""
        self._ahead.close()

    def _read(self, step: int) -> Batch:
        before = bytes_read()
        batch = self._batches.at(step)
        self.bytes_read += bytes_read() - before
        return batch if self._upload is None else self._upload(batch)


class GPUUpload:
    """Copy a batch through pinned memory, on a stream of its own.

    Made by the training thread, whose stream will use the batches; called by the thread that reads.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._user = torch.cuda.current_stream(device)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch on the device."""
        with torch.cuda.stream(self._side):
            x, y = (t.pin_memory().to(self._device, non_blocking=True) for t in batch)
        for copied in (x, y):
            copied.record_stream(self._user)  # freed memory waits for what still reads it
        self._side.synchronize()
        return x, y


def upload_to(device: torch.device) -> GPUUpload | None:
    """Return what copies batches to a device; None where they are used in place."""
    return GPUUpload(device) if device.type == "cuda" else None
