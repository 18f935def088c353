"""How far a long job is, and when it will end."""

import logging
import time
from collections import deque

log = logging.getLogger(__name__)

EVERY_S = 10.0
WINDOW_S = 300.0  # holds some validations and checkpoints


class Pace:
    """The speed of a job, lately: what its start took says nothing about its end.

    total: units of work until its end, such as steps or bytes. done: of them already.
    window_s: how far back it looks, but at least to the last time that it was asked.
    """

    def __init__(self, total: float, *, done: float = 0, window_s: float = WINDOW_S) -> None:
        self.total = total
        self._window_s = window_s
        self._marks = deque([(time.perf_counter(), done)])

    def at(self, done: float) -> tuple[float, str]:
        """Return the mean seconds of a unit, and the time that is left, such as 1:02:03."""
        now = time.perf_counter()
        while len(self._marks) > 1 and self._marks[1][0] <= now - self._window_s:
            self._marks.popleft()
        began, first = self._marks[0]
        each = (now - began) / max(1, done - first)
        self._marks.append((now, done))
        minutes, seconds = divmod(round(each * (self.total - done)), 60)
        hours, minutes = divmod(minutes, 60)
        return each, f"{hours}:{minutes:02d}:{seconds:02d}"


class Progress:
    """Log how much of this rank's share is done, now and then.

    total: in bytes.
    """

    def __init__(self, what: str, total: int, *, every_s: float = EVERY_S) -> None:
        self._what, self._every_s = what, every_s
        self._pace, self._done, self._logged = Pace(total), 0, time.monotonic()

    def add(self, size: int) -> None:
        """Count bytes as done."""
        self._done += size
        now, total = time.monotonic(), self._pace.total
        if now - self._logged < self._every_s and self._done < total:
            return
        self._logged = now
        each, left = self._pace.at(self._done)
        log.info(
            "%s: %.1f of %.1f MB of this rank, %.0f MB/s, ETA %s",
            self._what,
            self._done / 1e6,
            total / 1e6,
            1e-6 / max(each, 1e-15),
            left,
        )
