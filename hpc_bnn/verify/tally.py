"""Scores of a test set as sums that add up over batches and ranks, in any order.

A tally is one float64 vector of sums; ranks reduce it with a single sum, and the result is the same
on any grid.

Letters: S weight samples, B batch, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hpc_bnn.verify import scores
from hpc_bnn.verify.calibration import (
    FINE_BINS,
    Reliability,
    auroc,
    expected_calibration_error,
    fine_adaptive_error,
    fine_bins,
    flatness,
    pit_histogram,
    reliability_bins,
)
from hpc_bnn.verify.points import PointWeights

BINS = 15
PIT_BINS = 10
HEAD = 8  # sums of a RegressionTally before its PIT histogram


class Tally(Protocol):
    """Sums of scores over examples.

    whole_examples: it scores examples; else points, in any order and number, as examples.
    """

    sums: Tensor
    whole_examples: bool

    def add(self, outputs: Tensor, sigma: Tensor | None, target: Tensor) -> None:
        """Add the examples of a batch under all weight samples: outputs (S, B, ...), target (B,
        ...).
        """

    def result(self) -> dict[str, float]:
        """Return the scores by name."""


class ClassificationTally:
    """Accuracy, NLL, Brier score, entropies and calibration of the mean probability.

    The entropy of the mean probability is the whole uncertainty; the mutual information of class
    and weights, what it exceeds the mean entropy of the samples by, is the epistemic part (Depeweg
    et al. 2018, arXiv:1710.07283). The adaptive calibration error needs all examples in the order
    of their confidence: it comes from a fine histogram, which adds up (``fine_adaptive_error``).
    """

    whole_examples = True

    def __init__(self) -> None:
        self.sums = torch.zeros(6 + 3 * BINS + 3 * FINE_BINS, dtype=torch.float64)

    def add(self, outputs: Tensor, sigma: Tensor | None, target: Tensor) -> None:
        """Add logits (S, B, C) for classes (B,)."""
        of_samples = torch.log_softmax(outputs.double().cpu(), -1)
        log_prob = of_samples.logsumexp(0) - math.log(len(outputs))
        target = target.cpu()
        hit = scores.correct(log_prob, target)
        # Rounding can leave a probability of 1 + 1e-16.
        confidence = log_prob.exp().amax(1).clamp(max=1.0)
        bins = reliability_bins(confidence, hit, BINS)
        fine = fine_bins(scores.log_odds(log_prob), hit)
        entropy = torch.special.entr(log_prob.exp()).sum(1)
        of_one_sample = torch.special.entr(of_samples.exp()).sum(2).mean(0)
        head = [
            torch.tensor(float(len(target)), dtype=torch.float64),
            scores.categorical_nll(log_prob, target).sum(),
            hit.sum(),
            scores.brier(log_prob, target).sum(),
            entropy.sum(),
            (entropy - of_one_sample).clamp(min=0).sum(),
        ]
        parts = [part for b in (bins, fine) for part in (b.count, b.confidence_sum, b.correct_sum)]
        self.sums += torch.cat([torch.stack(head), *parts])

    def reliability(self) -> Reliability:
        """Return the sums per bin of confidence."""
        return Reliability(*self.sums[6 : 6 + 3 * BINS].reshape(3, BINS))

    def fine_reliability(self) -> Reliability:
        """Return the sums per fine bin of confidence."""
        return Reliability(*self.sums[6 + 3 * BINS :].reshape(3, FINE_BINS))

    def auroc(self, foreign: "ClassificationTally") -> float:
        """Return how well confidence tells these examples from foreign ones: 1/2 not, 1 always."""
        return auroc(foreign.fine_reliability().count, self.fine_reliability().count)

    def result(self) -> dict[str, float]:
        count, nll, hits, brier, entropy, information = self.sums[:6].tolist()
        return {
            "examples": count,
            "nll": nll / count,
            "accuracy": hits / count,
            "brier": brier / count,
            "entropy": entropy / count,
            "mutual_information": information / count,
            "expected_calibration_error": expected_calibration_error(self.reliability()),
            "adaptive_calibration_error": fine_adaptive_error(self.fine_reliability(), BINS),
        }


@dataclass(frozen=True, eq=False)
class PointScores:
    """Hold mean scores per point of a target, (...), in the units of the outputs.

    pinball: the mean over the tally's levels; NaN without levels.
    """

    rmse: Tensor
    crps: Tensor
    coverage_90: Tensor
    pinball: Tensor


class RegressionTally:
    """RMSE, CRPS, NLL, spread and coverage, in the units of the outputs.

    With standard deviations the forecast is the Gaussian mixture of the weight samples; without,
    their ensemble, whose CRPS is the fair one, whose PIT is the middle of the truth's rank, and
    which has no NLL.

    Parameters
    ----------
    points
        Shape of a target whose points are to be scored one by one too (``by_point``), such as
        (lead times, channels).
    levels
        Probabilities of the quantiles whose pinball loss is scored. It costs more than everything
        else, so there are none by default.
    weights
        Of the points of a target, of its shape, such as cell areas; they count relative to their
        mean. A point of weight 0 is left out, whatever it holds. Not together with ``points``.
    """

    def __init__(
        self,
        *,
        points: tuple[int, ...] | None = None,
        levels: Sequence[float] = (),
        weights: Tensor | None = None,
    ) -> None:
        self.levels = tuple(levels)
        self._points, self.whole_examples = points, points is not None
        self._weights = None if weights is None else PointWeights(weights)
        if points is not None and weights is not None:
            raise ValueError("RegressionTally: points and weights are given: expected one of them")
        single = 4 * math.prod(points) if points is not None else 0
        length = HEAD + PIT_BINS + len(self.levels) + single
        self.sums = torch.zeros(length, dtype=torch.float64)

    def add(
        self, outputs: Tensor, sigma: Tensor | None, target: Tensor, *, first: int | None = None
    ) -> None:
        """Add means or members (S, B, ...) and standard deviations (S, B, ...) for targets (B,
        ...).

        first: these are not whole targets but (S, n) and (n,), and this is the place of the first
        among the points of all targets, flattened; only for a tally without ``points``.
        """
        mu, truth = outputs.double().cpu(), target.double().cpu()
        weights = None
        if self._weights is not None:
            if first is None:
                self._weights.check(truth.shape)
            counts, weights = self._weights.of(first or 0, truth.numel())
            mu, truth = mu.flatten(1)[:, counts], truth.flatten()[counts]
            sigma = None if sigma is None else sigma.cpu().flatten(1)[:, counts]
        nll = torch.full_like(truth, math.nan)
        if sigma is None:
            crps = scores.crps_ensemble(mu, truth, 1.0 if len(mu) > 1 else 0.0)
            pit = ((mu < truth).double().sum(0) + 0.5) / (len(mu) + 1)
            aleatoric = torch.zeros_like(truth)
        else:
            sigma = sigma.double().cpu()
            nll = scores.mixture_nll(mu, sigma, truth)
            crps = scores.mixture_crps(mu, sigma, truth)
            pit = scores.mixture_pit(mu, sigma, truth)
            aleatoric = sigma.square().mean(0)
        epistemic = mu.var(0, correction=1) if len(mu) > 1 else torch.zeros_like(truth)
        error = (mu.mean(0) - truth).square()
        inside = ((pit - 0.5).abs() <= 0.45).double()
        pinball = self._pinball(mu, sigma, truth)

        def weighed(x: Tensor) -> Tensor:
            return x if weights is None else x * weights

        head = [
            torch.ones_like(truth).sum(),
            weighed(error).sum(),
            weighed(crps).sum(),
            weighed(nll).sum(),
            weighed(((pit - 0.5).abs() <= 0.25).double()).sum(),
            weighed(inside).sum(),
            weighed(epistemic).sum(),
            weighed(aleatoric).sum(),
        ]
        parts = [
            torch.stack(head),
            pit_histogram(pit, PIT_BINS, weights=weights).double(),
            weighed(pinball).flatten(1).sum(1),
        ]
        if self._points is not None:
            single = torch.stack([error, crps, inside, pinball.mean(0)])
            if single.shape[2:] != self._points:
                raise ValueError(
                    f"RegressionTally: targets {tuple(truth.shape)}: expected (B, "
                    f"{', '.join(map(str, self._points))}), the points it was made for"
                )
            parts.append(single.sum(1).flatten())
        self.sums += torch.cat(parts)

    def _pinball(self, mu: Tensor, sigma: Tensor | None, truth: Tensor) -> Tensor:
        """Compute the pinball loss (levels, B, ...)."""
        losses = torch.empty(len(self.levels), *truth.shape, dtype=torch.float64)
        for loss, level in zip(losses, self.levels, strict=True):
            quantile = (
                scores.ensemble_quantile(mu, level)
                if sigma is None
                else scores.mixture_quantile(mu, sigma, level)
            )
            loss[:] = scores.pinball(quantile, truth, level)
        return losses

    def pit_counts(self) -> Tensor:
        """Return the counts of the PIT histogram."""
        return self.sums[HEAD : HEAD + PIT_BINS]

    def pinball(self) -> list[float]:
        """Return the mean pinball loss at each of the levels."""
        first = HEAD + PIT_BINS
        mean: list[float] = (self.sums[first : first + len(self.levels)] / self.sums[0]).tolist()
        return mean

    def by_point(self) -> PointScores:
        """Return the scores of each point of a target.

        Raises
        ------
        ValueError
            If the tally was made without ``points``.
        """
        if self._points is None:
            raise ValueError("RegressionTally: by_point: expected points; give their shape first")
        number = math.prod(self._points)
        examples = self.sums[0] / number
        error, crps, inside, pinball = self.sums[-4 * number :].reshape(4, *self._points) / examples
        return PointScores(error.sqrt(), crps, inside, pinball)

    def result(self) -> dict[str, float]:
        points, error, crps, nll, half, most, epistemic, aleatoric = self.sums[:HEAD].tolist()
        levels = self.pinball()
        pinball = {"pinball": math.fsum(levels) / len(levels)} if levels else {}
        return {
            "points": points,
            "rmse": math.sqrt(error / points),
            "crps": crps / points,
            **pinball,
            "nll_per_point": nll / points,
            "coverage_50": half / points,
            "coverage_90": most / points,
            "spread_epistemic": math.sqrt(epistemic / points),
            "spread_aleatoric": math.sqrt(aleatoric / points),
            "spread_skill_ratio": math.sqrt((epistemic + aleatoric) / error) if error else math.nan,
            "pit_chi_square": flatness(self.pit_counts()).chi_square,
        }


TALLIES: dict[str, type[ClassificationTally] | type[RegressionTally]] = {
    "classification": ClassificationTally,
    "regression": RegressionTally,
}
