"""Whether the chunks of a zarr array that a read touches are there, and whole.

A writer leaves out chunks that hold nothing but the fill value, and so does a copy that was broken
off. Where one chunk holds all rows and columns of a field, a field of nothing but fill values is no
field: it is refused. A part of a field may be left out where the fill value means missing, as of
sea surface temperatures on land, and some other part of the field is there.

Most codecs notice a chunk that is cut off. Blosc reads beyond its end and returns what lies there
(numcodecs 0.16), so the length in its header is compared.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EMPTY = np.uint64(2**64 - 1)  # offset and length of an inner chunk that a shard has not
CHECKSUM_BYTES = 4  # of crc32c
BLOSC = struct.Struct("<4x3I")  # versions and flags, then bytes of values, of a block, of the chunk
Chunk = tuple[int, ...]


def require_chunks(path: str, name: str, array: Any, index: tuple[int | slice, ...]) -> None:
    """Refuse a read that would give fill values for chunks that are not there, or other memory for
    the end of one that is cut off.

    Raises
    ------
    FileNotFoundError, OSError
        Names the first such chunk.
    """
    chunks: Chunk = array.chunks
    touched = list(product(*map(_touched, index, array.shape, chunks)))
    absent = _absent(path, name, array, touched)
    if absent and array.ndim > 2 and _means_missing(array):
        tiles = [range(-(-n // c)) for n, c in zip(array.shape, chunks, strict=True)][-2:]
        every = [(*f, *tile) for f in {chunk[:-2] for chunk in absent} for tile in product(*tiles)]
        gone = Counter(chunk[:-2] for chunk in _absent(path, name, array, every))
        absent = [chunk for chunk in absent if gone[chunk[:-2]] == prod(map(len, tiles))]
    if absent:
        file = _file(Path(path) / name, array.metadata, absent[0], _ratio(array))
        raise FileNotFoundError(
            f"{file}: this chunk of '{name}' is not there ({len(absent)} of {len(touched)} that "
            f"are read): its values would be the fill value {array.fill_value}; copy the store "
            "again, or give times that it has"
        )


def _touched(index: int | slice, length: int, chunk: int) -> range:
    """Return the chunks along an axis that an index touches."""
    start, stop, _ = (index if isinstance(index, slice) else slice(index, index + 1)).indices(
        length
    )
    return range(start // chunk, -(-stop // chunk)) if stop > start else range(0)


def _means_missing(array: Any) -> bool:
    fill, declared = array.fill_value, array.attrs.get("_FillValue")
    if fill is None or isinstance(fill, str):
        return False
    return bool(np.isnan(fill)) or fill in (declared, array.attrs.get("missing_value"))


def _ratio(array: Any) -> tuple[int, ...]:
    """Return how many chunks a shard has along each axis; empty without shards."""
    shards = array.shards
    return tuple(s // c for s, c in zip(shards, array.chunks, strict=True)) if shards else ()


def _file(folder: Path, metadata: Any, chunk: Chunk, ratio: tuple[int, ...]) -> Path:
    outer = tuple(at // n for at, n in zip(chunk, ratio, strict=True)) if ratio else chunk
    key: str = metadata.encode_chunk_key(outer)
    return folder / key


def _absent(path: str, name: str, array: Any, chunks: list[Chunk]) -> list[Chunk]:
    """Return the chunks that are not there."""
    folder, metadata, ratio = Path(path) / name, array.metadata, _ratio(array)
    if not ratio:
        is_blosc = (
            bool(array.compressors) and "blosc" in type(array.compressors[-1]).__name__.lower()
        )
        files = (_file(folder, metadata, chunk, ratio) for chunk in chunks)
        return [
            chunk
            for chunk, file in zip(chunks, files, strict=True)
            if not (_whole_blosc(file, name) if is_blosc else file.is_file())
        ]
    held: dict[Path, NDArray[np.bool_]] = {}
    absent = []
    for chunk in chunks:
        file = _file(folder, metadata, chunk, ratio)
        if file not in held:
            held[file] = _in_shard(file, metadata.codecs[0], ratio)
        if not held[file][tuple(at % n for at, n in zip(chunk, ratio, strict=True))]:
            absent.append(chunk)
    return absent


def _whole_blosc(file: Path, name: str) -> bool:
    """Tell whether a file is there; refuse one of another length than its header says."""
    try:
        with file.open("rb", buffering=0) as stream:
            head, size = stream.read(BLOSC.size), os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        return False
    if len(head) < BLOSC.size or BLOSC.unpack(head)[2] != size:
        raise OSError(
            f"{file}: this chunk of '{name}' has {size} bytes, its header says otherwise: cut off "
            "or damaged: copy the store again"
        )
    return True


def _in_shard(file: Path, codec: Any, ratio: tuple[int, ...]) -> NDArray[np.bool_]:
    """Read which chunks a shard has.

    Its index: little-endian offset and length of each chunk, and crc32c, at the start or the end of
    the file. Source: zarr-specs, codecs/sharding-indexed version 1.0.
    """
    if not file.is_file():
        return np.zeros(ratio, bool)
    checksum = CHECKSUM_BYTES * any("crc" in type(c).__name__.lower() for c in codec.index_codecs)
    length = 16 * prod(ratio)
    with file.open("rb") as stream:
        if codec.index_location.value == "end":
            stream.seek(max(0, file.stat().st_size - length - checksum))
        raw = stream.read(length)
    if len(raw) < length:
        raise OSError(f"{file}: a shard without an index: cut off or damaged: copy the store again")
    there: NDArray[np.bool_] = (np.frombuffer(raw, "<u8").reshape(-1, 2) != EMPTY).all(axis=1)
    return there.reshape(ratio)
