"""Calibration: known histograms, sums that add up, and the behaviour of calibrated forecasts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpc_bnn.verify.calibration import (
    FINE_BINS,
    auroc,
    covered,
    expected_calibration_error,
    fine_adaptive_error,
    fine_bins,
    flatness,
    pit_counts,
    rank_histogram,
    reliability_bins,
)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def slow_ece(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """Guo et al. 2017, equation 3, one bin at a time."""
    total = 0.0
    for k in range(bins):
        low, high = k / bins, (k + 1) / bins
        inside = (confidence > low) & (confidence <= high) | (confidence == 0) & (k == 0)
        if inside.any():
            gap = correct[inside].double().mean() - confidence[inside].mean()
            total += float(inside.sum()) / len(confidence) * abs(float(gap))
    return total


def test_reliability_by_hand() -> None:
    confidence = torch.tensor([0.0, 0.25, 0.26, 0.75, 1.0], dtype=torch.float64)
    correct = torch.tensor([False, True, False, True, True])
    record = reliability_bins(confidence, correct, bins=4)
    assert record.count.tolist() == [2, 1, 1, 1]
    assert record.confidence_sum.tolist() == [0.25, 0.26, 0.75, 1.0]
    assert record.correct_sum.tolist() == [1, 0, 1, 1]
    assert record.accuracy().tolist() == [0.5, 0, 1, 1]
    assert record.mean_confidence()[0] == 0.125
    # Gaps of the bins' sums: 0.75, 0.26, 0.25, 0.
    assert expected_calibration_error(record) == pytest.approx(1.26 / 5, rel=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), bins=st.integers(1, 20))
def test_ece_equals_the_definition(seed: int, bins: int) -> None:
    confidence, correct = uniform(200, seed=seed), uniform(200, seed=seed + 1) < 0.6
    whole = reliability_bins(confidence, correct, bins)
    expected = slow_ece(confidence, correct, bins)
    assert expected_calibration_error(whole) == pytest.approx(expected, abs=1e-13)


def test_reliability_equals_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration", reason="independent implementation")
    confidence, event = uniform(500), uniform(500, seed=1) < 0.5
    share, mean = calibration.calibration_curve(event, confidence, n_bins=10)
    record = reliability_bins(confidence, event, bins=10)
    assert np.allclose(record.accuracy(), share, rtol=1e-13)
    assert np.allclose(record.mean_confidence(), mean, rtol=1e-13)


def test_empty_bin_is_nan_and_does_not_count() -> None:
    record = reliability_bins(torch.tensor([0.9, 0.95]), torch.tensor([1, 0]), bins=2)
    assert record.accuracy().isnan().tolist() == [True, False]
    assert expected_calibration_error(record) == pytest.approx(0.925 - 0.5, abs=1e-7)


def test_calibrated_forecast_has_a_small_error_and_overconfident_a_known_one() -> None:
    """Overconfident by 0.2 everywhere: ECE = 0.2. 50 000 examples: sampling error below 0.01."""
    confidence, draw = 0.5 + 0.5 * uniform(50_000), uniform(50_000, seed=1)
    for gap in (0.0, 0.2):
        correct = draw < confidence - gap
        ece = expected_calibration_error(reliability_bins(confidence, correct))
        assert ece == pytest.approx(gap, abs=0.01)
        fine = fine_adaptive_error(fine_bins(confidence.logit(), correct))
        assert fine == pytest.approx(gap, abs=0.01)


def exact_adaptive_error(confidence: Tensor, correct: Tensor, bins: int) -> float:
    """Nixon et al. 2019, over all examples in order; those of equal confidence share their mean."""
    values, group, sizes = np.unique(confidence.numpy(), return_inverse=True, return_counts=True)
    gap = np.bincount(group, weights=correct.double().numpy()) / sizes - values
    parts = np.array_split(np.repeat(gap, sizes), bins)
    return float(sum(abs(part.sum()) for part in parts)) / len(confidence)


def test_adaptive_error_by_hand() -> None:
    confidence = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.85], dtype=torch.float64)
    correct = torch.tensor([1, 0, 0, 1, 1])
    # Sorted: 0.1 0.2 0.8 | 0.85 0.9, correct 0 1 0 | 1 1: gaps of sums 0.1 and 0.25.
    expected = pytest.approx((0.1 + 0.25) / 5, rel=1e-13)
    assert fine_adaptive_error(fine_bins(confidence.logit(), correct), bins=2) == expected
    assert exact_adaptive_error(confidence, correct, 2) == expected


def test_fine_bins_by_hand() -> None:
    """Width 1/256 from -8 to 24; what lies outside goes to the ends."""
    log_odds = torch.tensor([0.0, 0.0039, 0.00391, -9.0, -math.inf, 23.9999, 30.0, math.inf])
    record = fine_bins(log_odds.double(), torch.tensor([1, 0, 1, 0, 0, 1, 1, 0]))
    assert record.count.nonzero().flatten().tolist() == [0, 2048, 2049, FINE_BINS - 1]
    assert record.count[[0, 2048, 2049, FINE_BINS - 1]].tolist() == [2, 2, 1, 3]
    assert record.correct_sum[[0, 2048, 2049, FINE_BINS - 1]].tolist() == [0, 1, 1, 2]
    assert record.confidence_sum[2049].item() == pytest.approx(1 / (1 + math.exp(-0.00391)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), sharp=st.floats(0.1, 20), bins=st.integers(1, 20))
def test_fine_adaptive_error_is_near_the_exact_one(seed: int, sharp: float, bins: int) -> None:
    """Also for networks so confident that their probabilities hardly differ from 1."""
    log_odds = sharp * (uniform(2000, seed=seed) - 0.2).clamp(-7, 23)
    correct = uniform(2000, seed=seed + 1) < torch.sigmoid(log_odds / 2)
    exact = exact_adaptive_error(torch.sigmoid(log_odds), correct, bins)
    record = fine_bins(log_odds, correct)
    bound = 2 * (bins - 1) * float(record.count.max()) / 2000
    assert fine_adaptive_error(record, bins) == pytest.approx(exact, abs=bound + 1e-12)


def test_auroc_by_hand() -> None:
    """Pairs (low, high): bins 0 and 2 against 1 and 2: won, won, lost, drawn."""
    assert auroc(torch.tensor([1, 0, 1]), torch.tensor([0, 1, 1])) == 2.5 / 4
    assert auroc(torch.tensor([4, 0]), torch.tensor([0, 9])) == 1.0
    assert auroc(torch.tensor([0, 4]), torch.tensor([9, 0])) == 0.0
    for bad in (torch.zeros(2), torch.ones(3)):
        with pytest.raises(ValueError, match=r"auroc: counts .* expected \(K,\) and \(K,\)"):
            auroc(torch.ones(2), bad)


def test_rank_histogram_without_ties() -> None:
    members = torch.tensor([[1.0, 5.0, 3.0, 2.0], [2.0, 4.0, 4.0, 9.0]])
    truth = torch.tensor([0.0, 6.0, 3.5, 2.5])
    counts = rank_histogram(members, truth, torch.rand(4))
    assert counts.tolist() == [1, 2, 1]
    weighted = rank_histogram(members, truth, torch.rand(4), weights=torch.tensor([1, 2, 3, 0.5]))
    assert weighted.tolist() == [1, 3.5, 2]


def test_ties_take_every_place_equally_often() -> None:
    """Two of three members equal the truth, one is below: ranks 1, 2 and 3 in equal parts."""
    members = torch.tensor([1.0, 2.0, 2.0]).unsqueeze(1).expand(3, 300)
    u = torch.arange(300) / 300
    counts = rank_histogram(members, torch.full((300,), 2.0), u)
    assert counts.tolist() == [0, 100, 100, 100]
    assert rank_histogram(members[:, :1], torch.tensor([2.0]), torch.tensor([1.0]))[3] == 1


def test_pits_that_are_numbers() -> None:
    pit = torch.tensor([[0.0, 0.099], [0.1, 1.0]], dtype=torch.float64)
    assert pit_counts(pit, pit, 10).tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    # The interval is closed.
    assert covered(pit, pit, 0.8).tolist() == [[0, 0], [1, 0]]


def test_flatness_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="independent implementation")
    counts = torch.tensor([12.0, 18.0, 9.0, 21.0])
    expected = stats.chisquare(counts.numpy())
    assert flatness(counts) == (pytest.approx(expected.statistic, rel=1e-12), 3)
    assert flatness(torch.tensor([7.0, 7.0])) == (0, 1)


def test_nan_is_refused_where_it_would_vanish() -> None:
    bad, good = torch.tensor([0.5, math.nan]), torch.tensor([0.5, 0.5])
    for call in (
        lambda: reliability_bins(bad, good),
        lambda: rank_histogram(good.unsqueeze(0), bad, good),
        lambda: rank_histogram(bad.unsqueeze(0), good, good),
    ):
        with pytest.raises(ValueError, match=r"1 of 2 .* are NaN"):
            call()


def test_bad_input() -> None:
    good = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match=r"values from -0.7 to 0.5.*not logarithms"):
        reliability_bins(torch.tensor([-0.7, 0.5]), good)
    with pytest.raises(ValueError, match="bins = 0: expected at least 1"):
        reliability_bins(good, good, bins=0)
    with pytest.raises(ValueError, match=r"confidence \(2,\), correct \(1,\)"):
        reliability_bins(good, good[:1])
    with pytest.raises(ValueError, match="no examples"):
        expected_calibration_error(reliability_bins(good[:0], good[:0]))
    with pytest.raises(ValueError, match=r"members \(2, 3\), truth \(2,\).*members first"):
        rank_histogram(torch.zeros(2, 3), good, good)
    with pytest.raises(ValueError, match="1 bins with 2 counts"):
        flatness(torch.tensor([2.0]))
