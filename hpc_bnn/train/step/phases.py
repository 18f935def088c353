"""Where the time of a training step goes: draw, forward, backward, communication, optimizer.

On a GPU the host runs ahead of the device, so the borders of phases are events in its stream, read
when the step has ended anyway; on a CPU they are clock readings. Exchanges inside a phase, such as
those of a joint loss, count as communication: only what this rank waited for, which is what was not
hidden behind other work.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch

Phase = Literal["draw", "forward", "backward", "communication", "optimizer", "other"]
PHASES: tuple[Phase, ...] = (
    "draw",
    "forward",
    "backward",
    "communication",
    "optimizer",
    "other",
)


class Phases:
    """The clock of one step after another.

    ``begin`` starts a step in the phase ``other``, ``enter`` and ``within`` change the phase, and
    ``end`` returns the seconds of each phase, which add up to the duration of the step.

    Parameters
    ----------
    device
        Where the step computes.
    waited
        Seconds that this rank has ever waited in exchanges that happen inside other phases.
    """

    def __init__(self, device: torch.device, waited: Callable[[], float] = lambda: 0.0) -> None:
        self._device, self._waited = device, waited
        self._borders: list[tuple[Phase, float | torch.cuda.Event, float]] = []

    def begin(self) -> None:
        """Start a step."""
        self._borders = []
        self.enter("other")

    def enter(self, phase: Phase) -> None:
        """Say that from now on ``phase`` runs."""
        self._borders.append((phase, self._now(), self._waited()))

    @contextlib.contextmanager
    def within(self, phase: Phase) -> Iterator[None]:
        """Run a block in ``phase``, then go on in the phase before it."""
        before = self._borders[-1][0] if self._borders else "other"
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def end(self) -> dict[str, float]:
        """Return the seconds of each phase of the step that ends now."""
        self.enter("other")
        last = self._borders[-1][1]
        if isinstance(last, torch.cuda.Event):
            last.synchronize()
        seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        ends = self._borders[1:]
        for (phase, start, before), (_, stop, after) in zip(self._borders, ends, strict=False):
            spent = _between(start, stop)
            exchanged = min(max(after - before, 0.0), spent)
            seconds[phase] += spent - exchanged
            seconds["communication"] += exchanged
        return seconds

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(start: float | torch.cuda.Event, stop: float | torch.cuda.Event) -> float:
    if isinstance(start, torch.cuda.Event):
        assert isinstance(stop, torch.cuda.Event)
        return float(start.elapsed_time(stop)) / 1e3
    assert isinstance(stop, float)
    return stop - start
