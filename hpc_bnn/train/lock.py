"""One job at a time in a run folder: two would mix their checkpoints and metrics."""

import fcntl
import logging
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


class LockError(OSError):
    """Another job holds the folder; the message says which."""


def hold(path: Path) -> IO[str] | None:
    """Lock the file ``path`` for as long as the result lives; None where locks are unknown.

    The system releases the lock when the process ends, however it ends.

    Raises
    ------
    LockError
        If another process holds it.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another job"
        file.close()
        raise LockError(
            f"{path.parent}: {holder} is working in this folder; wait for it or use another --run"
        ) from None
    except OSError as error:
        log.warning("%s: this file system has no locks (%s): not held", path, error.strerror)
        file.close()
        return None
    file.truncate(0)
    job = os.environ.get("SLURM_JOB_ID")
    who = f"Slurm job {job}" if job else f"process {os.getpid()}"
    file.write(f"{who} on {socket.gethostname()} (since {datetime.now():%Y-%m-%d %H:%M:%S})\n")
    file.flush()
    return file


def release(lock: IO[str] | None) -> None:
    """Give the folder free in good order."""
    if lock is not None:
        lock.truncate(0)
        lock.close()
