"""The pack of any path: the path itself where it is one, else a folder that is packed once."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.pack.folder import LOCK
from hpc_bnn.fields.pack.header import HEADER, header_of, is_pack, read_header, refuse_old
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import OtherPackError, Pack, Stale, ingest_command, open_pack
from hpc_bnn.fields.pack.sources import absolute
from hpc_bnn.group import Group

logger = logging.getLogger(__name__)

LIMIT_GIB = 20.0  # what a run packs by itself


@dataclass(frozen=True)
class Request:
    """What is wanted of a path.

    path: a pack, or data files. variables, levels, static, member, stale: as of `open_pack`.
    folder: where files are packed; beside them where None.
    limit_gib: the size of a pack that is written without asking.
    """

    path: str | Path
    variables: Sequence[str] = ()
    levels: Sequence[float] = ()
    static: Sequence[str] | None = ()
    member: int | None = None
    stale: Stale = "error"
    folder: str | Path | None = None
    limit_gib: float = LIMIT_GIB

    def targets(self) -> Iterator[Path]:
        """Yield the folders that may hold the pack of the files: ``folder``, else era5.pack,
        era5-2.pack, ... beside them, as packs of other channels may have the first names.
        """
        if self.folder is not None:
            yield Path(self.folder).expanduser()
            return
        first = default_folder(self.path)
        yield first
        yield from (first.with_name(f"{first.stem}-{number}.pack") for number in count(2))

    def command(self, target: Path) -> str:
        """Return the command that packs the files."""
        wanted = (self.variables, self.levels, self.static or (), self.member)
        return ingest_command(self.path, target, *wanted)

    def catalogue(self, *, strict: bool = True) -> Catalogue:
        """Look into the files."""
        return catalogue(
            self.path,
            variables=self.variables,
            levels=self.levels,
            static=self.static,
            member=self.member,
            strict=strict,
        )

    def open(self, folder: str | Path, *, strict: bool = True) -> Pack:
        """Open a finished pack."""
        return open_pack(
            folder,
            variables=self.variables,
            levels=self.levels,
            static=self.static,
            member=self.member,
            stale=self.stale,
            strict=strict,
        )


def pack_of(request: Request, ranks: Group) -> Pack:
    """Collective: open the pack of a path; all ranks write it first where there is none.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        If path or pack cannot be used, or the pack would be larger than the limit; says what to do.
    """
    others: list[Path] = []  # folders of unfinished packs of something else
    while True:
        answer = ranks.on_first(lambda: _look_up(request, others), name="pack")
        if isinstance(answer, Pack):
            return answer
        files, target = answer
        try:
            ingest(files, target, member=request.member, waits=True, ranks=ranks)
            break
        except OtherPackError:
            if request.folder is not None:
                raise
            others.append(target)
    return ranks.on_first(lambda: _named(request, request.open(target)), name="pack")


def default_folder(path: str | Path) -> Path:
    """Return the folder beside files that they are packed into: era5.pack of era5/ or era5/*.nc."""
    base = Path(absolute(path))
    while (glob.has_magic(base.name) and base != base.parent) or glob.has_magic(str(base.parent)):
        base = base.parent
    return base.with_name(f"{base.stem if base.is_file() else base.name}.pack")


def _look_up(request: Request, others: Sequence[Path] = ()) -> Pack | tuple[Catalogue, Path]:
    """Return the pack, or the catalogue of the files to pack and the folder for it."""
    if is_pack(request.path):
        return request.open(request.path)
    everything = None if request.variables else request.catalogue()
    for target in request.targets():
        refuse_old(target)
        if not (target / HEADER).is_file():
            if target in others:
                continue
            break
        try:
            return _open_made_of(request, target, everything.names if everything else ())
        except OtherPackError:
            if request.folder is not None:
                raise
    files = everything or request.catalogue()
    size = len(files.times) * header_of(files, member=request.member, files=()).stride
    if size > request.limit_gib * 2**30:
        raise ValueError(
            f"{request.path}: is no pack, and its pack would have {size / 2**30:.1f} GiB, more "
            f"than data.pack_limit = {request.limit_gib:g}: make it once, on any number of ranks, "
            f"with `{request.command(target)}`, or raise data.pack_limit"
        )
    try:
        target.mkdir(parents=request.folder is not None, exist_ok=True)
        (target / LOCK).open("ab").close()  # it may be there and be another's
    except OSError as error:
        raise type(error)(
            f"{target}: the folder for the pack of {request.path} cannot be made or written: "
            f"{error.strerror}; set data.pack to a folder that can be written"
        ) from error
    logger.info("%s: is packed once, into %s, %.1f MB", request.path, target, size / 1e6)
    return files, target


def _open_made_of(request: Request, target: Path, names: Sequence[str]) -> Pack:
    """Open the pack that was made before, if it was made of all of the same files.

    names: of channels it must have besides.

    Raises
    ------
    OtherPackError
        If it was not.
    """
    header = read_header(target)
    if header.source != absolute(request.path):
        raise OtherPackError(
            f"{target}: is a pack of {header.source}, not of {request.path}: set data.pack to "
            f"another folder for it, or data.path={target}"
        )
    if header.member != request.member:
        raise OtherPackError(
            f"{target}: is a pack of member {header.member}, not of {request.member}: set "
            "data.pack to another folder"
        )
    if header.cut:
        raise OtherPackError(
            f"{target}: is a pack of some of the times of {request.path}: set data.path={target} "
            "to use only them, or data.pack to another folder"
        )
    pack = request.open(target)
    lacking = [name for name in names if name not in pack.names]
    if lacking:
        raise OtherPackError(
            f"{target}: has no {', '.join(lacking)}, of {request.path}: choose variables, or "
            "another folder for the pack"
        )
    return _named(request, pack)


def _named(request: Request, pack: Pack) -> Pack:
    """Return a pack under the name of the files it was made of, as it was given."""
    return replace(pack, source=str(request.path))
