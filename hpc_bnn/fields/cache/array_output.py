"""The format "cache": all fields in one file of plain numbers, the static ones in another."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.cache.block_reader import BlockReader
from hpc_bnn.fields.cache.blocks import Block, blocks_of
from hpc_bnn.fields.cache.fields_file import FieldsFile
from hpc_bnn.fields.cache.header import FIELDS, STATIC, Request
from hpc_bnn.fields.cache.scaling import Scaling
from hpc_bnn.fields.catalogue import Catalogue, some
from hpc_bnn.files import write_whole


class ArrayOutput:
    """`Output` of blocks; source: what is written or compared."""

    def __init__(
        self,
        folder: Path,
        request: Request,
        scaling: Scaling,
        source: Catalogue | None,
        *,
        writes: bool,
    ) -> None:
        self._folder, self._request, self._scaling = folder, request, scaling
        self._source = source
        self._reader = None if source is None else BlockReader(source)
        self._file = FieldsFile(folder, request, writes=writes)

    def close(self) -> None:
        self._file.close()
        if self._reader is not None:
            self._reader.close()

    def write(self, at: int) -> int:
        assert self._reader is not None
        block = self._request.blocks[at]
        return self._file.write(block, self._reader.read(block), self._scaling)

    def crc32(self, at: int) -> int | None:
        return self._file.crc32(self._request.blocks[at])

    def compared(self) -> Sequence[Block]:
        assert self._source is not None
        return blocks_of(self._source)

    def differs(self, portion: Block) -> bool:
        assert self._reader is not None
        return self._file.differs(portion, self._reader.read(portion), self._scaling)

    def name(self, portion: Block) -> str:
        first, last = portion.times[0][0], portion.times[-1][1] - 1
        names = [self._request.channels[at].name for at in portion.channels]
        when = [times.text(self._request.times[at]) for at in (first, last)]
        return f"{self._folder / FIELDS}: {some(names)} from {when[0]} to {when[1]}"

    def write_static(self, fields: NDArray[np.float32]) -> int:
        content = io.BytesIO()
        np.save(content, fields)
        write_whole(self._folder / STATIC, content.getvalue())
        return zlib.crc32(content.getvalue())

    def static_crc32(self) -> int | None:
        path = self._folder / STATIC
        return zlib.crc32(path.read_bytes()) if path.exists() else None

    def static_differs(self, fields: NDArray[np.float32]) -> bool:
        wanted = fields.tobytes()
        return bool(wanted) and (self._folder / STATIC).read_bytes()[-len(wanted) :] != wanted
