"""Whether what lies at a path is still what it was: by size and time of the files that describe it.

A data file describes itself; a store that is a folder is described by its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

State = tuple[int, int]  # bytes, and nanoseconds of the last change


def state_of(content: Sequence[Path]) -> State:
    """Return the size of some files together, and the time of their last change.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    if not content:
        raise FileNotFoundError(2, "No such file or folder")
    stats = [path.stat() for path in content]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


def require_unchanged(path: str, content: Sequence[Path], size: int, before: State | None) -> State:
    """Refuse what vanished or changed: it would give a mixture of old and new numbers.

    Parameters
    ----------
    content
        The files that describe what lies at ``path``.
    size
        Of them, when the catalogue was made.
    before
        Their state when they were opened, None where they are not open.
    """
    try:
        state = state_of(content)
    except OSError as error:
        raise type(error)(
            f"{path}: was there when the catalogue was made, and cannot be read now: "
            f"{error.strerror}; restore it or make the catalogue again"
        ) from error
    if state[0] != size:
        raise ValueError(
            f"{path}: has {state[0]} bytes, expected the {size} of when the catalogue was "
            "made; it has changed: make the catalogue again"
        )
    if before is not None and before != state:
        raise ValueError(
            f"{path}: was written again while it is read; leave the files alone and start again"
        )
    return state
