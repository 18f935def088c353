"""When a run must end before its last step: asked by a signal, or by the clock; or because its
folder is no longer its own.

A signal reaches one rank, some or all, each at another moment; a checkpoint needs every rank at the
same step. So each rank notes what it saw, and after every step one small reduction makes it one
decision of all. The run then writes a checkpoint and exits with ``REQUEUE``, which job scripts take
as "submit me again".

Job scripts send USR2, because launchers and NCCL use USR1 and CONT themselves. TERM, with which
batch systems announce that they will kill, and INT (Ctrl-C) ask for the same, and so does USR1,
which Slurm sends to ranks, unless a library listens to it. A second INT ends the process at once,
and so does the first one before there are steps to save.

A step cannot be broken off: a step that is longer than what is left before the job is killed is
lost, so the log says at once what the checkpoint waits for.
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
SIGNALS = (SIGNAL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

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


class NotBegun(KeyboardInterrupt):
    """A signal asked a run to end before its first step: there is nothing to save. Raised in the
    main thread, wherever that is: reading, ingesting, compiling.
    """

    def __init__(self, number: int) -> None:
        super().__init__(
            f"signal {signal.Signals(number).name}: ended before the first step of this start, so "
            "nothing is lost; run the same command again"
        )


class Stop:
    """Listens for the signals while it is entered, and watches the clock.

    Parameters
    ----------
    max_time_s
        Wall-clock budget, counted from ``began`` (``time.monotonic()``; now if left out); 0: none.
    at_once
        Before ``begin``, raise ``NotBegun`` where a signal comes. Else it is noted.

    Attributes
    ----------
    is_tight
        What ``due`` found last, the same on every rank: the first step took longer than what is
        left. It was a start as well, so the next one may be shorter; but save before it.
    is_busy
        What ``due`` found last, the same on every rank: some rank said that it is busy.
    """

    def __init__(
        self,
        all_ranks: Group = ALONE,
        *,
        max_time_s: float = 0.0,
        began: float | None = None,
        at_once: bool = False,
    ) -> None:
        self._all_ranks, self._max_time_s = all_ranks, max_time_s
        self._began = time.monotonic() if began is None else began
        self._asked = 0
        self._at_once, self._has_steps = at_once, False
        self.is_tight = self.is_busy = False
        self._first_step_s = self._longest_step_s = self._longest_checkpoint_s = 0.0
        self._saved = 0  # steps
        self._checked: float | None = None
        self._longest_batch_s = 0.0
        self._require_own: Callable[[], None] | None = None
        self._looked = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":
        for number in SIGNALS:
            before = signal.getsignal(number)
            # A shell that starts a command in the background lets it ignore INT. Job scripts let
            # ranks ignore the others, until here.
            is_ignored = before is signal.SIG_IGN
            is_taken = number == signal.SIGUSR1 and not (is_ignored or before is signal.SIG_DFL)
            if not is_taken and (number != signal.SIGINT or not is_ignored):
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

    def begin(self) -> None:
        """Say that the first step begins: from here on a signal is noted."""
        self._has_steps = True
        if self._asked:  # between the last exchange and here
            self._describe_wait()

    def note_step(self, seconds: float, *, is_first: bool = False) -> None:
        """Note how long a step took: before the clock runs out, there must be time for another.

        is_first: of this process; it compiles, connects and fills caches, so it says little about
        the next one.
        """
        if is_first:
            self._first_step_s = seconds
        else:
            self._first_step_s = 0.0
            self._longest_step_s = max(self._longest_step_s, seconds)

    def note_checkpoint(self, seconds: float, *, step: int = 0) -> None:
        """Note how long a checkpoint took, and how many steps it holds."""
        self._longest_checkpoint_s = max(self._longest_checkpoint_s, seconds)
        self._saved = max(self._saved, step)

    def due(self, *, is_busy: bool = False) -> str:
        """Collective over the world, after each step: return why to stop now, "" to go on.

        The same on every rank: a signal to any rank, or a clock that ran out on any.

        is_busy: something of this rank that the others are to hear of with the same exchange.

        Raises
        ------
        LockError
            If the run folder is no longer this job's; ``RankError`` on the other ranks.
        """
        self._has_steps = True
        self._checked = None
        return self._agree(self._longest_step_s, is_busy)

    def check(self) -> None:
        """Collective over the world, before each batch of a validation: raise ``Interrupted`` on
        every rank where a stop is due.
        """
        now, before = time.monotonic(), self._checked
        if before is not None:
            self._longest_batch_s = max(self._longest_batch_s, now - before)
        self._checked = now
        self._has_steps = True
        reason = self._agree(self._longest_batch_s)
        if reason:
            raise Interrupted(reason)

    def _agree(self, next_s: float, is_busy: bool = False) -> str:
        """Collective: return why to stop now, where what comes next takes so many seconds."""
        now = time.monotonic()
        problem = self._look(now)
        late = self._is_late(now, next_s)
        tight = self._is_late(now, self._first_step_s)
        seen = [self._asked, late, tight, is_busy, problem is not None]
        mine = torch.tensor(list(map(float, seen)), dtype=torch.float64)
        every = self._all_ranks.all_reduce(mine, reduction="max", name="stop").tolist()
        asked, late, self.is_tight, self.is_busy, lost = int(every[0]), *map(bool, every[1:])
        if problem is not None:
            raise problem
        if lost:
            raise RankError("the run folder is no longer this job's, as another rank found")
        if asked:
            return f"signal {signal.Signals(asked).name}"
        return "train.max_time" if late else ""

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

    def _is_late(self, now: float, next_s: float) -> bool:
        if not self._max_time_s:
            return False
        reserve = min(MARGIN_S, MARGIN_SHARE * self._max_time_s)
        margin = max(reserve, self._longest_checkpoint_s) + next_s
        return now - self._began + margin > self._max_time_s

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self._asked == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if number == signal.SIGINT and not self._has_steps:
            raise KeyboardInterrupt
        is_new, self._asked = not self._asked, number
        if self._at_once and not self._has_steps:
            raise NotBegun(number)
        if self._has_steps and is_new:
            self._describe_wait()

    def _describe_wait(self) -> None:
        """Log what the checkpoint waits for: killed before it, a process says nothing more."""
        if self._checked is not None:
            longest, what = self._longest_batch_s, "this batch of the validation"
        else:
            longest, what = max(self._longest_step_s, self._first_step_s), "this step"
        log.info(
            "signal %s: a checkpoint is written after %s (the longest took %.3g s, a checkpoint "
            "%.3g s); where the job is killed before that, it goes on from step %d",
            signal.Signals(self._asked).name,
            what,
            longest,
            self._longest_checkpoint_s,
            self._saved,
        )
