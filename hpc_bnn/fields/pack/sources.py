"""The files a pack was made of: recorded with it, compared when it is opened or grows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hpc_bnn.fields.files import content, data_files, find_files
from hpc_bnn.fields.ingest.unchanged import state_of

END_BYTES = 1 << 16  # the first and last so many bytes of a file are hashed: its header and size
MOST_NAMED = 5


@dataclass(frozen=True)
class SourceFile:
    """Identify the content of a file or store without reading all of it.

    path: absolute. mtime_ns: of its last change. ends: hash of its first and last bytes. Of a
        store: of the files of its metadata.
    """

    path: str
    size: int
    mtime_ns: int
    ends: str


@dataclass(frozen=True)
class Changes:
    """What happened to files since they were recorded, one text a file.

    changed: is not what it was. added: was not there; what was recorded still holds.
    """

    changed: tuple[str, ...]
    added: tuple[str, ...]


def absolute(path: str | Path) -> str:
    """Return the absolute path of a file or pattern; links stay, they may be what lasts."""
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100


def fingerprint(path: str | Path) -> SourceFile:
    """Identify a file or store as it is now."""
    digest = hashlib.blake2b(digest_size=16)
    parts = content(Path(path))
    size, mtime_ns = state_of(parts)
    for part in parts:
        with part.open("rb") as file:
            digest.update(file.read(END_BYTES))
            file.seek(max(0, part.stat().st_size - END_BYTES))
            digest.update(file.read(END_BYTES))
    return SourceFile(absolute(path), size, mtime_ns, digest.hexdigest())


def fingerprints(path: str | Path) -> tuple[SourceFile, ...]:
    """Identify all files of a path that `catalogue` reads."""
    return tuple(fingerprint(one) for one in data_files(find_files(path)))


def touched(files: Sequence[SourceFile]) -> str:
    """Say what happened to the first file that changed, as far as size and time tell; empty if
    nothing did.
    """
    for recorded in files:
        try:
            now = state_of(content(Path(recorded.path)))
        except OSError as error:
            return f"{recorded.path}: cannot be found any more ({error.strerror})"
        if now != (recorded.size, recorded.mtime_ns):
            return f"{recorded.path}: was changed (it has {now[0]} bytes, it had {recorded.size})"
    return ""


def changes(source: str, recorded: Sequence[SourceFile]) -> Changes | None:
    """Say what happened to the files since they were recorded.

    None if the source is not here: none of the files is, nor any other where they were found.

    source: the path that all files are found by.
    """
    known = {one.path: one for one in recorded}
    unreadable: list[str] = []
    try:
        listed = [absolute(path) for path in find_files(source, unreadable)]
    except FileNotFoundError:
        listed = []
    if set(listed) - set(known):  # only then is it worth a look into them
        listed = data_files(listed)
    added = tuple(f"{path} was added" for path in listed if path not in known)
    if not any(Path(path).exists() for path in known):
        gone = (_all_gone(list(known)), *added, *unreadable)
        return Changes(gone, ()) if added or unreadable else None
    changed = [text for one in recorded if (text := _change(one))]
    return Changes((*changed, *unreadable), added)


def listed(texts: Sequence[str]) -> str:
    """Join texts, the first of many, with a count of the others."""
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return f"{'; '.join(texts[:MOST_NAMED])}{more}"


def _change(before: SourceFile) -> str:
    """Say how a file differs from what was recorded of it, empty if it does not."""
    try:
        now = fingerprint(before.path)
    except FileNotFoundError:
        return f"{before.path} is gone"
    except OSError as error:
        return f"{before.path} cannot be read ({error.strerror})"
    if now.size != before.size:
        return f"{before.path} has {now.size} bytes, it had {before.size}"
    if now.ends != before.ends:
        return f"{before.path} has other content"
    if now.mtime_ns != before.mtime_ns:
        return (
            f"{before.path} was written at {_when(now.mtime_ns)}, it was last written at "
            f"{_when(before.mtime_ns)}"
        )
    return ""


def _all_gone(paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return f"{paths[0]} is gone"
    return f"all {len(paths)} files it was made of are gone ({paths[0]} to {paths[-1]})"


def _when(mtime_ns: int) -> str:
    return f"{datetime.fromtimestamp(mtime_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
