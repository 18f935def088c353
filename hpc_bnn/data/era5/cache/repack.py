"""Writes a cache: whatever the source files look like, one array of plain numbers.

    request      what to make: channels, times, source files, blocks        rank 0
    ranges       smallest and largest value of each channel, if packed      all ranks, their blocks
    fields       read, encode, write, fsync, note the checksum              all ranks, their blocks
    finish       static fields, header                                      rank 0

The bytes do not depend on the number of ranks, nor on how often the job was broken off.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from hpc_bnn.data.era5.cache.block_reader import BlockReader
from hpc_bnn.data.era5.cache.blocks import BLOCK_BYTES, Block, shares
from hpc_bnn.data.era5.cache.fields_file import FieldsFile
from hpc_bnn.data.era5.cache.folder import begin, clear, resume
from hpc_bnn.data.era5.cache.header import (
    FIELDS,
    STATIC,
    Header,
    Request,
    header_path,
    to_json,
    write_whole,
)
from hpc_bnn.data.era5.cache.progress import Progress
from hpc_bnn.data.era5.cache.records import Done, Range, Records
from hpc_bnn.data.era5.cache.scaling import DTYPES, Scaling, exact, scaling_of
from hpc_bnn.data.era5.cache.sources import fingerprints
from hpc_bnn.data.era5.catalogue import Catalogue
from hpc_bnn.data.era5.reader import Reader
from hpc_bnn.data.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)


def repack(
    catalogue: Catalogue,
    folder: Path,
    *,
    dtype: str = "float32",
    member: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    ranks: Ranks = ALONE,
) -> Header:
    """Collective: write the fields of a catalogue, the same on every rank, as a cache.

    Where an earlier job for the same was broken off, its blocks are checked and kept; a finished
    cache of the same is left as it is.

    dtype: "float32", "float16" or "int16"; see scaling.py.
    member: of ensemble files, as the catalogue was made with.
    block_bytes: what is read together, more where one chunk of the source holds more.

    Raises
    ------
    ValueError
        If the folder holds something else, or the source cannot be used.
    OSError
        If the disk is full or fails: what was written stays, another run goes on.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype = '{dtype}': expected one of {', '.join(DTYPES)}")
    if any(part.file.format == "cache" for part in catalogue.parts):
        raise ValueError(f"{catalogue.source}: is a cache already; give the files it was made of")
    if not len(catalogue.times) or not catalogue.channels:
        raise ValueError(f"{catalogue.source}: no times or no channels to repack; choose others")
    held: list[IO[bytes]] = []  # on rank 0: locked while it is open
    try:
        request, finished = ranks.on_first(
            lambda: begin(
                catalogue, folder, dtype=dtype, member=member, size=block_bytes, held=held
            ),
            name="repack: request",
        )
        if finished is not None:
            return finished
        done = ranks.on_first(lambda: resume(folder, request), name="repack: earlier jobs")
        return _Job(catalogue, folder, request, ranks).run(done)
    finally:
        for file in held:
            file.close()


class _Job:
    """The work of one rank."""

    def __init__(self, catalogue: Catalogue, folder: Path, request: Request, ranks: Ranks) -> None:
        self._catalogue, self._folder = catalogue, folder
        self._request, self._ranks = request, ranks

    def run(self, done: Done) -> Header:
        """Collective: write what is not done."""
        request, ranks = self._request, self._ranks
        scaling = exact(len(request.channels))
        if request.dtype != "float32":
            scaling = self._scaling(done)
        whole = self._gathered(
            lambda: self._checked(done.written, self._share(done.written)), "checks"
        )
        missing = [at for at in range(len(request.blocks)) if at not in whole]
        whole |= self._gathered(lambda: self._written(self._share(missing), scaling), "fields")
        return ranks.on_first(lambda: self._finish(scaling, whole), name="repack: finish")

    def _share(self, blocks: Sequence[int] | dict[int, int]) -> list[int]:
        """Return this rank's part of some blocks."""
        every = sorted(blocks)
        chosen = [self._request.blocks[at] for at in every]
        return [every[at] for at in shares(chosen, self._ranks.size)[self._ranks.rank]]

    def _gathered(self, action: Callable[[], dict[int, int]], name: str) -> dict[int, int]:
        """Collective: do something with the own blocks, return the results of all ranks."""
        own = self._ranks.together(action, name=f"repack: {name}")
        everyone = self._ranks.gather(own, name=f"repack: {name}")
        return {block: found for one in everyone for block, found in one.items()}

    def _progress(self, what: str, blocks: Sequence[int]) -> Progress:
        return Progress(f"{self._folder}: {what}", sum(self._size(at) for at in blocks))

    def _size(self, block: int) -> int:
        return self._request.blocks[block].values * self._request.column_bytes

    def _checked(self, written: dict[int, int], own: Sequence[int]) -> dict[int, int]:
        """Return the blocks of earlier jobs that are as they were written."""
        progress = self._progress("check", own)
        file = FieldsFile(self._folder, self._request, writes=False)
        kept = {}
        try:
            for at in own:
                if file.crc32(self._request.blocks[at]) == written[at]:
                    kept[at] = written[at]
                else:
                    logger.warning(
                        "%s: block %d is damaged and is written again", self._folder / FIELDS, at
                    )
                progress.add(self._size(at))
        finally:
            file.close()
        return kept

    def _written(self, own: Sequence[int], scaling: Scaling) -> dict[int, int]:
        """Write blocks; return their checksums."""
        progress = self._progress("repack", own)
        reader = BlockReader(self._catalogue)
        file = FieldsFile(self._folder, self._request, writes=True)
        notes = Records(self._folder, self._ranks.rank)
        made = {}
        try:
            for at in own:
                block = self._request.blocks[at]
                made[at] = file.write(block, reader.read(block), scaling)
                notes.written(at, made[at])
                progress.add(self._size(at))
        finally:
            notes.close()
            file.close()
            reader.close()
        return made

    def _scaling(self, done: Done) -> Scaling:
        """Collective: find the range of every channel, then its scale and offset."""
        missing = [at for at in range(len(self._request.blocks)) if at not in done.ranges]
        own = self._ranks.together(
            lambda: self._ranges(self._share(missing)), name="repack: ranges"
        )
        found = dict(done.ranges)
        for one in self._ranks.gather(own, name="repack: ranges"):
            found |= one
        smallest = np.full(len(self._request.channels), np.inf)
        largest = -smallest
        for at, (low, high) in found.items():
            channels = list(self._request.blocks[at].channels)
            smallest[channels] = np.minimum(smallest[channels], low)
            largest[channels] = np.maximum(largest[channels], high)
        return scaling_of(self._request.dtype, smallest, largest)

    def _ranges(self, own: Sequence[int]) -> dict[int, Range]:
        progress = self._progress("ranges", own)
        reader = BlockReader(self._catalogue)
        notes = Records(self._folder, self._ranks.rank)
        made: dict[int, Range] = {}
        try:
            for at in own:
                made[at] = _range(reader, self._request.blocks[at])
                notes.range(at, made[at])
                progress.add(self._size(at))
        finally:
            notes.close()
            reader.close()
        return made

    def _finish(self, scaling: Scaling, whole: dict[int, int]) -> Header:
        """Write the static fields and the header; remove what was needed on the way."""
        self._require_unchanged()
        reader = Reader(self._catalogue, missing="keep")
        content = io.BytesIO()
        try:
            np.save(content, reader.static())
        finally:
            reader.close()
        write_whole(self._folder / STATIC, content.getvalue())
        header = Header(
            self._request,
            scaling,
            tuple(whole[at] for at in range(len(self._request.blocks))),
            zlib.crc32(content.getvalue()),
        )
        write_whole(header_path(self._folder), to_json(header))
        clear(self._folder)
        return header

    def _require_unchanged(self) -> None:
        """Refuse to finish what was read from files that changed meanwhile."""
        now = fingerprints(self._catalogue.source)
        if now != self._request.files:
            differ = {one.path for one in set(now) ^ set(self._request.files)}
            raise ValueError(
                f"{self._folder}: files of the source changed while they were read: "
                f"{', '.join(sorted(differ))}; remove this folder and repack again"
            )


def _range(reader: BlockReader, block: Block) -> Range:
    """Find the smallest and largest value of each channel of a block."""
    smallest = np.full(len(block.channels), np.inf)
    largest = -smallest
    for values in reader.read(block):
        flat = values.reshape(len(values), -1)
        np.fmin(smallest, np.fmin.reduce(flat, axis=1), out=smallest)
        np.fmax(largest, np.fmax.reduce(flat, axis=1), out=largest)
    return tuple(smallest.tolist()), tuple(largest.tolist())
