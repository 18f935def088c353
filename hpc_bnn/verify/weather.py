"""Scores of ensemble forecasts of fields on the globe, collected start by start and channel by
channel.

Each rank adds its own start times; one sum over the ranks gives what all have (``sums``), bit for
bit the same for every number of ranks but for the counts of ranks and events, which are sums over
starts. A NaN in a forecast makes the scores of its start, lead time and channel NaN; nothing is
skipped. Points that never have a value do not count, neither for the model nor for persistence and
climatology. Fields are given in bands of rows, so that no more than one is in memory.

Shape letters: N start times, L lead times, C channels, M members, B start times that are added
together, H latitude, W longitude, h rows of a band, P points of it that have values, Q quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hpc_bnn.verify.channel_scores import ChannelScores, channel_scores
from hpc_bnn.verify.field_sums import FieldForecasts, FieldSums, field_sums, scores_of_starts
from hpc_bnn.verify.start_scores import COLUMNS, EVENT_COLUMNS, StartScores

LEVELS = (0.1, 0.9)  # of the climatological quantiles
Band = tuple[slice, FieldForecasts]


class WeatherTally:
    """Collect the scores of ensemble, persistence and climatology.

    Parameters
    ----------
    area
        (H,) weights of the rows, of mean 1, as of `cell_area`.
    present
        (C, H, W) bool, the points that have values; None: all have.
    levels
        Probabilities of the Q climatological quantiles, of which an event is a truth above.

    Attributes
    ----------
    sums
        By name float64 on the CPU, 0 before anything is added; add those of all ranks. "rows": (N,
        L, C, 1 + 13 + 2 Q), how often a start was added, then its scores. "ranks": (L, C, M + 1).
        "events": (L, C, Q, M + 1, 2).
    """

    def __init__(
        self,
        *,
        starts: int,
        leads: int,
        channels: int,
        members: int,
        area: Tensor,
        present: Tensor | None = None,
        levels: Sequence[float] = LEVELS,
    ) -> None:
        if min(starts, leads, channels, members) < 1:
            raise ValueError(
                f"WeatherTally: starts = {starts}, leads = {leads}, channels = {channels}, "
                f"members = {members}: expected at least 1 of each"
            )
        if area.dim() != 1 or not math.isclose(float(area.double().mean()), 1, rel_tol=1e-6):
            raise ValueError(
                f"WeatherTally: area {tuple(area.shape)} of mean {float(area.double().mean()):g}: "
                "expected (H,) of mean 1; use cell_area(latitude)"
            )
        self.members, self.levels = members, tuple(levels)
        cell, events = (leads, channels), len(self.levels)
        self._widths = (1, *(1 for _ in COLUMNS), *(events for _ in EVENT_COLUMNS))
        shapes = {
            "rows": (starts, *cell, sum(self._widths)),
            "ranks": (*cell, members + 1),
            "events": (*cell, events, members + 1, 2),
        }
        self.sums = {name: torch.zeros(s, dtype=torch.float64) for name, s in shapes.items()}
        self._area = area.detach().double()[:, None]
        self._points = _checked_present(present, channels, len(area))

    def add(self, lead: int, channel: int, starts: Sequence[int], bands: Iterable[Band]) -> None:
        """Add the forecasts of B start times at one lead time of one channel.

        lead, channel: positions from 0 on. starts: (B,), positions of the start times.
        bands: rows and what is forecast there, members (M, B, h, W); all rows, in order. They are
        read one at a time, and computed in float64 on the device of the members.
        """
        places = {"lead": lead, "channel": channel, "starts": max(starts)}
        limits = self.sums["rows"].shape
        for (name, place), limit in zip(places.items(), (*limits[1:3], limits[0]), strict=True):
            if not 0 <= place < limit:
                raise ValueError(f"WeatherTally: {name} = {place}: expected 0 to {limit - 1}")
        points, rows_area = self._weights(channel)
        total: FieldSums | None = None
        weight, below = 0.0, 0
        for rows, forecasts in bands:
            height, width = self._checked(forecasts, len(starts))
            if rows.start != below or rows.stop - rows.start != height:
                raise ValueError(
                    f"WeatherTally: rows {rows.start} to {rows.stop} of {height} behind "
                    f"{below}: expected bands of all rows in order"
                )
            below = rows.stop
            area = rows_area[rows].to(forecasts.truth.device).expand(height, width)
            if points is not None:
                there = points[rows].to(area.device)
                forecasts, area = forecasts.at(there), area[there]
            weight += float(area.sum())
            part = field_sums(forecasts, area, self.levels)
            total = part if total is None else total + part
        if total is None or below != len(self._area):
            raise ValueError(
                f"WeatherTally: rows up to {below}: expected bands of all {len(self._area)} rows"
            )
        self._put(lead, channel, list(starts), total, weight)

    def _weights(self, channel: int) -> tuple[Tensor | None, Tensor]:
        """Return the points (H, W) of a channel that have values, None for all, and the weights (H,
        1) of the rows, of mean 1 over these points.
        """
        points = None if self._points is None else self._points[channel]
        if points is None or bool(points.all()):
            return None, self._area
        return points, self._area / self._area.expand(points.shape)[points].mean()

    def _put(
        self, lead: int, channel: int, starts: list[int], total: FieldSums, weight: float
    ) -> None:
        scores, events = scores_of_starts(total, weight, self.levels)
        row = [
            *(scores[name][:, None] for name in COLUMNS),
            *(events[name] for name in EVENT_COLUMNS),
        ]
        held = torch.cat([torch.ones_like(row[0]), *row], 1).cpu()
        self.sums["rows"][starts, lead, channel] += held
        self.sums["ranks"][lead, channel] += total.ranks.cpu()
        self.sums["events"][lead, channel] += total.events.sum(0).cpu()

    def of_starts(
        self,
        starts: Tensor,
        lead_hours: Sequence[float],
        names: Sequence[str],
        units: Sequence[str],
    ) -> StartScores:
        """Return the scores of each start, once all of them have been added.

        starts: (N,), seconds since 1970 UTC. names, units: of the channels.
        """
        shape = self.sums["rows"].shape
        if len(names) != shape[2] or len(set(names)) != len(names):
            raise ValueError(
                f"WeatherTally: names {list(names)}: expected {shape[2]} different ones"
            )
        added, *columns = torch.split(self.sums["rows"], list(self._widths), -1)
        if bool((added != 1).any()):
            at = (added[..., 0] != 1).nonzero()[0].tolist()
            raise ValueError(
                f"WeatherTally: start, lead and channel {at} were added "
                f"{float(added[tuple(at)]):g} times: expected once; add the sums of all ranks"
            )
        values = dict(zip((*COLUMNS, *EVENT_COLUMNS), columns, strict=True))
        values |= {name: values[name][..., 0] for name in COLUMNS}
        return StartScores(
            starts, tuple(lead_hours), tuple(names), tuple(units), self.levels, self.members, values
        )

    def result(self, scores: StartScores) -> dict[str, ChannelScores]:
        """Return the scores of all starts, of each channel by its name."""
        return {
            name: channel_scores(scores, c, self.sums["ranks"][:, c], self.sums["events"][:, c])
            for c, name in enumerate(scores.names)
        }

    def _checked(self, forecasts: FieldForecasts, starts: int) -> tuple[int, int]:
        """Return the rows and columns of a band, after a check of its shapes."""
        shape = forecasts.truth.shape
        shapes = {name: tuple(x.shape) for name, x in vars(forecasts).items()}
        expected = dict.fromkeys(shapes, tuple(shape))
        expected["members"] = (self.members, *shape)
        expected["climatology_std"] = tuple(shape[1:])
        if shapes != expected or len(shape) != 3 or shape[0] != starts:
            raise ValueError(
                f"WeatherTally: {', '.join(f'{name} {size}' for name, size in shapes.items())}: "
                f"expected ({self.members}, {starts}, h, W) members, their shape without M of all "
                "others, and (h, W) of climatology_std"
            )
        if bool((forecasts.climatology_std < 0).any()):
            raise ValueError(
                "WeatherTally: climatology_std goes down to "
                f"{float(forecasts.climatology_std.min()):g}: expected standard deviations >= 0"
            )
        return shape[1], shape[2]


def _checked_present(present: Tensor | None, channels: int, rows: int) -> Tensor | None:
    """Return the points that have values, after a check; None where all have."""
    if present is None:
        return None
    shape = tuple(present.shape)
    if len(shape) != 3 or shape[:2] != (channels, rows) or present.dtype != torch.bool:
        raise ValueError(
            f"WeatherTally: present {shape} of {present.dtype}: "
            f"expected ({channels}, {rows}, W) of torch.bool"
        )
    if not bool(present.flatten(1).any(1).all()):
        raise ValueError(
            "WeatherTally: present has no point of a channel: expected some of each; "
            "leave the channel out"
        )
    return None if bool(present.all()) else present
