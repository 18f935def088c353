"""What a pack is: plain float32 numbers, a file a year, and the JSON that says how they lie.

    FOLDER/pack.json     `Header`; called pack.json.partial until all is written
    FOLDER/static.f32    (F, H, W), the fields without time
    FOLDER/2017.f32      steps (C, H, W), each at a multiple of `Header.stride`, whole pages
    FOLDER/2017.json     `Year`: the time and the checksum of every step

Numbers are little-endian float32, in canonical orientation (grid.py) and the units of their
channel; NaN where a value is missing, all of a field where no file has it.

A pack grows behind what is there: steps are appended to the file of their year, and where a time is
there twice, the later step counts. `Header.years` says how many steps of each year count, so what
an unfinished job has appended is not read.

Shape letters: C channels, F static fields, H latitude, W longitude.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields.catalogue import Catalogue, Channel
from hpc_bnn.fields.pack.sources import SourceFile, absolute

VERSION = 2  # 1: cache.json of hpc_bnn 0.1
PAGE = 4096
HEADER, STATIC, OLD_HEADER = "pack.json", "static.f32", "cache.json"


@dataclass(frozen=True)
class PackChannel(FieldChannel):
    """A channel of a pack.

    declared: whether its files say that values may be missing.
    """

    variable: str
    declared: bool


@dataclass(frozen=True)
class Header:
    """What a pack holds and what it was made of.

    source: the path that was given, absolute. member: of ensemble files.
    files: of the source, as they were when they were read.
    origin: names and sizes of the files that the values come from, as `Catalogue.files`.
    years: how many steps of each year count.
    static_crc32: of the file of static fields.
    cut: whether the files had more times when the last steps were packed.
    """

    version: int
    source: str
    member: int | None
    channels: tuple[PackChannel, ...]
    static: tuple[PackChannel, ...]
    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    periodic: bool
    files: tuple[SourceFile, ...]
    origin: tuple[tuple[str, int], ...]
    years: Mapping[str, int]
    static_crc32: int
    cut: bool = False

    @property
    def field_bytes(self) -> int:
        """The bytes of one field (H, W)."""
        return 4 * len(self.latitude) * len(self.longitude)

    @property
    def stride(self) -> int:
        """The bytes from one step to the next."""
        return -(-len(self.channels) * self.field_bytes // PAGE) * PAGE

    def differences(self, other: Header) -> list[str]:
        """Name what differs of what must be the same for steps to be appended."""
        names = ("version", "source", "member", "channels", "static", "latitude", "longitude")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Year:
    """The steps of one year, by slot: their position in its file.

    times: seconds since 1970.
    absent: for names of channels the slots that have no such field.
    preliminary: slots that are ERA5T.
    crc32: of the fields of a step; None where they are not written.
    """

    times: tuple[int, ...] = ()
    absent: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    preliminary: tuple[int, ...] = ()
    crc32: tuple[int | None, ...] = ()


def header_of(catalogue: Catalogue, *, member: int | None, files: tuple[SourceFile, ...]) -> Header:
    """Describe the pack of a catalogue, before any step is written."""

    def channel(one: Channel) -> PackChannel:
        parts = np.unique(one.part[one.part >= 0]).tolist()
        known = {f.name: getattr(one, f.name) for f in fields(PackChannel) if f.name != "declared"}
        declared = all(catalogue.parts[index].packing.declared for index in parts)
        return PackChannel(**known, declared=declared)

    return Header(
        version=VERSION,
        source=absolute(catalogue.source),
        member=member,
        channels=tuple(map(channel, catalogue.channels)),
        static=tuple(map(channel, catalogue.static)),
        latitude=tuple(catalogue.grid.latitude.tolist()),
        longitude=tuple(catalogue.grid.longitude.tolist()),
        periodic=catalogue.grid.periodic,
        files=files,
        origin=catalogue.files(),
        years={},
        static_crc32=0,
        cut=catalogue.cut,
    )


def partial_path(folder: Path) -> Path:
    """Return where the header lies until all of it is written."""
    return folder / f"{HEADER}.partial"


def is_pack(path: str | Path) -> bool:
    """Tell whether a path is a pack, finished or not, or a folder that version 0.1 repacked into,
    which `read_header` refuses.
    """
    folder = Path(path).expanduser()
    names = (HEADER, f"{HEADER}.partial", OLD_HEADER, f"{OLD_HEADER}.partial")
    return any((folder / name).is_file() for name in names)


def to_json(record: Header | Year) -> bytes:
    """Turn a record into JSON."""
    return json.dumps(asdict(record), separators=(",", ":")).encode() + b"\n"


def read_header(folder: Path) -> Header:
    """Read the header of a finished pack.

    Raises
    ------
    FileNotFoundError
        If it is not finished.
    ValueError
        If it is damaged or of another version; says what to run.
    """
    refuse_old(folder)
    path = folder / HEADER
    if not path.exists() and partial_path(folder).exists():
        raise FileNotFoundError(
            f"{folder}: a pack that is not finished: run the same `hpc-bnn data ingest` again, it "
            "goes on where it was broken off"
        )
    return load_header(path)


def load_header(path: Path) -> Header:
    """Read a header, of a finished pack or not."""
    found = _load(path)
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(
            f"{path}: not the header of a pack of version {VERSION}: remove the folder and run "
            "`hpc-bnn data ingest` again with this version of hpc_bnn"
        )
    try:
        return Header(
            **found
            | {name: tuple(found[name]) for name in ("latitude", "longitude")}
            | {
                name: tuple(PackChannel(**one) for one in found[name])
                for name in ("channels", "static")
            }
            | {"files": tuple(SourceFile(**one) for one in found["files"])}
            | {"origin": tuple((name, size) for name, size in found["origin"])}
        )
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def read_year(folder: Path, year: str) -> Year:
    """Read what is known of the steps of a year."""
    path = folder / f"{year}.json"
    found = _load(path)
    try:
        steps = Year(
            tuple(found["times"]),
            {name: tuple(slots) for name, slots in found["absent"].items()},
            tuple(found["preliminary"]),
            tuple(found["crc32"]),
        )
        if len(steps.crc32) != len(steps.times):
            raise ValueError(f"{len(steps.times)} times, {len(steps.crc32)} checksums")
        return steps
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, error) from error


def read_steps(
    folder: Path, header: Header
) -> tuple[
    NDArray[np.int64],
    NDArray[np.bool_],
    NDArray[np.bool_],
    NDArray[np.int16],
    NDArray[np.int32],
]:
    """Return times, absent fields, preliminary, year and slot of all steps that count, sorted."""
    years = [_of_year(read_year(folder, year), header, year) for year in header.years]
    when, absent, preliminary, year, slot = (
        np.concatenate(arrays) for arrays in zip(*years, strict=True)
    )
    order = np.argsort(when, kind="stable")
    return when[order], absent[order], preliminary[order], year[order], slot[order]


def _of_year(steps: Year, header: Header, year: str) -> tuple[NDArray[np.generic], ...]:
    count = header.years[year]
    if len(steps.times) < count:
        raise ValueError(f"{year}.json: has {len(steps.times)} steps, expected {count}")
    newest = {  # the later of two steps of one time counts
        time: slot
        for slot, (time, crc32) in enumerate(zip(steps.times[:count], steps.crc32, strict=False))
        if crc32 is not None
    }
    slots = np.array(list(newest.values()), np.int32)
    absent = np.zeros((count, len(header.channels)), bool)
    for position, channel in enumerate(header.channels):
        gone = [slot for slot in steps.absent.get(channel.name, ()) if slot < count]
        absent[gone, position] = True
    early = np.isin(slots, steps.preliminary)
    return (
        np.array(list(newest), np.int64),
        absent[slots],
        early,
        np.full(len(slots), int(year), np.int16),
        slots,
    )


def refuse_old(folder: Path) -> None:
    """Refuse a folder that `hpc-bnn data repack` of version 0.1 wrote.

    Raises
    ------
    ValueError
        With the command that packs its source.
    """
    for name in (OLD_HEADER, f"{OLD_HEADER}.partial"):
        path = folder / name
        if path.is_file():
            try:
                found = json.loads(path.read_bytes())
                source = str(found.get("request", found)["source"])
            except (ValueError, KeyError, TypeError, AttributeError):
                source = "ITS_SOURCE"
            raise ValueError(
                f"{folder}: was repacked by hpc_bnn 0.1, whose format is not read any more; run "
                f"`hpc-bnn data ingest {source} -o NEW_FOLDER` and give data.path=NEW_FOLDER"
            )


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: no such file: a pack that was copied in part, or none; copy it again, or run "
            "`hpc-bnn data ingest`"
        ) from error
    except ValueError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: damaged: {error}; copy it again, or remove the folder and run `hpc-bnn data "
        "ingest` again"
    )
