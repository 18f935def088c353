"""Files that are on the disk as a whole or not at all, and what is said where that fails; what an
output must never replace; one file that many processes write; how many bytes were read.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def refuse_foreign(
    path: Path,
    kind: str,
    is_own: Callable[[Path], bool],
    *,
    sources: Iterable[str | Path] = (),
) -> None:
    """Refuse an output that would destroy anything but an earlier output of its kind.

    To be called before the work begins, and again before the file gets its name.

    kind: of the output, in words. is_own: tells whether an existing file is an earlier one.
    sources: files that are read, never to be replaced whatever made them.

    Raises
    ------
    OSError
        If the path is a folder, a file that is not an earlier output, a source (links included), a
        link to nothing, or lies in a folder that is not there.
    """
    if not path.parent.is_dir():
        what = "is no folder" if path.parent.exists() else "does not exist"
        raise FileNotFoundError(
            f"{path}: the folder {path.parent} {what}: make it first, or give another path"
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder: expected the path of a file in it")
    if path.is_symlink() and not path.exists():
        raise FileExistsError(
            f"{path}: a link to {path.readlink()}, which is not there: remove the link, or give "
            "another path"
        )
    if not path.exists():
        return
    for source in sources:
        if Path(source).exists() and path.samefile(source):
            raise FileExistsError(
                f"{path}: is {source}, a file of the source that is read: it is not overwritten; "
                "give another path"
            )
    if not path.is_file() or not is_own(path):
        raise FileExistsError(
            f"{path}: is there already and is no {kind} of hpc-bnn: it is not overwritten; give "
            "another path, or remove it"
        )


@contextmanager
def whole_file(
    path: Path, *, rivals: bool = False, check: Callable[[], None] | None = None
) -> Iterator[IO[bytes]]:
    """Open a file that gets its name when all of it is on the disk; else what was there stays, also
    after a loss of power.

    rivals: several processes may write this file at once: each has a temporary file of its own,
        `.NAME.PROCESS.partial`, which stays where the process is killed. Else it is `.NAME.new`,
        which the next one replaces.
    check: called before the file gets its name; it may raise.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left of it.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.partial" if rivals else f".{path.name}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check()
        new.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):  # what broke the write may break this too
            new.unlink()
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written; the message says how much space is free.
    """
    try:
        with whole_file(path) as file:
            file.write(content)
    except OSError as error:
        raise unwritable(error, path) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file so that it is whole or absent; what is not finite is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(content), indent=2, allow_nan=False)
    write_whole(path, f"{text}\n".encode())


def unwritable(error: OSError, path: Path, what: str = "") -> OSError:
    """Return the error of a full or failing disk in words.

    what: of the file, such as names of channels.
    """
    return OSError(
        error.errno,
        f"{path}: {what and what + ': '}cannot be written: {error.strerror}; "
        f"{free_space(path.parent)}; free space or raise the quota there, then run the same "
        "command again: it goes on with what is missing",
    )


def free_space(folder: Path) -> str:
    """Say how much a disk still holds, also where it cannot be asked."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free there"
    except OSError as unknown:
        return f"the free space is not known ({unknown.strerror})"


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(descriptor: int, raw: Any, place: int) -> None:
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


class _Count(threading.local):
    bytes = 0


_COUNT = _Count()


def count_read(size: int) -> None:
    """Note that this thread has asked `size` bytes of a file; called by whatever reads one."""
    _COUNT.bytes += size


def bytes_read() -> int:
    """Return the bytes that this thread has asked of files since it started.

    A batch is read by one thread, beside others that read for validation: the difference before and
    after is what the batch took.
    """
    return _COUNT.bytes


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
