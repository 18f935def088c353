"""Repacks: whatever the source files look like, one array of plain numbers, or netCDF files of one
step a chunk.

    request      what to make: channels, times, source files, portions      rank 0
    ranges       smallest and largest value of each channel, if packed      all ranks, in blocks
    fields       read, encode, write, fsync, note the checksum              all ranks, in portions
    finish       static fields, header                                      rank 0

A portion is a block of the array, or a file (`Output`). The bytes do not depend on the number of
ranks, nor on how often the job was broken off.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np

from hpc_bnn.fields.cache.array_output import ArrayOutput
from hpc_bnn.fields.cache.block_reader import BlockReader
from hpc_bnn.fields.cache.blocks import BLOCK_BYTES, Block, positions, shares
from hpc_bnn.fields.cache.folder import begin, clear, resume
from hpc_bnn.fields.cache.header import FORMATS, Header, Request, header_path, to_json
from hpc_bnn.fields.cache.netcdf_output import NetcdfOutput
from hpc_bnn.fields.cache.outputs import Output
from hpc_bnn.fields.cache.records import Done, Range, Records
from hpc_bnn.fields.cache.scaling import DTYPES, Scaling, exact, scaling_of
from hpc_bnn.fields.cache.sources import changes, touched
from hpc_bnn.fields.cache.targets import FILE_BYTES
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.reader import Reader
from hpc_bnn.files import write_whole
from hpc_bnn.group import ALONE, Group
from hpc_bnn.progress import Progress

logger = logging.getLogger(__name__)


def repack(
    catalogue: Catalogue,
    folder: Path,
    *,
    format: str = "cache",
    dtype: str = "float32",
    member: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    file_bytes: int = FILE_BYTES,
    ranks: Group = ALONE,
) -> Header:
    """Collective: write the fields of a catalogue, the same on every rank, into a folder.

    Where an earlier job for the same was broken off, what it wrote is checked and kept; a finished
    folder of the same is left as it is.

    format: "cache", plain arrays, or "netcdf"; see header.py.
    dtype: "float32", "float16" or "int16" of a cache; see scaling.py.
    member: of ensemble files, as the catalogue was made with.
    block_bytes: what is read together, more where one chunk of the source holds more.
    file_bytes: least size of a netCDF file, but for the last of a variable.

    Raises
    ------
    ValueError
        If the folder holds something else, or the source cannot be used.
    OSError
        If the disk is full or fails: what was written stays, another run goes on.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype = '{dtype}': expected one of {', '.join(DTYPES)}")
    if format not in FORMATS:
        raise ValueError(f"format = '{format}': expected one of {', '.join(FORMATS)}")
    if format == "netcdf" and dtype != "float32":
        raise ValueError(f"dtype = '{dtype}': format = 'netcdf' holds float32 only; leave it out")
    if any(part.file.format == "cache" for part in catalogue.parts):
        raise ValueError(f"{catalogue.source}: is a cache already; give the files it was made of")
    if not len(catalogue.times) or not catalogue.channels:
        raise ValueError(f"{catalogue.source}: no times or no channels to repack; choose others")
    held: list[IO[bytes]] = []  # on rank 0: locked while it is open
    try:
        request, finished = ranks.on_first(
            lambda: begin(
                catalogue,
                folder,
                format=format,
                dtype=dtype,
                member=member,
                block_bytes=block_bytes,
                file_bytes=file_bytes,
                held=held,
            ),
            name="repack: request",
        )
        if finished is not None:
            return finished
        done = ranks.on_first(lambda: resume(folder, request), name="repack: earlier jobs")
        return _Job(catalogue, folder, request, block_bytes, ranks).run(done)
    finally:
        for file in held:
            file.close()


class _Job:
    """The work of one rank."""

    def __init__(
        self,
        catalogue: Catalogue,
        folder: Path,
        request: Request,
        block_bytes: int,
        ranks: Group,
    ) -> None:
        self._catalogue, self._folder, self._block_bytes = catalogue, folder, block_bytes
        self._request, self._ranks = request, ranks

    def run(self, done: Done) -> Header:
        """Collective: write what is not done."""
        request, ranks = self._request, self._ranks
        scaling = exact(len(request.channels))
        if request.dtype != "float32":
            scaling = self._scaling(done)
        whole = self._gathered(
            lambda: self._checked(done.written, self._share(done.written), scaling), "checks"
        )
        missing = [at for at in range(len(request.portions)) if at not in whole]
        whole |= self._gathered(lambda: self._written(self._share(missing), scaling), "fields")
        return ranks.on_first(lambda: self._finish(scaling, whole), name="repack: finish")

    def _output(self, scaling: Scaling) -> Output[Any]:
        if self._request.format == "netcdf":
            return NetcdfOutput(
                self._folder, self._request, self._catalogue, block_bytes=self._block_bytes
            )
        return ArrayOutput(self._folder, self._request, scaling, self._catalogue, writes=True)

    def _share(self, portions: Sequence[int] | dict[int, int]) -> list[int]:
        """Return this rank's part of some portions."""
        every = sorted(portions)
        chosen = [self._request.portions[at] for at in every]
        return [every[at] for at in shares(chosen, self._ranks.size)[self._ranks.rank]]

    def _gathered(self, action: Callable[[], dict[int, int]], name: str) -> dict[int, int]:
        """Collective: do something with the own portions, return the results of all ranks."""
        own = self._ranks.together(action, name=f"repack: {name}")
        everyone = self._ranks.gather(own, name=f"repack: {name}")
        return {portion: found for one in everyone for portion, found in one.items()}

    def _progress(self, what: str, portions: Sequence[int]) -> Progress:
        return Progress(f"{self._folder}: {what}", sum(self._size(at) for at in portions))

    def _size(self, portion: int) -> int:
        return self._request.portions[portion].values * self._request.column_bytes

    def _checked(
        self, written: dict[int, int], own: Sequence[int], scaling: Scaling
    ) -> dict[int, int]:
        """Return the portions of earlier jobs that are as they were written."""
        progress = self._progress("check", own)
        kept = {}
        with closing(self._output(scaling)) as output:
            for at in own:
                if output.crc32(at) == written[at]:
                    kept[at] = written[at]
                else:
                    name = output.name(self._request.portions[at])
                    logger.warning("%s is damaged and is written again", name)
                progress.add(self._size(at))
        return kept

    def _written(self, own: Sequence[int], scaling: Scaling) -> dict[int, int]:
        """Write portions; return their checksums."""
        progress = self._progress("repack", own)
        notes = Records(self._folder, self._ranks.rank)
        made = {}
        try:
            with closing(self._output(scaling)) as output:
                for at in own:
                    made[at] = output.write(at)
                    self._require_as_recorded(at)
                    notes.written(at, made[at])
                    progress.add(self._size(at))
        finally:
            notes.close()
        return made

    def _require_as_recorded(self, at: int) -> None:
        """Refuse to note a portion as done that may have been read from a file as it is not."""
        portion, catalogue = self._request.portions[at], self._catalogue
        recorded = {one.path: one for one in self._request.files}
        indices = catalogue.channels[portion.channels[0]].part[positions(portion.times)]
        paths = {catalogue.parts[index].file.path for index in set(indices.tolist()) if index >= 0}
        for path in sorted(paths):
            wrong = touched(recorded[os.path.abspath(path)])  # noqa: PTH100  as in `fingerprint`
            if wrong:
                raise ValueError(
                    f"{wrong} while it was read; restore it and run the same command again, or "
                    f"remove {self._folder} and repack"
                )

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
                self._require_as_recorded(at)
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
        try:
            with closing(self._output(scaling)) as output:
                static_crc32 = output.write_static(reader.static())
        finally:
            reader.close()
        crc32 = tuple(whole[at] for at in range(len(self._request.portions)))
        header = Header(self._request, scaling, crc32, static_crc32)
        write_whole(header_path(self._folder), to_json(header))
        clear(self._folder)
        return header

    def _require_unchanged(self) -> None:
        """Refuse to finish what was read from files that changed meanwhile."""
        found = changes(self._request.source, self._request.files)
        if found is None or found:
            raise ValueError(
                f"{self._folder}: files of the source changed while they were read: "
                f"{'; '.join(found or ['all are gone'])}; remove this folder and repack again"
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
