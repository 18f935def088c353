"""What one file holds: its variables with levels and times, in canonical names and units."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import names, times
from hpc_bnn.fields.catalogue import File, Part
from hpc_bnn.fields.grid import Grid, canonical
from hpc_bnn.fields.ingest.header import Header, VariableHeader
from hpc_bnn.fields.ingest.meaning import (
    meaning,
    not_a_state,
    possible_names,
    require_geographic,
    scalar_level,
)
from hpc_bnn.fields.ingest.packing import missing_values, packing
from hpc_bnn.fields.ingest.roles import Roles, find_roles
from hpc_bnn.fields.values import read_block

PRELIMINARY = "0005"  # experiment version of ERA5T, the first release, later replaced by 0001


@dataclass(frozen=True, eq=False)
class FileVariable:
    """One variable of one file.

    levels_hpa: along the level axis; None at the surface.
    times: seconds since 1970 of the stored steps; None where the file has no time.
    steps: stored index of each of `times`.
    preliminary: (T,) whether each step is ERA5T.
    """

    variable: names.Variable
    levels_hpa: tuple[float, ...] | None
    times: NDArray[np.int64] | None
    steps: NDArray[np.int32]
    preliminary: NDArray[np.bool_]
    part: Part


@dataclass(frozen=True, eq=False)
class Survey:
    """What one file holds; `skipped` says for each variable left out why."""

    file: File
    grid: Grid
    variables: tuple[FileVariable, ...]
    skipped: dict[str, str]
    notices: tuple[str, ...]


def survey(header: Header, *, member: int | None = None, only: Collection[str] = ()) -> Survey:
    """Survey a file.

    Parameters
    ----------
    member
        Of an ensemble file, to read; required where there are several.
    only
        Short names of what is asked for, everything where empty: another variable that cannot be
        used is left out, with the reason.

    Raises
    ------
    ValueError
        If the file has no grid, times of another calendar, unusable units, ambiguous names, or
        dimensions that nobody chose from.
    """
    roles = find_roles(header)
    try:
        grid, orientation = canonical(roles.latitude, roles.longitude)
    except ValueError as error:
        raise ValueError(f"{header.path}: {error}") from error
    if roles.times is not None and not len(roles.times):
        raise ValueError(f"{header.path}: holds no time: remove it, or copy or download it again")
    file = File(header.path, header.format, header.size, orientation, header.flavour)
    variables: list[FileVariable] = []
    skipped: dict[str, str] = {}
    notices = [f"{orientation} at reading"] if str(orientation) else []
    for variable in header.variables.values():
        along = {roles.of_dimension.get(d, "") for d in variable.dimensions}
        if variable.name in header.coordinates or not {"latitude", "longitude"} <= along:
            continue
        reason = not_a_state(variable)
        if reason:
            skipped[variable.name] = reason
            continue
        try:
            require_geographic(header, variable)
            one, remarks = _file_variable(variable, roles, file, member)
        except ValueError as error:
            if only and not possible_names(variable) & set(only):
                skipped[variable.name] = f"cannot be used: {error}"
                continue
            raise ValueError(f"{header.path}: '{variable.name}': {error}") from error
        one = _with_data(one, header)
        variables.append(one if one.part.version_of is None else _with_versions(one, roles))
        notices += [f"'{variable.name}': {remark}" for remark in remarks]
    _require_distinct(header, variables)
    if not variables and not skipped:
        raise ValueError(
            f"{header.path}: no variable on its latitude-longitude grid; has "
            f"{', '.join(header.variables) or 'no variables'}"
        )
    if roles.times is None and variables:
        notices.append("has no time: its variables can only serve as static fields")
    return Survey(file, grid, tuple(variables), skipped, tuple(notices))


def _file_variable(
    variable: VariableHeader, roles: Roles, file: File, member: int | None
) -> tuple[FileVariable, tuple[str, ...]]:
    """Describe a variable; also return what is odd about it."""
    axes, fixed = _axes(variable, roles, member)
    levels = _levels(variable, roles, on_axis="level" in axes)
    known, to_units, remarks = meaning(variable, on_levels=levels is not None)
    if "level" not in axes and names.find(variable.name) is not None and not known.on_levels:
        levels = None
    packed, packing_remarks = packing(variable, to_units)
    when = roles.times
    if "time" not in axes and when is not None and len(when) > 1:
        when = None  # a static field beside others with times
    count = 1 if when is None else len(when)
    preliminary = np.zeros(count, bool)
    if roles.versions is not None and "version" not in axes and len(roles.versions) in (1, count):
        preliminary |= roles.versions == PRELIMINARY
    part = Part(
        file=file,
        variable=variable.name,
        raw_dtype=variable.dtype,
        axes=axes,
        shape=variable.shape,
        fixed=fixed,
        packing=packed,
        chunks=variable.chunks,
        compression=variable.compression,
        version_of=np.zeros(count, np.int8) if "version" in axes else None,
        key=variable.key or variable.name,
    )
    steps = np.arange(count, dtype=np.int32)
    one = FileVariable(known, levels, when, steps, preliminary, part)
    return one, (*packing_remarks, *remarks)


def _axes(
    variable: VariableHeader, roles: Roles, member: int | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the role of each dimension, and the index where it is "fixed"."""
    axes, fixed = [], []
    values_of = {"time": roles.times, "level": roles.levels_hpa}
    for dimension, length in zip(variable.dimensions, variable.shape, strict=True):
        role, index = roles.of_dimension.get(dimension, ""), 0
        if role == "member" and length > 1:
            role, index = "fixed", _member(roles, length, member)
        elif role == "version" and length > 1:
            if roles.versions is None or len(roles.versions) != length:
                raise ValueError(
                    f"has {length} experiment versions and no values that name them; expected 1 "
                    "and 5 along expver"
                )
        elif role in values_of:
            values = values_of[role]
            if length == 1 and values is None:
                role = "fixed"
            elif values is None or len(values) != length:
                raise ValueError(
                    f"has {length} values along '{dimension}', for which the file has "
                    f"{'no' if values is None else len(values)} {role} values: expected {length}; "
                    "add the coordinate"
                )
        elif role not in ("latitude", "longitude"):
            if length != 1:
                raise ValueError(
                    f"has {length} values along '{dimension}', which is none of time, level, "
                    "latitude, longitude, member: expected 1; select one, such as `ncks -d "
                    f"{dimension},0`"
                )
            role = "fixed"
        axes.append(role)
        fixed.append(index)
    return tuple(axes), tuple(fixed)


def _levels(variable: VariableHeader, roles: Roles, *, on_axis: bool) -> tuple[float, ...] | None:
    """Return the levels of a variable in hPa, None at the surface."""
    levels = None if roles.levels_hpa is None else tuple(roles.levels_hpa.tolist())
    if on_axis:
        return levels
    if levels is not None and len(levels) > 1:
        levels = None  # a surface variable beside others on levels
    return scalar_level(variable, roles.scalar_levels, levels) if roles.scalar_levels else levels


def _member(roles: Roles, length: int, member: int | None) -> int:
    members = list(range(length)) if roles.members is None else np.ravel(roles.members).tolist()
    if member is None:
        raise ValueError(
            f"has {length} members ({members[0]} to {members[-1]}): choose one with member = "
            f"{members[0]}"
        )
    if member not in members:
        raise ValueError(f"has no member {member}; has {members}")
    return members.index(member)


def _with_data(one: FileVariable, header: Header) -> FileVariable:
    """Leave out times of which the attributes of the file say that it holds no data.

    ARCO-ERA5 has room for times beyond valid_time_start and valid_time_stop; anemoi-datasets lists
    missing_dates, which it fills with NaN.
    """
    if one.times is None:
        return one
    first, last = (header.attributes.get(f"valid_time_{end}") for end in ("start", "stop"))
    kept = np.isin(
        one.times,
        [times.parse(when, end=False) for when in header.attributes.get("missing_dates", ())],
        invert=True,
    )
    if first is not None:
        kept &= one.times >= times.parse(first, end=False)
    if last is not None:
        kept &= one.times <= times.parse(last, end=True)
    if kept.all():
        return one
    return replace(
        one, times=one.times[kept], steps=one.steps[kept], preliminary=one.preliminary[kept]
    )


def _with_versions(one: FileVariable, roles: Roles) -> FileVariable:
    """Choose the version of each step of a legacy file: the final one where it has any value.

    Every field is read once: the other version of a step is missing as a whole.
    """
    assert roles.versions is not None and one.times is not None
    names_of = roles.versions.tolist()
    final_first = sorted(range(len(names_of)), key=lambda i: (names_of[i] == PRELIMINARY, i))
    versions = np.array([_version(one.part, step, final_first) for step in range(len(one.times))])
    kept = np.flatnonzero(versions >= 0)
    return replace(
        one,
        times=one.times[kept],
        steps=one.steps[kept],
        preliminary=roles.versions[versions[kept]] == PRELIMINARY,
        part=replace(one.part, version_of=np.maximum(versions, 0).astype(np.int8)),
    )


def _version(part: Part, step: int, order: Sequence[int]) -> int:
    """Return the first version in order that has a value at a step, -1 if none has."""
    fields = read_block(part, slice(step, step + 1), slice(0, 1))[0, :, 0]
    for version in order:
        raw = fields[version]
        present = ~np.isnan(raw) if raw.dtype.kind == "f" else np.ones(raw.shape, bool)
        missing = missing_values(raw, part.packing)
        if (present if missing is None else present & ~missing).any():
            return version
    return -1


def _require_distinct(header: Header, variables: Sequence[FileVariable]) -> None:
    """Refuse two variables of a file that mean the same."""
    seen: dict[tuple[str, bool], str] = {}
    for one in variables:
        key = (one.variable.short, one.levels_hpa is not None)
        if key in seen:
            raise ValueError(
                f"{header.path}: '{seen[key]}' and '{one.part.variable}' both mean "
                f"'{one.variable.short}' ({one.variable.long_name}): expected one; remove the other"
            )
        seen[key] = one.part.variable
