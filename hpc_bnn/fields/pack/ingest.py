"""Writes a pack: reads the fields of a catalogue once, whatever its files look like, and appends
the steps that the pack lacks.

    plan      header, place of every step, what earlier jobs have written        rank 0
    check     checksums of what unfinished jobs have written                     all ranks
    fields    read, check, write, fsync, note                                    all ranks, in spans
    finish    static fields, checksums of the years, header                      rank 0

The bytes do not depend on the number of ranks, nor on how often the job was broken off.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.pack.folder import Done, Place, Plan, begin, clear
from hpc_bnn.fields.pack.header import HEADER, STATIC, Header, load_header, to_json
from hpc_bnn.fields.pack.pack import OtherPackError
from hpc_bnn.fields.pack.sources import changes, listed, touched
from hpc_bnn.fields.values import Values, chunk_steps, impossible, undeclared
from hpc_bnn.files import open_shared, put, unwritable, write_whole
from hpc_bnn.group import ALONE, Group
from hpc_bnn.progress import Progress

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 26  # of values that are read together; larger where the chunks of the files are
SPANS_PER_RANK = 4  # at least, where there are so many chunks: what is noted as a whole stays small


def ingest(
    catalogue: Catalogue,
    folder: Path,
    *,
    member: int | None = None,
    block_bytes: int = BLOCK_BYTES,
    waits: bool = False,
    ranks: Group = ALONE,
) -> Header:
    """Collective: write the fields of a catalogue, the same on every rank, into a pack.

    Where an earlier job was broken off, what it wrote is checked and kept. Steps that a finished
    pack lacks are appended; one that has them all is left as it is.

    member: of ensemble files, as the catalogue was made with.
    block_bytes: what is read together, more where one chunk of the source holds more.
    waits: for another job that writes this pack, instead of an error.

    Raises
    ------
    ValueError
        If the folder holds something else (`OtherPackError`, on every rank: another pack), or files
        of the source changed or have values that cannot be.
    OSError
        If the disk is full or fails: what was written stays, another run goes on; or if another
        job writes into this folder.
    """
    if not len(catalogue.times) or not catalogue.channels:
        raise ValueError(f"{catalogue.source}: no times or no channels to pack; choose others")
    with ExitStack() as held:  # on rank 0: locked while it is open

        def begun() -> Plan | OtherPackError | None:
            try:
                return begin(catalogue, folder, member, held, waits=waits)
            except OtherPackError as error:
                return error

        plan = ranks.on_first(begun, name="pack: plan")
        if isinstance(plan, OtherPackError):
            raise plan
        if plan is None:
            return ranks.on_first(lambda: load_header(folder / HEADER), name="pack: header")
        return _Job(catalogue, folder, plan, block_bytes, ranks).run()


class _Job:
    """The work of one rank."""

    def __init__(
        self, catalogue: Catalogue, folder: Path, plan: Plan, block_bytes: int, ranks: Group
    ) -> None:
        self._catalogue, self._folder, self._plan = catalogue, folder, plan
        self._block_bytes, self._ranks = block_bytes, ranks
        self._step_bytes = len(catalogue.channels) * plan.header.field_bytes
        self._open: dict[str, int] = {}
        self._told: set[int] = set()  # channels whose gaps were named

    def run(self) -> Header:
        """Collective: write what is not done."""
        try:
            whole = self._gathered(self._check, "check")
            missing = [at for at in self._plan.lacking if self._plan.places[at] not in whole]
            whole |= self._gathered(lambda: self._write(self._share(missing)), "fields")
        finally:
            for descriptor in self._open.values():
                os.close(descriptor)
        return self._ranks.on_first(lambda: self._finish(whole), name="pack: finish")

    def _gathered(self, action: Callable[[], dict[Place, int]], name: str) -> dict[Place, int]:
        """Collective: do something on every rank, return the results of all."""
        own = self._ranks.together(action, name=f"pack: {name}")
        everyone = self._ranks.gather(own, name=f"pack: {name}")
        return {place: crc32 for part in everyone for place, crc32 in part.items()}

    def _share(self, missing: Sequence[int]) -> list[Span]:
        """Return the spans of missing times that this rank writes."""
        at_least = SPANS_PER_RANK * self._ranks.size
        most = min(self._block_bytes // self._step_bytes, -(-len(missing) // at_least))
        cut = spans(self._catalogue, missing, chunk=chunk_steps(self._catalogue), most=most)
        return share(cut, rank=self._ranks.rank, size=self._ranks.size)

    def _check(self) -> dict[Place, int]:
        """Return what earlier jobs wrote and is as they wrote it, of this rank's part."""
        kept = {}
        own = list(self._plan.done.items())[self._ranks.rank :: self._ranks.size]
        progress = self._progress("check", len(own))
        for (year, slot), crc32 in own:
            if step_crc32(self._file(year), self._plan.header, slot) == crc32:
                kept[year, slot] = crc32
            else:
                logger.warning(
                    "%s: step %d is damaged and is written again", self._path(year), slot
                )
            progress.add(self._step_bytes)
        return kept

    def _write(self, own: Sequence[Span]) -> dict[Place, int]:
        """Write spans; return their checksums."""
        progress = self._progress("pack", sum(span.stop - span.start for span in own))
        checksums: dict[Place, int] = {}
        if not own:
            return checksums
        with (
            closing(Values(self._catalogue)) as values,
            closing(Done(self._folder, self._ranks.rank)) as done,
        ):
            for span in own:
                written = self._write_span(values, span)
                changed = touched(self._plan.header.files)
                if changed:
                    raise ValueError(
                        f"{changed} while it was read; restore it and run the same command again, "
                        f"or remove {self._folder} and begin anew"
                    )
                done.append(written.items())
                checksums |= written
                progress.add((span.stop - span.start) * self._step_bytes)
        return checksums

    def _write_span(self, values: Values, span: Span) -> dict[Place, int]:
        """Bring the fields of a span to the disk; return the checksums of its steps."""
        header, count = self._plan.header, len(self._catalogue.channels)
        places = self._plan.places[span.start : span.stop]
        crc32 = [0] * len(places)
        together = max(1, self._block_bytes // (len(places) * header.field_bytes))
        for first in range(0, count, together):
            channels = range(first, min(first + together, count))
            block = values.read(channels, span.start, span.stop)
            self._require_possible(block, channels, span.start)
            self._warn_of_gaps(block, channels, span.start)
            for at, (year, slot) in enumerate(places):
                raw = np.ascontiguousarray(block[at], "<f4")
                crc32[at] = zlib.crc32(raw.data, crc32[at])
                where = slot * header.stride + first * header.field_bytes
                try:
                    put(self._file(year), raw, where)
                except OSError as error:
                    raise unwritable(error, self._path(year)) from error
        for year in dict.fromkeys(year for year, _ in places):
            try:
                os.fsync(self._file(year))
            except OSError as error:
                raise unwritable(error, self._path(year)) from error
        return dict(zip(places, crc32, strict=True))

    def _require_possible(
        self, block: NDArray[np.float32], channels: Sequence[int], start: int
    ) -> None:
        """Refuse values (T, C, H, W) that are infinite or beyond the range of their channel."""
        some = [self._catalogue.channels[channel] for channel in channels]
        problem = impossible(some, block, self._catalogue.grid)
        if problem is not None:
            time, position, what = problem
            raise ValueError(f"{self._catalogue.place(channels[position], start + time)}: {what}")

    def _warn_of_gaps(
        self, block: NDArray[np.float32], channels: Sequence[int], start: int
    ) -> None:
        """Name the first field of each channel that lacks values (T, C, H, W) which no file
        declares missing: a pack may hold them, training refuses them unless it is to fill them in.
        """
        with np.errstate(over="ignore"):  # a sum is NaN where any value is
            lacking = np.isnan(block.reshape(*block.shape[:2], -1).sum(2))
        for time, position in np.argwhere(lacking).tolist():
            channel, at = channels[position], start + time
            if channel in self._told:
                continue
            one = self._catalogue.channels[channel]
            what = undeclared(self._catalogue, one, at, block[time, position])
            if what:
                self._told.add(channel)
                logger.warning(
                    "%s: %s; packed as it is: training refuses it, but with data.missing = mean",
                    self._catalogue.place(channel, at),
                    what,
                )

    def _path(self, year: str) -> Path:
        return self._folder / f"{year}.f32"

    def _file(self, year: str) -> int:
        if year not in self._open:
            self._open[year] = open_shared(self._path(year))
        return self._open[year]

    def _progress(self, what: str, steps: int) -> Progress:
        return Progress(f"{self._folder}: {what}", steps * self._step_bytes)

    def _finish(self, whole: dict[Place, int]) -> Header:
        """Write the static fields, the checksums and the header."""
        plan, folder = self._plan, self._folder
        found = changes(plan.header.source, plan.header.files)
        if found is None or found.changed:
            raise ValueError(
                f"{folder}: files of the source changed while they were read: "
                f"{listed(found.changed if found else ['all are gone'])}; remove this folder and "
                "run the command again"
            )
        header = plan.header
        if not (folder / HEADER).exists():
            with closing(Values(self._catalogue)) as values:
                raw = np.ascontiguousarray(values.static(), "<f4").tobytes()
            write_whole(folder / STATIC, raw)
            header = replace(header, static_crc32=zlib.crc32(raw))
        for name, year in plan.years.items():
            crc32 = [whole.get((name, slot), known) for slot, known in enumerate(year.crc32)]
            if crc32 != list(year.crc32):
                write_whole(folder / f"{name}.json", to_json(replace(year, crc32=tuple(crc32))))
        header = replace(header, years={name: len(y.times) for name, y in plan.years.items()})
        write_whole(folder / HEADER, to_json(header))
        clear(folder)
        return header


def step_crc32(descriptor: int, header: Header, slot: int) -> int:
    """Compute the checksum of a step as it lies in the open file of its year."""
    found, size = 0, header.field_bytes  # field by field: one call reads at most 2 GiB
    for channel in range(len(header.channels)):
        found = zlib.crc32(os.pread(descriptor, size, slot * header.stride + channel * size), found)
    return found


@dataclass(frozen=True)
class Span:
    """Times [start, stop) of a catalogue that are read and written together."""

    start: int
    stop: int


def spans(catalogue: Catalogue, missing: Sequence[int], *, chunk: int, most: int) -> list[Span]:
    """Cut missing times of a catalogue into spans that share no chunk, as far as `chunk` tells.

    missing: positions in the times, increasing. chunk: steps in a chunk of the files.
    most: steps in a span, but for those of one chunk.
    """
    steps = chunk * max(1, most // chunk)
    begins = np.zeros(len(catalogue.times) + 1, bool)  # where another file begins
    for part in {id(c.part): c.part for c in catalogue.channels}.values():
        begins[1:-1] |= np.diff(part) != 0
    first = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    cells = [(int(first[at]), (at - int(first[at])) // steps) for at in missing]
    cut: list[Span] = []
    for before, at in enumerate(missing, start=-1):
        if cut and cut[-1].stop == at and cells[before] == cells[before + 1]:
            cut[-1] = Span(cut[-1].start, at + 1)
        else:
            cut.append(Span(at, at + 1))
    return cut


def share(spans: Sequence[Span], *, rank: int, size: int) -> list[Span]:
    """Return the spans of one rank: neighbours, about equally many steps for each rank."""
    ends = np.cumsum([span.stop - span.start for span in spans])
    if not len(ends):
        return []
    middle = ends - np.diff(ends, prepend=0) / 2
    of_rank: NDArray[np.int64] = np.minimum((middle / ends[-1] * size).astype(int), size - 1)
    return [spans[at] for at in np.flatnonzero(of_rank == rank).tolist()]
