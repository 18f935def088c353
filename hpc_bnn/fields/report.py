"""A catalogue in words: what it holds, and what is wrong with it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, Part, levels_in_words


def describe(catalogue: Catalogue) -> str:
    """Describe files, grid, channels and times."""
    parts = used_parts(catalogue)
    files = {part.file.path: part.file for part in parts}
    formats = sorted({file.flavour for file in files.values()})
    size = sum(file.size for file in files.values())
    lines = [
        f"source    {catalogue.source}",
        f"files     {len(files)} ({', '.join(formats)}), {size / 1e6:.1f} MB",
        f"grid      {catalogue.grid}",
        f"channels  {len(catalogue.channels)}: {levels_in_words(catalogue.names)}",
    ]
    if catalogue.static:
        lines.append(f"static    {', '.join(c.name for c in catalogue.static)}")
    if len(catalogue.times):
        gaps = np.diff(catalogue.times)
        every = f", every {_usual_step(gaps) / 3600:g} h" if len(gaps) else ""
        lines.append(
            f"times     {len(catalogue.times)}{every}, {times.text(int(catalogue.times[0]))} to "
            f"{times.text(int(catalogue.times[-1]))}"
        )
    layouts = sorted(
        {
            f"{np.dtype(p.packing.dtype).name}, "
            f"{'contiguous' if p.chunks is None else f'chunks {list(p.chunks)}'}"
            f"{', ' + p.compression if p.compression else ''}"
            for p in parts
        }
    )
    more = f" and {len(layouts) - 3} other layouts" if len(layouts) > 3 else ""
    lines.append(f"stored    {'; '.join(layouts[:3])}{more}")
    return "\n".join(lines)


def defects(catalogue: Catalogue) -> list[str]:
    """List everything that is odd or unusable, worst first."""
    return [
        *catalogue.problems,
        *_times(catalogue),
        *(f"'{name}' {reason}" for name, reason in catalogue.skipped.items()),
        *catalogue.notices,
    ]


def used_parts(catalogue: Catalogue) -> list[Part]:
    """List the parts that the channels and static fields of a catalogue read."""
    channels = (*catalogue.channels, *catalogue.static)
    indices = {int(i) for c in channels for i in np.unique(c.part) if i >= 0}
    return [catalogue.parts[i] for i in sorted(indices)]


def _times(catalogue: Catalogue) -> list[str]:
    """Describe gaps, incomplete steps and preliminary data."""
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
    for channel in catalogue.channels:
        gone = catalogue.times[channel.part < 0]
        if len(gone):
            remarks.append(
                f"{catalogue.source}: '{channel.name}' is missing at {len(gone)} of "
                f"{len(catalogue.times)} times ({times.listed(gone)}); no window contains them"
            )
    early = catalogue.times[catalogue.preliminary]
    if len(early):
        remarks.append(
            f"{catalogue.source}: {len(early)} steps are ERA5T, preliminary data "
            f"(expver 0005), {times.listed(early)}; ERA5 may replace them"
        )
    return remarks


def _usual_step(gaps: NDArray[np.int64]) -> int:
    """Return the most frequent distance of neighbouring times in seconds."""
    values, counts = np.unique(gaps, return_counts=True)
    return int(values[np.argmax(counts)])
