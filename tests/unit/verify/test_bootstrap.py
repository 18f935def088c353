"""The paired block bootstrap: coverage on AR(1) series whose mean is known, closed forms, refusals.

Coverage is counted over 400 series: of a true 0.95, 0.92 to 0.975 are within 2.7 standard errors.
"""

import math

import pytest
import torch
from torch import Tensor

from hpc_bnn.verify.bootstrap import block_length, paired_difference

SERIES, STARTS, TRUTH = 400, 240, 0.3


def ar1(phi: float, count: int = SERIES, length: int = STARTS, seed: int = 0) -> Tensor:
    """Series (count, length) of variance 1 and autocorrelation phi^lag, in their steady state."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, length, generator=generator, dtype=torch.float64)
    steps = [noise[:, 0]]
    for t in range(1, length):
        steps.append(phi * steps[-1] + math.sqrt(1 - phi**2) * noise[:, t])
    return torch.stack(steps, 1)


def coverage(phi: float, block: int | None = None) -> float:
    """Return how often the interval of 95 % holds the true difference TRUTH."""
    common = 3 * ar1(0.9, seed=1)  # what makes some starts hard for both runs
    noise = ar1(phi)
    held = 0
    for shared, own in zip(common, noise, strict=True):
        found = paired_difference(shared + own + TRUTH, shared, block=block, draws=500)
        held += found.low <= TRUTH <= found.high
    return held / SERIES


@pytest.mark.parametrize("phi", [0.0, 0.5])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(phi: float) -> None:
    assert 0.92 <= coverage(phi) <= 0.975


def test_of_a_strong_autocorrelation_little_is_missing() -> None:
    """Five independent starts of ten and more resemble each other: the interval is short of 0.95,
    as is known of blocks, but far from that of starts one by one.
    """
    assert 0.87 <= coverage(0.8) <= 0.975


def test_starts_one_by_one_would_be_far_too_sure() -> None:
    """phi = 0.5: the variance of the mean is 3 times that of independent starts, so the interval
    holds the truth in P(|z| < 1.96 / sqrt(3)) = 0.742 of the series.
    """
    assert 0.68 <= coverage(0.5, block=1) <= 0.80


def test_the_width_is_that_of_independent_starts() -> None:
    series = ar1(0.0, count=1, length=2000)[0]
    found = paired_difference(series, torch.zeros(2000), block=1, draws=4000)
    error = float(series.std()) / math.sqrt(2000)
    assert found.mean == pytest.approx(float(series.mean()), rel=1e-12)
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.05)
    narrow = paired_difference(series, torch.zeros(2000), block=1, draws=4000, level=0.5)
    assert (narrow.high - narrow.low) / (2 * 0.6745 * error) == pytest.approx(1, abs=0.07)


def test_pairs_make_what_is_common_disappear() -> None:
    hard = 100 * ar1(0.9, count=1, length=60)[0]
    found = paired_difference(hard + 0.25, hard)
    assert found[:3] == pytest.approx((0.25, 0.25, 0.25), abs=1e-10) and found.significant
    other = paired_difference(hard, hard + 0.25)
    assert other.mean == pytest.approx(-0.25) and other.significant
    same = paired_difference(hard, hard)
    assert same == (0, 0, 0, 1, 1) and not same.significant


def test_one_seed_one_interval() -> None:
    first, second = ar1(0.5, count=2, length=50)
    again = [paired_difference(first, second, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_blocks_grow_with_autocorrelation_and_length() -> None:
    lengths = [block_length(ar1(phi, count=1, length=1000)[0]) for phi in (0.0, 0.5, 0.8)]
    assert lengths == sorted(lengths) and lengths[0] <= 4
    # r = 0.5, N = 1000: 1.1447 (4 0.25 1000 / 0.5625)^(1/3) = 13.9
    assert 12 <= lengths[1] <= 16
    assert block_length(torch.arange(20.0)) == 5  # a quarter
    assert block_length(torch.ones(20)) == 1


def test_what_does_not_fit_is_refused() -> None:
    series = torch.arange(10.0)
    with pytest.raises(ValueError, match=r"series of \(10,\) and \(9,\)"):
        paired_difference(series, series[1:])
    with pytest.raises(ValueError, match="at least 8"):
        paired_difference(series[:7], series[:7])
    other = series.clone()
    other[3] = math.nan
    with pytest.raises(ValueError, match=r"start 3 is 3\.0 and nan"):
        paired_difference(series, other)
    for options in ({"block": 6}, {"block": 0}, {"level": 1.0}, {"draws": 10}):
        with pytest.raises(ValueError, match=r"expected 1 to 5, between 0 and 1, at least 100"):
            paired_difference(series, series, **options)  # type: ignore[arg-type]


def test_the_p_value_is_uniform_where_there_is_no_difference() -> None:
    """Of 400 series, 5 % are below 0.05 and 50 % below 0.5, within 2.7 standard errors."""
    zeros = torch.zeros(STARTS, dtype=torch.float64)
    values = torch.tensor([paired_difference(x, zeros, draws=500).p_value for x in ar1(0.0)])
    assert 0.02 <= float((values < 0.05).double().mean()) <= 0.08
    assert 0.43 <= float((values < 0.5).double().mean()) <= 0.57


def test_the_p_value_agrees_with_the_interval_and_with_student() -> None:
    zeros = torch.zeros(STARTS, dtype=torch.float64)
    for at, series in enumerate(ar1(0.5, count=40, seed=3)):
        found = paired_difference(series + 0.05 * at / 4, zeros)
        if not 0.03 < found.p_value < 0.07:  # quantiles of draws are not quite those of Student
            assert (found.p_value < 0.05) == found.significant
    one = ar1(0.0, count=1, length=2000)[0]
    t = float(one.mean() / (one.std() / math.sqrt(2000)))
    found = paired_difference(one, torch.zeros(2000), block=1, draws=4000)
    assert found.p_value == pytest.approx(math.erfc(abs(t) / math.sqrt(2)), rel=0.1)


def test_the_p_value_of_no_and_of_a_certain_difference() -> None:
    series = ar1(0.0, count=1)[0]
    assert paired_difference(series, series).p_value == 1.0
    assert paired_difference(series + 0.25, series).p_value < 1e-12
