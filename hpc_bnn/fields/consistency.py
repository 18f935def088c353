"""Checks of values and between files: ranges, duplicates, files that lack what others have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue, Channel, levels_in_words
from hpc_bnn.fields.handles import Handles, library_lock
from hpc_bnn.fields.names import possible_range
from hpc_bnn.fields.packing import affine, unpack
from hpc_bnn.fields.part import Part, read_raw

WHOLE_FIELD = 1 << 16  # points; of larger fields the check of values reads the middle row only


def out_of_range(catalogue: Catalogue, handles: Handles) -> list[str]:
    """Read a sample of every variable in every file; say which values nobody can have measured.

    The sample: the first step, on the lowest level that was chosen; the whole field or, on a large
    grid, one row. Wrong units show on any of them.
    """
    problems = []
    for channel in _one_level_each(catalogue):
        low, high = possible_range(channel.variable, channel.level_hpa)
        parts, first = np.unique(channel.part, return_index=True)
        for index, at in zip(parts.tolist(), first.tolist(), strict=True):
            if index < 0:
                continue
            part = catalogue.parts[index]
            values = _sample(part, handles, int(channel.step[at]), channel.level_index[index])
            values = values[np.isfinite(values)]
            outside = values[(values < low) | (values > high)]
            if len(outside):
                when = times.text(int(catalogue.times[at])) if channel in catalogue.channels else ""
                problems.append(
                    f"{part.file.path}: '{part.variable}' ({channel.name}) at "
                    f"{when or 'its only time'}: value {outside[0]:g} {channel.units}, expected "
                    f"{low:g} to {high:g}; check the units attribute, scale_factor and add_offset"
                    f"{' and the units of the levels' if channel.level_hpa is not None else ''}"
                )
    return problems


def _one_level_each(catalogue: Catalogue) -> list[Channel]:
    """List one channel of each group that lies in the same parts, and all static fields."""
    first: dict[tuple[str, int], Channel] = {}
    for channel in catalogue.channels:
        first.setdefault((channel.variable, id(channel.part)), channel)
    return [*first.values(), *catalogue.static]


def _sample(part: Part, handles: Handles, step: int, level: int) -> NDArray[np.float32]:
    with library_lock():
        raw = read_raw(part, handles, step, slice(level, level + 1))
        if raw[0].size > WHOLE_FIELD:
            raw = raw[:, raw.shape[1] // 2 : raw.shape[1] // 2 + 1]
        return _physical(part, raw)


def _physical(part: Part, raw: NDArray[np.generic]) -> NDArray[np.float32]:
    out = np.empty(raw.shape, np.float32)
    unpack(raw, part.packing, affine(part.packing, np.zeros(1), np.ones(1)), out)
    return out


def same_values(
    handles: Handles, a: tuple[Part, int, int], b: tuple[Part, int, int]
) -> float | None:
    """Compare one field in two places (part, step, level); return the largest difference.

    None where they agree: equal, or closer than the two packings can tell apart.
    """
    fields, tolerance = [], 0.0
    for part, step, level in (a, b):
        with library_lock():
            field = _physical(part, read_raw(part, handles, step, slice(level, level + 1)))[0]
        turned = part.file.orientation
        field = field[::-1] if turned.flip_rows else field
        field = field[:, ::-1] if turned.flip_columns else field
        fields.append(np.roll(field, -turned.roll, axis=1).astype(np.float64))
        packed = np.dtype(part.packing.dtype).kind in "iu"
        tolerance += abs(part.packing.scale) * 0.501 if packed else 0.0
    missing = [np.isnan(field) for field in fields]
    if not np.array_equal(*missing):
        return float("inf")
    gaps = np.abs(fields[0] - fields[1])[~missing[0]]
    if tolerance:  # of the float32 that both were decoded to
        tolerance += 4e-7 * float(np.max(np.abs(fields[0][~missing[0]]), initial=0.0))
    worst = float(gaps.max(initial=0.0))
    return None if worst <= tolerance else worst


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
                own = contents[path][1]
                gone = [name for name in missing if not np.isin(own, present[name]).any()]
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
            names, own = contents.get(path, (set(), np.zeros(0, np.int64)))
            names.add(channel.name)
            contents[path] = (names, own if len(own) else catalogue.times[channel.part == index])
    return contents
