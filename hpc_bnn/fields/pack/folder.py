"""The folder of a pack while it is written: one job at a time, begun or gone on with.

    FOLDER/.lock              held by the job that writes
    FOLDER/done-RANK.jsonl    appended by each rank: steps whose fields have reached the disk

The places of all steps are in the files of the years before the first of them is written, and a
step is noted only when its data is on the disk: so a job may be killed at any moment.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.pack.header import (
    HEADER,
    Header,
    Year,
    header_of,
    load_header,
    partial_path,
    read_year,
    refuse_old,
    to_json,
)
from hpc_bnn.fields.pack.pack import OtherPackError
from hpc_bnn.fields.pack.sources import changes, fingerprints, listed
from hpc_bnn.files import sync_folder, unwritable, write_whole
from hpc_bnn.lock import hold

logger = logging.getLogger(__name__)

LOCK = ".lock"
Place = tuple[str, int]  # year and slot


@dataclass(frozen=True, eq=False)
class Plan:
    """What a job does.

    years: with the checksums of what is finished. places: of all times of the catalogue.
    done: what unfinished jobs say to have written. lacking: positions of the times without fields.
    """

    header: Header
    years: dict[str, Year]
    places: tuple[Place, ...]
    done: dict[Place, int]
    lacking: tuple[int, ...]


def begin(
    catalogue: Catalogue, folder: Path, member: int | None, held: ExitStack, *, waits: bool = False
) -> Plan | None:
    """Lock the folder and find out what is to be done; None if nothing is."""
    header = header_of(catalogue, member=member, files=fingerprints(catalogue.source))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{folder}: the folder cannot be made: {error.strerror}; give another"
        ) from error
    refuse_old(folder)
    partial, finished = partial_path(folder), folder / HEADER
    others = sorted(path.name for path in folder.iterdir() if path.name[0] != ".")
    if others and not partial.exists() and not finished.exists():
        raise ValueError(
            f"{folder}: is not empty (it has {', '.join(others[:5])}) and holds no pack; "
            "give a new folder (of a run: data.pack)"
        )
    held.enter_context(
        hold(folder / LOCK, takes_over=False, waits=waits, instead="start again then")
    )
    before = load_header(finished) if finished.exists() else None
    for path in (finished, partial):
        if path.exists():
            _require_same_source(folder, load_header(path), header)
    known = {path.stem: read_year(folder, path.stem) for path in folder.glob("[0-9]*.json")}
    years, places = assign(known, catalogue)
    lacking = tuple(at for at, (year, slot) in enumerate(places) if years[year].crc32[slot] is None)
    if before is not None:
        if not lacking and before.files == header.files and not partial.exists():
            logger.info("%s: is complete already", folder)
            clear(folder)
            return None
        header = replace(header, static_crc32=before.static_crc32)
    write_whole(partial, to_json(header))
    for year, steps in years.items():
        _extend(folder / f"{year}.f32", len(steps.times) * header.stride)
        if steps != known.get(year):
            write_whole(folder / f"{year}.json", to_json(steps))
    sync_folder(folder)
    done = read_done(folder)
    done = {places[at]: done[places[at]] for at in lacking if places[at] in done}
    if done:
        logger.info("%s: goes on: %d of %d steps are there", folder, len(done), len(lacking))
    return Plan(header, years, places, done, lacking)


def _require_same_source(folder: Path, before: Header, now: Header) -> None:
    """Refuse to append what does not belong to a pack, or not any more."""
    other = before.differences(now)
    if other:
        raise OtherPackError(
            f"{folder}: holds a pack that differs in {', '.join(other)}: it has "
            f"{', '.join(c.name for c in before.channels)} of {before.source}; give another "
            "folder, or remove this one and run the command again"
        )
    found = changes(before.source, before.files)
    if found is None or found.changed:
        raise ValueError(
            f"{folder}: files of the source changed since they were packed: "
            f"{listed(found.changed if found else ['all are gone'])}; restore them, or remove "
            f"{folder} and run the command again"
        )


def _extend(path: Path, size: int) -> None:
    """Make a file at least so large."""
    try:
        with path.open("ab") as file:
            if path.stat().st_size < size:
                file.truncate(size)
                os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(error, path) from error


def clear(folder: Path) -> None:
    """Remove what is needed only until a pack is finished."""
    for path in (*done_paths(folder), partial_path(folder)):
        path.unlink(missing_ok=True)
    sync_folder(folder)


class _Slots:
    """The steps of one year, while more are added."""

    def __init__(self, year: Year) -> None:
        self.times, self.crc32 = list(year.times), list(year.crc32)
        self.early = set(year.preliminary)
        self.absent = {name: set(slots) for name, slots in year.absent.items()}
        self._newest = {time: slot for slot, time in enumerate(self.times)}

    def place(self, time: int, absent: tuple[str, ...], *, early: bool) -> int:
        """Return the slot of a time, a new one where it is not there or was something else."""
        slot = self._newest.get(time)
        if slot is not None and (set(absent), early) == (
            {name for name, slots in self.absent.items() if slot in slots},
            slot in self.early,
        ):
            return slot
        slot = self._newest[time] = len(self.times)
        self.times.append(time)
        self.crc32.append(None)
        if early:
            self.early.add(slot)
        for name in absent:
            self.absent.setdefault(name, set()).add(slot)
        return slot

    def year(self) -> Year:
        absent = {name: tuple(sorted(slots)) for name, slots in self.absent.items()}
        early = tuple(sorted(self.early))
        return Year(tuple(self.times), absent, early, tuple(self.crc32))


def assign(
    known: Mapping[str, Year], catalogue: Catalogue
) -> tuple[dict[str, Year], tuple[Place, ...]]:
    """Return the years with a place for every time of a catalogue, and those places.

    A time keeps its place where the same channels are absent and it is as preliminary as before.
    """
    slots = {name: _Slots(year) for name, year in known.items()}
    names = [channel.name for channel in catalogue.channels]
    gone = _absent(catalogue)
    places = []
    for at, time in enumerate(catalogue.times.tolist()):
        year = times.text(time)[:4]
        absent = tuple(names[channel] for channel in gone.get(at, ()))
        held = slots.setdefault(year, _Slots(Year()))
        places.append((year, held.place(time, absent, early=bool(catalogue.preliminary[at]))))
    return {name: slots[name].year() for name in sorted(slots)}, tuple(places)


def _absent(catalogue: Catalogue) -> dict[int, list[int]]:
    """Return for positions of times the positions of the channels that have none there."""
    gone: dict[int, list[int]] = {}
    for position, channel in enumerate(catalogue.channels):
        for at in np.flatnonzero(channel.part < 0).tolist():
            gone.setdefault(at, []).append(position)
    return gone


class Done:
    """Appends what one rank has written."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"done-{rank:05d}.jsonl"
        try:
            self._file = self._path.open("ab", buffering=0)
            sync_folder(folder)
        except OSError as error:
            raise unwritable(error, self._path) from error

    def append(self, steps: Iterable[tuple[Place, int]]) -> None:
        """Note places whose data has reached the disk, with their checksums."""
        line = json.dumps([[year, slot, crc32] for (year, slot), crc32 in steps])
        rest = memoryview(f"\n{line}\n".encode())  # a line that was cut off before ends here
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(error, self._path) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def done_paths(folder: Path) -> list[Path]:
    """List what ranks of unfinished jobs have noted."""
    return sorted(folder.glob("done-*.jsonl"))


def read_done(folder: Path) -> dict[Place, int]:
    """Return the checksums of all steps that unfinished jobs have written."""
    done: dict[Place, int] = {}
    for path in done_paths(folder):
        for line in path.read_bytes().split(b"\n"):
            try:
                steps = json.loads(line)
            except ValueError:  # empty, or cut off
                continue
            done |= {(year, slot): crc32 for year, slot, crc32 in steps}
    return done
