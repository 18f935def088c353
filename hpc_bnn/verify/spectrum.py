"""Zonal power spectra: how much of a field's mean square each wavenumber along latitudes holds.

    P_k = < c_k |F_k|^2 >,   F_k = 1 / W sum_w f_w exp(-2 pi i k w / W)

< > is the area-weighted mean over rows; c_k = 1 for k = 0 and, of even W, k = W / 2, else 2, so
that sum_k P_k = <mean of f^2 along the row>. A forecast smoother than the truth has too little
power at high k, as the mean of an ensemble has where its members differ; artefacts of patches have
too much.

Letters: H latitude, W longitude, K = W // 2 + 1 wavenumbers; `...` whatever comes before.
"""

from typing import NamedTuple

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
    width = field.shape[-1]
    power = torch.fft.rfft(field.double(), norm="forward").abs().square()
    power[..., 1 : (width + 1) // 2] *= 2  # each stands for itself and -k
    rows = area.to(field.device, torch.float64)
    mean: Tensor = (power * (rows / rows.sum())[:, None]).sum(-2)
    return mean


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
