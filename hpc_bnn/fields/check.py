"""Checks of a catalogue: a sample of its values, and files that lack what others have.

The sample is bounded by what must be read and inflated for it, so that one process may take it of
any archive; every value is checked where it is packed.

Shape letters: C channels, H latitude, W longitude, T times.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, Channel, amplification, levels_in_words
from hpc_bnn.fields.values import Values, impossible, undeclared

SAMPLE_BYTES = 1 << 30  # inflated at most for a sample, but for one variable of one file
FIRST_BYTES = 1 << 28  # for the first look, which every catalogue takes


@dataclass(frozen=True, eq=False)
class _Held:
    """Channels of one part of the catalogue.

    times: (T,) positions in the times of the catalogue.
    cost: bytes that must be inflated for one time.
    """

    channels: tuple[int, ...]
    times: NDArray[np.int64]
    cost: int


def range_problems(catalogue: Catalogue) -> list[str]:
    """Say which variables of which files are in wrong units: one field of each shows it."""
    values, problems = Values(catalogue), []
    try:
        for one in _affordable(_held(catalogue, most_channels=1), FIRST_BYTES):
            channel, time = one.channels[0], int(one.times[0])
            try:
                field = values.read([channel], time, time + 1)[0, 0]
            except (OSError, ValueError) as error:
                problems.append(str(error))
                continue
            what = _impossible(catalogue, catalogue.channels[channel], field)
            problems += [f"{catalogue.place(channel, time)}: {what}"] if what else []
        return problems + _static_problems(values, catalogue)
    finally:
        values.close()


def sample_problems(
    catalogue: Catalogue, *, most_bytes: int | None = None
) -> tuple[list[str], str]:
    """Return what is wrong with a sample of the values, beside the problems of the catalogue, and
    in words how many fields were read.

    The sample: of every variable of every file the first and the last time, and some between; of
    some files only where that is too much, and everything where that is little.
    """
    most_bytes = SAMPLE_BYTES if most_bytes is None else most_bytes
    held = _held(catalogue)
    sample = _affordable(held, most_bytes // 2)
    share = most_bytes // max(len(sample), 1)
    gaps: dict[int, tuple[NDArray[np.bool_], int]] = {}
    problems: list[str] = []
    count = 0
    values = Values(catalogue)
    try:
        for one in sample:
            for at in _spread(len(one.times), max(2, share // one.cost)):
                count += len(one.channels)
                problem = _step_problem(values, catalogue, one.channels, int(one.times[at]), gaps)
                if problem:
                    problems.append(problem)
                    break  # one of a variable of a file is enough
        problems += _static_problems(values, catalogue)
    finally:
        values.close()
    total = sum(int((channel.part >= 0).sum()) for channel in catalogue.channels)
    files = "every file" if len(sample) == len(held) else "some files"
    rest = "" if count == total else f": of {files} the first, the last and some between"
    problems = [problem for problem in problems if problem not in catalogue.problems]
    return problems, f"values    {count} of {total} fields were read{rest}"


def _held(catalogue: Catalogue, most_channels: int | None = None) -> list[_Held]:
    """List what lies together in each part: all channels, or the first of them."""
    together: dict[tuple[int, int], list[int]] = {}
    for position, channel in enumerate(catalogue.channels):
        together.setdefault((id(channel.part), id(channel.step)), []).append(position)
    held = []
    for channels in together.values():
        some, part = channels[:most_channels], catalogue.channels[channels[0]].part
        for index in np.unique(part[part >= 0]).tolist():
            size = 4 * len(some) * prod(catalogue.shape[1:])
            cost = ceil(size * amplification(catalogue.parts[index], len(some)))
            held.append(_Held(tuple(some), np.flatnonzero(part == index), cost))
    return held


def _affordable(held: list[_Held], most_bytes: int) -> list[_Held]:
    """Choose as many as one time of each may be read of, spread over all, and one at least."""
    mean = sum(one.cost for one in held) / max(len(held), 1)
    return [held[at] for at in _spread(len(held), int(most_bytes // max(mean, 1)))]


def _spread(count: int, most: int) -> list[int]:
    """Choose numbers below ``count``: all, or the first, the last and some between."""
    if not count:
        return []
    places = np.linspace(0, count - 1, min(max(most, 1), count)).round().astype(int)
    numbers: list[int] = np.unique(places).tolist()
    return numbers


def _step_problem(
    values: Values,
    catalogue: Catalogue,
    channels: tuple[int, ...],
    time: int,
    gaps: dict[int, tuple[NDArray[np.bool_], int]],
) -> str:
    """Say what is wrong with one time of some channels, empty if nothing is.

    gaps: for each channel the points that its first field misses, and its time; kept up here.
    """
    try:
        fields = values.read(channels, time, time + 1)[0]
    except (OSError, ValueError) as error:
        return str(error)
    for channel, field in zip(channels, fields, strict=True):
        where, one = catalogue.place(channel, time), catalogue.channels[channel]
        what = _impossible(catalogue, one, field)
        if what:
            return f"{where}: {what}"
        what = undeclared(catalogue, one, time, field)
        if what:
            return f"{where}: {what}"
        missing = np.isnan(field)
        absent, first = gaps.setdefault(channel, (missing, time))
        if not np.array_equal(absent, missing):
            more, less = int((missing & ~absent).sum()), int((absent & ~missing).sum())
            return (
                f"{where}: {more} points have no value that have one, {less} have one that have "
                f"none, at {times.text(int(catalogue.times[first]))}; expected the same points at "
                "all times: repair the file, leave the variable out, or choose other times"
            )
    return ""


def _impossible(catalogue: Catalogue, channel: Channel, field: NDArray[np.float32]) -> str:
    """Say what is wrong with the values of a field (H, W), empty if they can be."""
    problem = impossible([channel], field[None, None], catalogue.grid)
    return "" if problem is None else problem[2]


def _static_problems(values: Values, catalogue: Catalogue) -> list[str]:
    """List the static fields that have values that cannot be."""
    try:
        fields = values.static()
    except (OSError, ValueError) as error:
        return [str(error)]
    problems = []
    for channel, field in zip(catalogue.static, fields, strict=True):
        part, what = catalogue.parts[int(channel.part[0])], _impossible(catalogue, channel, field)
        if what:
            problems.append(f"{part.file.path}: '{part.variable}', a static field: {what}")
    return problems


def differing_files(catalogue: Catalogue) -> list[str]:
    """Find files that lack channels which files of the same kind have.

    Files are of the same kind if they share a channel. A channel that is missing in one file is no
    problem where another file has it for some time of that file.
    """
    contents = _contents(catalogue)
    kinds: dict[frozenset[str], list[str]] = {}
    for path, (names, _) in contents.items():
        kinds.setdefault(frozenset(names), []).append(path)
    present = {c.name: catalogue.times[c.part >= 0] for c in catalogue.channels}
    problems = []
    reported: set[str] = set()
    for mine, paths in kinds.items():
        for other, other_paths in kinds.items():
            missing = [n for n in catalogue.names if n in other - mine]
            if not (mine & other) or not missing or paths[0] in reported:
                continue
            for path in paths:
                seconds = contents[path][1]
                gone = [name for name in missing if not np.isin(seconds, present[name]).any()]
                if gone:
                    reported.add(paths[0])
                    problems.append(
                        f"{path} has {levels_in_words(sorted(mine))}; {other_paths[0]} has "
                        f"{levels_in_words(sorted(other))}: {', '.join(gone)} is missing in the "
                        "first, and no other file has it for these times; expected the same "
                        "variables and levels: add them or choose fewer"
                    )
                    break
    return problems


def _contents(catalogue: Catalogue) -> dict[str, tuple[set[str], NDArray[np.int64]]]:
    """List for each file the channels it holds, and its times."""
    contents: dict[str, tuple[set[str], NDArray[np.int64]]] = {}
    for channel in catalogue.channels:
        for index in channel.level_index:
            path = catalogue.parts[index].file.path
            names, seconds = contents.get(path, (set(), np.zeros(0, np.int64)))
            names.add(channel.name)
            seconds = seconds if len(seconds) else catalogue.times[channel.part == index]
            contents[path] = (names, seconds)
    return contents
