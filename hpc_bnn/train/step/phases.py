"""Where the time of a training step goes: draw, forward, backward, communication, optimizer.

On a GPU the host runs ahead of the device, so the borders of phases are events in its stream, read
when somebody asks for the times of a step; on a CPU they are clock readings. Exchanges inside a
phase, such as those of a joint loss, count as communication (``TimedExchanges``).

Profilers show the phases by name: NVTX ranges on GPUs, ``record_function`` under torch's own.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor

from hpc_bnn.group import Group, Reduction

T = TypeVar("T")
Phase = Literal["draw", "forward", "backward", "communication", "optimizer", "other"]
PHASES: tuple[Phase, ...] = (
    "draw",
    "forward",
    "backward",
    "communication",
    "optimizer",
    "other",
)
Times = Callable[[], dict[str, float]]
_Border = tuple[Phase, float | torch.cuda.Event]


class Phases:
    """The clock of one step after another.

    ``begin`` starts a step in the phase ``other``, ``enter`` and ``within`` change the phase, and
    ``end`` returns what gives the seconds of each phase, which add up to the duration of the step.

    Parameters
    ----------
    device
        Where the step computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._borders: list[_Border] = []
        self._range: int | None = None  # of NVTX: by number, since backward has a thread of its own
        self._record: torch.profiler.record_function | None = None

    def begin(self) -> None:
        """Start a step."""
        self._borders = []
        self.enter("other")

    def enter(self, phase: Phase) -> None:
        """Say that from now on ``phase`` runs."""
        self._borders.append((phase, self._now()))
        self._name(phase)

    @contextlib.contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Run a block in ``phase``, then go on in the phase before it."""
        before = self._borders[-1][0] if self._borders else "other"
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def end(self) -> Times:
        """Return what gives the seconds of each phase of the step that ends now; on a GPU it waits
        until the device has ended it, too.
        """
        borders, self._borders = [*self._borders, ("other", self._now())], []
        self._name(None)
        if self._on_gpu:
            return lambda: _seconds(borders)
        seconds = _seconds(borders)
        return lambda: seconds

    def _now(self) -> float | torch.cuda.Event:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _name(self, phase: Phase | None) -> None:
        """Let profilers show ``phase`` from now on; None: nothing."""
        if self._on_gpu:
            if self._range is not None:
                torch.cuda.nvtx.range_end(self._range)  # type: ignore[no-untyped-call]
            self._range = None if phase is None else _nvtx_range(phase)
        if self._record is not None:
            self._record.__exit__(None, None, None)
            self._record = None
        if phase is not None and torch.autograd._profiler_enabled():
            self._record = torch.profiler.record_function(f"step: {phase}")
            self._record.__enter__()


def _nvtx_range(phase: Phase) -> int:
    return int(torch.cuda.nvtx.range_start(f"step: {phase}"))  # type: ignore[no-untyped-call]


def _seconds(borders: list[_Border]) -> dict[str, float]:
    last = borders[-1][1]
    if isinstance(last, torch.cuda.Event):
        last.synchronize()
    seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for (phase, start), (_, stop) in pairwise(borders):
        seconds[phase] += _between(start, stop)
    return seconds


def _between(start: float | torch.cuda.Event, stop: float | torch.cuda.Event) -> float:
    if isinstance(start, torch.cuda.Event):
        assert isinstance(stop, torch.cuda.Event)
        return float(start.elapsed_time(stop)) / 1e3
    assert isinstance(stop, float)
    return stop - start


class TimedExchanges(Group):
    """``group``, whose exchanges of tensors count as communication, whatever phase they are in."""

    __slots__ = ("_group", "_phases", "rank", "size")

    def __init__(self, group: Group, phases: Phases) -> None:
        self._group, self._phases = group, phases
        self.size, self.rank = group.size, group.rank

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        with self._phases.within("communication"):
            return self._group.all_reduce(x, reduction=reduction, name=name)

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        with self._phases.within("communication"):
            return self._group.all_gather(x, name=name)

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        with self._phases.within("communication"):
            return self._group.all_to_all(x, name=name)

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        self._group.broadcast_tensor(x, name=name)

    def gather(self, value: T, *, name: str) -> list[T]:
        return self._group.gather(value, name=name)

    def broadcast(self, value: T, *, name: str) -> T:
        return self._group.broadcast(value, name=name)

    def split(self, color: int, key: int) -> Group:
        return self._group.split(color, key)
