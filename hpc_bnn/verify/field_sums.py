"""What the scores of one channel's forecasts are made of: sums over points, which add up over parts
of the field, such as bands of rows.

    f = mean of members, o = truth, c = climatology, p = persistence, ' = difference to c
    ACC = <f'o'> / sqrt(<f'^2> <o'^2>)      <.> = area-weighted mean over the points

Shape letters: M members, B start times, Q quantiles, S sums; `...` the points of a part, the same
for all starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.verify.calibration import rank_histogram
from hpc_bnn.verify.energy import energy_of_products, products_of_differences
from hpc_bnn.verify.events import brier_score, constant_brier_score, event_counts_of_starts
from hpc_bnn.verify.scores import crps_ensemble, crps_gaussian, fair_crps

POINTWISE = (
    *("mae", "crps", "absolute_error", "forecast_product", "forecast_square"),
    *("persistence_mse", "persistence_product", "persistence_square", "persistence_crps"),
    *("climatology_mse", "climatology_crps"),
)


@dataclass(frozen=True, eq=False)
class FieldForecasts:
    """Forecasts of one channel at one lead time and what they are judged by, in physical units.

    members: (M, B, ...). truth: (B, ...). persistence: (B, ...), the state at the start.
    climatology: (B, ...), at the valid time. climatology_std: (...), 0 where it is certain.
    uniforms: (B, ...) in [0, 1), break ties of ranks.
    """

    members: Tensor
    truth: Tensor
    persistence: Tensor
    climatology: Tensor
    climatology_std: Tensor
    uniforms: Tensor

    def at(self, points: Tensor) -> FieldForecasts:
        """Return those of some points (...) bool, one behind the other."""
        return FieldForecasts(*(x[..., points] for x in vars(self).values()))


@dataclass(frozen=True, eq=False)
class FieldSums:
    """Sums over points, each with the weight of its area; float64.

    pointwise: (B, S), of ``POINTWISE``. products: (B, M + 1, M + 1), as of ``energy``. ranks: (M +
    1,) and events: (B, Q, M + 1, 2) are counts.
    """

    pointwise: Tensor
    products: Tensor
    ranks: Tensor
    events: Tensor

    def __add__(self, other: FieldSums) -> FieldSums:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return FieldSums(*(a + b for a, b in pairs))


def field_sums(forecasts: FieldForecasts, area: Tensor, levels: Sequence[float]) -> FieldSums:
    """Sum over the points of a part, in float64, on the device of the forecasts.

    area: broadcasts against (...). levels: probabilities of the climatological quantiles, of which
    an event is a truth above: those of a normal distribution around the climatology.
    """
    members, truth = forecasts.members.double(), forecasts.truth.double()
    climatology, std = forecasts.climatology.double(), forecasts.climatology_std.double()
    persistence = forecasts.persistence.double()
    mean, anomaly = members.mean(dim=0), truth - climatology
    # Without noise the climatology is one value, whose CRPS is the absolute error.
    certain = std == 0
    sigma = torch.where(certain, 1.0, std)
    climatology_crps = torch.where(certain, anomaly.abs(), crps_gaussian(climatology, sigma, truth))
    forecast, start = mean - climatology, persistence - climatology
    fields = (
        (mean - truth).abs(),
        crps_ensemble(members, truth),
        (members - truth).abs().mean(dim=0),
        forecast * anomaly,
        forecast.square(),
        (persistence - truth).square(),
        start * anomaly,
        start.square(),
        (persistence - truth).abs(),
        anomaly.square(),
        climatology_crps,
    )
    pointwise = torch.stack([(area * x).flatten(1).sum(1) for x in fields], 1)
    if bool(pointwise[:, POINTWISE.index("crps")].isnan().any()):
        ranks = pointwise.new_full((len(members) + 1,), torch.nan)
    else:
        ranks = rank_histogram(members, truth, forecasts.uniforms, weights=area)
    quantiles = torch.special.ndtri(torch.tensor(list(levels), dtype=torch.float64))
    events = [
        event_counts_of_starts(members, truth, climatology + z * std, area)
        for z in quantiles.tolist()
    ]
    products = products_of_differences(members, truth, area)
    return FieldSums(pointwise, products, ranks, torch.stack(events, 1))


def scores_of_starts(
    sums: FieldSums, weight: float, levels: Sequence[float]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute the scores (B,) of ``start_scores.COLUMNS`` and (B, Q) of ``EVENT_COLUMNS`` from the
    sums over all points of a channel.

    weight: the sum of the area of these points.
    """
    mean = dict(zip(POINTWISE, (sums.pointwise / weight).unbind(1), strict=True))
    products = sums.products / weight
    members = products.shape[-1] - 1
    squares = products.diagonal(dim1=-2, dim2=-1)
    undefined = torch.full_like(mean["crps"], torch.nan)
    several = members > 1
    fair = fair_crps(mean["crps"], mean["absolute_error"], members) if several else undefined
    variance = squares[:, :members].sum(1) / (members - 1) if several else undefined
    truth = mean["climatology_mse"].sqrt()
    scores = {
        "mse": squares[:, members],
        "mae": mean["mae"],
        "crps": mean["crps"],
        "fair_crps": fair,
        "variance": variance,
        "acc": mean["forecast_product"] / (mean["forecast_square"].sqrt() * truth),
        "energy_score": energy_of_products(products),
        "fair_energy_score": energy_of_products(products, fair=True) if several else undefined,
        "persistence_mse": mean["persistence_mse"],
        "persistence_acc": mean["persistence_product"]
        / (mean["persistence_square"].sqrt() * truth),
        "persistence_crps": mean["persistence_crps"],
        "climatology_mse": mean["climatology_mse"],
        "climatology_crps": mean["climatology_crps"],
    }
    above = 1 - torch.tensor(list(levels), dtype=torch.float64, device=undefined.device)
    events = {
        "brier": brier_score(sums.events),
        "climatology_brier": constant_brier_score(sums.events, above),
    }
    return scores, events
