"""Forecasts of an event, truth above a threshold: Brier score and how it comes about.

Of M members k lie above, so the forecast probability is k / M, one of M + 1. With N_k the (area)
weight of the points where it was k / M, o_k the share of events among these, o among all,

    Brier = sum_k N_k ((k / M)^2 (1 - o_k) + (1 - k / M)^2 o_k) / N
          = reliability - resolution + uncertainty
    reliability = sum_k N_k (k / M - o_k)^2 / N,   resolution = sum_k N_k (o_k - o)^2 / N
    uncertainty = o (1 - o)

without a rest, since no probabilities are binned (Murphy 1973,
doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2). Counts add up over starts and ranks. They are
also the reliability diagram: o_k over k / M.

Letters: M members; `...` any points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class BrierParts(NamedTuple):
    """The Brier score, and reliability - resolution + uncertainty, which it equals."""

    brier: float
    reliability: float
    resolution: float
    uncertainty: float


def climatological_quantiles(states: Tensor, levels: Sequence[float]) -> Tensor:
    """Compute the quantiles (Q, ...) float64 at ``levels`` of past states (N, ...), interpolated
    linearly.
    """
    # torch.quantile refuses more than 16 million numbers.
    return torch.from_numpy(np.quantile(states.double().cpu().numpy(), list(levels), axis=0))


def event_counts(
    members: Tensor, truth: Tensor, threshold: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute the weights (M + 1, 2) float64 of the points at which k of M members lie above
    ``threshold``: of all of them, and of those where the truth does too.

    members (M, ...), truth (...); threshold and weights broadcast against the truth. A NaN anywhere
    makes all of it NaN.

    Raises
    ------
    ValueError
        If members and truth do not fit.
    """
    if members.shape[1:] != truth.shape:
        raise ValueError(_unlike(members, truth))
    of_each = threshold.expand(truth.shape)[None]
    return event_counts_of_starts(members[:, None], truth[None], of_each, weights)[0]


def event_counts_of_starts(
    members: Tensor, truth: Tensor, threshold: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute the ``event_counts`` (B, M + 1, 2) of each of B starts.

    members (M, B, ...), truth (B, ...), threshold of that shape; weights broadcast against (...). A
    NaN makes those of its start NaN.
    """
    count = len(members)
    if members.shape[1:] != truth.shape or count == 0:
        raise ValueError(_unlike(members, truth))
    batch, points = len(truth), truth.shape[1:]
    place = (members > threshold).sum(0).reshape(batch, -1)
    place += (count + 1) * torch.arange(batch, device=truth.device)[:, None]
    event = (truth > threshold).double().reshape(batch, -1)
    each = torch.ones_like(event)
    if weights is not None:
        each = weights.to(truth.device, torch.float64).expand(points).reshape(1, -1) * each
    both = torch.stack([each, each * event], -1).reshape(-1, 2)
    counts = both.new_zeros(batch * (count + 1), 2).index_add_(0, place.reshape(-1), both)
    counts = counts.reshape(batch, count + 1, 2)
    # A sum is NaN where a part of it is, and needs no copy of all points.
    known = members.sum((0, *range(2, members.dim()))) + (truth + threshold).reshape(batch, -1).sum(
        1
    )
    return torch.where(known.isnan()[:, None, None], torch.nan, counts)


def _unlike(members: Tensor, truth: Tensor) -> str:
    return (
        f"event_counts: members {tuple(members.shape)} for truth {tuple(truth.shape)}: "
        "expected (M, *truth)"
    )


def brier_score(counts: Tensor) -> Tensor:
    """Compute the Brier score (...) from ``event_counts`` (..., M + 1, 2); NaN where there are
    none.
    """
    total, events = counts.double().unbind(-1)
    members = counts.shape[-2] - 1
    probability = torch.linspace(0, 1, members + 1, dtype=torch.float64, device=counts.device)
    return _squared(probability, total, events)


def constant_brier_score(counts: Tensor, probability: Tensor) -> Tensor:
    """Compute the Brier score (...) of a probability that is the same at all points, on the points
    of ``event_counts`` (..., M + 1, 2). probability: broadcasts against (...).
    """
    total, events = counts.double().unbind(-1)
    return _squared(probability[..., None], total, events)


def _squared(probability: Tensor, total: Tensor, events: Tensor) -> Tensor:
    """Compute the mean square distance (...) of probabilities to what happened (..., K)."""
    square, missed = probability.square(), (1 - probability).square()
    return (square * (total - events) + missed * events).sum(-1) / total.sum(-1)


def brier_parts(counts: Tensor) -> BrierParts:
    """Compute the Brier score and its parts from the summed ``event_counts`` (M + 1, 2); NaN where
    there are none.
    """
    total, events = counts.double().unbind(1)
    probability = torch.linspace(0, 1, len(counts), dtype=torch.float64, device=counts.device)
    weight = total.sum()
    rate = events.sum() / weight
    # A probability that was never forecast has no rate, and weight 0.
    rates = torch.where(total == 0, rate, events / total)
    brier = _squared(probability, total, events)
    reliability = (total * (probability - rates).square()).sum() / weight
    resolution = (total * (rates - rate).square()).sum() / weight
    parts = torch.stack([brier, reliability, resolution, rate * (1 - rate)])
    return BrierParts(*parts.tolist())
