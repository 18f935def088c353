"""Lines that tell how far a long job is and when it will end."""

from __future__ import annotations

import logging
import time
from datetime import timedelta

logger = logging.getLogger(__name__)

EVERY_S = 10.0


class Progress:
    """Log how much of this rank's share is done, now and then.

    total: in bytes.
    """

    def __init__(self, what: str, total: int, *, every_s: float = EVERY_S) -> None:
        self._what, self._total, self._every_s = what, total, every_s
        self._began = self._told = time.monotonic()
        self._done = 0

    def add(self, size: int) -> None:
        """Count bytes as done."""
        self._done += size
        now = time.monotonic()
        if now - self._told < self._every_s and self._done < self._total:
            return
        self._told = now
        speed = self._done / max(now - self._began, 1e-9)
        left = timedelta(seconds=round((self._total - self._done) / max(speed, 1e-9)))
        logger.info(
            "%s: %.1f of %.1f MB of this rank, %.0f MB/s, %s left",
            self._what,
            self._done / 1e6,
            self._total / 1e6,
            speed / 1e6,
            left,
        )
