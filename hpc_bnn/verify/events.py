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
    if members.shape[1:] != truth.shape or len(members) == 0:
        raise ValueError(
            f"event_counts: members {tuple(members.shape)} for truth {tuple(truth.shape)}: "
            "expected (M, *truth)"
        )
    count = len(members)
    if any(bool(x.isnan().any()) for x in (members, truth, threshold)):
        return torch.full((count + 1, 2), torch.nan, dtype=torch.float64, device=truth.device)
    above = (members > threshold).sum(0).reshape(-1)
    event = (truth > threshold).double().reshape(-1)
    each = torch.ones_like(event)
    if weights is not None:
        each = weights.to(truth.device, torch.float64).expand(truth.shape).reshape(-1)
    both = torch.stack([each, each * event], 1)
    return both.new_zeros(count + 1, 2).index_add_(0, above, both)


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
    square, missed = probability.square(), (1 - probability).square()
    brier = (square * (total - events) + missed * events).sum() / weight
    reliability = (total * (probability - rates).square()).sum() / weight
    resolution = (total * (rates - rate).square()).sum() / weight
    parts = torch.stack([brier, reliability, resolution, rate * (1 - rate)])
    return BrierParts(*parts.tolist())
