"""Reads zarr stores of anemoi-datasets: one array ``data`` (dates, variables, members, cells).

The attribute ``variables`` names the second axis by the parameters of MARS: ``2t``, ``z_500``. Here
each parameter is a variable, its levels together; a chunk holds all of them, so the last chunks are
kept until the other variables have been cut out of them.
"""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import names
from hpc_bnn.fields.ingest import zarr
from hpc_bnn.fields.ingest.header import Header, VariableHeader

SUFFIXES = zarr.SUFFIXES
KEPT_BYTES = 1 << 28  # of chunks, or one that is larger
DATA = "data"

_Key = tuple[str, int, int, int]  # path, and place of a chunk along dates, variables, members

_KEPT: dict[int, OrderedDict[_Key, NDArray[Any]]] = defaultdict(OrderedDict)  # by process id


@dataclass(frozen=True)
class _Columns:
    """Where a variable lies along the second axis: levels in hPa, empty at the surface."""

    name: str
    levels: tuple[float, ...]
    columns: tuple[int, ...]


_Layout = tuple[dict[str, _Columns], tuple[int, int]]  # by key; rows and columns of the grid

_LAYOUTS: dict[int, dict[str, _Layout]] = defaultdict(dict)  # by process id


def recognises(path: Path) -> bool:
    """Tell whether a folder is such a store."""
    if not zarr.recognises(path) or not (path / DATA).is_dir():
        return False
    return isinstance(zarr.root_attributes(path).get("variables"), list)


def content(path: Path) -> list[Path]:
    """List the files of the metadata."""
    return zarr.content(path)


def read_headers(path: str) -> tuple[Header, ...]:
    """Describe the variables, those of the same levels together.

    Raises
    ------
    ValueError
        If the store is incomplete or damaged, or its cells are no regular grid.
    """
    close(path)
    (plain,) = zarr.read_headers(path)
    data = plain.variables[DATA]
    for name in ("dates", "latitudes", "longitudes"):
        if name not in plain.coordinates:
            raise ValueError(
                f"{path}: no array '{name}': expected the dates, latitudes and longitudes of a "
                "store of anemoi-datasets; make it again, or copy it again"
            )
    columns = _columns(plain.attributes)
    listed = len(plain.attributes["variables"])
    if len(data.shape) != 4 or listed != data.shape[1]:
        raise ValueError(
            f"{path}: '{DATA}' has the shape {data.shape} and the attribute variables {listed} "
            "names: expected (dates, variables, members, cells), a name for each variable"
        )
    latitude, longitude = _grid(path, plain)
    together: dict[tuple[float, ...], dict[str, _Columns]] = defaultdict(dict)
    for key, one in columns.items():
        together[one.levels][key] = one
    return tuple(
        _header(plain, data, some, levels, latitude, longitude) for levels, some in together.items()
    )


def read(path: str, size: int, variable: str, index: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read raw numbers of a variable: (dates, members, levels, rows, columns), or without levels.

    size: of the metadata, when the header was read.

    Raises
    ------
    OSError, ValueError
        If a chunk is not there or damaged, or the store is not what it was.
    """
    data = zarr.opened(path, size)[DATA]
    layouts = _LAYOUTS[os.getpid()]
    if path not in layouts:
        attributes = zarr.root_attributes(Path(path))
        latitudes = zarr.read(path, size, "latitudes", (slice(None),))
        layouts[path] = _columns(attributes), _shape(latitudes)
    columns, shape = layouts[path]
    one = columns[variable]
    steps, members, *rest = index
    chosen = np.asarray(one.columns)[rest.pop(0) if one.levels else slice(None)]
    dates, number = _places(steps, data.shape[0]), _places(members, data.shape[2])
    out = np.empty((len(dates), len(number), chosen.size, *shape), data.dtype)
    for at, date in enumerate(dates):
        for row, member in enumerate(number):
            for position, column in enumerate(chosen.reshape(-1).tolist()):
                cells = _cells(path, size, data, (date, column, member))
                out[at, row, position] = cells.reshape(shape)
    single = chosen.ndim == 0 or not one.levels
    drop = [0 if isinstance(given, int) else slice(None) for given in (steps, members)]
    cut: NDArray[Any] = out[(*drop, 0 if single else slice(None), *rest)]
    return cut


def close(path: str) -> None:
    """Forget a store of this process."""
    zarr.close(path)
    _LAYOUTS[os.getpid()].pop(path, None)
    kept = _KEPT[os.getpid()]
    for key in [key for key in kept if key[0] == path]:
        del kept[key]


def _cells(path: str, size: int, data: Any, place: tuple[int, int, int]) -> NDArray[Any]:
    """Return the cells of one date, variable and member, out of a chunk that is kept."""
    kept, chunks = _KEPT[os.getpid()], data.chunks[:3]
    at = [one // chunk for one, chunk in zip(place, chunks, strict=True)]
    key = (path, *at)
    if key not in kept:
        cuts = (
            slice(one * chunk, min((one + 1) * chunk, length))
            for one, chunk, length in zip(at, chunks, data.shape, strict=False)
        )
        kept[key] = zarr.read(path, size, DATA, (*cuts, slice(None)))
        while len(kept) > 1 and sum(one.nbytes for one in kept.values()) > KEPT_BYTES:
            kept.popitem(last=False)
    kept.move_to_end(key)
    cells: NDArray[Any] = kept[key][tuple(p % c for p, c in zip(place, chunks, strict=True))]
    return cells


def _places(index: int | slice, length: int) -> range:
    return range(*index.indices(length)) if isinstance(index, slice) else range(index, index + 1)


def _columns(attributes: dict[str, Any]) -> dict[str, _Columns]:
    """Return where each variable lies; those on model levels keep the name of their column."""
    about = attributes.get("variables_metadata") or {}
    found: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for column, name in enumerate(attributes["variables"]):
        kind = ((about.get(name) or {}).get("mars") or {}).get("levtype", "pl")
        variable, level = names.split_channel(name)
        if level is None or kind != "pl":
            found[name, name].append((0.0, column))
        else:
            found[f"{variable}@levels", variable].append((level, column))
    return {
        key: _Columns(
            name,
            tuple(level for level, _ in where if level),
            tuple(column for _, column in where),
        )
        for (key, name), where in found.items()
    }


def _header(
    plain: Header,
    data: VariableHeader,
    variables: dict[str, _Columns],
    levels: tuple[float, ...],
    latitude: NDArray[np.float64],
    longitude: NDArray[np.float64],
) -> Header:
    chunks = data.chunks or data.shape
    axes: dict[str, tuple[int, int]] = {
        "time": (data.shape[0], chunks[0]),
        "number": (data.shape[2], 1),
        **({"level": (len(levels), 1)} if levels else {}),
        "latitude": (len(latitude), len(latitude)),
        "longitude": (len(longitude), len(longitude)),
    }
    coordinates = {
        "time": plain.coordinates["dates"],
        "number": np.arange(data.shape[2]),
        "latitude": latitude,
        "longitude": longitude,
    }
    attributes = {"time": plain.variables["dates"].attributes, "level": {"units": "hPa"}}
    if levels:
        coordinates["level"] = np.array(levels)
    described = {
        name: VariableHeader(name, "<f8", (name,), values.shape, attributes.get(name, {}))
        for name, values in coordinates.items()
    }
    for key, one in variables.items():
        known = names.find(one.name)
        units = "gpm" if one.name == "gh" else known.units if known else ""  # those of MARS
        described[key] = VariableHeader(
            one.name,
            data.dtype,
            tuple(axes),
            tuple(length for length, _ in axes.values()),
            {"units": units, "_FillValue": np.nan},
            tuple(chunk for _, chunk in axes.values()),
            data.compression,
            key,
        )
    return Header(
        plain.path,
        "anemoi",
        f"anemoi-datasets, {plain.flavour}",
        plain.size,
        {name: length for name, (length, _) in axes.items()},
        described,
        plain.attributes,
        coordinates,
    )


def _shape(latitudes: NDArray[Any]) -> tuple[int, int]:
    """Return rows and columns of cells that lie row by row."""
    other = np.flatnonzero(latitudes != latitudes[0])
    columns = int(other[0]) if len(other) else len(latitudes)
    return len(latitudes) // columns, columns


def _grid(path: str, plain: Header) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rows and columns of a regular grid from the place of each cell."""
    lat, lon = (plain.coordinates[name] for name in ("latitudes", "longitudes"))
    rows, columns = _shape(lat)
    if rows * columns == len(lat) == len(lon):
        lat, lon = lat.reshape(rows, columns), lon.reshape(rows, columns)
        if (lat == lat[:, :1]).all() and (lon == lon[:1]).all():
            return lat[:, 0].astype(np.float64), lon[0].astype(np.float64)
    kind = plain.attributes.get("resolution", "unknown")
    raise ValueError(
        f"{path}: its {plain.coordinates['latitudes'].size} cells (resolution {kind}) are no rows "
        "and columns, such as those of a reduced Gaussian grid: expected a regular "
        "latitude-longitude grid: make the data set with one (grid: 1.5/1.5 in its recipe)"
    )
