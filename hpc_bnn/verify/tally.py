"""Scores of a test set as sums that add up over batches and ranks, in any order.

A tally is one float64 vector of sums; ranks reduce it with a single sum, and the result is the same
on any grid. What a forecast does not define, such as the spread of one member, has no entry in a
result.

Letters: S weight samples, B batch, P points that count.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hpc_bnn.verify import scores
from hpc_bnn.verify.calibration import covered, ensemble_pit, flatness, pit_counts
from hpc_bnn.verify.class_tally import ClassificationTally

PIT_BINS = 10
SINGLE = 5  # scores of each point of a target
# Sums of a RegressionTally before its PIT histogram.
HEAD = (
    *("points", "members", "mixtures", "error", "crps", "fair_crps", "nll"),
    *("coverage_50", "coverage_90", "epistemic", "aleatoric"),
)


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
        """Return the scores that are defined, by name."""


@dataclass(frozen=True, eq=False)
class PointScores:
    """Hold mean scores per point of a target, (...), in the units of the outputs.

    coverage_90: NaN of one member. pinball: the mean over the tally's levels; NaN without levels.
    """

    rmse: Tensor
    crps: Tensor
    coverage_90: Tensor
    pinball: Tensor


class PointWeights:
    """Weights of the points of a target; those of 0 do not count.

    They are looked up by place, so weights that are expanded, such as cell areas, take no memory.
    """

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights.double().cpu()
        least, most = float(self._weights.min()), float(self._weights.max())
        if not (least >= 0 and 0 < most < math.inf):
            raise ValueError(
                f"RegressionTally: weights from {least} to {most}: expected finite numbers of at "
                "least 0, not all of them 0"
            )
        self._mean = float(self._weights.sum()) / float((self._weights > 0).sum())

    def check(self, shape: torch.Size) -> None:
        """Refuse targets (B, ...) of another shape."""
        if shape[1:] != self._weights.shape:
            raise ValueError(
                f"RegressionTally: weights {tuple(self._weights.shape)} for targets "
                f"{tuple(shape)}: expected the shape of one target"
            )

    def of(self, first: int, number: int) -> tuple[Tensor, Tensor]:
        """Return which of ``number`` points of flattened targets count, from place ``first`` on,
        and the weights (P,) of those, relative to the mean of all that count.
        """
        places = torch.arange(first, first + number) % self._weights.numel()
        weights = self._weights[torch.unravel_index(places, self._weights.shape)]
        return weights > 0, weights[weights > 0] / self._mean


class RegressionTally:
    """RMSE, CRPS, NLL, spread and coverage, in the units of the outputs.

    With standard deviations the forecast is the Gaussian mixture of the weight samples; without,
    their ensemble, which also has a fair CRPS, that of as many members as one likes; its PIT is
    that of the truth's rank (``ensemble_pit``), and it has no NLL and no aleatoric spread. One
    member has neither spread nor coverage.

    The spread-skill ratio (``scores``) is 1 if the truth is what one more weight sample would
    forecast. The PIT of a mixture is that of its own distribution function, exact for any S.

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
        single = SINGLE * math.prod(points) if points is not None else 0
        length = len(HEAD) + PIT_BINS + len(self.levels) + single
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
            counted, weights = self._weights.of(first or 0, truth.numel())
            mu, truth = mu.flatten(1)[:, counted], truth.flatten()[counted]
            sigma = None if sigma is None else sigma.cpu().flatten(1)[:, counted]
        nll = aleatoric = epistemic = torch.zeros_like(truth)
        if sigma is None:
            crps = fair = scores.crps_ensemble(mu, truth)
            if len(mu) > 1:
                fair = scores.fair_crps(crps, (mu - truth).abs().mean(0), len(mu))
            low, high = ensemble_pit(mu, truth)
        else:
            sigma = sigma.double().cpu()
            nll = scores.mixture_nll(mu, sigma, truth)
            crps = fair = scores.mixture_crps(mu, sigma, truth)
            low = high = scores.mixture_pit(mu, sigma, truth)
            aleatoric = sigma.square().mean(0)
        if len(mu) > 1:
            epistemic = mu.var(0, correction=1)
        error = (mu.mean(0) - truth).square()
        inside = covered(low, high, 0.9)
        pinball = self._pinball(mu, sigma, truth)

        def weighted(x: Tensor) -> Tensor:
            return x if weights is None else x * weights

        number = torch.tensor(float(truth.numel()), dtype=torch.float64)
        points = [error, crps, fair, nll, covered(low, high, 0.5), inside, epistemic, aleatoric]
        head = [number, number * len(mu), number * (sigma is not None)]
        head += [weighted(values).sum() for values in points]
        parts = [
            torch.stack(head),
            pit_counts(low, high, PIT_BINS, weights=weights),
            weighted(pinball).flatten(1).sum(1),
        ]
        if self._points is not None:
            single = torch.stack([error, crps, inside, pinball.mean(0), error.sqrt()])
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
        return self.sums[len(HEAD) :][:PIT_BINS]

    def pinball(self) -> list[float]:
        """Return the mean pinball loss at each of the levels."""
        first = len(HEAD) + PIT_BINS
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
        sums = self.sums[-SINGLE * number :].reshape(SINGLE, *self._points)
        error, crps, inside, pinball, _ = sums / examples
        if not self._has_pit():
            inside = torch.full_like(inside, math.nan)
        return PointScores(error.sqrt(), crps, inside, pinball)

    def mean_absolute_error(self) -> Tensor:
        """Return that of the mean forecast at each point of a target, made with ``points``."""
        assert self._points is not None
        number = math.prod(self._points)
        return self.sums[-number:].reshape(self._points) / (self.sums[0] / number)

    def result(self) -> dict[str, float]:
        """Return the scores that are defined, by name.

        Raises
        ------
        ValueError
            If nothing was added.
        """
        if self.sums[0] == 0:
            raise ValueError(
                "RegressionTally: no points: expected at least one; add examples first"
            )
        sums = dict(zip(HEAD, self.sums[: len(HEAD)].tolist(), strict=True))
        points, mixture = sums.pop("points"), sums.pop("mixtures") > 0
        mean = {name: total / points for name, total in sums.items()}
        members, epistemic, aleatoric = mean["members"], mean["epistemic"], mean["aleatoric"]
        levels = self.pinball()
        result = {"points": points, "rmse": math.sqrt(mean["error"]), "crps": mean["crps"]}
        if levels:
            result["pinball"] = math.fsum(levels) / len(levels)
        if mixture:
            result["nll_per_point"] = mean["nll"]
        if self._has_pit():
            result |= {name: mean[name] for name in ("coverage_50", "coverage_90")}
        if members > 1 and not mixture:
            result["fair_crps"] = mean["fair_crps"]
        if members > 1:
            result["spread_epistemic"] = math.sqrt(epistemic)
        if mixture:
            result["spread_aleatoric"] = math.sqrt(aleatoric)
        if self._has_pit():
            if mean["error"] != 0:
                variance, error, noise = torch.tensor(
                    [epistemic, mean["error"], aleatoric], dtype=torch.float64
                )
                ratio = scores.spread_skill_ratio(variance, error, members, noise_variance=noise)
                result["spread_skill_ratio"] = float(ratio)
            flat = flatness(self.pit_counts(), members=None if mixture else round(members))
            result["pit_chi_square"], result["pit_degrees_of_freedom"] = flat[0], float(flat[1])
        return result

    def _has_pit(self) -> bool:
        """Tell whether the forecast is more than one member."""
        points, members, mixtures = self.sums[:3].tolist()
        return bool(mixtures > 0 or members > points)


TALLIES: dict[str, type[ClassificationTally] | type[RegressionTally]] = {
    "classification": ClassificationTally,
    "regression": RegressionTally,
}
