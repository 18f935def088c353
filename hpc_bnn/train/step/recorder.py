"""Work on a device that is recorded once and then done again by one call: CUDA graphs.

A graph holds the launches of kernels with the addresses that they had. What changes between
repetitions lies in tensors that stay where they are: its user writes to them before, and reads from
them after. Nothing else of Python runs again.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode

WARM_UPS = 2  # the first run of a kernel may compile it, or take memory that later ones keep

ASKING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2",
    "unique_dim", "unique_consecutive", "bincount",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index"}

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
            for _ in range(WARM_UPS - 1):
                work()
            with Watch(self._device):
                work()
        current.wait_stream(self._stream)

    def capture(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        # Other threads, which load batches or watch exchanges, go on with theirs meanwhile. Where a
        # capture fails, torch may leave its own stream as the current one.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            work()
        replay: Work = graph.replay
        return replay


class Watch(TorchDispatchMode):
    """Raises RuntimeError from what makes the host wait for ``device``: before a capture, since one
    that fails may leave torch's allocator half in it.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._kind = device.type

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        given = _kinds((args, kwargs))
        masked = name in INDEXING and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        if (name in ASKING or masked) and self._kind in _kinds(args, numbers=True):
            raise RuntimeError(f"{name}: not permitted where a stream is captured")
        result = func(*args, **(kwargs or {}))
        if len(given | _kinds(result)) > 1:
            raise RuntimeError(f"{name} between two devices: not permitted in a capture")
        return result


def _kinds(value: object, *, numbers: bool = False) -> set[str]:
    """Return the kinds of device where tensors lie; single numbers travel with a launch."""
    tensors = (leaf for leaf in tree.tree_leaves(value) if isinstance(leaf, Tensor))
    return {tensor.device.type for tensor in tensors if numbers or tensor.dim()}


def recorder_of(device: torch.device) -> Recorder | None:
    """Return what records on ``device``; None: nothing does."""
    return CudaGraphs(device) if device.type == "cuda" else None


def reason_of(error: BaseException) -> str:
    """Return why work could not be recorded, as its user may understand it."""
    while isinstance(error.__context__, RuntimeError):  # what went wrong first
        error = error.__context__
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
