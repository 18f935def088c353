"""One job at a time in a folder: two would mix what they write.

The lock is a file that the system holds for a process (``flock``) and that names its holder. The
system's part ends with the process, however it ends; but a process that is frozen, on a node that
hangs, keeps it. So a restart of the same Slurm job, or a further attempt within one
(HPC_BNN_ATTEMPT: 1, 2, ...), takes the folder over from its predecessor: it puts a lock file of its
own in the place of the old one. Whoever holds a lock asks before it writes whether the file there
is still its own: a predecessor that wakes, or a run whose folder was deleted or given to another
job, writes nothing more.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)

# How the line for people begins; a lock that was given free is empty.
_WRITTEN = re.compile(rb"(Slurm job|process) \S+ on \S+ \(.*since ")
LONGEST = 4096  # bytes of a lock that are looked at
WAIT_S = 0.2  # between two looks at a lock that another process holds
OLDEST = -1  # restart of a holder that is no job of Slurm
ATTEMPT = "HPC_BNN_ATTEMPT"


class LockError(OSError):
    """Another job holds the folder, or has taken it; the message says which."""


class Lock:
    """The lock of this process, as long as it lives: made by ``hold``."""

    def __init__(self, path: Path, file: IO[str], text: str) -> None:
        self._path, self._file, self._text = path, file, text

    def require_own(self) -> None:
        """Check that the lock file is still that of this process.

        Raises
        ------
        LockError
            If it was deleted, or is another's.
        """
        try:
            # Opened, not looked at: only that asks the server of a shared file system again.
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            raise LockError(
                f"{self._path}: the lock of this run is gone: the run folder was deleted or moved "
                "while the run worked in it; nothing more is written"
            ) from None
        if text != self._text:
            raise LockError(
                f"{self._path.parent}: {_name(text)} has taken this run folder over; this process "
                "writes nothing more"
            )

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder free in good order."""
        try:
            self.require_own()
            self._file.truncate(0)
        except OSError:  # another's by now, or gone
            pass
        self._file.close()


def require_lock_file(path: Path) -> None:
    """Check that nothing else than a lock is at ``path``: what ``hold`` locks, it overwrites.

    Raises
    ------
    LockError
        If it is a folder, a link or a file of somebody else's.
    """
    if not path.exists() and not path.is_symlink():
        return
    own = path.is_file() and not path.is_symlink()
    if own:
        with path.open("rb") as file:
            text = file.read(LONGEST)
        own = not text or _WRITTEN.match(text) is not None
    if not own:
        raise LockError(
            f"{path}: no run wrote it: expected the lock of a run, or nothing; it is not "
            "overwritten; use another --run folder, or remove it"
        )


def hold(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    takes_over: bool = True,
    waits: bool = False,
    instead: str = "use another --run",
) -> Lock:
    """Lock the file ``path`` for as long as the result lives.

    Where the file system has no locks, a warning says so, and only a takeover is noticed.

    Parameters
    ----------
    takes_over
        From an earlier start of this Slurm job; that one must ask ``require_own`` before it writes.
    waits
        For another process that holds it, as long as it does.
    instead
        What to do but wait.

    Raises
    ------
    LockError
        If another process holds it.
    """
    waited = False
    while True:
        file = path.open("a+", encoding="utf-8", errors="replace")
        if not try_lock(file, path):
            file.seek(0)
            holder = file.read()
            file.close()
            if waits:
                if not waited:
                    log.info("%s: waiting for %s", path.parent, _name(holder))
                waited = True
                time.sleep(WAIT_S)
                continue
            if not (takes_over and _is_predecessor(holder, environment)):
                raise LockError(
                    f"{path.parent}: {_name(holder)} is working in this folder; wait for it or "
                    f"{instead}"
                )
            log.warning("%s: taking over from %s", path.parent, _name(holder))
            return _take_over(path, environment)
        if _is_at(file, path):  # else deleted or replaced since it was opened
            file.truncate(0)
            text = _describe(environment)
            file.write(text)
            file.flush()
            return Lock(path, file, text)
        file.close()


def release(lock: Lock | None) -> None:
    """Give the folder free in good order."""
    if lock is not None:
        lock.close()


def try_lock(file: IO[Any], path: Path) -> bool:
    """Lock an open file until it is closed, without waiting; False: another process has it.

    Where the file system has no locks, a warning says so.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s: this file system has no locks (%s): not held", path, error.strerror)
    return True


def _take_over(path: Path, environment: Mapping[str, str]) -> Lock:
    """Put a lock of this process in the place of one whose holder does not let go."""
    text = _describe(environment)
    new = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    file = new.open("a+", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    file.write(text)
    file.flush()
    new.replace(path)
    lock = Lock(path, file, text)
    lock.require_own()  # of two that take over at once, the later one has it
    return lock


def _describe(environment: Mapping[str, str]) -> str:
    """Return what the lock file of this process says: a line for people and one for programs."""
    job, restart = environment.get("SLURM_JOB_ID"), _restart(environment)
    process = f"process {os.getpid()}"
    who, more = (f"Slurm job {job}", f"restart {restart}, {process}, ") if job else (process, "")
    counts = {"restart": restart, "attempt": _attempt(environment)}
    facts = {**_job(environment), **counts, "token": secrets.token_hex(8)}
    since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    return f"{who} on {socket.gethostname()} ({more}since {since})\n{json.dumps(facts)}\n"


def _name(text: str) -> str:
    """Return the line for people of a lock file."""
    return text.partition("\n")[0].strip() or "another job"


def _is_predecessor(text: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a lock file is of an earlier start of the Slurm job of this process."""
    try:
        holder = json.loads(text.partition("\n")[2])
        mine = _job(environment)
        same = bool(mine) and all(holder.get(key) == value for key, value in mine.items())
        before = int(holder["restart"]), int(holder.get("attempt", 0))
        return same and before < (_restart(environment), _attempt(environment))
    except (ValueError, KeyError, TypeError, AttributeError):  # written by another version
        return False


def _job(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what tells a Slurm job from all others; each task of an array is one of its own."""
    job = environment.get("SLURM_JOB_ID")
    return {"cluster": environment.get("SLURM_CLUSTER_NAME", ""), "job": job} if job else {}


def _restart(environment: Mapping[str, str]) -> int:
    if not environment.get("SLURM_JOB_ID"):
        return OLDEST
    count = environment.get("SLURM_RESTART_COUNT", "0")
    return int(count) if count.isdigit() else 0


def _attempt(environment: Mapping[str, str]) -> int:
    count = environment.get(ATTEMPT, "0")
    return int(count) if count.isdigit() else 0


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
