"""Is the stated uncertainty the real one? Reliability, rank histogram, PIT and coverage.

Counts and sums come out, so that parts of a test set (or ranks) can be added before a ratio is
taken; what needs all examples at once says so. NaN raises: in a histogram it could only vanish.

Shape letters: N examples, S members (first), K bins; `...` any points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.verify.pit import covered, pit_counts

# Fine bins are equally wide in log-odds, log(p / (1 - p)): the nearer to 1, where the examples of
# confident networks crowd, the finer. Of width 1/256, so at most 0.001 wide in p. What lies beyond
# the ends, p < 0.0004 or 1 - p < 4e-11, falls into the bins there.
FINE_BINS = 8192
LOG_ODDS = (-8.0, 24.0)
SINGULAR = 1e-9  # smaller eigenvalues of a covariance, relative to the largest, are rounding


@dataclass(frozen=True, eq=False)
class Reliability:
    """Hold sums per bin of confidence in (0, 1]; add records of disjoint examples with `+`.

    count: (K,) float64, examples in the bin.
    confidence_sum: (K,) float64.
    correct_sum: (K,) float64.
    """

    count: Tensor
    confidence_sum: Tensor
    correct_sum: Tensor

    def __add__(self, other: Reliability) -> Reliability:
        """Pool two records of equally many bins."""
        if self.count.shape != other.count.shape:
            raise ValueError(
                f"Reliability: {len(self.count)} bins + {len(other.count)} bins: "
                "expected equally many; make both records with the same number of bins"
            )
        return Reliability(
            self.count + other.count,
            self.confidence_sum + other.confidence_sum,
            self.correct_sum + other.correct_sum,
        )

    def mean_confidence(self) -> Tensor:
        """Compute the mean confidence (K,) of each bin; NaN where it is empty."""
        return self.confidence_sum / self.count

    def accuracy(self) -> Tensor:
        """Compute the share of correct predictions (K,) of each bin; NaN where it is empty."""
        return self.correct_sum / self.count


@dataclass(frozen=True)
class Flatness:
    """Hold a chi-square test of equal counts: a small p_value speaks against a flat histogram."""

    chi_square: float
    degrees_of_freedom: int
    p_value: float


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


def adaptive_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Compute the calibration error over K bins of equal mass (Nixon et al. 2019).

    Needs all examples at once: confidence (N,), correct (N,). Sizes of bins differ by at most one.
    Examples of equal confidence share their mean accuracy, so their order does not matter.
    """
    confidence, correct = _checked("adaptive_calibration_error", confidence, correct, bins)
    num_examples = len(confidence)
    if num_examples < bins:
        raise ValueError(
            f"adaptive_calibration_error: {num_examples} examples in {bins} bins: "
            "expected at least one example a bin; set fewer bins"
        )
    values, group, sizes = torch.unique(confidence, return_inverse=True, return_counts=True)
    accuracy = torch.zeros_like(values).index_add(0, group, correct) / sizes
    return _equal_mass_error(accuracy - values, sizes, bins)


def fine_adaptive_error(record: Reliability, bins: int = 15) -> float:
    """Compute ``adaptive_calibration_error`` from fine bins; NaN for fewer examples than bins.

    The examples of one fine bin share its mean confidence and accuracy, so the error differs from
    the exact one by at most 2 (K - 1) times the largest share of examples in one fine bin.
    """
    filled = record.count > 0
    sizes = record.count[filled].long()
    if int(sizes.sum()) < bins:
        return math.nan
    gap = (record.correct_sum - record.confidence_sum)[filled] / record.count[filled]
    return _equal_mass_error(gap, sizes, bins)


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


def pit_histogram(pit: Tensor, bins: int = 10, *, weights: Tensor | None = None) -> Tensor:
    """Count probability integral transforms (...) in K equal bins of [0, 1], as (K,) float64.

    weights: broadcasts to (...), what each counts.
    """
    _require_probabilities("pit_histogram", pit, bins)
    return pit_counts(pit.double(), pit.double(), bins, weights=weights)


def coverage(pit: Tensor, level: float) -> float:
    """Compute the share of pit (...) inside the central interval of probability `level`.

    The interval is closed: |pit - 1/2| <= level / 2.
    """
    _require_probabilities("coverage", pit, 1)
    if not 0 < level < 1 or pit.numel() == 0:
        raise ValueError(
            f"coverage: level = {level} of {pit.numel()} values: "
            "expected a level between 0 and 1, such as 0.9, and at least one value"
        )
    return float(covered(pit.double(), pit.double(), level).mean())


def flatness(counts: Tensor, *, members: int | None = None) -> Flatness:
    """Test counts (K,) of independent examples against equal expectation in every bin.

    members: M, where the counts are shares of the PITs of ensembles (``verify.pit``). Their M + 1
    ranks are equally likely, but bins that share ranks are not independent: with the covariance V
    of the counts, chi-square is (n - N / K)' V^-1 (n - N / K), of min(M, K - 1) degrees of freedom;
    up to M + 1 = K it is that of the ranks. Ties make it smaller.

    Neighbouring points or hours are not independent: then p_value is too small; compare chi_square.
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
    half = torch.tensor([freedom / 2, chi_square / 2], dtype=torch.float64)
    # The survival function of chi-square.
    return Flatness(chi_square, freedom, float(torch.special.gammaincc(half[0], half[1])))


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


def _equal_mass_error(gap: Tensor, sizes: Tensor, bins: int) -> float:
    """Average |mean gap| over K bins of equal mass; group g of ``sizes[g]`` examples has gap[g]."""
    each = torch.repeat_interleave(gap, sizes)
    return float(sum(part.sum().abs() for part in each.tensor_split(bins))) / len(each)


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
