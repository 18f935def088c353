"""Files that are on the disk as a whole or not at all, and what is said where that fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there as a whole or not at all, also after a loss of power."""
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
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
