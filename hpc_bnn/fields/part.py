"""One variable in one file: where its raw numbers lie, and how to read a step of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.catalogue import File as File
from hpc_bnn.fields.catalogue import Part as Part
from hpc_bnn.fields.catalogue import amplification
from hpc_bnn.fields.handles import Handles, view

# Steps are read together up to this many bytes: beyond, the numbers leave the cache of a core
# before they are decoded, and the cost of a call no longer matters.
TOGETHER_BYTES = 1 << 20
MAPPED = ("cache",)  # formats that are read through a memory map


@dataclass(frozen=True, eq=False)
class Cut:
    """Some levels of a part, ready to be read step by step.

    index: what is read along each axis, as short as possible (the library is then faster); the
        entries at `time` and `version` are put in for each step.
    order: of the remaining axes, to make them level, latitude, longitude; None if they are.
    add_level: whether the part has no axis of levels.
    time_only: whether the index holds nothing but the step.
    most_steps: how many stored steps, one after another, it pays to read by one call.
    touched_bytes: bytes of the chunks that one step lies in, which are read whole, of the values
        themselves where it has no chunks or its own; time_chunk: steps in them.
    """

    part: Part
    index: tuple[int | slice, ...]
    time: int | None
    version: int | None
    order: tuple[int, ...] | None
    add_level: bool
    time_only: bool
    most_steps: int
    touched_bytes: int
    time_chunk: int

    def bytes_read(self, step: int, count: int) -> int:
        """Count the bytes of the file that reading `count` stored steps from `step` on takes."""
        chunks = (step + count - 1) // self.time_chunk - step // self.time_chunk + 1
        return chunks * self.touched_bytes


def cut(part: Part, levels: slice) -> Cut:
    """Prepare to read some levels of a part."""
    index: list[int | slice] = []
    for role, fixed, length in zip(part.axes, part.fixed, part.shape, strict=True):
        if role == "level":
            index.append(slice(None) if levels == slice(0, length) else levels)
        else:
            index.append(fixed if role in ("fixed", "time", "version") else slice(None))
    while len(index) > 1 and index[-1] == slice(None):
        index.pop()
    kept = [role for role in part.axes if role in ("level", "latitude", "longitude")]
    kept = kept if "level" in kept else ["level", *kept]
    order = tuple(kept.index(role) for role in ("level", "latitude", "longitude"))
    wanted = levels.stop - levels.start
    sizes = dict(zip(part.axes, part.shape, strict=True)) | {"level": wanted}
    step_bytes = np.dtype(part.raw_dtype).itemsize * prod(
        sizes[role] for role in ("level", "latitude", "longitude")
    )
    time = part.axis("time")
    time_chunk = part.chunks[time] if part.chunks is not None and time is not None else 1
    # What is neither compressed nor in chunks of several steps goes straight from file to array.
    straight = time_chunk == 1 and not part.compression
    in_a_row = part.axes[0] == "time" and "version" not in part.axes
    return Cut(
        part,
        tuple(index),
        time,
        part.axis("version"),
        None if order == (0, 1, 2) else order,
        part.axis("level") is None,
        in_a_row and len(index) == 1,
        max(1, TOGETHER_BYTES // step_bytes) if in_a_row else 1,
        step_bytes if straight else round(step_bytes * amplification(part, wanted)),
        time_chunk,
    )


def read_cut(
    one: Cut, handles: Handles, step: int, *, count: int = 1, version: int | None = None
) -> NDArray[Any]:
    """Read raw numbers (T, L, H, W) of `count` stored steps from `step` on, rows and columns as
    stored; more than one only where `most_steps` says so.

    Must be called under `library_lock()`. Mapped formats: a view of the file, read when used.
    """
    part = one.part
    steps = step if count == 1 else slice(step, step + count)
    index: int | slice | tuple[int | slice, ...] = steps  # a bare index is what is read fastest
    if not one.time_only:
        place = list(one.index)
        if one.time is not None:
            place[one.time] = steps
        if one.version is not None:
            assert part.version_of is not None
            place[one.version] = int(part.version_of[step]) if version is None else version
        index = tuple(place)
    if part.file.format in MAPPED:
        memory = handles.memory(part.file.path, part.file.size)
        raw = view(memory, part.raw_dtype, part.shape, part.offset, part.strides)[index]
    else:
        dataset = handles.dataset(part.file.path, part.file.size)
        try:
            raw = dataset.variables[part.variable][index]
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"{part.file.path}: '{part.variable}': step {step} cannot be read: {error}; the "
                "file is damaged: copy or download it again"
            ) from error
    raw = raw[None] if count == 1 else raw
    raw = raw[:, None] if one.add_level else raw
    return raw if one.order is None else raw.transpose(0, *(1 + axis for axis in one.order))


def read_raw(
    part: Part, handles: Handles, step: int, levels: slice, version: int | None = None
) -> NDArray[Any]:
    """Read raw numbers (L, H, W) of one stored step once; see `read_cut`."""
    whole: NDArray[Any] = read_cut(cut(part, levels), handles, step, version=version)[0]
    return whole
