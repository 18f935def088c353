"""Notices a wait for other ranks that nothing else would end, and ends the job.

A rank that is stuck takes part in nothing: those that wait for it in an exchange, or in a reduction
of Horovod, would wait for ever. A thread of its own looks at how long this rank has waited, and
answers other ranks that ask (``roll_call``). One rank says which is stuck, and all end with a
status of their own.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from hpc_bnn.parallel.control import STALLED, leave_note
from hpc_bnn.parallel.roll_call import RollCall, State

log = logging.getLogger(__name__)

POLL_S = 0.2


class Watchdog:
    """Calls ``expire(seconds)`` from a thread of its own when a watched block takes too long.

    Only one block is watched at a time: that of the thread which computes.

    Parameters
    ----------
    limit_s
        Longest duration of a block; 0: nothing is watched.
    also
        Called by the thread about five times a second, until the end.

    Attributes
    ----------
    name
        What the watched block waits for.
    count
        How many blocks were begun.
    """

    def __init__(
        self,
        limit_s: float = 0.0,
        expire: Callable[[float], None] = lambda waited: None,
        *,
        also: Callable[[], None] | None = None,
    ) -> None:
        self.name, self.count = "", 0
        self._limit_s, self._expire, self._also = limit_s, expire, also
        self._since: float | None = None
        self._left = time.monotonic()
        self._is_paused = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if limit_s:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    @contextlib.contextmanager
    def watching(self, name: str = "") -> Iterator[None]:
        """Watch a block."""
        self.name = name
        self.count += 1
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None
            self._left = time.monotonic()

    def state(self) -> tuple[bool, float]:
        """Return whether a watched block runs, and for how long it does, or does not."""
        since = self._since
        return since is not None, time.monotonic() - (self._left if since is None else since)

    def pause(self) -> None:
        """Let blocks take as long as they like: reading a data set takes each rank its own time."""
        self._is_paused = True

    def resume(self) -> None:
        """Watch again; call it outside of a block."""
        self._is_paused = False

    def stop(self) -> None:
        """End the thread; MPI must not be ended before."""
        self._ended.set()
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def _watch(self) -> None:
        expired = 0  # the last block that took too long; the first is 1
        while not self._ended.wait(POLL_S):
            if self._also is not None:
                self._also()
            is_waiting, seconds = self.state()
            if (
                is_waiting
                and seconds > self._limit_s
                and not self._is_paused
                and self.count != expired
            ):
                expired = self.count
                self._expire(seconds)


def watch(mpi: Any, comm: Any, hosts: list[str], limit_s: float) -> Watchdog:
    """Collective over ``comm``: return what watches this rank's exchanges; one that takes longer
    than ``limit_s`` ends the job.

    Parameters
    ----------
    mpi
        The module ``mpi4py.MPI``.
    hosts
        Host of each rank.
    """

    def end(text: str) -> None:
        log.error(
            "%s; ending all ranks with status %d. Raise train.stall_timeout if it was only slow",
            text,
            STALLED,
        )
        leave_note(STALLED)
        comm.Abort(STALLED)

    call = RollCall(
        mpi,
        comm.Dup(),
        hosts,
        state=lambda: State(watchdog.count, watchdog.state()[1]),
        speak=end,
    )
    watchdog = Watchdog(limit_s, lambda waited: call.ask(watchdog.name, waited), also=call.turn)
    return watchdog
