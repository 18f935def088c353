"""The folder that is being repacked into: taken by one job, begun anew or gone on with."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path
from typing import IO

from hpc_bnn.fields.cache import fields_file, records
from hpc_bnn.fields.cache.blocks import blocks_of
from hpc_bnn.fields.cache.header import (
    FIELDS,
    Header,
    Request,
    header_path,
    partial_path,
    read_header,
    read_request,
    request_of,
    to_json,
)
from hpc_bnn.fields.cache.records import Done
from hpc_bnn.fields.cache.sources import fingerprints
from hpc_bnn.fields.cache.targets import targets_of
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.files import sync_folder, unwritable

logger = logging.getLogger(__name__)


def begin(
    catalogue: Catalogue,
    folder: Path,
    *,
    format: str,
    dtype: str,
    member: int | None,
    block_bytes: int,
    file_bytes: int,
    held: list[IO[bytes]],
) -> tuple[Request, Header | None]:
    """Make the folder and its request, or find those of an earlier job."""
    if format == "netcdf":
        _require_outside(folder, Path(catalogue.source).expanduser())
    request = request_of(
        catalogue,
        dtype=dtype,
        member=member,
        files=fingerprints(catalogue.source),
        blocks=blocks_of(catalogue, block_bytes=block_bytes) if format == "cache" else (),
        format=format,
        targets=targets_of(catalogue, file_bytes=file_bytes) if format == "netcdf" else (),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{folder}: the folder cannot be made: {error.strerror}; give another"
        ) from error
    if header_path(folder).exists():
        finished = read_header(folder)
        _require_same(folder, finished.request, request, "holds repacked fields that differ")
        logger.info("%s: is complete already", folder)
        clear(folder)
        return request, finished
    partial = partial_path(folder)
    if not partial.exists():
        there = sorted(path.name for path in folder.iterdir())
        if there:
            raise ValueError(
                f"{folder}: is not empty (it has {', '.join(there[:5])}) and holds no cache; give "
                "a new folder"
            )
    held.append(_locked(partial, folder))
    _write_or_compare(held[0], request, folder)
    return request, None


def _require_outside(folder: Path, source: Path) -> None:
    if source.is_dir() and folder.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{folder}: lies in {source}, the folder of the source, and its files would be taken "
            "for files of the source; give a folder elsewhere"
        )


def _write_or_compare(file: IO[bytes], request: Request, folder: Path) -> None:
    """Write the request into the locked file, or compare it with the one that is there."""
    partial = partial_path(folder)
    file.seek(0)
    if file.read().endswith(b"\n"):
        _require_same(
            folder, read_request(partial), request, "was begun with other settings: it differs"
        )
        return
    try:
        file.truncate(0)  # what is there was cut off
        file.write(to_json(request))
        file.flush()
        os.fsync(file.fileno())
        sync_folder(folder)
    except OSError as error:
        raise unwritable(error, partial) from error


def _require_same(folder: Path, there: Request, wanted: Request, what: str) -> None:
    differences = there.differences(wanted)
    if differences:
        raise ValueError(
            f"{folder}: {what} in {', '.join(differences)}; give another folder, or remove this "
            "one and run the command again"
        )


def _locked(partial: Path, folder: Path) -> IO[bytes]:
    """Open the file of the request, new if need be, for one job only."""
    file = partial.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OSError(f"{folder}: another job is repacking into this folder; wait for it") from None
    except OSError as error:
        logger.warning("%s: this file system has no locks (%s)", folder, error.strerror)
    return file


def resume(folder: Path, request: Request) -> Done:
    """Return what earlier jobs did; prepare the file of fields, remove netCDF files of no use."""
    done = records.merge(folder)
    if request.format == "netcdf":
        for path in folder.glob("*.nc.partial"):
            path.unlink()
    else:
        path = folder / FIELDS
        if path.exists() and path.stat().st_size != request.file_bytes:
            done.written.clear()  # broken off while it was made, or not ours any more
        fields_file.create(folder, request)
    if done.written:
        logger.info(
            "%s: goes on: %d of %d %s are there, they are checked",
            folder,
            len(done.written),
            len(request.portions),
            "files" if request.format == "netcdf" else "blocks",
        )
    return done


def clear(folder: Path) -> None:
    """Remove what is needed only until the cache is finished."""
    for path in (*records.record_paths(folder), partial_path(folder)):
        path.unlink(missing_ok=True)
    sync_folder(folder)
