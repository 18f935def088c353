"""Climatology of each grid point as a smooth function of the time of year and of day.

    mean(t) = sum_j c_j phi_j(t),   phi = {1, cos k year, sin k year: k <= A}
                                        x {1, cos k day, sin k day: k <= D}

by least squares, so J = (1 + 2 A)(1 + 2 D) coefficients a point. A mean per day of year and hour,
as from 30 years of reanalysis, would be noise after the few years a training has. The normal
equations are sums over times: each rank adds its own, the sums of all ranks are added, everyone
solves.

Shape letters: T times, B times asked for, J basis functions, C channels, H latitude, W longitude.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DAY_S = 86400
MOST = 2  # waves a year and a day: the seasons and the tides of pressure are 1 and 2
# Smaller eigenvalues of the mean of phi phi^T, of order one, are rounding: a sine at its zeros.
SINGULAR = 1e-10
# Smaller shares of the mean square are rounding: the residual of a field that never changes.
ROUNDING = 1e-12


def harmonics(start_s: int, end_s: int, step_hours: int) -> tuple[int, int]:
    """Choose the waves a year and a day (A, D) that a training can determine.

    start_s, end_s: its first and last time, seconds since 1970. step_hours: between its times.

    A is 0 below a year: seasons would be guessed. D is what the hours of the day that occur can
    resolve, their mean square wave included: 1 of two hours, 2 of four or more; 0 below two days.
    """
    if end_s < start_s or step_hours < 1:
        raise ValueError(
            f"harmonics: from {start_s} s to {end_s} s in steps of {step_hours} h: expected an end "
            "that is not before the start and a step of at least 1 h"
        )
    covered_s = end_s - start_s + step_hours * 3600
    per_year = 365 * 24 // step_hours
    hours_of_day = 24 // math.gcd(24, step_hours)
    annual = min(MOST, per_year // 2) if covered_s >= 365 * DAY_S else 0
    daily = min(MOST, hours_of_day // 2) if covered_s >= 2 * DAY_S else 0
    return annual, daily


@dataclass(frozen=True, eq=False)
class Climatology:
    """Hold the coefficients and the scatter around them, in the units of the states.

    coefficients: (J, C, H, W) float64.
    std: (C, H, W) float64, of the residuals over the training times.
    """

    annual: int
    daily: int
    coefficients: Tensor
    std: Tensor

    def mean(self, seconds: Tensor) -> Tensor:
        """Compute the expected states (B, C, H, W) float64 at times (B,), seconds since 1970."""
        phi = basis(seconds, self.annual, self.daily).to(self.coefficients.device)
        return torch.einsum("bj,jchw->bchw", phi, self.coefficients)

    def mean_of(self, seconds: Tensor, channel: int, rows: slice) -> Tensor:
        """Compute ``mean`` (B, h, W) of some rows of a channel."""
        phi = basis(seconds, self.annual, self.daily).to(self.coefficients.device)
        return torch.einsum("bj,jhw->bhw", phi, self.coefficients[:, channel, rows])


class HarmonicSums:
    """Sum the normal equations of the least squares over times; float64, additive over ranks.

    Give normalised states (mean 0, standard deviation 1 of each channel): the scatter around the
    harmonics comes from a difference of mean squares, which loses as many digits as the square of a
    state has more than its variance.

    Parameters
    ----------
    shape
        (C, H, W) of a state.

    Attributes
    ----------
    gram
        (J, J), sum of phi phi^T; its first element counts the times.
    cross
        (J, C, H, W), sum of phi y.
    squares
        (C, H, W), sum of y^2.
    """

    def __init__(
        self,
        annual: int,
        daily: int,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.annual, self.daily = annual, daily
        size = (1 + 2 * annual) * (1 + 2 * daily)
        self.gram = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.cross = torch.zeros(size, *shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros(shape, dtype=torch.float64, device=device)

    @property
    def count(self) -> int:
        """The number of times added."""
        return round(float(self.gram[0, 0]))

    def add(self, seconds: Tensor, states: Tensor) -> None:
        """Add states (T, C, H, W) at times (T,), seconds since 1970 UTC."""
        if states.shape != (len(seconds), *self.squares.shape):
            raise ValueError(
                f"HarmonicSums: states {tuple(states.shape)} at {len(seconds)} times: expected "
                f"({len(seconds)}, {', '.join(map(str, self.squares.shape))})"
            )
        phi = basis(seconds, self.annual, self.daily).to(self.gram.device)
        self.gram += phi.T @ phi
        # In parts, so that their copy in float64 is not larger than the sums.
        size = len(self.gram)
        for first in range(0, len(states), size):
            y = states[first : first + size].to(self.cross)
            self.cross.view(size, -1).addmm_(phi[first : first + size].T, y.flatten(1))
            for state in y:
                self.squares.addcmul_(state, state)

    def solve(self) -> Climatology:
        """Solve for the coefficients of least squares, of all equally good ones the smallest.

        The variance of the residuals divides by the times less the rank of the basis. The
        coefficients take the place of the sums, which are empty afterwards.
        """
        count = self.count
        if count < 1:
            raise ValueError("HarmonicSums: no times were added; expected at least 1")
        values, vectors = torch.linalg.eigh(self.gram / count)
        kept = values > SINGULAR * values[-1]
        inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
        # A channel at a time: work space that is small beside the sums.
        for cross, squares in zip(self.cross.unbind(1), self.squares, strict=True):
            coefficients = torch.einsum("ij,jhw->ihw", inverse, cross / count)
            # min |y - phi c|^2 = |y|^2 - c^T phi^T y
            explained = torch.einsum("jhw,jhw->hw", coefficients, cross)
            residual = squares - explained
            squares.copy_(torch.where(residual <= ROUNDING * squares, 0.0, residual))
            cross.copy_(coefficients)
        freedom = max(1, count - int(kept.sum()))
        made = Climatology(self.annual, self.daily, self.cross, self.squares.div_(freedom).sqrt_())
        self.gram, self.cross = torch.zeros_like(self.gram), self.cross[:0]
        self.squares = self.squares[:0]
        return made


def basis(seconds: Tensor, annual: int, daily: int) -> Tensor:
    """Compute the basis functions (B, J) float64 on the CPU at times (B,), seconds since 1970 UTC.

    J runs over the waves a year, and fastest over those a day; the first function is 1. The year
    counts from 0 on 1 January to 1 on the next, leap years included.
    """
    whole = seconds.cpu().numpy().astype(np.int64)
    years = whole.astype("datetime64[s]").astype("datetime64[Y]")
    begin, end = (y.astype("datetime64[s]").astype(np.int64) for y in (years, years + 1))
    of_year = _waves(torch.from_numpy((whole - begin) / (end - begin)), annual)
    of_day = _waves(torch.from_numpy(whole % DAY_S / DAY_S), daily)
    return (of_year[:, :, None] * of_day[:, None, :]).flatten(1)


def _waves(phase: Tensor, most: int) -> Tensor:
    """Compute 1, cos and sin (B, 1 + 2 most) of whole multiples of phases (B,) in turns."""
    angle = 2 * math.pi * phase[:, None] * torch.arange(1, most + 1, dtype=torch.float64)
    return torch.cat([torch.ones_like(phase[:, None]), angle.cos(), angle.sin()], dim=1)
