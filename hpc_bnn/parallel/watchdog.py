"""Ends a wait that nothing else would end.

Horovod ends a reduction that a rank has not joined, and names it, as long as its own threads run on
every rank. A rank that is stopped or whose node hangs takes part in nothing: the others would wait
for ever.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

POLL_S = 0.2


class Watchdog:
    """Calls ``expire(seconds)`` from a thread of its own when a watched block takes too long.

    Only one block is watched at a time: that of the thread which computes.

    Parameters
    ----------
    limit_s
        Longest duration of a block; 0: nothing is watched.
    """

    def __init__(self, limit_s: float, expire: Callable[[float], None]) -> None:
        self._limit_s, self._expire = limit_s, expire
        self._since: float | None = None
        if limit_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch a block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def _watch(self) -> None:
        while True:
            time.sleep(POLL_S)
            since = self._since
            waited = 0.0 if since is None else time.monotonic() - since
            if waited > self._limit_s:
                self._expire(waited)
                return
