"""Work on a device that is recorded once and then done again by one call: CUDA graphs.

A graph holds the launches of kernels with the addresses that they had. What changes between
repetitions lies in tensors that stay where they are: its user writes to them before, and reads from
them after. Nothing else of Python runs again.
"""

from collections.abc import Callable
from typing import Protocol

import torch

WARM_UPS = 2  # the first run of a kernel may compile it, or take memory that later ones keep

Work = Callable[[], None]


class Recorder(Protocol):
    """What makes one call of work on a device."""

    def warm_up(self, work: Work) -> None:
        """Run ``work`` some times, as it is recorded later."""

    def capture(self, work: Work) -> Work:
        """Record ``work`` and return what repeats it. Whether it also runs now is not said.

        Raises
        ------
        RuntimeError
            If ``work`` does what cannot be recorded.
        """


class CudaGraphs:
    """Recorder of a GPU. Its graphs share memory: one of them runs at a time, in the order in which
    they were captured where one leaves something for the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Work) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
        current.wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        # Other threads, which load batches or watch exchanges, go on with theirs meanwhile.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        replay: Work = graph.replay
        return replay


def recorder_of(device: torch.device) -> Recorder | None:
    """Return what records on ``device``; None: nothing does."""
    return CudaGraphs(device) if device.type == "cuda" else None


def reason_of(error: BaseException) -> str:
    """Return why work could not be recorded, as its user may understand it."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "it does not fit into the memory of the GPU beside what is there"
    if "CUDAGenerator" in text or "Offset increment outside graph capture" in text:
        return (
            "it takes numbers from torch's own generator, or saves its state, as activation "
            f"checkpointing of dropout does ({text[:80]})"
        )
    if "captur" in text:
        return f"it waits for the device, or copies to or from the host ({text[:120]})"
    return f"{type(error).__name__}: {text[:200]}"
