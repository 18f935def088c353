"""The file of fields: blocks of it written and read back, with their checksums."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.shared_file import open_shared, put
from hpc_bnn.fields.cache.blocks import Block, pieces
from hpc_bnn.fields.cache.header import DATA_OFFSET, FIELDS, Request, numpy_header
from hpc_bnn.fields.cache.scaling import Scaling, encode
from hpc_bnn.files import sync_folder, unwritable


def create(folder: Path, request: Request) -> None:
    """Create the file in its full size, without the fields; for one process."""
    path = folder / FIELDS
    try:
        with path.open("ab") as file:
            file.truncate(request.file_bytes)
        descriptor = os.open(path, os.O_RDWR)
        try:
            put(descriptor, numpy_header(request.shape, request.dtype), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(folder)
    except OSError as error:
        raise unwritable(error, path) from error


class FieldsFile:
    """Writes and reads blocks; every process opens its own."""

    def __init__(self, folder: Path, request: Request, *, writes: bool) -> None:
        self._path, self._request = folder / FIELDS, request
        self._descriptor = open_shared(self._path) if writes else os.open(self._path, os.O_RDONLY)
        self._item = np.dtype(request.dtype).itemsize

    def write(self, block: Block, values: Iterable[NDArray[np.float32]], scaling: Scaling) -> int:
        """Write the values (C, H, W) of each time of a block; return their checksum once they are
        on the disk.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """
        crc32 = 0
        for raw, places in self._encoded(block, values, scaling):  # may fail in the source
            with self._telling(block):
                for place, first, last in places:
                    crc32 = zlib.crc32(raw[first:last].data, crc32)
                    put(self._descriptor, raw[first:last], DATA_OFFSET + place * self._item)
        with self._telling(block):
            os.fsync(self._descriptor)
        return crc32

    def crc32(self, block: Block) -> int:
        """Compute the checksum of a block as it is in the file."""
        found = 0
        width = (block.rows[1] - block.rows[0]) * self._request.shape[3] * self._item
        for _, places in pieces(block, self._request.shape):
            for place, first, last in places:
                found = zlib.crc32(self._get(place, (last - first) * width), found)
        return found

    def differs(
        self, block: Block, values: Iterable[NDArray[np.float32]], scaling: Scaling
    ) -> bool:
        """Tell whether the file holds anything else than these values."""
        for raw, places in self._encoded(block, values, scaling):
            for place, first, last in places:
                wanted = raw[first:last].tobytes()
                if self._get(place, len(wanted)) != wanted:
                    return True
        return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    @contextmanager
    def _telling(self, block: Block) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            names = ", ".join(self._request.channels[at].name for at in block.channels)
            raise unwritable(error, self._path, names) from error

    def _get(self, place: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, DATA_OFFSET + place * self._item)

    def _encoded(
        self, block: Block, values: Iterable[NDArray[np.float32]], scaling: Scaling
    ) -> Iterable[tuple[NDArray[Any], list[tuple[int, int, int]]]]:
        scale = np.array([scaling.scale[at] for at in block.channels])
        offset = np.array([scaling.offset[at] for at in block.channels])
        for one, (_, places) in zip(values, pieces(block, self._request.shape), strict=True):
            yield encode(one, self._request.dtype, scale, offset), places
