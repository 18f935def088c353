"""Is the stated uncertainty the real one? Reliability, rank histogram, PIT and coverage.

Counts and sums come out, so that parts of a test set (or ranks) can be added before a ratio is
taken; what needs all examples at once says so. NaN raises: in a histogram it could only vanish.

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

Shape letters: N examples, S or M members (first), K bins; `...` any points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Fine bins are equally wide in log-odds, log(p / (1 - p)): the nearer to 1, where the examples of
# confident networks crowd, the finer. Of width 1/256, so at most 0.001 wide in p. What lies beyond
# the ends, p < 0.0004 or 1 - p < 4e-11, falls into the bins there.
FINE_BINS = 8192
LOG_ODDS = (-8.0, 24.0)
SINGULAR = 1e-9  # smaller eigenvalues of a covariance, relative to the largest, are rounding


@dataclass(frozen=True, eq=False)
class Reliability:
    """Hold sums per bin of confidence in (0, 1]; those of disjoint examples add up.

    count: (K,) float64, examples in the bin.
    confidence_sum: (K,) float64.
    correct_sum: (K,) float64.
    """

    count: Tensor
    confidence_sum: Tensor
    correct_sum: Tensor

    def mean_confidence(self) -> Tensor:
        """Compute the mean confidence (K,) of each bin; NaN where it is empty."""
        return self.confidence_sum / self.count

    def accuracy(self) -> Tensor:
        """Compute the share of correct predictions (K,) of each bin; NaN where it is empty."""
        return self.correct_sum / self.count


def reliability_bins(confidence: Tensor, correct: Tensor, bins: int = 15) -> Reliability:
    """Sort examples into K equal bins ((k - 1) / K, k / K] of confidence; 0 goes into the first.

    confidence: (N,) probability of the predicted class, or of the event.
    correct: (N,) 1 or 0, or bool: the prediction was right, or the event happened.
    """
    confidence, correct = _checked("reliability_bins", confidence, correct, bins)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    index = torch.bucketize(confidence, edges[1:-1])

    return _summed(confidence, correct, index, bins)


def fine_bins(log_odds: Tensor, correct: Tensor) -> Reliability:
    """Sort examples into ``FINE_BINS`` bins by the log-odds (N,) of their confidence.

    What the records add up to over batches and ranks gives the scores that need an order of all
    examples: ``fine_adaptive_error`` and ``auroc``.
    """
    confidence, correct = _checked(
        "fine_bins", torch.sigmoid(log_odds.double()), correct, FINE_BINS
    )
    low, high = LOG_ODDS
    place = (log_odds.double().clamp(low, high) - low) * (FINE_BINS / (high - low))
    return _summed(confidence, correct, place.long().clamp(max=FINE_BINS - 1), FINE_BINS)


def expected_calibration_error(record: Reliability) -> float:
    """Compute sum_k n_k / N |accuracy_k - confidence_k| (Naeini et al. 2015; Guo et al. 2017)."""
    num_examples = float(record.count.sum())
    if num_examples == 0:
        raise ValueError("expected_calibration_error: the record holds no examples; expected some")
    return float((record.correct_sum - record.confidence_sum).abs().sum()) / num_examples


def fine_adaptive_error(record: Reliability, bins: int = 15) -> float:
    """Compute the calibration error over K bins of equal mass; NaN for fewer examples than bins.

    Sizes of bins differ by at most one (Nixon et al. 2019). The examples of one fine bin share its
    mean confidence and accuracy, so the error differs from that of all examples in order by at most
    2 (K - 1) times the largest share of examples in one fine bin.
    """
    filled = record.count > 0
    sizes = record.count[filled].long()
    if int(sizes.sum()) < bins:
        return math.nan
    gap = (record.correct_sum - record.confidence_sum)[filled] / record.count[filled]
    each = torch.repeat_interleave(gap, sizes)
    return float(sum(part.sum().abs() for part in each.tensor_split(bins))) / len(each)


def auroc(low: Tensor, high: Tensor) -> float:
    """Compute the area under the ROC curve from counts (K,) per ordered bin of a score.

    The probability that an example of ``high`` has a greater score than one of ``low``, a half
    where both share a bin. Confidence as the score that tells a data set (high) from foreign
    examples (low): Hendrycks and Gimpel 2017, arXiv:1610.02136.
    """
    if low.shape != high.shape or low.dim() != 1 or not (float(low.sum()) and float(high.sum())):
        raise ValueError(
            f"auroc: counts {tuple(low.shape)} of {float(low.sum()):g} examples and "
            f"{tuple(high.shape)} of {float(high.sum()):g}: expected (K,) and (K,), some of each"
        )
    low, high = low.double(), high.double()
    below = low.cumsum(0) - low / 2
    return float((high * below).sum() / (low.sum() * high.sum()))


def rank_histogram(
    members: Tensor, truth: Tensor, uniforms: Tensor, *, weights: Tensor | None = None
) -> Tensor:
    """Count the ranks (S + 1,) float64 of truth (...) among members (S, ...) (Hamill 2001).

    uniforms: (...) in [0, 1), break ties: among t members equal to the truth each of the t + 1
    places is equally likely. weights: broadcasts to (...), for example the area of each point.
    """
    if members.dim() == 0 or members.shape[1:] != truth.shape or truth.shape != uniforms.shape:
        raise ValueError(
            f"rank_histogram: members {tuple(members.shape)}, truth {tuple(truth.shape)}, uniforms "
            f"{tuple(uniforms.shape)}: expected (S, ...), (...), (...); put members first"
        )
    _require_no_nan("rank_histogram", members=members, truth=truth)
    below = (members < truth).sum(dim=0)
    ties = (members == truth).sum(dim=0)
    place = (uniforms.double() * (ties + 1)).floor().long()
    rank = (below + torch.minimum(place, ties)).flatten()
    weight = torch.ones((), device=truth.device) if weights is None else weights
    weight = weight.double().expand(truth.shape).flatten()
    counts = torch.zeros(len(members) + 1, dtype=torch.float64, device=truth.device)
    return counts.index_add(0, rank, weight)


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


def flatness(counts: Tensor, *, members: int | None = None) -> tuple[float, int]:
    """Return chi-square of counts (K,) of independent examples against equal expectation in every
    bin, and its degrees of freedom.

    members: M, where the counts are shares of the PITs of ensembles (``pit_counts``). Their M + 1
    ranks are equally likely, but bins that share ranks are not independent: with the covariance V
    of the counts, chi-square is (n - N / K)' V^-1 (n - N / K), of min(M, K - 1) degrees of freedom;
    up to M + 1 = K it is that of the ranks. Ties make it smaller.

    Neighbouring points or hours are not independent: then it is larger.
    """
    total, bins = float(counts.sum()), counts.numel()
    if bins < 2 or total <= 0:
        raise ValueError(
            f"flatness: {bins} bins with {total:g} counts: expected at least 2 bins and some counts"
        )
    gap = counts.double().cpu() - total / bins
    if members is None:
        chi_square, freedom = float(gap.square().sum()) * bins / total, bins - 1
    else:
        chi_square, freedom = (
            float(gap @ _inverse(members, bins) @ gap) / total,
            min(members, bins - 1),
        )
    return chi_square, freedom


def _inverse(members: int, bins: int) -> Tensor:
    """Invert the covariance (K, K) of what one of M + 1 equally likely ranks adds to each bin."""
    edges = torch.arange(members + 2, dtype=torch.float64) / (members + 1)
    ranks = [pit_counts(edges[r], edges[r + 1], bins) for r in range(members + 1)]
    added = torch.stack(ranks, dim=1) - 1 / bins
    covariance = added @ added.T / (members + 1)
    inverse: Tensor = torch.linalg.pinv(covariance, hermitian=True, rtol=SINGULAR)
    return inverse


def _summed(confidence: Tensor, correct: Tensor, index: Tensor, bins: int) -> Reliability:
    """Sum examples by the bin they belong to."""

    def summed(values: Tensor) -> Tensor:
        zeros = torch.zeros(bins, dtype=torch.float64, device=values.device)
        return zeros.index_add(0, index, values)

    return Reliability(summed(torch.ones_like(confidence)), summed(confidence), summed(correct))


def _checked(where: str, confidence: Tensor, correct: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    if confidence.dim() != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"{where}: confidence {tuple(confidence.shape)}, correct {tuple(correct.shape)}: "
            "expected (N,) and (N,)"
        )
    _require_probabilities(where, confidence, bins)
    _require_probabilities(where, correct, bins)
    return confidence.double(), correct.double()


def _require_probabilities(where: str, values: Tensor, bins: int) -> None:
    if bins < 1:
        raise ValueError(f"{where}: bins = {bins}: expected at least 1")
    _require_no_nan(where, values=values)
    if values.numel() and not (float(values.min()) >= 0 and float(values.max()) <= 1):
        raise ValueError(
            f"{where}: values from {float(values.min()):.6g} to {float(values.max()):.6g}: "
            "expected probabilities in [0, 1]; give probabilities, not logarithms"
        )


def _require_no_nan(where: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        count = int(tensor.isnan().sum())
        if count:
            raise ValueError(
                f"{where}: {count} of {tensor.numel()} {name} are NaN: expected numbers; "
                "leave the missing points out of all arguments"
            )
