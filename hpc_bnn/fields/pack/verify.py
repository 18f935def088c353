"""Whether a pack is what its checksums and its source say."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, some
from hpc_bnn.fields.pack.header import STATIC, header_of, read_year
from hpc_bnn.fields.pack.ingest import BLOCK_BYTES, Span, share, spans, step_crc32
from hpc_bnn.fields.pack.pack import Pack, open_pack, year_path
from hpc_bnn.fields.pack.reader import PackReader
from hpc_bnn.fields.values import Values, chunk_steps
from hpc_bnn.group import ALONE, Group
from hpc_bnn.progress import Progress


def verify(
    folder: Path, *, source: Catalogue | None = None, ranks: Group = ALONE
) -> tuple[str, ...]:
    """Collective: read all of a pack and compare it; return what is wrong, the same on every rank.

    source: catalogue of the same channels, read again and compared value by value; only the
        checksums are compared where None.

    Raises
    ------
    FileNotFoundError, ValueError
        If the pack is not finished, or the source has other channels or not all of its times.
    """
    pack = ranks.on_first(
        lambda: open_pack(folder, stale="allow", strict=False), name="verify: header"
    )
    if pack.problems:
        return pack.problems
    checks: list[Callable[[], list[str]]] = [lambda: _damaged(pack, ranks)]
    if source is not None:
        given = source
        same = ranks.on_first(lambda: _same(pack, given), name="verify: source")
        checks.append(lambda: _different(pack, same, ranks))
    wrong: list[str] = []
    for check in checks:
        own = ranks.together(check, name="verify")
        wrong += [one for several in ranks.gather(own, name="verify") for one in several]
    return tuple(wrong)


def _same(pack: Pack, source: Catalogue) -> Catalogue:
    """Return the catalogue at the times of the pack."""
    header = header_of(source, member=pack.header.member, files=pack.header.files)
    other = [name for name in pack.header.differences(header) if name != "source"]
    kept = source.between(int(pack.times[0]), int(pack.times[-1]))
    if not other and not np.array_equal(kept.times, pack.times):
        other = ["times"]
    if other:
        raise ValueError(
            f"{pack.folder}: {source.source} differs from this pack in {', '.join(other)}: it "
            "cannot be compared"
        )
    return kept


def _damaged(pack: Pack, ranks: Group) -> list[str]:
    """Compare this rank's steps with their checksums, and on rank 0 the static fields."""
    header, found = pack.header, []
    if ranks.rank == 0:
        path = pack.folder / STATIC
        if not path.exists() or zlib.crc32(path.read_bytes()) != header.static_crc32:
            found.append(f"{path}: the checksum differs: damaged or gone")
    step_bytes = len(header.channels) * header.field_bytes
    count = len(pack.times[ranks.rank :: ranks.size])
    progress = Progress(f"{pack.folder}: checksums", count * step_bytes)
    for name in header.years:
        path, year = year_path(pack.folder, name), read_year(pack.folder, name)
        file = os.open(path, os.O_RDONLY)
        try:
            own = np.flatnonzero(pack.year == int(name))
            for at in own[own % ranks.size == ranks.rank].tolist():
                slot = int(pack.slot[at])
                if step_crc32(file, header, slot) != year.crc32[slot]:
                    when = times.text(int(pack.times[at]))
                    found.append(f"{path}: {when}: the checksum differs: damaged")
                progress.add(step_bytes)
        finally:
            os.close(file)
    return found


def _different(pack: Pack, source: Catalogue, ranks: Group) -> list[str]:
    """Compare this rank's share of the source, as it is now, with the pack."""
    header, found = pack.header, []
    step_bytes = len(header.channels) * header.field_bytes
    cut = spans(
        source,
        range(len(source.times)),
        chunk=chunk_steps(source),
        most=max(1, BLOCK_BYTES // step_bytes),
    )
    own = share(cut, rank=ranks.rank, size=ranks.size)
    progress = Progress(
        f"{pack.folder}: compare", sum(span.stop - span.start for span in own) * step_bytes
    )
    with closing(Values(source)) as values, closing(PackReader(pack, missing="keep")) as reader:
        if ranks.rank == 0 and values.static().tobytes() != reader.static().tobytes():
            found.append(f"{pack.folder / STATIC}: differs from the source")
        for span in own:
            together = max(1, BLOCK_BYTES // ((span.stop - span.start) * header.field_bytes))
            for first in range(0, len(header.channels), together):
                channels = range(first, min(first + together, len(header.channels)))
                block = values.read(channels, span.start, span.stop)
                found += _differences(pack, block, channels, span)
            progress.add((span.stop - span.start) * step_bytes)
    return found


def _differences(
    pack: Pack, block: NDArray[np.float32], channels: Sequence[int], span: Span
) -> list[str]:
    """Name the fields of a block (T, C, H, W) that a pack holds otherwise, one text a time."""
    header, found = pack.header, []
    for at, fields in zip(range(span.start, span.stop), block, strict=True):
        offset = int(pack.slot[at]) * header.stride + channels[0] * header.field_bytes
        with pack.path(at).open("rb") as file:
            file.seek(offset)
            held = np.frombuffer(file.read(fields.nbytes), "<f4").reshape(fields.shape)
        same = (held == fields) | (np.isnan(held) & np.isnan(fields))
        wrong = [pack.names[c] for c, one in zip(channels, same, strict=True) if not one.all()]
        if wrong:
            when = times.text(int(pack.times[at]))
            found.append(f"{pack.path(at)}: {some(wrong)} at {when}: differs from the source")
    return found
