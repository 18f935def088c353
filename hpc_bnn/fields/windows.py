"""Forecast windows: a state, perhaps earlier ones, and what it becomes one step later.

    x = [state(t - (h - 1) step), ..., state(t), static fields, calendar(t)]    normalised
    y = (state(t + step) - state(t)) / tendency std                             of physical states

A rollout of n > 1 steps has n targets, and the forcing of its later steps behind x (one channel of
zeros each where there is none, so that the number of channels tells n):

    x = [..., static fields, calendar(t + step), ..., static fields, calendar(t + (n - 1) step)]
    y_l = (state(t + l step) - state(t)) / tendency std,   l = 1 ... n

Points that never have a value hold 0 in x and y, the mean and no change (`Gaps`). A window exists
only where every step is present, at exactly these times: never across a gap.

Shape letters: B batch, C channels, F forcing channels, H latitude, W longitude, T time, h history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_bnn.fields.pack.reader import PackReader
from hpc_bnn.fields.statistics import positions_after

CALENDAR_CHANNELS = ("sin_time_of_day", "cos_time_of_day", "sin_time_of_year", "cos_time_of_year")


class Atmosphere:
    """Read normalised states and forcings of a pack: what windows and forecasts are made of.

    reader: gives normalised states.
    static: (F_static, H, W) float32, normalised.
    use_calendar: whether time of day and of year are forcings.

    Attributes
    ----------
    times
        (T,) int64, seconds since 1970.
    shape
        C, H, W of a state.
    """

    def __init__(
        self, reader: PackReader, static: NDArray[np.float32], *, use_calendar: bool
    ) -> None:
        self._reader, self._static, self._use_calendar = reader, static, use_calendar
        self.shape = reader.pack.shape
        self.times = torch.from_numpy(reader.pack.times.copy())

    @property
    def forcing_channels(self) -> int:
        """F, static and calendar channels."""
        return len(self._static) + (len(CALENDAR_CHANNELS) if self._use_calendar else 0)

    def states(self, indices: Tensor) -> Tensor:
        """Read the normalised states (B, C, H, W) float32 at positions (B,) in `times`."""
        out = torch.empty((len(indices), *self.shape))
        self.read_all(indices.tolist(), list(out.numpy()))
        return out

    def read(self, index: int, out: NDArray[np.float32]) -> None:
        """Fill `out` (C, H, W) with the normalised state at a position in `times`."""
        self._reader.read(index, out)

    def read_all(self, indices: Sequence[int], outs: Sequence[NDArray[np.float32]]) -> None:
        """Fill each of `outs` (C, H, W) with the state at its position; one that is wanted several
        times is read once.
        """
        first: dict[int, NDArray[np.float32]] = {}
        again = []
        for index, out in zip(indices, outs, strict=True):
            if first.setdefault(index, out) is not out:
                again.append((index, out))
        self._reader.read_all(list(first), list(first.values()))
        for index, out in again:
            np.copyto(out, first[index])

    def forcing(self, seconds: Tensor) -> Tensor:
        """Return static fields and calendar (B, F, H, W) float32 of times (B,) since 1970."""
        out = torch.empty((len(seconds), self.forcing_channels, *self.shape[1:]))
        self.fill_forcing(seconds.numpy(), out.numpy())
        return out

    def fill_forcing(self, seconds: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Fill `out` (B, F, H, W) with the forcing of times (B,)."""
        count = len(self._static)
        out[:, :count] = self._static
        if self._use_calendar:
            out[:, count:] = calendar(seconds)[:, :, None, None]


@dataclass(frozen=True, eq=False)
class ForecastWindows:
    """Read forecast windows by index; see the top of the file.

    steps: (number of windows, h + n) int64, positions in the times of the atmosphere: history from
        the oldest, then the targets.
    history: h, states in the input.
    ratio: (C,) float32, std of the states over std of the tendencies.
    """

    agreed: ClassVar[bool] = True  # made of one pack, which one rank reads for all
    atmosphere: Atmosphere
    steps: Tensor
    history: int
    ratio: NDArray[np.float32]

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.steps)

    @property
    def times(self) -> Tensor:
        """The times (number of windows,) of the newest input, seconds since 1970."""
        return self.atmosphere.times[self.steps[:, self.history - 1]]

    def batch(self, indices: Tensor, rollout: int = 1) -> tuple[Tensor, Tensor]:
        """Read the states that a rollout of n steps needs of windows (B,) as x and y, float32.

        One step: x (B, h C + F, H, W), y (B, C, H, W).
        More: x (B, h C + F + (n - 1) max(F, 1), H, W), y (B, n, C, H, W).
        """
        shape = channels, rows, columns = self.atmosphere.shape
        forced = self.atmosphere.forcing_channels
        inputs = self.history * channels + forced + (rollout - 1) * max(forced, 1)
        x = torch.empty((len(indices), inputs, rows, columns))
        several = (rollout,) if rollout > 1 else ()
        y = torch.empty((len(indices), *several, *shape))
        self.batch_into(indices, x, y)
        return x, y

    def batch_into(self, indices: Tensor, x: Tensor, y: Tensor) -> None:
        """Fill x and y with the windows at `indices` (B,), for the steps that y has targets of."""
        rollout = y.shape[1] if y.dim() == 5 else 1
        history = self.history
        steps = self.steps[indices, : history + rollout]
        shape, channels = self.atmosphere.shape, self.atmosphere.shape[0]
        forced = self.atmosphere.forcing_channels
        inputs_of_first = history * channels + forced
        y = y.view(len(steps), rollout, *shape)
        inputs, targets = x.numpy(), y.numpy()
        states = inputs[:, : history * channels].reshape(len(steps), history, *shape)
        outs = [out for b in range(len(steps)) for out in (*states[b], *targets[b])]
        self.atmosphere.read_all(steps.flatten().tolist(), outs)
        for state, of_window in zip(states[:, -1], targets, strict=True):
            of_window -= state
            of_window *= self.ratio[:, None, None]
        times = self.atmosphere.times[steps].numpy()
        inputs[:, inputs_of_first:] = 0.0
        for step in range(rollout if forced else 1):
            first = history * channels + step * forced
            self.atmosphere.fill_forcing(
                times[:, history - 1 + step], inputs[:, first : first + forced]
            )


def window_steps(
    sorted_times: NDArray[np.int64],
    usable: NDArray[np.bool_],
    *,
    step_hours: int,
    history: int,
    rollout: int = 1,
) -> NDArray[np.int64]:
    """Find all windows (number, history + rollout) whose steps are all usable and exactly
    step_hours apart.
    """
    later = positions_after(sorted_times, step_hours * 3600)
    columns = [np.flatnonzero(usable)]
    for _ in range(history + rollout - 1):
        after = np.where(columns[-1] >= 0, later[columns[-1]], -1)
        columns.append(np.where((after >= 0) & usable[after], after, -1))
    steps = np.stack(columns, axis=1)
    return steps[(steps >= 0).all(axis=1)]


def calendar(seconds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute sine and cosine of the times of day and of year (B, 4) of times (B,), seconds since
    1970, UTC.

    The year counts from 0 on 1 January to 1 on the next, leap years included.
    """
    moments = np.asarray(seconds, np.int64).astype("datetime64[s]")
    years = moments.astype("datetime64[Y]")
    begin, end = (y.astype("datetime64[s]").astype(np.int64) for y in (years, years + 1))
    of_day = 2 * np.pi * (np.asarray(seconds) % 86400) / 86400
    of_year = 2 * np.pi * (np.asarray(seconds) - begin) / (end - begin)
    parts = [np.sin(of_day), np.cos(of_day), np.sin(of_year), np.cos(of_year)]
    return np.stack(parts, axis=-1).astype(np.float32)
