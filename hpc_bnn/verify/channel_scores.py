"""Scores of one channel over all start times, from those of each start.

    <.> = area-weighted mean over the globe, ~ = mean over starts, f = mean of members, o = truth
    RMSE = sqrt ~<(f - o)^2>                 spread = sqrt ~<variance over members, ddof = 1>
    ACC  = ~(<f'o'> / sqrt(<f'^2> <o'^2>))   with anomalies ' from the climatology, not centred

(WeatherBench 2, Rasp et al. 2024, doi:10.1029/2023MS004019.) Ratios and skills are of such means,
never means of ratios.

Shape letters: L lead times, C channels, M members, Q quantiles.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

from torch import Tensor

from hpc_bnn.verify.calibration import coverage_of_ranks
from hpc_bnn.verify.events import brier_parts
from hpc_bnn.verify.scores import spread_skill_ratio
from hpc_bnn.verify.skill import skill
from hpc_bnn.verify.start_scores import StartScores


class ReferenceScores(TypedDict, total=False):
    """Scores (L,) of a forecast without skill of its own; ACC of persistence only."""

    rmse: list[float]
    acc: list[float]
    crps: list[float]


class EventScores(TypedDict):
    """Forecasts of a truth above a climatological quantile, lists over L lead times.

    brier = reliability - resolution + uncertainty, of all starts together. skill: of the Brier
    score over that of the climatological probability. counts: (L, M + 1, 2), the area-weighted
    points where k of M members lie above, and those of them where the truth does: the reliability
    diagram.
    """

    brier: list[float]
    climatology: list[float]
    skill: list[float]
    reliability: list[float]
    resolution: list[float]
    uncertainty: list[float]
    counts: list[list[list[float]]]


class ChannelScores(TypedDict):
    """Scores (L,) of one channel, ready for JSON but for NaN where there is nothing to score.

    rmse, mae, crps, fair_crps, spread, energy_score: in the unit of the channel; others have none.
    fair_crps, spread, spread_skill_ratio, coverage, fair_energy_score: absent with one member.
    rank_histogram: (L, M + 1) area-weighted counts of points. skill: over each reference, by name.
    events: by the probability of the quantile, such as "0.9".
    """

    starts: list[int]
    rmse: list[float]
    mae: list[float]
    acc: list[float]
    crps: list[float]
    fair_crps: NotRequired[list[float]]
    spread: NotRequired[list[float]]
    spread_skill_ratio: NotRequired[list[float]]
    coverage_50: NotRequired[list[float]]
    coverage_90: NotRequired[list[float]]
    energy_score: list[float]
    fair_energy_score: NotRequired[list[float]]
    rank_histogram: list[list[float]]
    events: dict[str, EventScores]
    persistence: ReferenceScores
    climatology: ReferenceScores
    skill: dict[str, ReferenceScores]


def channel_scores(
    scores: StartScores, channel: int, ranks: Tensor, events: Tensor
) -> ChannelScores:
    """Compute the scores of one channel.

    ranks: (L, M + 1), counts of the ranks of the truth. events: (L, Q, M + 1, 2), as of
    ``events.event_counts``.
    """
    mean = {name: values[:, :, channel].mean(0) for name, values in scores.values.items()}
    made: ChannelScores = {
        "starts": [len(scores.starts)] * len(scores.lead_hours),
        "rmse": mean["mse"].sqrt().tolist(),
        "mae": mean["mae"].tolist(),
        "acc": mean["acc"].tolist(),
        "crps": mean["crps"].tolist(),
        "energy_score": mean["energy_score"].tolist(),
        "rank_histogram": ranks.tolist(),
        "events": {
            f"{level:g}": _event_scores(mean["brier"][:, q], mean["climatology_brier"][:, q], of)
            for q, (level, of) in enumerate(zip(scores.levels, events.unbind(1), strict=True))
        },
        "persistence": {
            "rmse": mean["persistence_mse"].sqrt().tolist(),
            "acc": mean["persistence_acc"].tolist(),
            "crps": mean["persistence_crps"].tolist(),
        },
        "climatology": {
            "rmse": mean["climatology_mse"].sqrt().tolist(),
            "crps": mean["climatology_crps"].tolist(),
        },
        "skill": {name: _skill(mean, name) for name in ("persistence", "climatology")},
    }
    if scores.members > 1:
        ratio = spread_skill_ratio(mean["variance"], mean["mse"], scores.members)
        made["fair_crps"] = mean["fair_crps"].tolist()
        made["fair_energy_score"] = mean["fair_energy_score"].tolist()
        made["spread"] = mean["variance"].sqrt().tolist()
        made["spread_skill_ratio"] = ratio.tolist()
        made["coverage_50"] = coverage_of_ranks(ranks, 0.5).tolist()
        made["coverage_90"] = coverage_of_ranks(ranks, 0.9).tolist()
    return made


def _skill(mean: dict[str, Tensor], reference: str) -> ReferenceScores:
    rmse = skill(mean["mse"].sqrt(), mean[f"{reference}_mse"].sqrt())
    crpss = skill(mean["crps"], mean[f"{reference}_crps"])
    return {"rmse": rmse.tolist(), "crps": crpss.tolist()}


def _event_scores(brier: Tensor, climatology: Tensor, counts: Tensor) -> EventScores:
    parts = [brier_parts(of_lead) for of_lead in counts]
    return {
        "brier": brier.tolist(),
        "climatology": climatology.tolist(),
        "skill": skill(brier, climatology).tolist(),
        "reliability": [part.reliability for part in parts],
        "resolution": [part.resolution for part in parts],
        "uncertainty": [part.uncertainty for part in parts],
        "counts": counts.tolist(),
    }
