"""Compares a cache with its checksums, and with its source."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpc_bnn.data.era5 import times
from hpc_bnn.data.era5.cache.block_reader import BlockReader
from hpc_bnn.data.era5.cache.blocks import Block, blocks_of, shares
from hpc_bnn.data.era5.cache.fields_file import FieldsFile
from hpc_bnn.data.era5.cache.header import FIELDS, STATIC, Header, Request, read_header, request_of
from hpc_bnn.data.era5.cache.progress import Progress
from hpc_bnn.data.era5.catalogue import Catalogue
from hpc_bnn.data.era5.reader import Reader
from hpc_bnn.data.ranks import ALONE, Ranks


def verify(
    folder: Path, *, source: Catalogue | None = None, ranks: Ranks = ALONE
) -> tuple[str, ...]:
    """Collective: read a whole cache and compare it; return what is wrong, the same on every rank.

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
        source, dtype=request.dtype, member=request.member, files=request.files, blocks=()
    )
    differences = replace(made, source="").differences(replace(request, source="", blocks=()))
    if differences:
        raise ValueError(
            f"{folder}: {source.source} differs from this cache in {', '.join(differences)}: it "
            "cannot be compared; repack it into a new folder"
        )


def _damaged(folder: Path, header: Header, ranks: Ranks) -> list[str]:
    """Compare this rank's share of the file with its checksums."""
    request = header.request
    path = folder / FIELDS
    size = path.stat().st_size if path.exists() else 0
    if size != request.file_bytes:
        what = f"{path}: has {size} bytes, expected {request.file_bytes}"
        return [what] if ranks.rank == 0 else []
    own = shares(request.blocks, ranks.size)[ranks.rank]
    progress = _progress(f"{folder}: checksums", request, [request.blocks[at] for at in own])
    file = FieldsFile(folder, request, writes=False)
    wrong = []
    try:
        for at in own:
            block = request.blocks[at]
            if file.crc32(block) != header.crc32[at]:
                wrong.append(f"{path}: {_named(request, block)}: the checksum differs: damaged")
            progress.add(block.values * request.column_bytes)
    finally:
        file.close()
    return wrong


def _different(folder: Path, header: Header, source: Catalogue, ranks: Ranks) -> list[str]:
    """Compare this rank's share of the source, as it lies there now, with the file."""
    request = header.request
    blocks = blocks_of(source)
    own = [blocks[at] for at in shares(blocks, ranks.size)[ranks.rank]]
    progress = _progress(f"{folder}: compare", request, own)
    file, reader = FieldsFile(folder, request, writes=False), BlockReader(source)
    wrong = []
    try:
        for block in own:
            if file.differs(block, reader.read(block), header.scaling):
                wrong.append(
                    f"{folder / FIELDS}: {_named(request, block)}: differs from the source"
                )
            progress.add(block.values * request.column_bytes)
    finally:
        file.close()
        reader.close()
    return wrong


def _progress(what: str, request: Request, blocks: Sequence[Block]) -> Progress:
    return Progress(what, sum(block.values * request.column_bytes for block in blocks))


def _named(request: Request, block: Block) -> str:
    first, last = block.times[0][0], block.times[-1][1] - 1
    names = [request.channels[at].name for at in block.channels]
    some = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
    return f"{some} from {times.text(request.times[first])} to {times.text(request.times[last])}"


def _static(folder: Path, header: Header, source: Catalogue | None) -> list[str]:
    path = folder / STATIC
    if not path.exists() or zlib.crc32(path.read_bytes()) != header.static_crc32:
        return [f"{path}: the checksum differs: damaged or gone"]
    if source is None:
        return []
    reader = Reader(source, missing="keep")
    try:
        size = len(wanted := reader.static().tobytes())
    finally:
        reader.close()
    same = path.read_bytes()[-size:] == wanted if size else True
    return [] if same else [f"{path}: differs from the source"]
