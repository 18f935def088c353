"""The format "netcdf": a file for each variable and some of its times, one for each static field.

Memory: one block of the source, and the chunks that it touches where a block holds a part of the
rows only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.cache.block_reader import BlockReader
from hpc_bnn.fields.cache.blocks import Block, blocks_of, positions
from hpc_bnn.fields.cache.header import Request
from hpc_bnn.fields.cache.netcdf_file import (
    crc32_of,
    describe_grid,
    describe_times,
    fields_variable,
    keep_chunks,
    written_whole,
)
from hpc_bnn.fields.cache.targets import Target
from hpc_bnn.fields.catalogue import Catalogue, Channel
from hpc_bnn.fields.ingest.netcdf import library_lock

_Index = tuple[int | slice, ...]
_WHOLE: _Index = (slice(None),)
# Cut off, or no netCDF; a checksum of the library; a file of something else.
_UNREADABLE = (OSError, RuntimeError, KeyError, IndexError)


class NetcdfOutput:
    """`Output` of files; source: what is written or compared."""

    def __init__(
        self, folder: Path, request: Request, source: Catalogue | None, *, block_bytes: int
    ) -> None:
        self._folder, self._request, self._source = folder, request, source
        self._block_bytes = block_bytes

    def close(self) -> None:
        return  # every file is closed where it is used

    def write(self, at: int) -> int:
        target = self._request.targets[at]
        part, blocks = self._of(target)
        path = self._folder / target.name
        with written_whole(path, target.values * self._request.column_bytes) as dataset:
            describe_grid(dataset, self._request, part.channels[0].long_name)
            describe_times(dataset, part)
            whole = all(len(block.channels) == len(part.channels) for block in blocks)
            variable = fields_variable(dataset, part.channels, timed=True, whole_steps=whole)
            rows = part.shape[1]
            split = [block for block in blocks if block.rows != (0, rows)]
            levels = [1 if whole else len(block.channels) for block in split]  # each a chunk
            held = (len(positions(b.times)) * n for b, n in zip(split, levels, strict=True))
            keep_chunks(variable, max(held, default=1))
            for index, values in _pieces(part, blocks):
                variable[index] = values
        return crc32_of(path)

    def crc32(self, at: int) -> int | None:
        path = self._folder / self._request.targets[at].name
        return crc32_of(path) if path.exists() else None

    def compared(self) -> Sequence[Target]:
        return self._request.targets

    def differs(self, portion: Target) -> bool:
        part, blocks = self._of(portion)
        path = self._folder / portion.name
        return not _holds(path, part.channels[0].variable, _pieces(part, blocks))

    def name(self, portion: Target) -> str:
        return str(self._folder / portion.name)

    def write_static(self, fields: NDArray[np.float32]) -> int:
        found = 0
        for path, channels, own in self._static(fields):
            with written_whole(path, own.nbytes) as dataset:
                describe_grid(dataset, self._request, channels[0].long_name)
                variable = fields_variable(dataset, channels, timed=False, whole_steps=True)
                variable[...] = own.reshape(variable.shape)
            found = crc32_of(path, found)
        return found

    def static_crc32(self) -> int | None:
        found = 0
        for name in self._request.static_names:
            path = self._folder / name
            if not path.exists():
                return None
            found = crc32_of(path, found)
        return found

    def static_differs(self, fields: NDArray[np.float32]) -> bool:
        return not all(
            _holds(path, channels[0].variable, [(_WHOLE, own)])
            for path, channels, own in self._static(fields)
        )

    def _of(self, target: Target) -> tuple[Catalogue, tuple[Block, ...]]:
        """Return what belongs into a file, and the blocks it is read by."""
        assert self._source is not None
        part = target.of(self._source)
        return part, blocks_of(part, block_bytes=self._block_bytes)

    def _static(
        self, fields: NDArray[np.float32]
    ) -> Iterator[tuple[Path, tuple[Channel, ...], NDArray[np.float32]]]:
        assert self._source is not None
        names = self._request.static_names
        for name, channel, own in zip(names, self._source.static, fields, strict=True):
            yield self._folder / name, (channel,), own


def _holds(path: Path, name: str, pieces: Iterable[tuple[_Index, NDArray[np.float32]]]) -> bool:
    """Tell whether the variable of a file has these values: not where it cannot be read."""
    with library_lock(), ExitStack() as opened:
        try:
            dataset = opened.enter_context(netCDF4.Dataset(path))
            variable = dataset.variables[name]
        except _UNREADABLE:
            return False
        variable.set_auto_maskandscale(False)
        for index, values in pieces:
            try:
                stored = variable[index].tobytes()
            except _UNREADABLE:
                return False
            if stored != values.tobytes():
                return False
    return True


def _pieces(
    part: Catalogue, blocks: Sequence[Block]
) -> Iterator[tuple[_Index, NDArray[np.float32]]]:
    """Read what belongs into a file; give each piece with its place in the variable."""
    leveled = part.channels[0].level_hpa is not None
    reader = BlockReader(part)
    try:
        for block in blocks:
            at = block.channels
            cuts = [0, *(i for i in range(1, len(at)) if at[i] != at[i - 1] + 1), len(at)]
            rows = slice(*block.rows)
            for step, values in zip(positions(block.times), reader.read(block), strict=True):
                if not leveled:
                    yield (step, rows), values[0]
                    continue
                for a, b in pairwise(cuts):
                    yield (step, slice(at[a], at[b - 1] + 1), rows), values[a:b]
    finally:
        reader.close()
