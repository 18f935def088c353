"""Reads zarr stores of xarray (WeatherBench 2, ARCO-ERA5), formats 2 and 3, in local folders.

zarr reads a chunk that is not there as its fill value, without an error: a store that was copied in
part would give numbers. So every chunk that is read must be there (`zarr_chunks.py`).
"""

from __future__ import annotations

import base64
import json
import os
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.ingest.header import Header, VariableHeader, is_coordinate
from hpc_bnn.fields.ingest.unchanged import State, require_unchanged, state_of
from hpc_bnn.fields.ingest.zarr_chunks import require_chunks
from hpc_bnn.fields.ingest.zarr_codecs import refuse_pickles

SUFFIXES = (".zarr",)
ROOT = ("zarr.json", ".zmetadata", ".zgroup", ".zattrs")
ARRAY = ("zarr.json", ".zarray", ".zattrs")
MOST_OPEN = 16  # stores of a process
BATCH = 64  # chunks that zarr decodes together: one by one, small ones take a quarter more time

_Handle = tuple[dict[str, Any], list[Path], State]  # arrays by name, content, its state

_OPEN: dict[int, OrderedDict[str, _Handle]] = defaultdict(OrderedDict)  # by process id


def recognises(path: Path) -> bool:
    """Tell whether a folder is a store, whole or not: by its name, or by the files of its root."""
    if not path.is_dir():
        return False
    return path.suffix.lower() in SUFFIXES or any((path / name).is_file() for name in ROOT[:3])


def content(path: Path) -> list[Path]:
    """List the files of the metadata, of the root and of the arrays."""
    try:
        folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    except FileNotFoundError:
        return []
    candidates = [path / name for name in ROOT]
    candidates += [path / folder / name for folder in folders for name in ARRAY]
    return [one for one in candidates if one.is_file()]


def root_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a store; empty where they cannot be read."""
    for name in (".zattrs", "zarr.json"):
        try:
            found = json.loads((path / name).read_bytes())
        except (OSError, ValueError):
            continue
        found = found if name == ".zattrs" else found.get("attributes", {})
        return found if isinstance(found, dict) else {}
    return {}


def read_headers(path: str) -> tuple[Header]:
    """Read the metadata and the small coordinate variables.

    Raises
    ------
    ValueError
        If the store is incomplete or damaged, or has its arrays in groups below.
    """
    close(path)
    arrays, _, state = _open(path)
    variables = {name: variable_header(name, array) for name, array in arrays.items()}
    coordinates = {
        name: _coordinate(path, name, arrays[name]) for name, v in variables.items() if _few(v)
    }
    for name, values in list(coordinates.items()):
        if values.dtype.kind == "M":
            coordinates[name] = values.astype("M8[s]").astype(np.int64)
            attributes = variables[name].attributes
            attributes |= {"units": "seconds since 1970-01-01", "calendar": "proleptic_gregorian"}
    dimensions = {
        dimension: length
        for v in variables.values()
        for dimension, length in zip(v.dimensions, v.shape, strict=True)
    }
    version = 3 if (Path(path) / "zarr.json").is_file() else 2
    return (
        Header(
            path,
            "zarr",
            f"zarr format {version}",
            state[0],
            dimensions,
            variables,
            root_attributes(Path(path)),
            coordinates,
        ),
    )


def read(path: str, size: int, variable: str, index: tuple[int | slice, ...]) -> NDArray[Any]:
    """Read raw numbers of a variable.

    size: of the metadata, when the header was read.

    Raises
    ------
    OSError, ValueError
        If a chunk is not there or damaged, or the store is not what it was.
    """
    array = opened(path, size)[variable]
    require_chunks(path, variable, array, index)
    return _decoded(path, variable, array, index)


def opened(path: str, size: int) -> dict[str, Any]:
    """Return the arrays of a store by name."""
    handles = _OPEN[os.getpid()]
    if path in handles:
        _, parts, before = handles[path]
        require_unchanged(path, parts, size, before)
    else:
        while len(handles) >= MOST_OPEN:
            handles.popitem(last=False)
        require_unchanged(path, content(Path(path)), size, None)
        handles[path] = _open(path)
    handles.move_to_end(path)
    return handles[path][0]


def close(path: str) -> None:
    """Forget a store of this process."""
    _OPEN[os.getpid()].pop(path, None)


def variable_header(name: str, array: Any) -> VariableHeader:
    """Describe an array: dimensions of format 3 by its metadata, of 2 as xarray writes them."""
    attributes = dict(array.attrs)
    named = getattr(array.metadata, "dimension_names", None)
    named = attributes.pop("_ARRAY_DIMENSIONS", named) or [None] * array.ndim
    fill = attributes.get("_FillValue")
    if isinstance(fill, str) and array.dtype.kind in "iuf":
        attributes["_FillValue"] = _decoded_fill(fill)
    elif array.metadata.zarr_format == 2 and array.fill_value and array.dtype.kind in "iuf":
        attributes["_FillValue"] = array.fill_value  # 0 is the default of zarr, and is data
    codecs = (*(array.filters or ()), *(array.compressors or ()))
    return VariableHeader(
        name,
        "str" if array.dtype.kind not in "iufMb" else array.dtype.str,
        tuple(one or f"{name}_{axis}" for axis, one in enumerate(named)),
        tuple(array.shape),
        attributes,
        chunks=tuple(array.chunks),
        compression=", ".join(getattr(c, "codec_id", type(c).__name__).lower() for c in codecs),
    )


def _open(path: str) -> _Handle:
    try:
        import zarr
    except ImportError as error:
        raise ValueError(
            f"{path}: a zarr store, and the package zarr is not here: pip install 'hpc_bnn[zarr]'"
        ) from error
    parts = content(Path(path))
    if not any(part.parent == Path(path) for part in parts):
        raise ValueError(
            f"{path}: a zarr store without zarr.json or .zgroup, copied in part? copy it again"
        )
    refuse_pickles(parts)
    try:
        with zarr.config.set({"codec_pipeline.batch_size": BATCH}):
            group = zarr.open_group(path, mode="r")
            arrays = dict(group.arrays())
        below = sorted(name for name, _ in group.groups())
    except Exception as error:  # zarr has no class of its own for damaged metadata
        raise ValueError(
            f"{path}: the metadata of this zarr store cannot be read: {error}; expected a group of "
            "arrays: copy it again, or give the group above a single array"
        ) from error
    if below and not arrays:
        raise ValueError(
            f"{path}: has its variables in the groups {', '.join(below)}: expected them at the "
            f"top; give one, such as {path}/{below[0]}"
        )
    return arrays, parts, state_of(parts)


def _few(variable: VariableHeader) -> bool:
    """Tell whether the values are read with the header: those of small coordinates."""
    return is_coordinate(variable) if variable.dtype != "str" else len(variable.shape) == 1


def _coordinate(path: str, name: str, array: Any) -> NDArray[Any]:
    """Read all values; a chunk of a single value that is not there holds the fill value."""
    if array.size > 1:
        require_chunks(path, name, array, (slice(None),) * array.ndim)
    values = np.asarray(_decoded(path, name, array, (slice(None),) * array.ndim))
    return values if values.dtype.kind in "iufM" else values.astype(str)


def _decoded(path: str, name: str, array: Any, index: tuple[int | slice, ...]) -> NDArray[Any]:
    try:
        return np.asarray(array[index])
    except Exception as error:  # each codec raises its own
        raise OSError(
            f"{path}: '{name}' cannot be read: {error}; a chunk is cut off or damaged: copy the "
            "store again"
        ) from error


def _decoded_fill(text: str) -> Any:
    """Return a fill value as xarray writes it for format 3: base64 of a float64."""
    try:
        return float(np.frombuffer(base64.standard_b64decode(text), "<f8")[0])
    except (ValueError, IndexError):
        return text
