"""One file that many processes write at once, each at its own offsets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def put(descriptor: int, raw: bytes | memoryview | Any, place: int) -> None:
    """Write in as many calls as it takes: one writes at most 2 GiB, and less on a full disk."""
    view = memoryview(raw).cast("B")
    while view:
        done = os.pwrite(descriptor, view, place)
        view, place = view[done:], place + done


def open_shared(path: Path) -> int:
    """Open a file for `put` beside other processes, on this node and on others."""
    return os.open(path, os.O_RDWR | (os.O_DSYNC if _on_nfs(path) else 0))


def _on_nfs(path: Path) -> bool:
    """Tell whether a file lies on NFS, as far as Linux says.

    There a client may widen a write to the whole page in its memory, and so undo what another node
    wrote beside it, unless the file is open with O_DSYNC (nfs_can_extend_write in fs/nfs/write.c).
    """
    device = path.stat().st_dev
    key = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    rows = [line.partition(" - ") for line in mounts.splitlines()]
    return any(row[0].split()[2] == key and row[2].startswith("nfs") for row in rows)
