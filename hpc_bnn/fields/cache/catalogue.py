"""The catalogue of a cache: `Reader` and all that stands on it read it like any other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.cache.header import (
    DATA_OFFSET,
    FIELDS,
    STATIC,
    CachedChannel,
    Header,
)
from hpc_bnn.fields.cache.scaling import FILL
from hpc_bnn.fields.cache.state import Repacked
from hpc_bnn.fields.catalogue import Catalogue, Channel, File, Part
from hpc_bnn.fields.grid import Grid, Orientation
from hpc_bnn.fields.names import channel_name
from hpc_bnn.fields.packing import Packing
from hpc_bnn.fields.selection import Key, static_key, wanted


def cache_catalogue(
    found: Repacked,
    *,
    variables: Sequence[str] = (),
    levels: Sequence[float] = (),
    static: Sequence[str] | None = (),
) -> Catalogue:
    """Make the catalogue of a cache; the arguments are those of `catalogue`.

    Raises
    ------
    ValueError
        If it has not what is wanted.
    """
    folder, source, header = found.folder, found.source, found.header
    request = header.request
    states = {_key(c): c for c in request.channels}
    fixed = {_key(c): c for c in request.static}
    if static is None or (not variables and not static):
        chosen_static = list(fixed)
    else:
        chosen_static = [static_key(source, [*fixed, *states], name, {}) for name in static]
    chosen = wanted(source, list(states), variables, levels, {})
    channels = _channels(header)
    return Catalogue(
        source=source,
        parts=_parts(folder, header),
        grid=Grid(np.array(request.latitude), np.array(request.longitude), request.periodic),
        times=np.array(request.times, np.int64),
        channels=tuple(channels[key] for key in chosen),
        static=tuple(_static(key, header, channels) for key in chosen_static),
        preliminary=np.isin(np.arange(len(request.times)), request.preliminary),
        problems=found.problems,
        notices=found.notices,
        skipped={},
        origin=request.origin,
    )


def _key(channel: CachedChannel) -> Key:
    return channel.variable, channel.level_hpa


def _parts(folder: Path, header: Header) -> tuple[Part, Part]:
    """Return the fields and the static fields as parts: channels are levels of one variable."""
    request = header.request
    fills = (float(FILL),) if request.dtype == "int16" else ()
    scaling = header.scaling
    fields = _part(
        folder / FIELDS,
        request.dtype,
        ("time", "level", "latitude", "longitude"),
        request.shape,
        DATA_OFFSET,
        fills,
        None if request.dtype == "float32" else (scaling.scale, scaling.offset),
    )
    shape = (len(request.static), *request.shape[2:])
    size = 4 * int(np.prod(shape))
    path = folder / STATIC
    total = path.stat().st_size if path.exists() else size
    static = _part(
        path, "float32", ("level", "latitude", "longitude"), shape, total - size, (), None
    )
    return fields, static


def _part(
    path: Path,
    dtype: str,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    offset: int,
    fills: tuple[float, ...],
    scaling: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> Part:
    kind = np.dtype(dtype)
    steps = [kind.itemsize * int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    size = offset + kind.itemsize * int(np.prod(shape))
    return Part(
        file=File(str(path), "cache", size, Orientation(False, False, 0)),
        variable=path.stem,
        raw_dtype=kind.str,
        axes=axes,
        shape=shape,
        fixed=(0,) * len(axes),
        packing=Packing(kind.str, 1.0, 0.0, fills, None, None, None),
        chunks=None,
        compression="",
        version_of=None,
        offset=offset,
        strides=tuple(steps),
        scaling=scaling,
    )


def _channels(header: Header) -> dict[Key, Channel]:
    """Return the channels; those with the same times share their arrays, and are read together."""
    request = header.request
    count = len(request.times)
    step = np.arange(count, dtype=np.int32)
    shared: dict[tuple[int, ...], NDArray[np.int32]] = {}
    made = {}
    for at, (channel, absent) in enumerate(zip(request.channels, request.absent, strict=True)):
        if absent not in shared:
            shared[absent] = np.zeros(count, np.int32)
            shared[absent][list(absent)] = -1
        made[_key(channel)] = _channel(channel, shared[absent], step, {0: at})
    return made


def _static(key: Key, header: Header, channels: dict[Key, Channel]) -> Channel:
    """Return a static field; the first time of a state where there is none of its name."""
    for at, channel in enumerate(header.request.static):
        if _key(channel) == key:
            return _channel(channel, np.array([1], np.int32), np.zeros(1, np.int32), {1: at})
    state = channels[key]
    first = int(np.flatnonzero(state.part >= 0)[0])
    cached = next(c for c in header.request.channels if _key(c) == key)
    return _channel(
        cached, state.part[first : first + 1], state.step[first : first + 1], state.level_index
    )


def _channel(
    cached: CachedChannel,
    part: NDArray[np.int32],
    step: NDArray[np.int32],
    level_index: dict[int, int],
) -> Channel:
    own = asdict(cached) | {"name": channel_name(*_key(cached))}  # as it is called now
    return Channel(**own, part=part, step=step, level_index=level_index)
