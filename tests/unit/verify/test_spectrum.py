"""Zonal power of single waves, Parseval's sum, and spectra of ensembles."""

import math
from dataclasses import dataclass

import pytest
import torch

from hpc_bnn.verify.spectrum import SpectraTally, ensemble_spectra, zonal_power


@dataclass(frozen=True)
class Band:
    members: torch.Tensor
    truth: torch.Tensor


AREA = torch.tensor([0.5, 1.5, 1.0], dtype=torch.float64)


def wave(width: int, k: int, phase: float = 0.3) -> torch.Tensor:
    angle = 2 * math.pi * k * torch.arange(width, dtype=torch.float64) / width
    return torch.cos(angle + phase)


@pytest.mark.parametrize("width", [8, 9])
def test_a_wave_has_its_mean_square_at_its_wavenumber(width: int) -> None:
    amplitudes = torch.tensor([2.0, 4.0, 6.0], dtype=torch.float64)
    power = zonal_power(5.0 + amplitudes[:, None] * wave(width, 3), AREA)
    expected = torch.zeros(width // 2 + 1, dtype=torch.float64)
    expected[0] = 25.0
    expected[3] = (0.5 * 4 + 1.5 * 16 + 1.0 * 36) / 3 / 2
    torch.testing.assert_close(power, expected, rtol=1e-12, atol=1e-12)


def test_the_shortest_wave_of_an_even_row_counts_once() -> None:
    row = wave(8, 4, phase=0.0)  # +1, -1, ...
    power = zonal_power(row.expand(3, 8), AREA)
    assert power.tolist() == pytest.approx([0, 0, 0, 0, 1.0], abs=1e-14)


@pytest.mark.parametrize("width", [1, 2, 7, 12])
def test_power_sums_to_the_weighted_mean_square(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(4, 2, 3, width, generator=generator, dtype=torch.float64)
    mean_square = (AREA[:, None] * field.square()).mean((-2, -1)) / AREA.mean()
    power = zonal_power(field, 7 * AREA)
    assert power.shape == (4, 2, width // 2 + 1)
    torch.testing.assert_close(power.sum(-1), mean_square, rtol=1e-12, atol=0)
    rolled = zonal_power(field.roll(3, -1), AREA)
    torch.testing.assert_close(rolled, power, rtol=1e-10, atol=1e-13)


def test_members_that_differ_in_phase_leave_their_mean_without_power() -> None:
    members = torch.stack([wave(12, 2, phase) for phase in (0.0, math.pi)])[:, None, None]
    members = 1.0 + members.expand(2, 5, 3, 12)
    spectra = ensemble_spectra(members, members[0], AREA)
    assert spectra.members.shape == (5, 7)
    assert spectra.members[0].tolist() == pytest.approx([1, 0, 0.5, 0, 0, 0, 0], abs=1e-14)
    assert spectra.mean[0].tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0], abs=1e-14)
    torch.testing.assert_close(spectra.truth, spectra.members, rtol=1e-12, atol=1e-14)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"field \(4, 8\) with area \(3,\)"):
        zonal_power(torch.zeros(4, 8), AREA)
    with pytest.raises(ValueError, match=r"members \(2, 3, 8\) for truth \(3, 9\)"):
        ensemble_spectra(torch.zeros(2, 3, 8), torch.zeros(3, 9), AREA)


def test_a_tally_of_bands_and_of_ranks_holds_the_mean_over_start_times() -> None:
    """Three start times on two ranks, five rows in bands of two, as evaluation passes them on."""
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(4, 3, 5, 12, generator=generator, dtype=torch.float64)
    truth = torch.randn(3, 5, 12, generator=generator, dtype=torch.float64)
    area = torch.tensor([0.2, 1.0, 1.5, 1.0, 0.2], dtype=torch.float64)
    total = torch.zeros(2, 1, 1 + 3 * 7, dtype=torch.float64)
    for starts in (slice(0, 2), slice(2, 3)):
        tally = SpectraTally(leads=2, columns=12, area=area, whole=[True])
        bands = [
            (rows, Band(members[:, starts, rows], truth[starts, rows]))
            for rows in (slice(0, 2), slice(2, 4), slice(4, 5))
        ]
        assert [rows for rows, _ in tally.passing(1, 0, iter(bands))] == [r for r, _ in bands]
        total += tally.sums
    tally.sums = total
    expected = ensemble_spectra(members, truth, area)
    for got, each in zip(tally.result(), expected, strict=True):
        torch.testing.assert_close(got[1, 0], each.mean(0), rtol=1e-13, atol=0)
        assert bool(got[0].isnan().all())  # a lead time without forecasts


def test_a_forecast_that_is_not_finite_or_has_gaps_has_no_spectrum() -> None:
    tally = SpectraTally(leads=1, columns=4, area=torch.ones(1), whole=[True, True, False])
    for channel, value in enumerate((math.nan, 1.0, 1.0)):
        band = Band(torch.full((2, 1, 1, 4), value), torch.ones(1, 1, 4))
        assert len(list(tally.passing(0, channel, iter([(slice(0, 1), band)])))) == 1
    spectra = tally.result()
    assert bool(spectra.members[0, 0].isnan().all()) and bool(spectra.mean[0, 0].isnan().all())
    assert bool(spectra.truth[0, 2].isnan().all())  # left out
    assert spectra.truth[0, 0].tolist() == spectra.members[0, 1].tolist() == [1.0, 0.0, 0.0]
