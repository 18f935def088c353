"""Whether a repacked folder can be used: finished, whole, and made of its source as it is now.

A source that changed since makes it stale: it is refused, or used with a warning where that is
asked for. A folder at whose source no file is found, because it was copied to another machine or
the source was removed, is used.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpc_bnn.fields.cache.header import (
    FIELDS,
    Header,
    header_path,
    partial_path,
    read_header,
)
from hpc_bnn.fields.cache.sources import changes

logger = logging.getLogger(__name__)

Stale = Literal["error", "allow"]
MOST_NAMED = 5


@dataclass(frozen=True)
class Repacked:
    """A repacked folder and what is to be said of it.

    source: the path as it was given.
    problems: what makes it unusable; notices: what else is worth knowing.
    """

    folder: Path
    source: str
    header: Header
    problems: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """The netCDF files, where that is its format."""
        request = self.header.request
        names = [target.name for target in request.targets] + list(request.static_names)
        return [str(self.folder / name) for name in names]


def is_repacked(path: str | Path) -> bool:
    """Tell whether a path is a folder that was repacked into, finished or not."""
    folder = Path(path).expanduser()
    return header_path(folder).is_file() or partial_path(folder).is_file()


def look_up(path: str | Path, *, member: int | None, stale: Stale, strict: bool) -> Repacked:
    """Read the header of a repacked folder and compare its source with what it was.

    stale: "allow" uses one whose source changed, and warns.
    strict: raise on any problem.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is not finished, is of another member, or, if strict, is damaged or stale.
    """
    if stale not in ("error", "allow"):
        raise ValueError(f"stale = '{stale}': expected 'error' or 'allow'")
    folder = Path(path).expanduser()
    header = read_header(folder)
    if member is not None and member != header.request.member:
        raise ValueError(
            f"{path}: member = {member}: this cache was made with member = "
            f"{header.request.member}; repack that one"
        )
    problems, notices = _cut_off(folder, header), _rounded(folder, header)
    changed = changes(header.request.source, header.request.files)
    if changed is None:
        notices.insert(
            0,
            f"{folder}: the {len(header.request.files)} files it was made of "
            f"({header.request.source}) are not here; it is used without comparing them",
        )
    elif changed:
        told = _stale(folder, header, changed)
        if stale == "allow":
            logger.warning("%s; it is used as it is, since stale = 'allow'", told)
            notices.insert(0, f"{told}; it is used as it is")
        else:
            problems.append(
                f"{told}; repack {header.request.source} into a new folder, restore the files, or "
                "use it as it is with data.stale=allow (commands: --stale allow)"
            )
    if problems and strict:
        raise ValueError("\n".join(problems))
    return Repacked(folder, str(path), header, tuple(problems), tuple(notices))


def _cut_off(folder: Path, header: Header) -> list[str]:
    """Say which files are not whole."""
    request = header.request
    if request.format == "netcdf":
        names = [target.name for target in request.targets] + list(request.static_names)
        gone = [name for name in names if not (folder / name).exists()]
        return [
            f"{folder / name}: is gone; copy it again, or remove the folder and repack"
            for name in gone
        ]
    path = folder / FIELDS
    size = path.stat().st_size if path.exists() else 0
    if size == request.file_bytes:
        return []
    why = f"has {size} bytes, expected {request.file_bytes}: cut off or copied in part"
    return [f"{path}: {why}; copy it again, or remove the folder and repack"]


def _stale(folder: Path, header: Header, changed: list[str]) -> str:
    more = f" and {len(changed) - MOST_NAMED} more" if len(changed) > MOST_NAMED else ""
    return (
        f"{folder}: this cache is stale, its source changed since it was made: "
        f"{'; '.join(changed[:MOST_NAMED])}{more}"
    )


def _rounded(folder: Path, header: Header) -> list[str]:
    request = header.request
    if request.dtype == "float32":
        return []
    errors = ", ".join(
        f"{c.name} {error:.3g} {c.units}"
        for c, error in zip(request.channels, header.scaling.error, strict=True)
    )
    return [f"{folder}: packed as {request.dtype}, with errors of at most {errors}"]
