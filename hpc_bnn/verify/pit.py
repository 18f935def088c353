"""Where the truth lies in a forecast: the one definition of coverage and of a flat PIT histogram.

The probability integral transform (PIT) of a continuous forecast is a number. That of M members is
known as an interval only: a truth above b of them and equal to t lies in

    [b, b + t + 1] / (M + 1)

and if the forecast is calibrated, anywhere in it with equal probability. Every count takes the
share of the interval that falls into it, the expectation over ranks whose ties are broken at
random. So a calibrated ensemble of any size is covered as stated, with ties (no rain) and without,
and nothing random decides. Source: Czado, Gneiting, Held 2009,
doi:10.1111/j.1541-0420.2009.01191.x, eq. 1 and 2.

The interval of the outermost ranks is as wide as that of the others: however far outside the
members the truth lies, M of them count as covered with 1 - (1 - level) (M + 1) / 2 of its points,
or not at all where that is negative (from 19 on for 0.9). What few members cannot tell here, the
spread-skill ratio and the histogram do.

Shape letters: M members (first), K bins; `...` any points.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ensemble_pit(members: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends (...) float64 of the PIT of truth (...) among members (M, ...); NaN where one
    of them is.
    """
    below = (members < truth).double().sum(0)
    not_above = (members <= truth).double().sum(0)
    unknown = members.isnan().any(0) | truth.isnan()
    places = len(members) + 1
    low, high = below / places, (not_above + 1) / places
    return low.masked_fill(unknown, torch.nan), high.masked_fill(unknown, torch.nan)


def covered(low: Tensor, high: Tensor, level: float) -> Tensor:
    """Compute the share (...) of each PIT [low, high] inside the central interval of probability
    ``level``, which is closed: 1 or 0 where low = high.
    """
    first, last = (1 - level) / 2, (1 + level) / 2
    width = high - low
    share = (high.clamp(max=last) - low.clamp(min=first)).clamp(min=0) / width
    inside = ((low - 0.5).abs() <= level / 2).to(low).masked_fill(low.isnan(), torch.nan)
    return torch.where(width > 0, share, inside)


def coverage_of_ranks(counts: Tensor, level: float) -> Tensor:
    """Compute the share (...) of truths inside the central interval of probability ``level``.

    counts: (..., M + 1) of ranks, each of which stands for the PIT [r, r + 1] / (M + 1). NaN
    without counts.
    """
    bins = counts.shape[-1]
    edges = torch.arange(bins + 1, dtype=torch.float64, device=counts.device) / bins
    inside = covered(edges[:-1], edges[1:], level)
    return (counts.double() * inside).sum(dim=-1) / counts.double().sum(dim=-1)


def pit_counts(low: Tensor, high: Tensor, bins: int, *, weights: Tensor | None = None) -> Tensor:
    """Count PITs [low, high] (...) in K equal bins of [0, 1], as (K,) float64; a NaN makes all NaN.

    weights: broadcasts to (...), what each counts.
    """
    width = high - low
    at = (low * bins).floor().clamp(max=bins - 1)
    counts = torch.empty(bins, dtype=torch.float64, device=low.device)
    for k in range(bins):
        share = (high.clamp(max=(k + 1) / bins) - low.clamp(min=k / bins)).clamp(min=0) / width
        share = torch.where(width > 0, share, (at == k).to(share))
        counts[k] = (share if weights is None else share * weights).sum()
    return torch.where(width.isnan().any(), torch.nan, counts)
