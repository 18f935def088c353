"""Climatology: known coefficients come back, sums add up, and what time cannot tell is left out."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_bnn.verify.climatology import Climatology, HarmonicSums, basis, harmonics

HOUR, DAY = 3600, 86400
SHAPE = (2, 3, 4)


def moment(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp())  # type: ignore[arg-type,misc]


def times(start: tuple[int, int, int], days: float, step_h: int) -> Tensor:
    first = moment(*start)
    return torch.arange(first, first + round(days * DAY), step_h * HOUR)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(annual: int, daily: int, seconds: Tensor, states: Tensor) -> Climatology:
    sums = HarmonicSums(annual, daily, (states.shape[1], states.shape[2], states.shape[3]))
    sums.add(seconds, states)
    return sums.solve()


@pytest.mark.parametrize(("annual", "daily"), [(0, 0), (2, 0), (0, 2), (1, 1), (2, 2)])
def test_known_coefficients_come_back(annual: int, daily: int) -> None:
    seconds = times((2015, 1, 1), 3 * 365, 3)
    phi = basis(seconds, annual, daily)
    known = noise(phi.shape[1], *SHAPE)
    found = fitted(annual, daily, seconds, torch.einsum("tj,jchw->tchw", phi, known))
    torch.testing.assert_close(found.coefficients, known, rtol=0, atol=1e-11)
    # Nothing is left but rounding.
    assert float(found.std.max()) < 1e-5
    later = torch.tensor([moment(2031, 7, 3, 21), moment(2020, 2, 29)])
    expected = torch.einsum("bj,jchw->bchw", basis(later, annual, daily), known)
    torch.testing.assert_close(found.mean(later), expected, rtol=0, atol=1e-10)


def test_basis_by_hand() -> None:
    seconds = torch.tensor([moment(2016, 1, 1), moment(2017, 7, 2, 12), moment(2016, 7, 2)])
    phi = basis(seconds, 1, 1).reshape(3, 3, 3)
    assert phi[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    # Noon in the middle of an ordinary year, midnight in that of a leap year.
    half = torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(phi[1], half, rtol=0, atol=1e-15)
    half = torch.tensor([[1.0, 1, 0], [-1, -1, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(phi[2], half, rtol=0, atol=1e-15)


def test_years_of_any_length_begin_and_end_alike() -> None:
    """A step from 31 December to 1 January is no jump, and before 1970 there are years too."""
    for year in (1959, 2015, 2016, 2000, 1900):
        edge = moment(year + 1, 1, 1)
        around = basis(torch.tensor([edge - 1, edge, edge + 1]), 2, 0)
        torch.testing.assert_close(around[0], around[1], rtol=0, atol=1e-6)
        assert around[1].tolist() == [1, 1, 1, 0, 0]
        assert float(around[2, 3]) > 0


@pytest.mark.parametrize("cut", [1, 700])
def test_parts_add_up_to_the_whole(cut: int) -> None:
    seconds = times((2016, 1, 1), 366, 6)
    states = noise(len(seconds), *SHAPE).float()
    whole = HarmonicSums(2, 2, SHAPE)
    whole.add(seconds, states)
    parts = [HarmonicSums(2, 2, SHAPE) for _ in range(2)]
    parts[0].add(seconds[:cut], states[:cut])
    parts[1].add(seconds[cut:], states[cut:])
    for name in ("gram", "cross", "squares"):
        setattr(parts[0], name, getattr(parts[0], name) + getattr(parts[1], name))
    assert parts[0].count == whole.count == len(seconds)
    one, other = parts[0].solve(), whole.solve()
    torch.testing.assert_close(one.coefficients, other.coefficients, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.std, other.std, rtol=1e-9, atol=1e-12)


def test_a_constant_climatology_is_mean_and_std_of_numpy() -> None:
    seconds = times((2017, 3, 1), 20, 6)
    states = 3 + noise(len(seconds), *SHAPE)
    found = fitted(0, 0, seconds, states)
    np.testing.assert_allclose(found.mean(seconds[:1])[0], states.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, states.numpy().std(0, ddof=1), rtol=1e-12)


def test_against_least_squares_of_numpy() -> None:
    seconds = times((2015, 1, 1), 500, 6)
    states = noise(len(seconds), *SHAPE)
    # At 6 hours the second sine of the day is always zero: rank 5 * 4 of 25 functions.
    phi = basis(seconds, 2, 2).numpy()
    flat = states.flatten(1).numpy()
    expected, _, rank, _ = np.linalg.lstsq(phi, flat, rcond=1e-8)
    assert rank == 20
    found = fitted(2, 2, seconds, states)
    np.testing.assert_allclose(found.coefficients.flatten(1), expected, rtol=0, atol=1e-12)
    residual = flat - phi @ expected
    std = np.sqrt((residual**2).sum(0) / (len(flat) - rank))
    np.testing.assert_allclose(found.std.flatten(), std, rtol=1e-11)


def test_two_hours_of_the_day() -> None:
    """At 00 and 12 UTC the sine is zero; the difference of noon and midnight is still found."""
    seconds = times((2017, 1, 1), 30, 12)
    noon = (seconds % DAY == DAY // 2).double()[:, None, None, None]
    states = (1 + 4 * noon).expand(-1, *SHAPE)
    found = fitted(0, 1, seconds, states)
    expected = torch.tensor([3.0, -2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found.coefficients[:, 0, 0, 0], expected, rtol=0, atol=1e-12)
    assert float(found.std.max()) == 0


def test_fewer_times_than_functions() -> None:
    seconds = times((2017, 1, 1), 0.75, 6)
    states = noise(len(seconds), *SHAPE)
    found = fitted(2, 2, seconds, states)
    torch.testing.assert_close(found.mean(seconds), states, rtol=0, atol=1e-8)
    assert bool(found.std.isfinite().all())


def test_scatter_of_fields_far_from_zero() -> None:
    """Raw geopotential (5e4 with 1e2 around it) is bad practice and still keeps six digits."""
    seconds = times((2017, 1, 1), 365, 6)
    residual = 1e2 * noise(len(seconds), *SHAPE)
    near, far = (fitted(2, 1, seconds, offset + residual).std for offset in (0, 5e4))
    torch.testing.assert_close(far, near, rtol=1e-6, atol=0)
    constant = torch.full((len(seconds), *SHAPE), 0.1, dtype=torch.float64)
    assert float(fitted(2, 1, seconds, constant).std.max()) == 0


def test_a_missing_value_spoils_its_point_only() -> None:
    seconds = times((2017, 1, 1), 20, 6)
    states = noise(len(seconds), *SHAPE)
    states[3, 1, 0, 0] = math.nan
    found = fitted(0, 1, seconds, states)
    assert bool(found.std[1, 0, 0].isnan())
    assert int(found.std.isnan().sum()) == 1


@pytest.mark.parametrize(
    ("days", "step_h", "expected"),
    [
        (365, 6, (2, 2)),  # one year, first to last time
        (365, 1, (2, 2)),
        (364, 6, (0, 2)),  # less: no seasons
        (3 * 365, 12, (2, 1)),
        (3 * 365, 24, (2, 0)),
        (3 * 365, 48, (2, 0)),
        (3 * 365, 18, (2, 2)),  # 0, 18, 12, 6 h
        (3 * 365, 8, (2, 1)),
        (3 * 365, 100 * 24, (1, 0)),
        (3 * 365, 365 * 24, (0, 0)),
        (10, 6, (0, 2)),
        (2, 6, (0, 2)),
        (1.75, 6, (0, 0)),
        (0.25, 6, (0, 0)),
    ],
)
def test_waves_that_a_training_can_tell(
    days: float, step_h: int, expected: tuple[int, int]
) -> None:
    start = moment(2015, 1, 1)
    last = start + round(days * DAY) - step_h * HOUR
    assert harmonics(start, last, step_h) == expected


def test_bad_input() -> None:
    sums = HarmonicSums(0, 0, SHAPE)
    with pytest.raises(ValueError, match="no times were added"):
        sums.solve()
    with pytest.raises(ValueError, match=r"states \(2, 3, 4\) at 1 times: expected \(1, 2, 3, 4\)"):
        sums.add(torch.zeros(1), torch.zeros(SHAPE))
    with pytest.raises(ValueError, match=r"steps of 0 h: expected"):
        harmonics(0, 1, 0)
