"""Reads GRIB files, editions 1 and 2, through ecCodes: an index of the messages, and their values.

Each message is one field. Those that differ in nothing but time, member and pressure level make a
variable under the name that cfgrib gives it; ecCodes knows names and units, so `meaning.py` need
not. An index belongs to one process and is made by reading the headers of the messages only.
"""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import names
from hpc_bnn.fields.ingest.grib_messages import GRID, messages, seconds, values_of
from hpc_bnn.fields.ingest.header import Header, VariableHeader
from hpc_bnn.fields.ingest.unchanged import State, require_unchanged, state_of
from hpc_bnn.fields.times import text

SUFFIXES = (".grib", ".grb", ".grib1", ".grb1", ".grib2", ".grb2")
MAGIC = b"GRIB"
MOST_OPEN = 16  # indices of a process
ATTRIBUTES = {
    "units": "units",
    "standard_name": "cfName",
    "long_name": "name",
    "GRIB_stepType": "stepType",
}
PRESSURE_PA = {"isobaricInhPa": 100.0, "isobaricInPa": 1.0}
_Place = tuple[int, int, int, float]  # time, step, member, level


class _Message(NamedTuple):
    """One message: seconds since 1970 of validity and of the start, Pa on pressure levels."""

    valid: int
    start: int
    member: int
    level: float
    offset: int


@dataclass(frozen=True, eq=False)
class _Variable:
    """The messages of one variable.

    name: of it; several may have the same. first: keys of its first message.
    on_pressure: has a level axis in Pa.
    times: of validity, or of the start where there are several steps; seconds since 1970.
    offsets: of the messages in the file.
    """

    name: str
    first: dict[str, Any]
    on_pressure: bool
    times: tuple[int, ...]
    steps: tuple[int, ...]
    members: tuple[int, ...]
    levels: tuple[float, ...]
    offsets: dict[_Place, int]

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Return the values along each axis but those of the grid, in the order they are stored."""
        axes: dict[str, tuple[Any, ...]] = {"time": self.times}
        if len(self.steps) > 1:
            axes["step"] = self.steps
        if len(self.members) > 1:
            axes["number"] = self.members
        if self.on_pressure:
            axes["level"] = self.levels
        elif len(self.levels) > 1:
            axes[self.first["typeOfLevel"]] = self.levels
        return axes


_Index = dict[str, _Variable]
_OPEN: dict[int, OrderedDict[str, tuple[_Index, State]]] = defaultdict(OrderedDict)  # by process id


def recognises(path: Path) -> bool:
    """Tell whether a file is GRIB, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def content(path: Path) -> list[Path]:
    """List the files that tell one state of what lies at a path from another."""
    return [path]


def read_headers(path: str) -> tuple[Header, ...]:
    """Describe the variables, those of the same grid, times and levels together.

    Raises
    ------
    ValueError
        If the file is cut off or damaged, a message is missing or there twice, or its grid is not
        a regular one of latitudes and longitudes.
    """
    state = state_of([Path(path)])
    if _OPEN[os.getpid()].get(path, ({}, state))[1] != state:
        close(path)
    size = state[0]
    together: dict[Any, _Index] = defaultdict(dict)
    for name, variable in opened(path, size).items():
        grid = tuple(variable.first[key] for key in GRID)
        together[grid, tuple(variable.axes().items())][name] = variable
    return tuple(_header(path, size, index) for index in together.values())


def read(path: str, size: int, variable: str, index: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read values of a variable, by its key, as float32, NaN where one is missing.

    size: of the file, when its header was read.

    Raises
    ------
    OSError, ValueError
        If the file is damaged, or is not what it was.
    """
    one = opened(path, size)[variable]
    axes = one.axes()
    *places, rows, columns = index
    chosen = {
        name: values[at] if isinstance(at, slice) else values[at : at + 1]
        for at, (name, values) in zip(places, axes.items(), strict=True)
    }
    level = one.first["typeOfLevel"] if not one.on_pressure else "level"
    wanted = [
        one.offsets[time, step, member, pressure]
        for time in chosen["time"]
        for step in chosen.get("step", one.steps)
        for member in chosen.get("number", one.members)
        for pressure in chosen.get(level, one.levels)
    ]
    shape = (one.first["Nj"], one.first["Ni"])
    out = np.empty((len(wanted), *shape), np.float32)
    with Path(path).open("rb") as stream:
        for offset, field in zip(wanted, out, strict=True):
            stream.seek(offset)
            field[...] = values_of(path, variable, stream).reshape(shape)
    lengths = [len(chosen[name]) for name in axes]
    drop = tuple(0 if isinstance(at, int) else slice(None) for at in places)
    result: NDArray[Any] = out.reshape(*lengths, *shape)[(*drop, rows, columns)]
    return result


def opened(path: str, size: int) -> _Index:
    """Return the index of a file."""
    handles = _OPEN[os.getpid()]
    before = handles[path][1] if path in handles else None
    require_unchanged(path, content(Path(path)), size, before)
    if path not in handles:
        while len(handles) >= MOST_OPEN:
            handles.popitem(last=False)
        handles[path] = (_index(path), state_of([Path(path)]))
    handles.move_to_end(path)
    return handles[path][0]


def close(path: str) -> None:
    """Forget the index of a file of this process."""
    _OPEN[os.getpid()].pop(path, None)


def _index(path: str) -> _Index:
    """Read the headers of all messages."""
    groups: dict[Any, list[_Message]] = defaultdict(list)
    firsts: dict[Any, dict[str, Any]] = {}
    for keys in messages(path):
        pascal = PRESSURE_PA.get(keys["typeOfLevel"])
        key = (keys["cfVarName"], "Pa" if pascal else keys["typeOfLevel"], keys["stepType"],
               *(keys[name] for name in GRID))  # fmt: skip
        firsts.setdefault(key, keys)
        start, valid = seconds(keys, "data"), seconds(keys, "validity")
        level = keys["level"] * (pascal or 1.0)
        groups[key].append(_Message(valid, start, keys["number"], level, keys["offset"]))
    index: _Index = {}
    for key, found in groups.items():
        name = key[0]
        known = names.find(name)
        if known is not None and known.on_levels and key[1] not in ("Pa", "surface"):
            name = f"{name}_{key[1]}"  # a variable of model or height levels is not that of these
        at = next(n for n in count() if f"{name}@{n}" not in index)
        index[f"{name}@{at}"] = _variable(path, name, firsts[key], found)
    return index


def _variable(path: str, name: str, first: dict[str, Any], found: list[_Message]) -> _Variable:
    """Order the messages of a variable; each must be there once."""
    steps = sorted({one.valid - one.start for one in found})
    offsets: dict[_Place, int] = {}
    for one in found:
        when = (one.valid, steps[0]) if len(steps) == 1 else (one.start, one.valid - one.start)
        before = offsets.setdefault((*when, one.member, one.level), one.offset)
        if before != one.offset:
            raise ValueError(
                f"{path}: '{name}' of {text(one.valid)} at level {one.level:g} is there twice, at "
                f"bytes {before} and {one.offset}: expected one message; remove the other"
            )
    along = [tuple(sorted(set(values))) for values in zip(*offsets, strict=True)]
    gone = next((place for place in product(*along) if place not in offsets), None)
    if gone is not None:
        raise ValueError(
            f"{path}: '{name}' has {len(offsets)} messages, expected "
            f"{' x '.join(str(len(values)) for values in along)} (times, steps, members, levels): "
            f"there is none of {text(gone[0])} at level {gone[3]:g}; was the file cut off? copy it "
            "again, or give messages of other levels as files of their own"
        )
    times, _, members, levels = along
    on_pressure = first["typeOfLevel"] in PRESSURE_PA
    return _Variable(name, first, on_pressure, times, tuple(steps), members, levels, offsets)


def _header(path: str, size: int, index: _Index) -> Header:
    one = next(iter(index.values()))
    rows, columns, north, south, west, east, westward = (one.first[key] for key in GRID)
    axes: dict[str, Any] = one.axes()
    if westward:
        west = west if west > east else west + 360
    else:
        east = east if east > west or columns == 1 else east + 360
    axes["latitude"] = np.linspace(north, south, rows)
    axes["longitude"] = np.linspace(west, east, columns)
    units = {"time": "seconds since 1970-01-01", "level": "Pa", "latitude": "degrees_north"}
    units |= {"longitude": "degrees_east"}
    shape = tuple(len(values) for values in axes.values())
    variables = {
        name: VariableHeader(name, "<f8", (name,), (len(values),), {"units": units.get(name, "1")})
        for name, values in axes.items()
    }
    coordinates = {name: np.asarray(values) for name, values in axes.items()}
    for key, variable in index.items():
        said = {attribute: variable.first[one] for attribute, one in ATTRIBUTES.items()}
        variables[key] = VariableHeader(
            variable.name,
            "<f4",
            tuple(axes),
            shape,
            {name: text for name, text in said.items() if text not in (None, "unknown")}
            | {"_FillValue": np.nan},  # what `read` puts where a bitmap has no value
            (*(1 for _ in shape[:-2]), *shape[-2:]),
            variable.first["packingType"],
            key,
        )
    flavour = f"GRIB edition {one.first['edition']}"
    dimensions = dict(zip(axes, shape, strict=True))
    return Header(path, "grib", flavour, size, dimensions, variables, {}, coordinates)
