"""Whether one run is better than another: a confidence interval of their mean difference in score.

Scores of neighbouring start times resemble each other, so starts are not drawn one by one but in
blocks of L that follow one another, from all N - L + 1 of these (moving blocks: Kuensch 1989,
doi:10.1214/aos/1176347265), both runs in the same ones (paired). Of the means of the draws around
their own mean the outer (1 - level) / 2 on either side are cut off. They are stretched by
sqrt(N / (N - L)), for the variance that the mean over N / L blocks takes away, and by the quantile
of Student's t of N / L - 1 degrees of freedom over that of the normal distribution, since so few
blocks tell the variance: without both, intervals are too narrow. With both they still are a little
where blocks are few: of starts whose scores have the autocorrelation 0.8 from one to the next, an
interval of 95 % holds the true difference in about 90 of 100 cases. So take a difference that is
only just significant as a hint.

The p-value is that of Student's t, of as many degrees of freedom, for the mean over the standard
deviation of the draws, stretched alike: 2000 draws by themselves tell nothing below 1 / 2000.

The length of a block, unless it is given, is that of a series of the autocorrelation r at lag one,
L = 1.1447 (4 r^2 N / (1 - r^2)^2)^(1/3) (Andrews 1991, doi:10.2307/2938229, eq. 6.2 and 6.4), at
most N / 4.

Letters: N starts, D draws, L starts of a block.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MOST_NUMBERS = 1 << 22  # of places drawn at a time: 32 MiB


class Difference(NamedTuple):
    """Mean of first - second, its confidence interval, the length of the blocks, and the
    probability of a mean so far from 0 where there is no difference.

    ``significant``: the interval does not hold 0.
    """

    mean: float
    low: float
    high: float
    block: int
    p_value: float

    @property
    def significant(self) -> bool:
        return self.low > 0 or self.high < 0


def block_length(series: Tensor) -> int:
    """Compute the length of blocks for the mean of a series (N,), from its autocorrelation."""
    count = len(series)
    anomaly = series.double() - series.double().mean()
    variance = float(anomaly.square().sum())
    r = 0.0 if variance == 0 else float((anomaly[1:] * anomaly[:-1]).sum()) / variance
    r = min(abs(r), 0.97)
    length = 1.1447 * math.cbrt(4 * r**2 * count / (1 - r**2) ** 2)
    return max(1, min(math.ceil(length), count // 4))


def paired_difference(
    first: Tensor,
    second: Tensor,
    *,
    block: int | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compute the mean of first - second, scores (N,) of the same evenly spaced starts in order,
    with its confidence interval.

    block: starts of a block, of which the series holds at least two; None: from the series. The
    same seed gives the same interval.

    Raises
    ------
    ValueError
        If the series do not fit, hold fewer than 8 starts or what is not finite, or an option is
        out of its range.
    """
    if first.dim() != 1 or first.shape != second.shape or len(first) < 8:
        raise ValueError(
            f"paired_difference: series of {tuple(first.shape)} and {tuple(second.shape)}: "
            "expected two (N,) of the same starts, at least 8; score more starts"
        )
    series = (first.double() - second.double()).cpu()
    if not bool(series.isfinite().all()):
        start = int((~series.isfinite()).nonzero()[0])
        raise ValueError(
            f"paired_difference: start {start} is {float(first[start])} and "
            f"{float(second[start])}: expected finite scores; leave the start out of both"
        )
    count = len(series)
    length = block_length(series) if block is None else block
    if not 1 <= length <= count // 2 or not 0 < level < 1 or draws < 100:
        raise ValueError(
            f"paired_difference: block = {block}, level = {level}, draws = {draws}: expected "
            f"1 to {count // 2}, between 0 and 1, at least 100"
        )
    means = _means_of_draws(series, length, draws, torch.Generator().manual_seed(seed))
    # The ends of the series are in fewer blocks, so the draws have a mean of their own.
    deviation = (means - means.mean()) * math.sqrt(count / (count - length))
    error, freedom = float(deviation.std()), count / length - 1
    deviation *= _stretch(freedom, level)
    outer = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    mean = float(series.mean())
    low, high = (mean + torch.quantile(deviation, outer)).tolist()
    return Difference(mean, low, high, length, _p_value(mean, error, freedom))


def _stretch(freedom: float, level: float) -> float:
    """Return what makes up for a variance that few blocks tell; 1 for many."""
    from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped]

    upper = (1 + level) / 2
    return float(stdtrit(freedom, upper) / ndtri(upper))


def _p_value(mean: float, error: float, freedom: float) -> float:
    """Return the two-sided p-value of a mean with its standard error."""
    from scipy.special import stdtr

    if mean == 0:
        return 1.0
    return 2 * float(stdtr(freedom, -abs(mean) / error)) if error else 0.0


def _means_of_draws(series: Tensor, length: int, draws: int, generator: torch.Generator) -> Tensor:
    """Return the means (D,) of N starts in blocks, the last of which is cut to fit."""
    count = len(series)
    blocks, within = -(-count // length), torch.arange(length)
    means = []
    most = max(1, MOST_NUMBERS // count)
    for done in range(0, draws, most):
        some = (min(most, draws - done), blocks, 1)
        starts = torch.randint(count - length + 1, some, generator=generator)
        places = (starts + within).flatten(1)[:, :count]
        means.append(series[places].mean(1))
    return torch.cat(means)
