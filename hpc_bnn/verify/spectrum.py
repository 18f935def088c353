"""Zonal power spectra: how much of a field's mean square each wavenumber along latitudes holds.

    P_k = < c_k |F_k|^2 >,   F_k = 1 / W sum_w f_w exp(-2 pi i k w / W)

< > is the area-weighted mean over rows; c_k = 1 for k = 0 and, of even W, k = W / 2, else 2, so
that sum_k P_k = <mean of f^2 along the row>. A forecast smoother than the truth has too little
power at high k, as the mean of an ensemble has where its members differ; artefacts of patches have
too much.

Letters: L lead times, C channels, M members, B start times, H latitude, h rows of a band, W
longitude, K = W // 2 + 1 wavenumbers; `...` whatever comes before.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor


class Spectra(NamedTuple):
    """Zonal power (..., K) of the members on average, of their mean, and of the truth."""

    members: Tensor
    mean: Tensor
    truth: Tensor


def zonal_power(field: Tensor, area: Tensor) -> Tensor:
    """Compute the power (..., K) float64 of fields (..., H, W) on whole circles of latitude, in the
    square of their unit.

    area: (H,) weights of the rows, as of `cell_area`; count relative to their sum.

    Raises
    ------
    ValueError
        If ``area`` is not one number a row.
    """
    if field.dim() < 2 or area.shape != field.shape[-2:-1]:
        raise ValueError(
            f"zonal_power: field {tuple(field.shape)} with area {tuple(area.shape)}: expected "
            "(..., H, W) and (H,); use cell_area(latitude)"
        )
    rows = area.to(field.device, torch.float64)
    return _weighted_power(field, rows / rows.sum())


def _weighted_power(field: Tensor, weights: Tensor) -> Tensor:
    """Return the sum (..., K) over rows (H,) of their power."""
    power = torch.fft.rfft(field.double(), norm="forward").abs().square()
    power[..., 1 : (field.shape[-1] + 1) // 2] *= 2  # each stands for itself and -k
    total: Tensor = (power * weights[:, None]).sum(-2)
    return total


def ensemble_spectra(members: Tensor, truth: Tensor, area: Tensor) -> Spectra:
    """Compute the spectra (..., K) of members (M, ..., H, W) and truth (..., H, W).

    Raises
    ------
    ValueError
        If they do not fit.
    """
    if members.shape[1:] != truth.shape:
        raise ValueError(
            f"ensemble_spectra: members {tuple(members.shape)} for truth {tuple(truth.shape)}: "
            "expected (M, *truth)"
        )
    each = sum(zonal_power(member, area) for member in members) / len(members)
    mean = zonal_power(members.double().mean(0), area)
    return Spectra(torch.as_tensor(each), mean, zonal_power(truth, area))


class Ensemble(Protocol):
    """Forecasts of one channel on a band of rows: members (M, B, h, W) and truth (B, h, W)."""

    @property
    def members(self) -> Tensor: ...

    @property
    def truth(self) -> Tensor: ...


E = TypeVar("E", bound=Ensemble)


class SpectraTally:
    """Sum the spectra of forecasts of each lead time and channel, band by band.

    Parameters
    ----------
    area
        (H,) weights of all rows; count relative to their sum.
    whole
        Of each channel, whether it has values all round the globe; others are left out.

    Attributes
    ----------
    sums
        (L, C, 1 + 3 K) float64 on the CPU: how many start times there were, then the power of the
        members on average, of their mean and of the truth. Add those of all ranks.
    """

    def __init__(self, *, leads: int, columns: int, area: Tensor, whole: Sequence[bool]) -> None:
        self.wavenumbers, self._whole = columns // 2 + 1, tuple(whole)
        shape = (leads, len(whole), 1 + 3 * self.wavenumbers)
        self.sums = torch.zeros(shape, dtype=torch.float64)
        self._weights = area.double() / area.double().sum()

    def passing(
        self, lead: int, channel: int, bands: Iterable[tuple[slice, E]]
    ) -> Iterator[tuple[slice, E]]:
        """Pass on the bands that make up a channel at a lead time, and add them on the way."""
        sums, starts = self.sums[lead, channel], 0
        for rows, band in bands:
            if self._whole[channel]:
                self._add(sums[1:], rows, band)
                starts = len(band.truth)
            yield rows, band
        sums[0] += starts

    def _add(self, sums: Tensor, rows: slice, band: Ensemble) -> None:
        weights = self._weights[rows].to(band.truth.device)
        each = (band.members, band.members.mean(0), band.truth)
        powers = [_weighted_power(field, weights).flatten(0, -2).sum(0) for field in each]
        powers[0] /= len(band.members)
        sums += torch.cat(powers).cpu()

    def result(self) -> Spectra:
        """Return the means over start times, each (L, C, K); NaN of channels left out."""
        starts, powers = self.sums[..., :1], self.sums[..., 1:]
        return Spectra(*torch.split(powers / starts, self.wavenumbers, dim=-1))
