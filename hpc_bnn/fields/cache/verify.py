"""Compares repacked fields with their checksums, and with their source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpc_bnn.fields.cache.array_output import ArrayOutput
from hpc_bnn.fields.cache.blocks import BLOCK_BYTES, Sized, shares
from hpc_bnn.fields.cache.header import FIELDS, Header, Request, read_header, request_of
from hpc_bnn.fields.cache.netcdf_output import NetcdfOutput
from hpc_bnn.fields.cache.outputs import Output
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.reader import Reader
from hpc_bnn.group import ALONE, Group
from hpc_bnn.progress import Progress


def verify(
    folder: Path, *, source: Catalogue | None = None, ranks: Group = ALONE
) -> tuple[str, ...]:
    """Collective: read all of a repacked folder and compare it; return what is wrong, the same on
    every rank.

    source: catalogue of the same channels and times, read again and compared value by value; only
        the checksums are compared where None.

    Raises
    ------
    FileNotFoundError, ValueError
        If the cache is not finished, or the source has other channels or times.
    """
    header = ranks.on_first(lambda: read_header(folder), name="verify: header")
    if source is not None:
        ranks.on_first(lambda: _require_same(folder, header.request, source), name="verify: source")
    found = ranks.together(lambda: _damaged(folder, header, ranks), name="verify: checksums")
    if source is not None:
        found += ranks.together(
            lambda: _different(folder, header, source, ranks), name="verify: values"
        )
    wrong = [one for several in ranks.gather(found, name="verify: fields") for one in several]
    wrong += ranks.on_first(lambda: _static(folder, header, source), name="verify: static fields")
    return tuple(wrong)


def _require_same(folder: Path, request: Request, source: Catalogue) -> None:
    made = request_of(
        source,
        dtype=request.dtype,
        member=request.member,
        files=request.files,
        format=request.format,
    )
    wanted = replace(request, source="", blocks=(), targets=())
    differences = replace(made, source="").differences(wanted)
    if differences:
        raise ValueError(
            f"{folder}: {source.source} differs from this cache in {', '.join(differences)}: it "
            "cannot be compared; repack it into a new folder"
        )


def _output(folder: Path, header: Header, source: Catalogue | None) -> Output[Any]:
    if header.request.format == "netcdf":
        return NetcdfOutput(folder, header.request, source, block_bytes=BLOCK_BYTES)
    return ArrayOutput(folder, header.request, header.scaling, source, writes=False)


def _cut_off(folder: Path, request: Request) -> str:
    """Say how the file of fields differs in size, if there is one."""
    if request.format == "netcdf":
        return ""
    path = folder / FIELDS
    size = path.stat().st_size if path.exists() else 0
    return (
        ""
        if size == request.file_bytes
        else (f"{path}: has {size} bytes, expected {request.file_bytes}")
    )


def _damaged(folder: Path, header: Header, ranks: Group) -> list[str]:
    """Compare this rank's share of the files with its checksums."""
    request = header.request
    if wrong := _cut_off(folder, request):
        return [wrong] if ranks.rank == 0 else []
    own = shares(request.portions, ranks.size)[ranks.rank]
    progress = _progress(f"{folder}: checksums", request, [request.portions[at] for at in own])
    found = []
    with closing(_output(folder, header, None)) as output:
        for at in own:
            portion = request.portions[at]
            if output.crc32(at) != header.crc32[at]:
                found.append(f"{output.name(portion)}: the checksum differs: damaged or gone")
            progress.add(portion.values * request.column_bytes)
    return found


def _different(folder: Path, header: Header, source: Catalogue, ranks: Group) -> list[str]:
    """Compare this rank's share of the source, as it lies there now, with the files."""
    request = header.request
    if _cut_off(folder, request):
        return []
    found = []
    with closing(_output(folder, header, source)) as output:
        portions = output.compared()
        own = [portions[at] for at in shares(portions, ranks.size)[ranks.rank]]
        progress = _progress(f"{folder}: compare", request, own)
        for portion in own:
            if output.differs(portion):
                found.append(f"{output.name(portion)}: differs from the source")
            progress.add(portion.values * request.column_bytes)
    return found


def _progress(what: str, request: Request, portions: Sequence[Sized]) -> Progress:
    return Progress(what, sum(portion.values * request.column_bytes for portion in portions))


def _static(folder: Path, header: Header, source: Catalogue | None) -> list[str]:
    if _cut_off(folder, header.request):
        return []
    with closing(_output(folder, header, source)) as output:
        if output.static_crc32() != header.static_crc32:
            names = ", ".join(header.request.static_names)
            return [f"{folder}: {names}: the checksum differs: damaged or gone"]
        if source is None:
            return []
        reader = Reader(source, missing="keep")
        try:
            fields = reader.static()
        finally:
            reader.close()
        same = not output.static_differs(fields)
        return [] if same else [f"{folder}: static fields: differ from the source"]
