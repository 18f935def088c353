"""What a folder with repacked fields holds, and the file that says so.

    FOLDER/cache.json      the header: `Header`; called cache.json.partial until all is written
    FOLDER/fields.npy      (T, C, H, W), canonical orientation; readable by numpy.load
    FOLDER/static.npy      (F, H, W) float32, the fields without time

or, of the format "netcdf", float32 in canonical orientation too:

    FOLDER/cache.json      as above
    FOLDER/t2m_*.nc        one variable each and some of its times (targets.py)
    FOLDER/lsm_static.nc   one field without time each

A field is stored as numbers r of type float32, float16 or int16: value = scale r + offset, in the
units of the channel, NaN where r is NaN (floats) or -32768 (int16). Little-endian.

Shape letters: T times, C channels, F static fields, H latitude, W longitude.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from hpc_bnn.fields.cache.blocks import Block
from hpc_bnn.fields.cache.scaling import Scaling
from hpc_bnn.fields.cache.sources import SourceFile
from hpc_bnn.fields.cache.targets import Target
from hpc_bnn.fields.catalogue import Catalogue, Channel
from hpc_bnn.fields.own_files import REPACKED

VERSION = 1
FORMATS = ("cache", "netcdf")
HEADER, FIELDS, STATIC = REPACKED, "fields.npy", "static.npy"
DATA_OFFSET = 4096  # bytes before the fields: a page, so that maps of steps begin with one


@dataclass(frozen=True)
class CachedChannel:
    """A channel without what belongs to its files; see `Channel`."""

    name: str
    variable: str
    level_hpa: float | None
    units: str
    standard_name: str
    long_name: str
    vector: bool


@dataclass(frozen=True)
class Request:
    """What a cache is made of and how; the same for every run that goes on with it.

    source: the path that was given, absolute.
    absent: for each channel the positions of the times that it has not; its fields are NaN there.
    preliminary: positions of the times that are ERA5T.
    blocks: of the format "cache", in which it is written; targets: the files of "netcdf".
    origin: names and sizes of the files of the source that are used, as in `Catalogue`.
    """

    version: int
    dtype: str
    source: str
    member: int | None
    files: tuple[SourceFile, ...]
    channels: tuple[CachedChannel, ...]
    static: tuple[CachedChannel, ...]
    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    periodic: bool
    times: tuple[int, ...]
    absent: tuple[tuple[int, ...], ...]
    preliminary: tuple[int, ...]
    blocks: tuple[Block, ...]
    format: str = "cache"
    targets: tuple[Target, ...] = ()
    origin: tuple[tuple[str, int], ...] = field(default=(), compare=False)  # follows from `files`

    @property
    def portions(self) -> tuple[Block | Target, ...]:
        """What is written, noted and checked as a whole."""
        return self.targets if self.format == "netcdf" else self.blocks

    @property
    def static_names(self) -> tuple[str, ...]:
        """The files of the static fields."""
        if self.format == "netcdf":
            return tuple(f"{channel.name}_static.nc" for channel in self.static)
        return (STATIC,)

    @property
    def source_fingerprint(self) -> str:
        """A hash of what identifies the files of the source."""
        return hashlib.sha256(repr(self.files).encode()).hexdigest()[:16]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """T, C, H, W."""
        return len(self.times), len(self.channels), len(self.latitude), len(self.longitude)

    @property
    def file_bytes(self) -> int:
        """The size of the file of fields."""
        return DATA_OFFSET + int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def column_bytes(self) -> int:
        """The bytes of `Block.values` times this are those of a block."""
        return len(self.longitude) * np.dtype(self.dtype).itemsize

    def differences(self, other: Request) -> list[str]:
        """Name what differs, in words of the command."""
        return [
            f.name
            for f in fields(self)
            if f.compare and getattr(self, f.name) != getattr(other, f.name)
        ]


@dataclass(frozen=True)
class Header:
    """Describe a finished cache.

    crc32: of the bytes of each portion, in their order; static_crc32: of the static fields' files.
    """

    request: Request
    scaling: Scaling
    crc32: tuple[int, ...]
    static_crc32: int


def request_of(
    catalogue: Catalogue,
    *,
    dtype: str,
    member: int | None,
    files: tuple[SourceFile, ...],
    blocks: tuple[Block, ...] = (),
    format: str = "cache",
    targets: tuple[Target, ...] = (),
) -> Request:
    """Describe what repacking a catalogue makes."""
    return Request(
        version=VERSION,
        dtype=dtype,
        source=os.path.abspath(Path(catalogue.source).expanduser()),  # noqa: PTH100  may be a pattern
        member=member,
        files=files,
        channels=tuple(_cached(c) for c in catalogue.channels),
        static=tuple(_cached(c) for c in catalogue.static),
        latitude=tuple(catalogue.grid.latitude.tolist()),
        longitude=tuple(catalogue.grid.longitude.tolist()),
        periodic=catalogue.grid.periodic,
        times=tuple(catalogue.times.tolist()),
        absent=tuple(tuple(np.flatnonzero(c.part < 0).tolist()) for c in catalogue.channels),
        preliminary=tuple(np.flatnonzero(catalogue.preliminary).tolist()),
        blocks=blocks,
        format=format,
        targets=targets,
        origin=catalogue.files(),
    )


def _cached(channel: Channel) -> CachedChannel:
    return CachedChannel(**{f.name: getattr(channel, f.name) for f in fields(CachedChannel)})


def header_path(folder: Path) -> Path:
    """Return where the header of a finished cache lies."""
    return folder / HEADER


def partial_path(folder: Path) -> Path:
    """Return where the request lies until the cache is finished."""
    return folder / f"{HEADER}.partial"


def to_json(record: Request | Header) -> bytes:
    """Turn a record into one line of JSON; a line without its end was cut off."""
    return json.dumps(asdict(record)).encode() + b"\n"


def read_request(path: Path) -> Request:
    """Read the request of a cache that is not finished."""
    return _request(_load(path), path)


def read_header(folder: Path) -> Header:
    """Read the header of a finished cache.

    Raises
    ------
    FileNotFoundError
        If the cache is not finished.
    ValueError
        If it is no header of this version.
    """
    path = header_path(folder)
    if not path.exists() and partial_path(folder).exists():
        raise FileNotFoundError(
            f"{folder}: a cache that is not finished: run the same `hpc-bnn data repack` again, it "
            "goes on where it was broken off"
        )
    found = _load(path)
    try:
        return Header(
            _request(found["request"], path),
            Scaling(**{k: tuple(v) for k, v in found["scaling"].items()}),
            tuple(found["crc32"]),
            found["static_crc32"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged header of a cache: {error}; repack again") from error


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged header of a cache: {error}; remove the folder and repack again"
        ) from error


def _request(found: Any, path: Path) -> Request:
    """Build the request from its JSON object."""
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(
            f"{path}: not the header of a cache of version {VERSION}; repack again with this "
            "version of hpc_bnn"
        )
    try:
        made = {name: _tuples(value) for name, value in found.items()}
        made["files"] = tuple(SourceFile(**one) for one in found["files"])
        for name, kind in (("blocks", Block), ("targets", Target)):
            made[name] = tuple(
                kind(**{key: _tuples(value) for key, value in one.items()})
                for one in found.get(name, ())
            )
        for name in ("channels", "static"):
            made[name] = tuple(CachedChannel(**one) for one in found[name])
        return Request(**made)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged header of a cache: {error}; remove the folder and repack again"
        ) from error


def _tuples(value: Any) -> Any:
    """Turn the lists of JSON into tuples."""
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def numpy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the first `DATA_OFFSET` bytes of a numpy file (format version 1.0) of an array."""
    head = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    text = f"{head!r}".encode()
    magic = np.lib.format.magic(1, 0)
    room = DATA_OFFSET - len(magic) - 2
    return magic + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n"
