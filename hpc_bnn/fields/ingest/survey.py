"""What one file holds: its variables with levels and times, in canonical names and units."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import names
from hpc_bnn.fields.catalogue import File, Part
from hpc_bnn.fields.grid import Grid, canonical
from hpc_bnn.fields.ingest.coordinates import scalar_level
from hpc_bnn.fields.ingest.header import Header, VariableHeader
from hpc_bnn.fields.ingest.meaning import not_a_state
from hpc_bnn.fields.ingest.packing import missing_values, packing
from hpc_bnn.fields.ingest.roles import Roles, find_roles
from hpc_bnn.fields.units import conversion
from hpc_bnn.fields.values import read_block

HEIGHTS = ("gh", "zg", "hgt")  # names of geopotential that models give to its height
PRELIMINARY = "0005"  # experiment version of ERA5T, the first release, later replaced by 0001


@dataclass(frozen=True, eq=False)
class Found:
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
    found: tuple[Found, ...]
    skipped: dict[str, str]
    notices: tuple[str, ...]


def survey(
    header: Header,
    *,
    member: int | None = None,
    only: Collection[str] = (),
) -> Survey:
    """Find the fields of a file.

    only: short names of what is wanted, everything where empty: another variable that cannot be
        used is left out, with the reason.
    member: which member of an ensemble file to read; required where there are several.

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
    found: list[Found] = []
    skipped: dict[str, str] = {}
    notices: list[str] = []
    if str(orientation):
        notices.append(f"{orientation} at reading")
    for variable in header.variables.values():
        along = {roles.of_dimension.get(d, "") for d in variable.dimensions}
        if variable.name in header.coordinates or not {"latitude", "longitude"} <= along:
            continue
        reason = not_a_state(variable)
        if reason:
            skipped[variable.name] = reason
            continue
        try:
            one, odd = _found(header, variable, roles, file, member)
        except ValueError as error:
            if only and not _meanings(variable) & set(only):
                skipped[variable.name] = f"cannot be used: {error}"
                continue
            raise ValueError(f"{header.path}: '{variable.name}': {error}") from error
        if one.part.version_of is not None:
            one = _choose_versions(one, roles)
        found.append(one)
        notices += [f"'{variable.name}': {notice}" for notice in odd]
    _require_distinct(header, found)
    if not found and not skipped:
        raise ValueError(
            f"{header.path}: no variable on its latitude-longitude grid; has "
            f"{', '.join(header.variables) or 'no variables'}"
        )
    if roles.times is None and found:
        notices.append("has no time: its variables can only serve as static fields")
    return Survey(file, grid, tuple(found), skipped, tuple(notices))


def _meanings(variable: VariableHeader) -> set[str]:
    """Return the short names that a variable may be meant by."""
    standard = variable.text("standard_name")
    known = names.find(variable.name)
    said = {v.short for v in names.VARIABLES if standard and v.standard_name == standard}
    return {variable.name, *([known.short] if known else said)}


def _require_geographic(header: Header, variable: VariableHeader) -> None:
    """Refuse a variable on a projected or rotated grid."""
    mapping = header.variables.get(variable.text("grid_mapping"))
    kind = "" if mapping is None else mapping.text("grid_mapping_name")
    if kind not in ("", "latitude_longitude"):
        raise ValueError(
            f"lies on a grid of the kind {kind} (grid_mapping): expected a regular "
            "latitude-longitude grid: interpolate it to one"
        )


def _require_units_of_height(variable: VariableHeader) -> None:
    """Refuse a geopotential height without units: it would be read as geopotential, a tenth."""
    is_height = (
        variable.name.lower() in HEIGHTS or variable.text("standard_name") == "geopotential_height"
    )
    if is_height and not variable.text("units").strip():
        raise ValueError(
            "has no units, and the name is of a height: expected gpm, or m2 s-2 of a geopotential; "
            "add the attribute units"
        )


def _found(
    header: Header, variable: VariableHeader, roles: Roles, file: File, member: int | None
) -> tuple[Found, tuple[str, ...]]:
    _require_geographic(header, variable)
    axes: list[str] = []
    fixed: list[int] = []
    for dimension, length in zip(variable.dimensions, variable.shape, strict=True):
        role = roles.of_dimension.get(dimension, "")
        at = 0
        if role == "member" and length > 1:
            role, at = "fixed", _member(roles, length, member)
        elif role == "version" and length > 1:
            _require_versions(roles, length)
        elif role in ("time", "level"):
            values = roles.times if role == "time" else roles.levels_hpa
            if length == 1 and values is None:
                role = "fixed"
            elif values is None or len(values) != length:
                raise ValueError(
                    f"has {length} values along '{dimension}', for which the file has "
                    f"{'no' if values is None else len(values)} {role} values: expected "
                    f"{length}; add the coordinate"
                )
        elif role not in ("latitude", "longitude"):
            if length != 1:
                raise ValueError(
                    f"has {length} values along '{dimension}', which is none of time, level, "
                    f"latitude, longitude, member: expected 1; select one, such as `ncks -d "
                    f"{dimension},0`"
                )
            role = "fixed"
        axes.append(role)
        fixed.append(at)
    levels = None if roles.levels_hpa is None else tuple(roles.levels_hpa.tolist())
    if levels is not None and "level" not in axes and len(levels) > 1:
        levels = None  # a surface variable beside others on levels
    if "level" not in axes and roles.scalar_levels:
        levels = scalar_level(variable, roles.scalar_levels, levels)
    known = names.identify(
        variable.name, variable.text("standard_name"), on_levels=levels is not None
    )
    if levels is not None and "level" not in axes and names.find(variable.name) is not None:
        levels = levels if known.on_levels else None
    _require_units_of_height(variable)
    to_units = conversion(variable.text("units"), known.units)
    if not known.units:
        known = replace(known, units=variable.text("units"))
    pack, odd = packing(variable, to_units)
    if to_units != (1.0, 0.0):
        odd = (*odd, f"converted from '{variable.text('units')}' to '{known.units}'")
    elif not variable.text("units"):
        odd = (*odd, f"has no units: taken as '{known.units or 'unknown'}'")
    stored = roles.times
    if "time" not in axes and stored is not None and len(stored) > 1:
        stored = None  # a static field beside others with times
    part = Part(
        file=file,
        variable=variable.name,
        raw_dtype=variable.dtype,
        axes=tuple(axes),
        shape=variable.shape,
        fixed=tuple(fixed),
        packing=pack,
        chunks=variable.chunks,
        compression=variable.compression,
        version_of=np.zeros(0 if stored is None else len(stored), np.int8)
        if "version" in axes
        else None,
    )
    count = 1 if stored is None else len(stored)
    preliminary = np.zeros(count, bool)
    if roles.versions is not None and "version" not in axes and len(roles.versions) in (1, count):
        preliminary |= roles.versions == PRELIMINARY
    steps = np.arange(count, dtype=np.int32)
    return Found(known, levels, stored, steps, preliminary, part), odd


def _member(roles: Roles, length: int, member: int | None) -> int:
    there = list(range(length)) if roles.members is None else np.ravel(roles.members).tolist()
    if member is None:
        raise ValueError(
            f"has {length} members ({there[0]} to {there[-1]}): choose one with member = {there[0]}"
        )
    if member not in there:
        raise ValueError(f"has no member {member}; has {there}")
    return there.index(member)


def _require_versions(roles: Roles, length: int) -> None:
    if roles.versions is None or len(roles.versions) != length:
        raise ValueError(
            f"has {length} experiment versions and no values that name them; expected 1 and 5 "
            "along expver"
        )


def _choose_versions(one: Found, roles: Roles) -> Found:
    """Choose the version of each step of a legacy file: the final one where it has any value.

    Every field is read once: the other version of a step is missing as a whole.
    """
    assert roles.versions is not None and one.times is not None
    rank = sorted(range(len(roles.versions)), key=lambda i: (roles.versions[i] == PRELIMINARY, i))  # type: ignore[index]
    chosen = np.full(len(one.times), -1, np.int8)
    for step in range(len(one.times)):
        for version in rank:
            if _has_values(one.part, step, version):
                chosen[step] = version
                break
    kept = np.flatnonzero(chosen >= 0)
    return replace(
        one,
        times=one.times[kept],
        steps=one.steps[kept],
        preliminary=roles.versions[chosen[kept]] == PRELIMINARY,
        part=replace(one.part, version_of=np.maximum(chosen, 0).astype(np.int8)),
    )


def _has_values(part: Part, step: int, version: int) -> bool:
    raw = read_block(part, slice(step, step + 1), slice(0, 1))[0, version, 0]
    present = ~np.isnan(raw) if raw.dtype.kind == "f" else np.ones(raw.shape, bool)
    missing = missing_values(raw, part.packing)
    return bool((present if missing is None else present & ~missing).any())


def _require_distinct(header: Header, found: list[Found]) -> None:
    """Refuse two variables of a file that mean the same."""
    seen: dict[tuple[str, bool], str] = {}
    for one in found:
        key = (one.variable.short, one.levels_hpa is not None)
        if key in seen:
            raise ValueError(
                f"{header.path}: '{seen[key]}' and '{one.part.variable}' both mean "
                f"'{one.variable.short}' ({one.variable.long_name}): expected one; remove the other"
            )
        seen[key] = one.part.variable
