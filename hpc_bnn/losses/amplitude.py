"""Zonal amplitudes of fields: what a loss of spectra compares.

    A_k = |sum_w f_w exp(-2 pi i k w / W)| / sqrt(W),   k = 0 .. W / 2

of each row of a field whose last axis is a circle, such as one of latitude. Uncorrelated points of
variance 1 have amplitudes of mean square 1 at all k. The weighted mean over wavenumbers counts each
of 0 < k < W / 2 twice, as itself and -k: that of A_k^2 is the mean of f^2.

A score of A_k compares how much of a wave there is, not where its crests lie: a forecast that is
too smooth is told from one that is displaced. Where A_k is 0, |.| has a corner; its gradient is 0
there.

Letters: W points round the circle, K = W // 2 + 1 wavenumbers; `...` whatever comes before.
"""

import torch
from torch import Tensor


def zonal_amplitude(field: Tensor) -> Tensor:
    """Return the amplitudes (..., K) of fields (..., W)."""
    amplitude: Tensor = torch.fft.rfft(field, norm="ortho").abs()
    return amplitude


def wave_weights(weights: Tensor | None, columns: int) -> Tensor:
    """Return weights (..., K) of amplitudes from those of points that broadcast against (..., W),
    equal along each circle.
    """
    counts = torch.full((columns // 2 + 1,), 2.0, dtype=torch.float64)
    counts[0] = 1.0
    if columns % 2 == 0:
        counts[-1] = 1.0
    return counts if weights is None else weights * counts.to(weights.device, weights.dtype)


def check_spectral(value: float, weights: Tensor | None, present: Tensor | None) -> float:
    """Return the weight of a score of amplitudes, refusing what has no spectrum.

    Raises
    ------
    ValueError
        If it is no number of at least 0, points lack values, or weights differ along a circle.
    """
    if not 0 <= value < float("inf"):
        raise ValueError(f"loss.spectral = {value!r}: must be a number of at least 0")
    if value and present is not None and not bool(present.all()):
        raise ValueError(
            f"loss.spectral = {value!r}: fields that have points without values have no spectrum; "
            "leave it out, or these fields"
        )
    if value and weights is not None and weights.dim() and weights.shape[-1] != 1:
        raise ValueError(
            f"loss.spectral = {value!r}: weights of shape {tuple(weights.shape)} may differ along "
            "circles of longitude; expected a last axis of 1, such as (C, H, 1)"
        )
    return value
