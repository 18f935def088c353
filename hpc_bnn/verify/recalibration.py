"""Conformal recalibration: the spread of a forecast, multiplied at every lead time and channel by
the factor that covers a held-out split as often as it should.

A forecast has a mean m and the ends l < u of its central interval of probability ``LEVEL``. By how
much that must be stretched from the mean to reach the truth y is

    r = (y - m) / (u - m)  above the mean,    (m - y) / (m - l)  below,

and the factor is the ceil((n + 1) LEVEL)-th smallest r of n held-out examples. Were these and those
to come exchangeable, at least ``LEVEL`` of the latter would be covered (split conformal prediction:
Papadopoulos et al. 2002, doi:10.1007/3-540-36755-1_29; Lei et al. 2018,
doi:10.1080/01621459.2017.1307116). Neighbouring windows of a series are not independent and series
drift, so it is about ``LEVEL``.

The mean stays what it is, and with it RMSE and every error of the mean. What is stretched is the
distribution as a whole: members and components of a mixture, hence all quantiles and samples.

Letters: S members or components, B batch, P lead times, C channels, K bins.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.verify.scores import ensemble_quantile, mixture_quantile
from hpc_bnn.verify.tally import RegressionTally

LEVEL = 0.9
# Bins of r: 64 an octave, so a factor is at most 1.1 % larger than that of the r in order.
PER_OCTAVE = 64
OCTAVES = 6  # on both sides of 1
BINS = 2 * OCTAVES * PER_OCTAVE + 2  # and one for all beyond each end


@dataclass(frozen=True, eq=False)
class Recalibration:
    """Hold the factors of a run.

    factor: (P, C) float64, of the spread, in whatever units: physical or normalised.
    examples: n, of the held-out split.
    """

    factor: Tensor
    examples: int
    level: float = LEVEL

    def stretched(self, values: Tensor, centre: Tensor) -> Tensor:
        """Return members or quantiles (..., P, C), moved from the mean forecast (..., P, C)."""
        return centre + self.factor.to(values.device, values.dtype) * (values - centre)

    def apply(self, mean: Tensor, sigma: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the means or members (S, B, P, C) and the standard deviations, recalibrated.

        ``mean`` holds all S of a forecast, whose mean is the centre.
        """
        spread = None if sigma is None else sigma * self.factor.to(sigma.device, sigma.dtype)
        return self.stretched(mean, mean.mean(0)), spread

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"level": self.level, "examples": self.examples, "factor": self.factor.tolist()}

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> "Recalibration":
        """Return what ``to_json`` gave."""
        factor = torch.tensor(content["factor"], dtype=torch.float64)
        return cls(factor, content["examples"], content["level"])


class SpreadTally:
    """Count r of every point (P, C) of held-out targets; sums add up over batches and ranks.

    Parameters
    ----------
    points
        (P, C), the shape of a target.
    """

    whole_examples = True

    def __init__(self, points: tuple[int, ...]) -> None:
        self._points = points
        self.sums = torch.zeros(math.prod(points) * BINS, dtype=torch.float64)

    def add(self, outputs: Tensor, sigma: Tensor | None, target: Tensor) -> None:
        """Add means or members (S, B, P, C) and standard deviations for targets (B, P, C)."""
        ratio = stretch_to(outputs, sigma, target)
        octaves = ratio.log2().clamp(-OCTAVES - 1, OCTAVES + 1)
        # Bin k holds edge (k - 1) < r <= edge k: its upper edge covers all that it holds.
        bins = ((octaves + OCTAVES) * PER_OCTAVE).ceil().long().clamp(0, BINS - 1)
        place = torch.arange(math.prod(self._points)) * BINS + bins.flatten(1)
        ones = torch.ones(place.numel(), dtype=torch.float64)
        self.sums.index_add_(0, place.flatten(), ones)

    def result(self) -> dict[str, float]:
        """Return the number of examples."""
        return {"examples": float(self.sums[:BINS].sum())}

    def recalibration(self, level: float = LEVEL) -> Recalibration:
        """Return the factors.

        Raises
        ------
        ValueError
            If there are too few examples for the level, or a spread would have to be more than
            ``2 ** OCTAVES`` times what it is.
        """
        counts = self.sums.reshape(-1, BINS)
        examples = round(float(counts[0].sum()))
        needed = math.ceil((examples + 1) * level)
        if needed > examples:
            raise ValueError(
                f"recalibration: {examples} examples of the validation split: expected at least "
                f"{math.ceil(level / (1 - level) - 1e-9)} for intervals of {level:.0%}; give more "
                "rows, or evaluation.recalibrate = none"
            )
        bins = (counts.cumsum(1) < needed).sum(1)
        if int(bins.max()) == BINS - 1:
            raise ValueError(
                f"recalibration: {int((bins == BINS - 1).sum())} of {len(bins)} points need more "
                f"than {2**OCTAVES} times the spread that is forecast: expected a spread of about "
                "the size of the errors; train longer, or predict the variance (loss.variance)"
            )
        factor = torch.exp2(bins.double() / PER_OCTAVE - OCTAVES).reshape(self._points)
        return Recalibration(factor, examples, level)


def stretch_to(outputs: Tensor, sigma: Tensor | None, truth: Tensor) -> Tensor:
    """Compute r (B, ...) of outputs (S, B, ...): 0 where truth is the mean, infinite where no
    factor reaches it.
    """
    mean, truth = outputs.double().mean(0), truth.double()
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = (
        ensemble_quantile(outputs, end) if sigma is None else mixture_quantile(outputs, sigma, end)
        for end in ends
    )
    above = truth >= mean
    reach = torch.where(above, high - mean, mean - low).clamp(min=0)
    return torch.where(truth == mean, 0.0, (truth - mean).abs() / reach)


class RecalibratedTally:
    """Score forecasts as they are and recalibrated in one pass.

    before, after: tallies; only ``after`` scores points and levels.
    """

    whole_examples = True

    def __init__(self, after: RegressionTally, recalibration: Recalibration) -> None:
        self.before, self.after = RegressionTally(), after
        self._recalibration = recalibration

    @property
    def sums(self) -> Tensor:
        """The sums of both."""
        return torch.cat([self.before.sums, self.after.sums])

    @sums.setter
    def sums(self, sums: Tensor) -> None:
        self.before.sums, self.after.sums = sums.tensor_split([len(self.before.sums)])

    def add(self, outputs: Tensor, sigma: Tensor | None, target: Tensor) -> None:
        """Add means or members (S, B, P, C) and standard deviations for targets (B, P, C)."""
        self.before.add(outputs, sigma, target)
        self.after.add(*self._recalibration.apply(outputs, sigma), target)

    def result(self) -> dict[str, float]:
        """Return the scores of the recalibrated forecasts."""
        return self.after.result()
