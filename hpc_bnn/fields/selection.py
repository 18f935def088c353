"""Which channels are wanted: from the names and levels of a settings file to channel keys; which of
them are static fields where nobody says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hpc_bnn.fields.catalogue import missing_channel
from hpc_bnn.fields.ingest.survey import Found, Survey
from hpc_bnn.fields.names import channel_name, find, split_channel

Key = tuple[str, float | None]  # variable and level in hPa; None at the surface


def available(surveys: Iterable[Survey]) -> list[Key]:
    """List all channels of the files: surface first, then by variable, levels from below up."""
    keys = {
        (one.variable.short, level)
        for survey in surveys
        for one in survey.found
        for level in (one.levels_hpa if one.levels_hpa is not None else (None,))
    }
    return sorted(keys, key=lambda k: (k[1] is not None, k[0], -(k[1] or 0.0)))


def wanted(
    source: str,
    there: Sequence[Key],
    variables: Sequence[str],
    levels: Sequence[float],
    skipped: dict[str, str],
) -> list[Key]:
    """Resolve variables and levels, in the order given; everything where none is named.

    A variable on pressure levels gives one channel per level; "z500" names a single one.

    Raises
    ------
    ValueError
        If one is not there, is named twice, or lies on levels and none was named.
    """
    if not variables:
        return [k for k in there if k[1] is None or not levels or k[1] in levels]
    chosen: list[Key] = []
    for name in variables:
        variable, level = split_channel(name)
        has_levels = [k[1] for k in there if k[0] == variable and k[1] is not None]
        if level is not None:
            keys: list[Key] = [(variable, level)]
        elif has_levels and levels:
            keys = [(variable, float(one)) for one in levels]
        elif (variable, None) in there:
            keys = [(variable, None)]
        elif has_levels:
            raise ValueError(
                f"{source}: '{name}' lies on the pressure levels "
                f"{', '.join(f'{h:g}' for h in has_levels if h)} hPa: choose some with levels = "
                f"[{has_levels[0]:g}, ...], or name channels such as "
                f"'{channel_name(variable, has_levels[0])}'"
            )
        else:
            keys = [(variable, None)]
        for key in keys:
            if key not in there:
                names = [channel_name(*k) for k in there]
                raise ValueError(missing_channel(source, channel_name(*key), names, skipped))
            if key in chosen:
                raise ValueError(f"{source}: channel '{channel_name(*key)}' is named twice")
            chosen.append(key)
    return chosen


def static_key(source: str, there: Sequence[Key], name: str, skipped: dict[str, str]) -> Key:
    """Resolve the name of a static field: a variable at the surface.

    Raises
    ------
    ValueError
        If it is not there.
    """
    known = find(name)
    key: Key = (known.short if known else name, None)
    if key not in there:
        names = [channel_name(*k) for k in there if k[1] is None]
        raise ValueError(missing_channel(source, name, names, skipped))
    return key


def places(found: Sequence[Found], key: Key) -> list[tuple[int, int]]:
    """List where in `found` a channel is, each with its position along the level axis there."""
    variable, level = key
    held = []
    for i, one in enumerate(found):
        if one.variable.short != variable or (one.levels_hpa is None) != (level is None):
            continue
        if one.levels_hpa is None:
            held.append((i, 0))
        elif level in one.levels_hpa:
            at = one.levels_hpa.index(level) if one.part.axis("level") is not None else 0
            held.append((i, at))
    return held


def static_fields(
    source: str,
    found: Sequence[Found],
    there: Sequence[Key],
    named: Sequence[Key],
    notices: list[str],
) -> list[Key]:
    """List the channels that are static though nobody says so: those without time, and those at the
    surface with a single time where others have more, as the data store gives fields that never
    change.

    named: as states; they stay what they are.
    """
    count = {key: _num_times(found, key) for key in there}
    several = any(number is not None and number > 1 for number in count.values())
    free = [key for key in there if key not in named]
    single = [key for key in free if several and key[1] is None and count[key] == 1]
    if single:
        notices.append(
            f"{source}: {', '.join(channel_name(*key) for key in single)}: a single time, where "
            "others have more: taken as static fields; name them as variables to use them as states"
        )
    return [key for key in free if count[key] is None or key in single]


def _num_times(found: Sequence[Found], key: Key) -> int | None:
    """Count the times of a channel, None where no file gives it one."""
    times = [found[i].times for i, _ in places(found, key)]
    timed = [one for one in times if one is not None]
    return len(np.unique(np.concatenate(timed))) if timed else None
