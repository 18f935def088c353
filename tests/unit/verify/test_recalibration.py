"""Conformal recalibration: exact factors of small cases, coverage of held-out and of new examples,
and what stays as it is.
"""

import math

import pytest
import torch
from torch import Tensor

from hpc_bnn.verify.recalibration import (
    BINS,
    LEVEL,
    PER_OCTAVE,
    RecalibratedTally,
    Recalibration,
    SpreadTally,
    stretch_to,
)
from hpc_bnn.verify.scores import ensemble_quantile, mixture_quantile
from hpc_bnn.verify.tally import RegressionTally

Z = 1.6448536269514722  # of 0.95
BIN = 2.0 ** (1 / PER_OCTAVE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(mean: Tensor, sigma: Tensor | None, truth: Tensor) -> Recalibration:
    tally = SpreadTally(tuple(truth.shape[1:]))
    tally.add(mean, sigma, truth)
    return tally.recalibration()


def test_stretch_of_a_gaussian_is_the_error_over_its_half_width() -> None:
    mean, sigma = normal(1, 6, 2), normal(1, 6, 2, seed=1).exp()
    truth = normal(6, 2, seed=2)
    expected = (truth - mean[0]).abs() / (Z * sigma[0])
    assert torch.allclose(stretch_to(mean, sigma, truth), expected, rtol=1e-8)


def test_stretch_of_members_is_towards_the_end_on_the_side_of_the_truth() -> None:
    members = torch.tensor([0.0, 1.0, 8.0])[:, None].double()  # mean 3, quantiles 0.1 and 7.3
    assert stretch_to(members, None, torch.tensor([5.0])).item() == pytest.approx(2 / 4.3)
    assert stretch_to(members, None, torch.tensor([-3.0])).item() == pytest.approx(6 / 2.9)
    assert stretch_to(members, None, torch.tensor([3.0])).item() == 0.0
    one = torch.zeros(1, 1, dtype=torch.float64)
    assert stretch_to(one, None, torch.tensor([1.0])).item() == math.inf


@pytest.mark.parametrize("examples", [9, 10, 19, 100])
def test_factor_is_that_order_statistic(examples: int) -> None:
    """r = 0.5, 0.51, ... in a shuffled order; the ceil((n + 1) 0.9)-th of them, up to a bin."""
    ratios = 0.5 + 0.01 * torch.arange(examples, dtype=torch.float64)
    shuffled = ratios[torch.randperm(examples, generator=torch.Generator().manual_seed(0))]
    truth = (shuffled * Z)[:, None]
    found = fitted(torch.zeros(1, examples, 1).double(), torch.ones(1, examples, 1), truth)
    expected = float(ratios[math.ceil((examples + 1) * LEVEL) - 1])
    assert expected * (1 - 1e-9) <= float(found.factor) <= expected * BIN
    assert found.examples == examples


def test_each_point_has_its_own() -> None:
    truth = normal(4000, 2, 3)
    wrong = torch.tensor([[0.25, 0.5, 1.0], [2.0, 4.0, 1.0]], dtype=torch.float64)
    found = fitted(torch.zeros(1, *truth.shape).double(), wrong.expand(1, *truth.shape), truth)
    # The 90 % quantile of 4000 |z| is known to about 3 %.
    assert torch.allclose(found.factor * wrong, torch.ones(2, 3).double(), rtol=0.08)


@pytest.mark.parametrize("kind", ["mixture", "members"])
def test_coverage_of_the_held_out_and_of_new_examples(kind: str) -> None:
    """A spread of half of what it should be, on held-out examples and as many new ones."""
    held, new = (forecasts(kind, seed) for seed in (1, 2))
    before = covered(*new)
    assert before < 0.75
    found = fitted(*held)
    assert LEVEL <= covered(*found.apply(*held[:2]), held[2]) <= LEVEL + 0.01
    assert covered(*found.apply(*new[:2]), new[2]) == pytest.approx(LEVEL, abs=0.02)


def forecasts(kind: str, seed: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return 3000 forecasts whose mean errs by 1 and whose spread is 0.5."""
    truth = normal(3000, 1, 1, seed=seed)
    if kind == "members":
        return 0.5 * normal(40, 3000, 1, 1, seed=seed + 10), None, truth
    mean = 0.3 * normal(4, 3000, 1, 1, seed=seed + 10)
    return mean, torch.full_like(mean, 0.4), truth


def covered(mean: Tensor, sigma: Tensor | None, truth: Tensor) -> float:
    low, high = (
        ensemble_quantile(mean, p) if sigma is None else mixture_quantile(mean, sigma, p)
        for p in (0.05, 0.95)
    )
    return float(((truth >= low) & (truth <= high)).double().mean())


def test_quantiles_and_samples_are_stretched_alike_and_the_mean_stays() -> None:
    mean, sigma = normal(5, 7, 2, 3), normal(5, 7, 2, 3, seed=1).exp()
    found = Recalibration(normal(2, 3, seed=2).exp(), 100)
    new_mean, new_sigma = found.apply(mean, sigma)
    assert new_sigma is not None
    assert torch.allclose(new_mean.mean(0), mean.mean(0), atol=1e-12)
    for probability in (0.05, 0.5, 0.8):
        quantile = mixture_quantile(mean, sigma, probability)
        expected = found.stretched(quantile, mean.mean(0))
        got = mixture_quantile(new_mean, new_sigma, probability)
        assert torch.allclose(got, expected, atol=1e-7)
    # In other units, the channels each by their own.
    scale, shift = normal(3, seed=3).exp(), normal(3, seed=4)
    other, other_sigma = found.apply(mean * scale + shift, sigma * scale)
    assert other_sigma is not None
    assert torch.allclose(other, new_mean * scale + shift, atol=1e-12)
    assert torch.allclose(other_sigma, new_sigma * scale, atol=1e-12)
    assert found.apply(mean, None)[1] is None


def test_sums_of_parts_add_up() -> None:
    mean, sigma, truth = forecasts("mixture", 1)
    whole, parts = SpreadTally((1, 1)), [SpreadTally((1, 1)) for _ in range(2)]
    whole.add(mean, sigma, truth)
    assert sigma is not None
    for part, here in zip(parts, (slice(0, 1000), slice(1000, 3000)), strict=True):
        part.add(mean[:, here], sigma[:, here], truth[here])
    assert torch.equal(parts[0].sums + parts[1].sums, whole.sums)
    assert whole.result() == {"examples": 3000.0}
    assert len(whole.sums) == BINS


def test_text_and_back() -> None:
    found = Recalibration(torch.tensor([[1.25, 0.5]], dtype=torch.float64), 17)
    again = Recalibration.of_json(found.to_json())
    assert torch.equal(again.factor, found.factor)
    assert (again.examples, again.level) == (17, LEVEL)


def test_both_tallies_of_one_pass() -> None:
    mean, sigma, truth = forecasts("mixture", 1)
    found = fitted(mean, sigma, truth)
    both = RecalibratedTally(RegressionTally(points=(1, 1), levels=(0.5,)), found)
    both.add(mean, sigma, truth)
    plain, after = RegressionTally(), RegressionTally()
    plain.add(mean, sigma, truth)
    after.add(*found.apply(mean, sigma), truth)
    assert both.before.result() == plain.result()
    assert both.result()["crps"] == after.result()["crps"] < plain.result()["crps"]
    assert both.result()["rmse"] == pytest.approx(plain.result()["rmse"], rel=1e-12)
    both.sums = 2 * both.sums  # as ranks do
    assert both.before.sums[0] == 2 * plain.sums[0]
    assert both.after.sums[0] == 2 * after.sums[0]


@pytest.mark.parametrize(
    ("examples", "sigma", "told"),
    [
        (8, 1.0, "8 examples of the validation split: expected at least 9 for intervals of 90%"),
        (50, 1e-6, "1 of 1 points need more than 64 times the spread"),
    ],
)
def test_refused(examples: int, sigma: float, told: str) -> None:
    zero = torch.zeros(1, examples, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=told):
        fitted(zero, torch.full_like(zero, sigma), normal(examples, 1))
