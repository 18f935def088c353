"""How many bytes readers have asked of files, counted by the thread that reads.

A batch is read by one thread, beside others that read for validation: the difference of
`bytes_read()` before and after is what the batch took.
"""

import threading


class _Count(threading.local):
    bytes = 0


_COUNT = _Count()


def count_read(size: int) -> None:
    """Note that this thread has asked `size` bytes of a file; called by whatever reads one."""
    _COUNT.bytes += size


def bytes_read() -> int:
    """Return the bytes that this thread has asked of files since it started."""
    return _COUNT.bytes
