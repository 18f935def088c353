"""Copies batches to the GPU beside the training step."""

import torch

from hpc_bnn.train.feed.feed import Batch


class GPUUpload:
    """Copy a batch through pinned memory, on a stream of its own.

    Made by the training thread, whose stream will use the batches; called by the thread that reads.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._user = torch.cuda.current_stream(device)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch on the device; its old memory may then be used again."""
        with torch.cuda.stream(self._side):
            x, y = (t.pin_memory().to(self._device, non_blocking=True) for t in batch)
        for copied in (x, y):
            copied.record_stream(self._user)  # freed memory waits for what still reads it
        self._side.synchronize()
        return x, y


def upload_to(device: torch.device) -> GPUUpload | None:
    """Return what copies batches to a device; None where they are used in place."""
    return GPUUpload(device) if device.type == "cuda" else None
