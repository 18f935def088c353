"""How far chains have come to sample one distribution: split R-hat and effective sample size.

Every chain is split in halves. With M half chains of n draws each, W the mean of their variances
(divisor n - 1) and B / n the variance of their means (divisor M - 1),

    var_plus = (n - 1) / n * W + B / n,    R-hat = sqrt(var_plus / W),
    rho_t = 1 - (W - mean over half chains of the autocovariance at lag t, divisor n) / var_plus,
    S_eff = M n / tau,    tau = -1 + 2 sum_j P_j,    P_j = rho_2j + rho_(2j+1),

where the sum ends before the first P_j that is not positive, no P_j counts for more than the one
before it, and tau is at least 1 / log10(M n). R-hat is 1 where the chains agree; above 1.01 they
have not mixed.

Letters: K chains, N draws of each, ... quantities. Source: Vehtari, Gelman, Simpson, Carpenter,
Buerkner 2021, arXiv:1903.08008, eq. 1-4, 10-14; Geyer 1992, doi:10.1214/ss/1177011137 (the sum).
"""

import math

import torch
from torch import Tensor

LEAST_DRAWS = 4  # two a half: of one there is no variance


def split_r_hat(draws: Tensor) -> Tensor:
    """Return R-hat (...) of draws (K, N, ...) in their order, float64; NaN of a quantity that does
    not vary, infinity where it varies between half chains only.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws a chain.
    """
    halves = _halves(draws)
    within, plus = _variances(halves)
    return (plus / within).sqrt()


def effective_samples(draws: Tensor) -> Tensor:
    """Return the effective sample size (...) of draws (K, N, ...) in their order, float64; NaN of a
    quantity that does not vary.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws a chain.
    """
    halves = _halves(draws)
    count, length = halves.shape[:2]
    within, plus = _variances(halves)
    rho = 1 - (within - _autocovariances(halves).mean(0)) / plus  # (n, ...)
    rho[0] = 1.0
    pairs = rho[: length // 2 * 2].reshape(length // 2, 2, *rho.shape[1:]).sum(1)
    counts = (pairs > 0).cumprod(0)
    tau = 2 * (pairs.cummin(0).values * counts).sum(0) - 1
    total = count * length
    effective: Tensor = total / tau.clamp(min=1 / math.log10(total)) + 0 * plus / plus
    return effective


def rank_normalised(draws: Tensor) -> Tensor:
    """Return the normal scores of the ranks of draws (K, N, ...) among all draws of a quantity, of
    equal ones the mean rank: then neither needs a variance to exist.

    z = Phi^-1((rank - 3/8) / (K N + 1/4)), ranks from 1. Source: the same, eq. 14.
    """
    flat = draws.double().reshape(draws.shape[0] * draws.shape[1], -1)
    ordered = flat.sort(0).values.T.contiguous()
    values = flat.T.contiguous()
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    ranks = (below + up_to + 1).double() / 2
    scores: Tensor = torch.special.ndtri((ranks - 3 / 8) / (len(flat) + 1 / 4))
    return scores.T.reshape(draws.shape)


def _halves(draws: Tensor) -> Tensor:
    """Return the halves (2 K, N // 2, ...) of chains; of an odd number of draws without the one in
    the middle.
    """
    length = draws.shape[1]
    if length < LEAST_DRAWS:
        raise ValueError(f"{length} draws a chain: split R-hat needs at least {LEAST_DRAWS}")
    half = length // 2
    return torch.cat([draws[:, :half], draws[:, length - half :]]).double()


def _variances(halves: Tensor) -> tuple[Tensor, Tensor]:
    """Return W and var_plus (...) of half chains (M, n, ...)."""
    length = halves.shape[1]
    within = halves.var(1).mean(0)
    return within, within * (length - 1) / length + halves.mean(1).var(0)


def _autocovariances(halves: Tensor) -> Tensor:
    """Return the autocovariances (M, n, ...) at lags 0 to n - 1, by the discrete Fourier
    transform.
    """
    length = halves.shape[1]
    spectrum = torch.fft.rfft(halves - halves.mean(1, keepdim=True), n=2 * length, dim=1)
    power = spectrum.real.square() + spectrum.imag.square()
    sums: Tensor = torch.fft.irfft(power, n=2 * length, dim=1)[:, :length]
    return sums / length
