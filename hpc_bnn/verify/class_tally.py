"""Sums of the scores of classes, which add up over batches and ranks; see ``tally``.

Letters: S weight samples, B batch, C classes.
"""

import math

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
    reliability_bins,
)

BINS = 15
HEAD = 7  # sums before the bins


def entropies(log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entropy (B,) of the mean probability of log p (S, B, C), in nats, and the mutual
    information (B,) of class and weights, what it exceeds the mean entropy of the samples by.
    """
    mean = log_prob.logsumexp(0) - math.log(len(log_prob))
    entropy = torch.special.entr(mean.exp()).sum(1)
    of_one_sample = torch.special.entr(log_prob.exp()).sum(2).mean(0)
    return entropy, (entropy - of_one_sample).clamp(min=0)


class ClassificationTally:
    """Accuracy, NLL, Brier score, entropies and calibration of the mean probability.

    The entropy of the mean probability is the whole uncertainty; the mutual information of class
    and weights, what it exceeds the mean entropy of the samples by, is the epistemic part (Depeweg
    et al. 2018, arXiv:1710.07283). The adaptive calibration error needs all examples in the order
    of their confidence: it comes from a fine histogram, which adds up (``fine_adaptive_error``).
    One sample has no mutual information, fewer examples than bins no adaptive error.
    """

    whole_examples = True

    def __init__(self) -> None:
        self.sums = torch.zeros(HEAD + 3 * BINS + 3 * FINE_BINS, dtype=torch.float64)

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
        entropy, information = entropies(of_samples)
        head = [
            torch.tensor(float(len(target)), dtype=torch.float64),
            scores.categorical_nll(log_prob, target).sum(),
            hit.sum(),
            scores.brier(log_prob, target).sum(),
            entropy.sum(),
            information.sum(),
            torch.tensor(float(len(outputs) * len(target)), dtype=torch.float64),
        ]
        parts = [part for b in (bins, fine) for part in (b.count, b.confidence_sum, b.correct_sum)]
        self.sums += torch.cat([torch.stack(head), *parts])

    def reliability(self) -> Reliability:
        """Return the sums per bin of confidence."""
        return Reliability(*self.sums[HEAD:][: 3 * BINS].reshape(3, BINS))

    def fine_reliability(self) -> Reliability:
        """Return the sums per fine bin of confidence."""
        return Reliability(*self.sums[HEAD + 3 * BINS :].reshape(3, FINE_BINS))

    def auroc(self, foreign: "ClassificationTally") -> float:
        """Return how well confidence tells these examples from foreign ones: 1/2 not, 1 always."""
        return auroc(foreign.fine_reliability().count, self.fine_reliability().count)

    def result(self) -> dict[str, float]:
        """Return the scores by name.

        Raises
        ------
        ValueError
            If nothing was added.
        """
        if self.sums[0] == 0:
            raise ValueError(
                "ClassificationTally: no examples: expected at least one; add examples first"
            )
        count, *sums, samples = self.sums[:HEAD].tolist()
        nll, hits, brier, entropy, information = (each / count for each in sums)
        adaptive = fine_adaptive_error(self.fine_reliability(), BINS)
        return {
            "examples": count,
            "nll": nll,
            "accuracy": hits,
            "brier": brier,
            "entropy": entropy,
            **({"mutual_information": information} if samples > count else {}),
            "expected_calibration_error": expected_calibration_error(self.reliability()),
            **({"adaptive_calibration_error": adaptive} if count >= BINS else {}),
        }
