"""When a run must end before its last step: asked by a signal, or by the clock.

A signal reaches one rank, some or all, each at another moment; a checkpoint needs every rank at the
same step. So each rank notes what it saw, and after every step one small reduction makes it one
decision of all. The run then writes a checkpoint and exits with ``REQUEUE``, which job scripts take
as "submit me again".

USR2, because batch systems, launchers and NCCL use USR1, TERM, INT and CONT themselves.
"""

import signal
import time
from types import FrameType

import torch

from hpc_bnn.parallel.channel import Channel

REQUEUE = 85  # exit status: not finished, run the same command again
SIGNAL = signal.SIGUSR2

# Of the time left, what a checkpoint may take before the clock runs out: this and one step.
MARGIN_S = 60.0
# But never more than this share of the whole budget, so that short jobs do work too.
MARGIN_SHARE = 0.2


class Unfinished(Exception):
    """The run stopped in good order before its last step, with a checkpoint: run it again."""


class Stop:
    """Listens for the signal while it is entered, and watches the clock.

    Parameters
    ----------
    max_time_s
        Wall-clock budget, counted from ``began`` (``time.monotonic()``); 0: none.
    """

    def __init__(self, channel: Channel, *, max_time_s: float = 0.0, began: float) -> None:
        self._channel, self._max_time_s, self._began = channel, max_time_s, began
        self._asked = False
        self._last = time.monotonic()
        self._longest_step_s = 0.0
        self._before: object = None

    def __enter__(self) -> "Stop":
        self._before = signal.signal(SIGNAL, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(SIGNAL, self._before)  # type: ignore[arg-type]

    def due(self) -> str:
        """Collective over the world, once a step: return why to stop now, "" to go on.

        The same on every rank: a signal to any rank, or a clock that ran out on any.
        """
        now = time.monotonic()
        self._longest_step_s = max(self._longest_step_s, now - self._last)
        self._last = now
        mine = torch.tensor([float(self._asked), float(self._is_late(now))], dtype=torch.float64)
        asked, late = self._channel.all_reduce(mine, reduction="max", name="stop").tolist()
        if asked:
            return f"signal {SIGNAL.name}"
        return "train.max_time" if late else ""

    def _is_late(self, now: float) -> bool:
        if not self._max_time_s:
            return False
        margin = min(MARGIN_S, MARGIN_SHARE * self._max_time_s) + self._longest_step_s
        return now - self._began + margin > self._max_time_s

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
