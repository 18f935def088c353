"""Reads blocks of the source: each by one call where its levels are neighbours, decoded step by
step, exactly as `Reader` decodes.

Shape letters: T stored steps, L levels, C channels of a block, H rows of a block, W longitude.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.cache.blocks import Block, positions
from hpc_bnn.fields.catalogue import Catalogue, some
from hpc_bnn.fields.handles import Handles, library_lock, view
from hpc_bnn.fields.part import MAPPED, Part
from hpc_bnn.fields.plan import Group, Run, place, runs
from hpc_bnn.fields.possible import (
    bounds,
    describe_beyond,
    describe_undeclared,
    first_beyond,
)


class BlockReader:
    """Read blocks of a catalogue in physical units; missing values are NaN."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._handles = Handles()

    def read(self, block: Block) -> Iterator[NDArray[np.float32]]:
        """Give the values (C, H, W) of each time of a block, in order; always the same array.

        Raises
        ------
        ValueError
            For impossible values; names file, variable and time.
        """
        channels = tuple(self._catalogue.channels[at] for at in block.channels)
        columns = self._catalogue.shape[2]
        out = np.empty((len(channels), block.rows[1] - block.rows[0], columns), np.float32)
        if block.part < 0:
            out[...] = np.nan
            yield from (out for _ in positions(block.times))
            return
        part = self._catalogue.parts[block.part]
        steps = [int(channels[0].step[time]) for time in positions(block.times)]
        first = min(steps)
        group = Group(channels, tuple(range(len(channels))))
        zero, one = np.zeros(len(channels)), np.ones(len(channels))
        plan = runs(part, block.part, group, zero, one)
        try:
            raw = self._raw(part, block, plan, first, max(steps) + 1)
        except (OSError, ValueError) as error:
            span = (block.times[0][0], block.times[-1][1] - 1)
            when = [times.text(int(self._catalogue.times[at])) for at in span]
            what = some([channel.name for channel in channels])
            raise type(error)(f"{error} (reading {what} from {when[0]} to {when[1]})") from error
        for time, step in zip(positions(block.times), steps, strict=True):
            sane = True
            with np.errstate(over="ignore"):  # of the number that stands for "never written"
                for run, stored in zip(plan, raw, strict=True):
                    if not place(stored[step - first], run, out, written=True):
                        sane &= place(stored[step - first], run, out, written=False)
            if not sane:
                self._require_possible(part, block, time, out)
            yield out

    def _require_possible(
        self, part: Part, block: Block, time: int, out: NDArray[np.float32]
    ) -> None:
        """Refuse values (C, H, W) that are infinite or beyond their range, or missing where the
        file declares no missing values.
        """
        channels = [self._catalogue.channels[at] for at in block.channels]
        beyond = first_beyond(out, *bounds(channels, np.zeros(len(out)), np.ones(len(out))))
        for at, (channel, values) in enumerate(zip(channels, out, strict=True)):
            gone = int(np.isnan(values).sum())
            if np.isinf(values).any():
                what = f"{int(np.isinf(values).sum())} values are infinite; repair the file or "
                what += "leave the variable out"
            elif at == beyond:
                grid = self._catalogue.grid
                rows = grid.latitude[slice(*block.rows)]
                what = describe_beyond(channel, values.astype(np.float64), rows, grid.longitude)
            elif gone and not part.packing.declared:
                what = describe_undeclared(channel, gone, values.size)
            else:
                continue
            raise ValueError(
                f"{part.file.path}: '{part.variable}' ({channel.name}) at "
                f"{times.text(int(self._catalogue.times[time]))}: {what}"
            )

    def close(self) -> None:
        """Close the files of this process."""
        self._handles.close()

    def _raw(
        self, part: Part, block: Block, plan: tuple[Run, ...], first: int, last: int
    ) -> list[NDArray[Any]]:
        """Read raw numbers (T, L, H, W) for each run of levels, by one call for levels that share
        chunks.
        """
        channels = [self._catalogue.channels[at] for at in block.channels]
        spans = []
        for run in plan:
            lowest = channels[run.positions[0]].level_index[block.part]
            spans.append((lowest, lowest + len(run.positions)))
        chunk = (
            1
            if part.chunks is None or part.axis("level") is None
            else part.chunks[part.axes.index("level")]
        )
        rows = block.rows
        if part.file.orientation.flip_rows:
            height = self._catalogue.shape[1]
            rows = (height - rows[1], height - rows[0])
        raw: list[NDArray[Any]] = []
        at = 0
        while at < len(spans):
            end = at + 1
            while (
                end < len(spans) and spans[end][0] // chunk - (spans[end - 1][1] - 1) // chunk < 2
            ):
                end += 1
            low, high = spans[at][0], spans[end - 1][1]
            read = self._call(part, slice(first, last), slice(low, high), slice(*rows))
            read.flags.writeable = False  # decoded a second time where something is missing
            raw += [read[:, a - low : b - low] for a, b in spans[at:end]]
            at = end
        return raw

    def _call(self, part: Part, steps: slice, levels: slice, rows: slice) -> NDArray[Any]:
        """Read raw numbers (T, L, H, W), rows and columns as stored."""
        if part.version_of is not None:
            versions = part.version_of[steps]
            cuts = [0, *(np.flatnonzero(np.diff(versions)) + 1).tolist(), len(versions)]
            several = [
                self._one(part, slice(steps.start + a, steps.start + b), levels, rows, versions[a])
                for a, b in pairwise(cuts)
            ]
            return np.concatenate(several)
        return self._one(part, steps, levels, rows, 0)

    def _one(
        self, part: Part, steps: slice, levels: slice, rows: slice, version: int
    ) -> NDArray[Any]:
        wanted = {"time": steps, "level": levels, "latitude": rows, "longitude": slice(None)}
        index = tuple(
            int(version) if role == "version" else wanted.get(role, fixed)
            for role, fixed in zip(part.axes, part.fixed, strict=True)
        )
        path, size = part.file.path, part.file.size
        with library_lock():
            if part.file.format in MAPPED:
                memory = self._handles.memory(path, size)
                raw = view(memory, part.raw_dtype, part.shape, part.offset, part.strides)[index]
            else:
                dataset = self._handles.dataset(path, size)
                try:
                    variable = dataset.variables[part.variable]
                    if part.chunks is not None:  # every chunk is read once: none is kept
                        variable.set_var_chunk_cache(size=1)
                    raw = variable[index]
                except (OSError, RuntimeError) as error:
                    raise OSError(
                        f"{path}: '{part.variable}': steps {steps.start} to {steps.stop - 1} "
                        f"cannot be read: {error}; the file is damaged: copy or download it again"
                    ) from error
        kept = [role for role in part.axes if role in wanted]
        for role in ("level", "time"):
            if role not in kept:
                raw, kept = raw[None], [role, *kept]
        return raw.transpose([kept.index(role) for role in wanted])
