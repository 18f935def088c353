"""When a run must end before its last step: asked by a signal, or by the clock; or because its
folder is no longer its own.

A signal reaches one rank, some or all, each at another moment; a checkpoint needs every rank at the
same step. So each rank notes what it saw, and after every step one small reduction makes it one
decision of all. The run then writes a checkpoint and exits with ``REQUEUE``, which job scripts take
as "submit me again".

Job scripts send USR2, because launchers and NCCL use USR1 and CONT themselves. TERM, with which
batch systems announce that they will kill, and INT (Ctrl-C) ask for the same; a second INT ends the
process at once, and so does the first one before there are steps to save.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

import torch

from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.lock import LockError

log = logging.getLogger(__name__)

REQUEUE = 85  # exit status: not finished, run the same command again
SIGNAL = signal.SIGUSR2
SIGNALS = (SIGNAL, signal.SIGTERM, signal.SIGINT)

# Of the time left, what a checkpoint may take before the clock runs out, unless one took longer.
MARGIN_S = 60.0
# But never more than this share of the whole budget, so that short jobs do work too.
MARGIN_SHARE = 0.2
LOOK_S = 1.0  # between looks at the lock of the run folder


class Unfinished(Exception):
    """The run stopped in good order before its end, with a checkpoint: run it again."""

    def __init__(self, reason: str, *, done: int, total: int) -> None:
        super().__init__(
            f"{reason}: stopped after step {done} of {total}, with a checkpoint; run the same "
            "command with --resume"
        )


class Interrupted(Exception):
    """The run must stop in the middle of a validation, on every rank; the message says why."""


class Stop:
    """Listens for the signals while it is entered, and watches the clock.

    Parameters
    ----------
    max_time_s
        Wall-clock budget, counted from ``began`` (``time.monotonic()``; now if left out); 0: none.
    """

    def __init__(
        self, all_ranks: Group = ALONE, *, max_time_s: float = 0.0, began: float | None = None
    ) -> None:
        self._all_ranks, self._max_time_s = all_ranks, max_time_s
        self._began = time.monotonic() if began is None else began
        self._asked = 0
        self._has_steps = False
        self._longest_step_s = self._longest_checkpoint_s = 0.0
        self._require_own: Callable[[], None] | None = None
        self._looked = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":
        for number in SIGNALS:
            before = signal.getsignal(number)
            # A shell that starts a command in the background lets it ignore INT. Job scripts let
            # ranks ignore the others, until here.
            if number != signal.SIGINT or before is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]

    def watch(self, require_own: Callable[[], None]) -> None:
        """Ask ``require_own`` about once a second whether the run folder is still this job's; call
        it on the rank that writes there.
        """
        self._require_own = require_own

    def note_step(self, seconds: float) -> None:
        """Note how long a step took: before the clock runs out, there must be time for another."""
        self._longest_step_s = max(self._longest_step_s, seconds)

    def note_checkpoint(self, seconds: float) -> None:
        """Note how long a checkpoint took."""
        self._longest_checkpoint_s = max(self._longest_checkpoint_s, seconds)

    def due(self) -> str:
        """Collective over the world, after each step: return why to stop now, "" to go on.

        The same on every rank: a signal to any rank, or a clock that ran out on any.

        Raises
        ------
        LockError
            If the run folder is no longer this job's; ``RankError`` on the other ranks.
        """
        self._has_steps = True
        now = time.monotonic()
        problem = self._look(now)
        seen = [float(self._asked), float(self._is_late(now)), float(problem is not None)]
        mine = torch.tensor(seen, dtype=torch.float64)
        asked, late, lost = self._all_ranks.all_reduce(mine, reduction="max", name="stop").tolist()
        if problem is not None:
            raise problem
        if lost:
            raise RankError("the run folder is no longer this job's, as another rank found")
        if asked:
            return f"signal {signal.Signals(int(asked)).name}"
        return "train.max_time" if late else ""

    def check(self) -> None:
        """Collective over the world: raise ``Interrupted`` on every rank where a stop is due."""
        reason = self.due()
        if reason:
            raise Interrupted(reason)

    def _look(self, now: float) -> LockError | None:
        if self._require_own is None or now - self._looked < LOOK_S:
            return None
        self._looked = now
        try:
            self._require_own()
        except LockError as error:
            return error
        except OSError as error:  # a file server that does not answer for a moment: asked again
            log.warning("the lock of the run folder cannot be read now: %s", error)
        return None

    def _is_late(self, now: float) -> bool:
        if not self._max_time_s:
            return False
        reserve = min(MARGIN_S, MARGIN_SHARE * self._max_time_s)
        margin = max(reserve, self._longest_checkpoint_s) + self._longest_step_s
        return now - self._began + margin > self._max_time_s

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self._asked == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if number == signal.SIGINT and not self._has_steps:
            raise KeyboardInterrupt
        self._asked = number
