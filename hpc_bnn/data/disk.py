"""Files that are on the disk as a whole or not at all, and what is said where that fails; what an
output must never replace.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


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


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or not at all, also after a loss of power."""
    new = path.with_name(f".{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise unwritable(error, path) from error


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


def sync_file(path: Path) -> None:
    """Bring the content of a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise unwritable(error, path) from error
    finally:
        os.close(descriptor)
