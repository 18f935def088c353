"""Which channels settings ask for: of files, as keys, or without any, as variables that are known;
and which fields are static where nobody says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hpc_bnn.fields.catalogue import missing_channel
from hpc_bnn.fields.ingest.survey import FileVariable, Survey
from hpc_bnn.fields.names import Variable, channel_name, find, split_channel

Key = tuple[str, float | None]  # short name and level in hPa; None at the surface


def available_channels(surveys: Iterable[Survey]) -> list[Key]:
    """List all channels of the files: surface first, then by variable, levels from below up."""
    keys = {
        (one.variable.short, level)
        for survey in surveys
        for one in survey.variables
        for level in (one.levels_hpa if one.levels_hpa is not None else (None,))
    }
    return sorted(keys, key=lambda k: (k[1] is not None, k[0], -(k[1] or 0.0)))


def resolve_channels(
    source: str,
    available: Sequence[Key],
    variables: Sequence[str],
    levels: Sequence[float],
    skipped: dict[str, str],
) -> list[Key]:
    """Resolve variables and levels, in their order; everything where none is named.

    A variable on pressure levels gives one channel per level; "z500" names a single one.

    Raises
    ------
    ValueError
        If one is missing, is named twice, or lies on levels and none was named.
    """
    if not variables:
        return [k for k in available if k[1] is None or not levels or k[1] in levels]
    channels: list[Key] = []
    for name in variables:
        variable, level = split_channel(name)
        file_levels = [k[1] for k in available if k[0] == variable and k[1] is not None]
        keys: list[Key] = [(variable, level)]
        if level is None and file_levels and levels:
            keys = [(variable, float(one)) for one in levels]
        elif level is None and file_levels and (variable, None) not in available:
            raise ValueError(
                f"{source}: '{name}' lies on the pressure levels "
                f"{', '.join(f'{hpa:g}' for hpa in file_levels)} hPa: choose some with levels = "
                f"[{file_levels[0]:g}, ...], or name channels such as "
                f"'{channel_name(variable, file_levels[0])}'"
            )
        for key in keys:
            if key not in available:
                names = [channel_name(*k) for k in available]
                raise ValueError(missing_channel(source, channel_name(*key), names, skipped))
            if key in channels:
                raise ValueError(f"{source}: channel '{channel_name(*key)}' is named twice")
            channels.append(key)
    return channels


def resolve_static(
    source: str, available: Sequence[Key], name: str, skipped: dict[str, str]
) -> Key:
    """Resolve the name of a static field: a variable at the surface.

    Raises
    ------
    ValueError
        If it is missing.
    """
    known = find(name)
    key: Key = (known.short if known else name, None)
    if key not in available:
        names = [channel_name(*k) for k in available if k[1] is None]
        raise ValueError(missing_channel(source, name, names, skipped))
    return key


def places(variables: Sequence[FileVariable], key: Key) -> list[tuple[int, int]]:
    """List where in ``variables`` a channel is, each with its position along the level axis."""
    short, level = key
    positions = []
    for i, one in enumerate(variables):
        if one.variable.short != short or (one.levels_hpa is None) != (level is None):
            continue
        if one.levels_hpa is None:
            positions.append((i, 0))
        elif level in one.levels_hpa:
            at = one.levels_hpa.index(level) if one.part.axis("level") is not None else 0
            positions.append((i, at))
    return positions


def static_fields(
    source: str,
    variables: Sequence[FileVariable],
    available: Sequence[Key],
    states: Sequence[Key],
    notices: list[str],
) -> list[Key]:
    """List the channels that are static though nobody says so: those without time, and those at the
    surface with a single time where others have more, as the data store gives fields that never
    change.

    states: named as such; they stay what they are.
    """
    count = {key: _num_times(variables, key) for key in available}
    several = any(number is not None and number > 1 for number in count.values())
    free = [key for key in available if key not in states]
    single = [key for key in free if several and key[1] is None and count[key] == 1]
    if single:
        notices.append(
            f"{source}: {', '.join(channel_name(*key) for key in single)}: a single time, where "
            "others have more: taken as static fields; name them as variables to use them as states"
        )
    return [key for key in free if count[key] is None or key in single]


def _num_times(variables: Sequence[FileVariable], key: Key) -> int | None:
    """Count the times of a channel, None where no file gives it one."""
    times = [variables[i].times for i, _ in places(variables, key)]
    timed = [one for one in times if one is not None]
    return len(np.unique(np.concatenate(timed))) if timed else None


def known_channels(
    variables: Sequence[str], levels: Sequence[float] = ()
) -> list[tuple[Variable, float | None]]:
    """Return the channels of ``variables`` without any file: on every level those that lie on some.

    Raises
    ------
    ValueError
        For a name that no ERA5 variable has, one that is no state, or missing levels.
    """
    channels: list[tuple[Variable, float | None]] = []
    for name in variables:
        short, level = split_channel(name)
        variable = find(short)
        if variable is None:
            raise ValueError(
                f"data.variables: {name!r} is no ERA5 variable that is known here; expected names "
                "such as t2m, z or z500"
            )
        if variable.accumulated:
            raise ValueError(
                f"data.variables: {name!r} is a sum over an interval, no state of the atmosphere; "
                "leave it out"
            )
        if level is None and variable.on_levels and not levels:
            raise ValueError(
                f"data.variables: {name!r} lies on pressure levels; give data.levels, in hPa, or "
                f"a channel such as {short}500"
            )
        if level is not None or not variable.on_levels:
            channels.append((variable, level))
        else:
            channels += [(variable, float(one)) for one in levels]
    return channels


def known_static(static: Sequence[str]) -> list[Variable]:
    """Return static fields, which lie at the surface: "z" is the orography there.

    Raises
    ------
    ValueError
        For a name that no ERA5 variable has.
    """
    variables = []
    for name in static:
        variable = find(name)
        if variable is None:
            raise ValueError(f"data.static: {name!r} is no ERA5 variable that is known here")
        variables.append(variable)
    return variables
