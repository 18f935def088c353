"""Scores of ensemble forecasts of fields on the globe, as sums that add up over starts and ranks.

    <.> = area-weighted mean over the globe, ~ = mean over starts, f = mean of members, o = truth
    RMSE = sqrt ~<(f - o)^2>                 spread = sqrt ~<variance over members, ddof = 1>
    ACC  = ~(<f'o'> / sqrt(<f'^2> <o'^2>))   with anomalies ' from the climatology, not centred

(WeatherBench 2, Rasp et al. 2024, doi:10.1029/2023MS004019.) Each rank
adds its own start times; one sum of `sums` over the ranks gives the scores of all, on any grid. A
NaN in a forecast makes the scores of its lead time and channel NaN; nothing is skipped. Points that
never have a value do not count, neither for the model nor for persistence and climatology: <.> is
the mean over the others, and so are the counts of ranks.

Shape letters: L lead times, C channels, M members, B start times, H latitude, W longitude, P points
of a channel that have values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from hpc_bnn.verify.calibration import coverage_of_ranks, rank_histogram
from hpc_bnn.verify.scores import crps_ensemble, crps_gaussian, fair_crps, spread_skill_ratio
from hpc_bnn.verify.skill import skill

# The columns of `sums`; behind them the M + 1 counts of the rank histogram.
COLUMNS = (
    *("starts", "squared_error", "acc", "crps", "absolute_error", "variance"),
    *("persistence_squared_error", "persistence_acc", "persistence_absolute_error"),
    *("climatology_squared_error", "climatology_crps"),
)


class ReferenceScores(TypedDict, total=False):
    """Scores (L,) of a forecast without skill of its own; ACC of persistence only."""

    rmse: list[float]
    acc: list[float]
    crps: list[float]


class ChannelScores(TypedDict):
    """Scores (L,) of one channel, ready for JSON but for NaN where there is nothing to score.

    rmse, crps, fair_crps, spread: in the unit of the channel; all others have none.
    fair_crps, spread, spread_skill_ratio, coverage: absent with one member.
    rank_histogram: (L, M + 1) area-weighted counts of points. skill: over each reference, by name.
    """

    starts: list[int]
    rmse: list[float]
    acc: list[float]
    crps: list[float]
    fair_crps: NotRequired[list[float]]
    spread: NotRequired[list[float]]
    spread_skill_ratio: NotRequired[list[float]]
    coverage_50: NotRequired[list[float]]
    coverage_90: NotRequired[list[float]]
    rank_histogram: list[list[float]]
    persistence: ReferenceScores
    climatology: ReferenceScores
    skill: dict[str, ReferenceScores]


class WeatherTally:
    """Sum the scores of ensemble, persistence and climatology for each lead time and channel.

    Parameters
    ----------
    area
        (H,) weights of the rows, of mean 1, as of `cell_area`.
    present
        (C, H, W) bool, the points that have values; None: all have.

    Attributes
    ----------
    sums
        (L, C, 11 + M + 1) float64 on the CPU; add those of all ranks.
    """

    def __init__(
        self,
        *,
        leads: int,
        channels: int,
        members: int,
        area: Tensor,
        present: Tensor | None = None,
    ) -> None:
        if min(leads, channels, members) < 1:
            raise ValueError(
                f"WeatherTally: leads = {leads}, channels = {channels}, members = {members}: "
                "expected at least 1 of each"
            )
        if area.dim() != 1 or not math.isclose(float(area.double().mean()), 1, rel_tol=1e-6):
            raise ValueError(
                f"WeatherTally: area {tuple(area.shape)} of mean {float(area.double().mean()):g}: "
                "expected (H,) of mean 1; use cell_area(latitude)"
            )
        self.members = members
        self.sums = torch.zeros(leads, channels, len(COLUMNS) + members + 1, dtype=torch.float64)
        self._area = area.detach().double()[:, None]
        self._points = _checked_present(present, channels, len(area))

    def add(
        self,
        lead: int,
        members: Tensor,
        truth: Tensor,
        *,
        persistence: Tensor,
        climatology: Tensor,
        climatology_std: Tensor,
        uniforms: Tensor,
    ) -> None:
        """Add the forecasts of B start times at one lead time, all in physical units.

        lead: the position of the lead time, 0 to L - 1.
        members: (M, B, C, H, W). truth: (B, C, H, W).
        persistence: (B, C, H, W), the state at the start. climatology: (B, C, H, W), at the valid
        time. climatology_std: (C, H, W), 0 where the climatology is certain.
        uniforms: (B, C, H, W) in [0, 1), break ties of ranks.

        Computes in float64, channel by channel, on the device of the members.
        """
        num_leads, num_channels, _ = self.sums.shape
        if not 0 <= lead < num_leads:
            raise ValueError(f"WeatherTally: lead = {lead}: expected 0 to {num_leads - 1}")
        shape = truth.shape
        fields = {"persistence": persistence, "climatology": climatology, "uniforms": uniforms}
        others = {name: tuple(x.shape) for name, x in fields.items() if x.shape != shape}
        rows = len(self._area)
        if (
            others
            or members.shape != (self.members, *shape)
            or shape[1:-1] != (num_channels, rows)
            or climatology_std.shape != shape[1:]
        ):
            shapes = {
                "members": tuple(members.shape),
                "truth": tuple(shape),
                "climatology_std": tuple(climatology_std.shape),
                **others,
            }
            raise ValueError(
                f"WeatherTally: {', '.join(f'{name} {size}' for name, size in shapes.items())}: "
                f"expected ({self.members}, B, {num_channels}, {rows}, W) members, "
                "their shape without M of all others, "
                f"and ({num_channels}, {rows}, W) of climatology_std"
            )
        if bool((climatology_std < 0).any()):
            raise ValueError(
                f"WeatherTally: climatology_std goes down to {float(climatology_std.min()):g}: "
                "expected standard deviations >= 0"
            )
        sums = []
        for c in range(num_channels):
            fields_c = [
                members[:, :, c].double(),
                truth[:, c].double(),
                persistence[:, c].double(),
                climatology[:, c].double(),
                climatology_std[c].double(),
                uniforms[:, c],
            ]
            area = self._area.to(truth.device)
            if self._points is not None and not bool(self._points[c].all()):
                points = self._points[c].to(truth.device)
                fields_c = [x[..., points].unsqueeze(-2) for x in fields_c]  # (..., 1, P)
                area = area.expand(points.shape)[points][None]
                area = area / area.mean()
            sums.append(self._channel(area, *fields_c))
        self.sums[lead] += torch.stack(sums).cpu()

    def _channel(
        self,
        area: Tensor,
        members: Tensor,
        truth: Tensor,
        persistence: Tensor,
        climatology: Tensor,
        climatology_std: Tensor,
        uniforms: Tensor,
    ) -> Tensor:
        """Return the sums (11 + M + 1,) over the start times of members (M, B, H, W), with weights
        ``area`` of mean 1 that broadcast to (H, W).
        """
        mean, anomaly = members.mean(dim=0), truth - climatology
        variance = torch.full_like(truth, math.nan)
        if len(members) > 1:
            variance = members.var(dim=0, correction=1)
        # Without noise the climatology is one value, whose CRPS is the absolute error.
        certain = climatology_std == 0
        sigma = torch.where(certain, 1.0, climatology_std)
        climatology_crps = torch.where(
            certain, anomaly.abs(), crps_gaussian(climatology, sigma, truth)
        )

        def total(points: Tensor) -> Tensor:
            return (area * points).mean(dim=(-2, -1)).sum()

        def correlation(forecast: Tensor) -> Tensor:
            other = forecast - climatology
            product, *squares = (
                (area * x).mean(dim=(-2, -1)) for x in (other * anomaly, other**2, anomaly**2)
            )
            return (product / (squares[0].sqrt() * squares[1].sqrt())).sum()

        head = [
            torch.tensor(float(len(truth)), dtype=torch.float64, device=truth.device),
            total((mean - truth).square()),
            correlation(mean),
            total(crps_ensemble(members, truth)),
            total((members - truth).abs().mean(dim=0)),
            total(variance),
            total((persistence - truth).square()),
            correlation(persistence),
            total((persistence - truth).abs()),
            total(anomaly.square()),
            total(climatology_crps),
        ]
        if bool(members.isnan().any()) or bool(truth.isnan().any()):
            ranks = area.new_full((len(members) + 1,), math.nan)
        else:
            ranks = rank_histogram(members, truth, uniforms, weights=area)
        return torch.cat([torch.stack(head), ranks])

    def result(self, names: Sequence[str]) -> dict[str, ChannelScores]:
        """Return the scores of each channel by its name; NaN at lead times without starts."""
        if len(names) != self.sums.shape[1] or len(set(names)) != len(names):
            raise ValueError(
                f"WeatherTally: names {list(names)}: expected {self.sums.shape[1]} different ones"
            )
        return {name: self._scores(self.sums[:, c]) for c, name in enumerate(names)}

    def _scores(self, sums: Tensor) -> ChannelScores:
        """Compute the scores of one channel from its sums (L, 11 + M + 1)."""
        m = self.members
        columns = dict(zip(COLUMNS, sums.T, strict=False))
        starts = columns.pop("starts")
        mean = {name: column / starts for name, column in columns.items()}
        ranks = sums[:, len(COLUMNS) :]
        scores: ChannelScores = {
            "starts": [int(count) for count in starts.tolist()],
            "rmse": mean["squared_error"].sqrt().tolist(),
            "acc": mean["acc"].tolist(),
            "crps": mean["crps"].tolist(),
            "rank_histogram": ranks.tolist(),
            "persistence": {
                "rmse": mean["persistence_squared_error"].sqrt().tolist(),
                "acc": mean["persistence_acc"].tolist(),
                "crps": mean["persistence_absolute_error"].tolist(),
            },
            "climatology": {
                "rmse": mean["climatology_squared_error"].sqrt().tolist(),
                "crps": mean["climatology_crps"].tolist(),
            },
            "skill": {
                "persistence": _skill(mean, "persistence", "absolute_error"),
                "climatology": _skill(mean, "climatology", "crps"),
            },
        }
        if m > 1:
            fair = fair_crps(mean["crps"], mean["absolute_error"], m)
            ratio = spread_skill_ratio(mean["variance"], mean["squared_error"], m)
            scores["fair_crps"] = fair.tolist()
            scores["spread"] = mean["variance"].sqrt().tolist()
            scores["spread_skill_ratio"] = ratio.tolist()
            scores["coverage_50"] = coverage_of_ranks(ranks, 0.5).tolist()
            scores["coverage_90"] = coverage_of_ranks(ranks, 0.9).tolist()
        return scores


def _skill(mean: dict[str, Tensor], reference: str, crps: str) -> ReferenceScores:
    """Return the skill over a reference whose CRPS is the mean of its column ``crps``."""
    rmse = skill(mean["squared_error"].sqrt(), mean[f"{reference}_squared_error"].sqrt())
    crpss = skill(mean["crps"], mean[f"{reference}_{crps}"])
    return {"rmse": rmse.tolist(), "crps": crpss.tolist()}


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
