"""The files a cache was made of: recorded with it, compared when it is opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hpc_bnn.fields.files import find_files
from hpc_bnn.fields.own_files import data_files

END_BYTES = 1 << 16  # the first and last so many bytes of a file are hashed: its header and size


@dataclass(frozen=True)
class SourceFile:
    """Identify the content of a file without reading all of it.

    path: absolute. mtime_ns: of its last change. ends: hash of its first and last bytes.
    """

    path: str
    size: int
    mtime_ns: int
    ends: str


def fingerprint(path: str | Path) -> SourceFile:
    """Identify a file as it is now."""
    full = os.path.abspath(path)  # noqa: PTH100  links are kept: they may be what stays
    digest = hashlib.blake2b(digest_size=16)
    with Path(full).open("rb") as file:
        state = os.fstat(file.fileno())
        digest.update(file.read(END_BYTES))
        file.seek(max(0, state.st_size - END_BYTES))
        digest.update(file.read(END_BYTES))
    return SourceFile(full, state.st_size, state.st_mtime_ns, digest.hexdigest())


def touched(recorded: SourceFile) -> str:
    """Say what happened to a file, as far as its size and time tell; empty if nothing did."""
    try:
        now = Path(recorded.path).stat()
    except OSError as error:
        return f"{recorded.path}: cannot be found any more ({error.strerror})"
    if (now.st_size, now.st_mtime_ns) == (recorded.size, recorded.mtime_ns):
        return ""
    return f"{recorded.path}: was changed (it has {now.st_size} bytes, it had {recorded.size})"


def fingerprints(path: str | Path) -> tuple[SourceFile, ...]:
    """Identify all files of a path that `catalogue` reads."""
    return tuple(fingerprint(one) for one in data_files(find_files(path)))


def changes(source: str, recorded: Sequence[SourceFile]) -> list[str] | None:
    """Say what happened to the files since they were recorded.

    None if the source is not here: none of the files is, nor any other where they were found.

    source: the path that all files are found by.
    """
    there = {one.path: one for one in recorded}
    wrong: list[str] = []
    try:
        listed = [os.path.abspath(path) for path in find_files(source, wrong)]  # noqa: PTH100
    except FileNotFoundError:
        listed = []
    if set(listed) - set(there):  # only then is it worth a look into them
        listed = data_files(listed)
    added = [f"{path} was added" for path in listed if path not in there] + wrong
    if not any(Path(path).exists() for path in there):
        return [_all_gone(list(there)), *added] if added else None
    found = []
    for path, before in there.items():
        try:
            now = fingerprint(path)
        except FileNotFoundError:
            found.append(f"{path} is gone")
            continue
        except OSError as error:
            found.append(f"{path} cannot be read ({error.strerror})")
            continue
        if now.size != before.size:
            found.append(f"{path} has {now.size} bytes, it had {before.size}")
        elif now.ends != before.ends:
            found.append(f"{path} has other content")
        elif now.mtime_ns != before.mtime_ns:
            found.append(
                f"{path} was written at {_when(now.mtime_ns)}, it was last written at "
                f"{_when(before.mtime_ns)}"
            )
    return found + added


def _all_gone(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return f"{paths[0]} is gone"
    return f"all {len(paths)} files it was made of are gone ({paths[0]} to {paths[-1]})"


def _when(mtime_ns: int) -> str:
    return f"{datetime.fromtimestamp(mtime_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
