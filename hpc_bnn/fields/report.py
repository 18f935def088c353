"""A catalogue or a pack in words: what it holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, Part, levels_in_words
from hpc_bnn.fields.pack.pack import Pack


def describe(catalogue: Catalogue) -> list[str]:
    """Describe files, grid, channels and times in lines."""
    parts = used_parts(catalogue)
    files = {part.file.path: part.file for part in parts}
    formats = sorted({file.flavour for file in files.values()})
    size = sum(file.size for file in files.values())
    layouts = sorted(
        {
            f"{np.dtype(p.packing.dtype).name}, "
            f"{'contiguous' if p.chunks is None else f'chunks {list(p.chunks)}'}"
            f"{', ' + p.compression if p.compression else ''}"
            for p in parts
        }
    )
    more = f" and {len(layouts) - 3} other layouts" if len(layouts) > 3 else ""
    return [
        f"source    {catalogue.source}",
        f"files     {len(files)} ({', '.join(formats)}), {size / 1e6:.1f} MB",
        *_contents(catalogue),
        f"stored    {'; '.join(layouts[:3])}{more}",
    ]


def describe_pack(pack: Pack) -> list[str]:
    """Describe a pack in lines."""
    header = pack.header
    size = sum(header.years.values()) * header.stride
    return [
        f"pack      {pack.source}, {len(header.years)} years, {size / 1e6:.1f} MB",
        f"source    {header.source}, {len(header.files)} files",
        *_contents(pack),
    ]


def _contents(held: Catalogue | Pack) -> list[str]:
    """Describe grid, channels and times."""
    lines = [
        f"grid      {held.grid}",
        f"channels  {len(held.channels)}: {levels_in_words(held.names)}",
    ]
    if held.static:
        lines.append(f"static    {', '.join(channel.name for channel in held.static)}")
    if len(held.times):
        gaps = np.diff(held.times)
        every = f", every {_usual_step(gaps) / 3600:g} h" if len(gaps) else ""
        first, last = (times.text(int(held.times[at])) for at in (0, -1))
        lines.append(f"times     {len(held.times)}{every}, {first} to {last}")
    return lines


def defects(catalogue: Catalogue) -> list[str]:
    """List everything that is odd or unusable, worst first."""
    return [
        *catalogue.problems,
        *_irregular(catalogue),
        *_incomplete(catalogue, [channel.part < 0 for channel in catalogue.channels]),
        *(f"'{name}' {reason}" for name, reason in catalogue.skipped.items()),
        *catalogue.notices,
    ]


def pack_defects(pack: Pack) -> list[str]:
    """List what is odd about a pack, problems first."""
    absent = [pack.absent[:, position] for position in pack.positions]
    return [*pack.problems, *pack.notices, *_incomplete(pack, absent)]


def used_parts(catalogue: Catalogue) -> list[Part]:
    """List the parts that the channels and static fields of a catalogue read."""
    channels = (*catalogue.channels, *catalogue.static)
    indices = {int(i) for c in channels for i in np.unique(c.part) if i >= 0}
    return [catalogue.parts[i] for i in sorted(indices)]


def _irregular(catalogue: Catalogue) -> list[str]:
    """Describe gaps between the times."""
    remarks = []
    gaps = np.diff(catalogue.times)
    if len(gaps):
        usual = _usual_step(gaps)
        for at in np.flatnonzero(gaps % usual)[:1]:
            remarks.append(
                f"{catalogue.source}: {times.text(int(catalogue.times[at]))} and "
                f"{times.text(int(catalogue.times[at + 1]))} are {gaps[at] / 3600:g} h apart, no "
                f"multiple of the usual {usual / 3600:g} h"
            )
        missing = int((gaps // usual - 1).clip(0).sum())
        if missing:
            at = int(np.argmax(gaps))
            remarks.append(
                f"{catalogue.source}: {missing} steps are missing in "
                f"{int((gaps > usual).sum())} gaps, the longest from "
                f"{times.text(int(catalogue.times[at]))} to "
                f"{times.text(int(catalogue.times[at + 1]))}; no window crosses a gap"
            )
    return remarks


def _incomplete(held: Catalogue | Pack, absent: Sequence[NDArray[np.bool_]]) -> list[str]:
    """Describe incomplete steps, of each channel those that are ``absent`` (T,), and preliminary
    ones.
    """
    remarks = []
    for name, is_absent in zip(held.names, absent, strict=True):
        gone = held.times[is_absent]
        if len(gone):
            remarks.append(
                f"{held.source}: '{name}' is missing at {len(gone)} of {len(held.times)} times "
                f"({times.listed(gone)}); no window contains them"
            )
    early = held.times[held.preliminary]
    if len(early):
        remarks.append(
            f"{held.source}: {len(early)} steps are ERA5T, preliminary data (expver 0005), "
            f"{times.listed(early)}; ERA5 may replace them"
        )
    return remarks


def _usual_step(gaps: NDArray[np.int64]) -> int:
    """Return the most frequent distance of neighbouring times in seconds."""
    values, counts = np.unique(gaps, return_counts=True)
    return int(values[np.argmax(counts)])
