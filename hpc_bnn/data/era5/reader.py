"""Reads steps of a catalogue: decoded, in canonical order, normalised, missing values dealt with.

Shape letters: C channels, H latitude, W longitude, T time, L levels read together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.era5 import times
from hpc_bnn.data.era5.catalogue import Catalogue, Channel
from hpc_bnn.data.era5.handles import Handles, library_lock
from hpc_bnn.data.era5.packing import SANE, Affine, affine, unpack
from hpc_bnn.data.era5.part import Cut, Part, cut, read_cut

Missing = Literal["error", "mean", "keep"]


@dataclass(frozen=True, eq=False)
class _Group:
    """Channels of one variable that always lie in the same parts and steps."""

    channels: tuple[Channel, ...]
    positions: tuple[int, ...]


class Reader:
    """Read steps of a catalogue; may be pickled and forked: files are opened where it reads.

    mean, std: (C,) float64 of the channels, in their units; physical values where None.
    missing: "error" refuses a field with missing values, "mean" puts 0 in normalised units, the
        mean, "keep" leaves NaN.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        mean: NDArray[np.float64] | None = None,
        std: NDArray[np.float64] | None = None,
        missing: Missing = "error",
    ) -> None:
        if missing not in ("error", "mean", "keep"):
            raise ValueError(f"missing = '{missing}': expected 'error', 'mean' or 'keep'")
        count = len(catalogue.channels)
        self.catalogue = catalogue
        self._missing = missing
        self._mean = np.zeros(count) if mean is None else np.asarray(mean, np.float64)
        self._std = np.ones(count) if std is None else np.asarray(std, np.float64)
        self._groups = _grouped(catalogue.channels)
        self._static_groups = _grouped(catalogue.static)
        self._handles = Handles()
        self._plans: dict[tuple[int, int], _Plan] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        del state["_handles"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handles = Handles()

    def read(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Fill `out` (C, H, W) float32 with the step at a position in `catalogue.times`.

        Raises
        ------
        ValueError
            If a channel has not this step, or has missing values and the policy is "error"; names
            file, variable and time.
        """
        if out.shape != self.catalogue.shape or out.dtype != np.float32:
            raise ValueError(
                f"out has shape {out.shape} and type {out.dtype}: expected "
                f"{self.catalogue.shape} and float32"
            )
        with np.errstate(over="ignore"):  # of the number that stands for "never written"
            for number, group in enumerate(self._groups):
                self._read_group(
                    number, group, time_index, out, self._mean, self._std, written=True
                )
        # One look at all channels where nothing is missing.
        if float(out.min()) > -SANE and float(out.max()) < SANE:
            return
        for number, group in enumerate(self._groups):
            self._read_group(number, group, time_index, out, self._mean, self._std)
        if np.isinf(out).any():
            self._refuse(time_index, out)
        if self._missing == "error" and np.isnan(out).any():
            self._refuse(time_index, out)
        if self._missing == "mean":
            np.nan_to_num(out, copy=False, nan=0.0)

    def static(self) -> NDArray[np.float32]:
        """Read the static fields (channels, H, W) in physical units; missing values are NaN."""
        count = len(self.catalogue.static)
        out = np.empty((count, *self.catalogue.shape[1:]), np.float32)
        for number, group in enumerate(self._static_groups):
            self._read_group(-1 - number, group, 0, out, np.zeros(count), np.ones(count))
        return out

    def close(self) -> None:
        """Close the files of this process."""
        self._handles.close()

    def _read_group(
        self,
        number: int,
        group: _Group,
        time_index: int,
        out: NDArray[np.float32],
        mean: NDArray[np.float64],
        std: NDArray[np.float64],
        *,
        written: bool = False,
    ) -> None:
        index = int(group.channels[0].part[time_index])
        if index < 0:
            raise ValueError(
                f"{self.catalogue.source}: '{group.channels[0].name}' has no step at "
                f"{times.text(int(self.catalogue.times[time_index]))}; choose times that every "
                "channel has"
            )
        key = (number, index)
        if key not in self._plans:
            self._plans[key] = _plan(self.catalogue.parts[index], index, group, mean, std)
        plan, step = self._plans[key], int(group.channels[0].step[time_index])
        for run in plan.runs:
            with library_lock():
                raw = read_cut(run.cut, self._handles, step)
            _place(raw, plan.part, run, out, written=written)

    def _refuse(self, time_index: int, out: NDArray[np.float32]) -> None:
        """Raise for the first field with missing values."""
        at = int(np.flatnonzero(~np.isfinite(out).all(axis=(1, 2)))[0])
        channel, gone = self.catalogue.channels[at], ~np.isfinite(out[at])
        row, column = np.argwhere(gone)[0].tolist()
        part = self.catalogue.parts[int(channel.part[time_index])]
        grid = self.catalogue.grid
        raise ValueError(
            f"{part.file.path}: '{part.variable}' ({channel.name}) at "
            f"{times.text(int(self.catalogue.times[time_index]))}: {int(gone.sum())} of "
            f"{gone.size} values are missing or infinite, the first at latitude "
            f"{grid.latitude[row]:g}, "
            f"longitude {grid.longitude[column]:g}; expected none: set missing = 'mean' to fill "
            "them with the mean, leave the variable out, or repair the file"
        )


@dataclass(frozen=True, eq=False)
class _Run:
    """Levels that are read by one call, and where they go.

    target: the same as `positions` where they are neighbours in order, so that nothing is copied.
    """

    cut: Cut
    positions: tuple[int, ...]
    target: slice | None
    coefficients: Affine


@dataclass(frozen=True, eq=False)
class _Plan:
    """How a group is read from one part."""

    part: Part
    runs: tuple[_Run, ...]


def read(catalogue: Catalogue, time_index: int, out: NDArray[np.float32]) -> None:
    """Fill `out` (C, H, W) float32 with the physical values of one step; missing ones are NaN."""
    reader = Reader(catalogue, missing="keep")
    try:
        reader.read(time_index, out)
    finally:
        reader.close()


def _grouped(channels: tuple[Channel, ...]) -> tuple[_Group, ...]:
    grouped: dict[tuple[str, int, int], list[int]] = {}
    for position, channel in enumerate(channels):
        key = (channel.variable, id(channel.part), id(channel.step))
        grouped.setdefault(key, []).append(position)
    return tuple(_Group(tuple(channels[p] for p in ps), tuple(ps)) for ps in grouped.values())


def _plan(
    part: Part, index: int, group: _Group, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> _Plan:
    """Cut the levels into runs of neighbours, each read by one call."""
    places = sorted(
        (channel.level_index[index], position)
        for channel, position in zip(group.channels, group.positions, strict=True)
    )
    runs: list[list[tuple[int, int]]] = []
    for place in places:
        if runs and place[0] == runs[-1][-1][0] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    made = []
    for run in runs:
        positions = tuple(position for _, position in run)
        coefficients = affine(part.packing, mean[list(positions)], std[list(positions)])
        first, last = positions[0], positions[-1]
        in_order = positions == tuple(range(first, last + 1))
        target = slice(first, last + 1) if in_order else None
        levels = cut(part, slice(run[0][0], run[-1][0] + 1))
        made.append(_Run(levels, positions, target, coefficients))
    return _Plan(part, tuple(made))


def _place(
    raw: NDArray[Any], part: Part, run: _Run, out: NDArray[np.float32], *, written: bool
) -> None:
    """Decode raw numbers (L, H, W) as stored into their channels of `out`, in canonical order."""
    turned = part.file.orientation
    raw = raw[:, ::-1] if turned.flip_rows else raw
    raw = raw[:, :, ::-1] if turned.flip_columns else raw
    target = np.empty(raw.shape, np.float32) if run.target is None else out[run.target]
    if turned.roll:
        west = raw.shape[2] - turned.roll
        for stored, placed in (
            (raw[:, :, turned.roll :], target[:, :, :west]),
            (raw[:, :, : turned.roll], target[:, :, west:]),
        ):
            unpack(stored, part.packing, run.coefficients, placed, written=written)
    else:
        unpack(raw, part.packing, run.coefficients, target, written=written)
    if run.target is None:
        out[list(run.positions)] = target
