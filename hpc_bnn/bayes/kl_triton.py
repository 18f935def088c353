"""The complexity term of a mean-field Gaussian on GPUs: that of all tensors in one launch.

Of a weight, with precision p = 1 / tau^2 of its prior and temperature T,

    p / 2 (exp(2 log_sigma) + mu^2) - T log_sigma

without the constants of ``gaussian``. Elements in float32, their sums in float64; the sums of all
programs are added in one order, so a run gives the same numbers again. Letters: N weights.
"""

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpc_bnn.bayes.philox_triton import BLOCKS
from hpc_bnn.bayes.pieces_triton import Pieces, fours, is_whole, piece

SCALARS = ["per_line", "temperature", "upstream"]


@triton.jit
def _terms(mu, log_sigma, place, mask, precision, temperature):
    m = tl.load(mu + place, mask=mask)
    s = tl.load(log_sigma + place, mask=mask)
    squares = tl.exp(2.0 * s).to(tl.float64) + (m * m).to(tl.float64)
    return squares * (0.5 * precision) - temperature * s.to(tl.float64)


@triton.jit(do_not_specialize=SCALARS)
def value_kernel(
    sums, mu, log_sigma, table, per_line: tl.int32, temperature: tl.float64
):  # fmt: skip
    """The sum of the terms of each piece into ``sums``."""
    start, begin, end, to_mu, to_log_sigma, bits = piece(table, per_line)
    precision = bits.to(tl.float64, bitcast=True)
    if is_whole(start, begin, end, to_mu, to_log_sigma, 0):
        place = fours(start) + tl.arange(0, 4 * BLOCKS)
        m, s = mu + fours(to_mu), log_sigma + fours(to_log_sigma)
        total = tl.sum(_terms(m, s, place, None, precision, temperature))
    else:
        edge = start + tl.arange(0, 4 * BLOCKS)
        inside = (edge >= begin) & (edge < end)
        m, s = mu + to_mu, log_sigma + to_log_sigma
        terms = _terms(m, s, edge, inside, precision, temperature)
        total = tl.sum(tl.where(inside, terms, 0.0))
    tl.store(sums + tl.program_id(0), total)


@triton.jit
def _slopes(to_mu, to_log_sigma, mu, log_sigma, place, mask, scale, entropy):
    m = tl.load(mu + place, mask=mask)
    s = tl.load(log_sigma + place, mask=mask)
    tl.store(to_mu + place, m * scale, mask=mask)
    tl.store(to_log_sigma + place, tl.exp(2.0 * s) * scale - entropy, mask=mask)


@triton.jit(do_not_specialize=SCALARS)
def gradient_kernel(
    slope_mu, slope_log_sigma, upstream, mu, log_sigma, table, per_line: tl.int32,
    temperature: tl.float64,
):  # fmt: skip
    """The gradients (N,) to mu and log_sigma where that to the term is ``upstream``, a
    float64.
    """
    start, begin, end, to_mu, to_log_sigma, bits = piece(table, per_line)
    slope = tl.load(upstream)
    scale = (slope * bits.to(tl.float64, bitcast=True)).to(tl.float32)
    entropy = (slope * temperature).to(tl.float32)
    if is_whole(start, begin, end, to_mu, to_log_sigma, 0):
        place = fours(start) + tl.arange(0, 4 * BLOCKS)
        m, s = mu + fours(to_mu), log_sigma + fours(to_log_sigma)
        _slopes(slope_mu, slope_log_sigma, m, s, place, None, scale, entropy)
    else:
        m, s = mu + to_mu, log_sigma + to_log_sigma
        for lane in tl.static_range(4):
            edge = start + 4 * tl.arange(0, BLOCKS) + lane
            inside = (edge >= begin) & (edge < end)
            _slopes(slope_mu, slope_log_sigma, m, s, edge, inside, scale, entropy)


def value(
    mus: Sequence[Tensor], log_sigmas: Sequence[Tensor], taus: Sequence[float], temperature: float
) -> Tensor:
    """Return the sum of the terms of all tensors, a float64 scalar."""
    pieces = _pieces(mus, log_sigmas, taus)
    sums = torch.empty(pieces.programs, dtype=torch.float64, device=mus[0].device)
    with torch.cuda.device_of(sums):
        value_kernel[(pieces.programs,)](
            *(sums, pieces.base, pieces.other_base, pieces.table),
            *(pieces.per_line, temperature),
        )
    return sums.sum()


def gradients(
    grad: Tensor,
    mus: Sequence[Tensor],
    log_sigmas: Sequence[Tensor],
    taus: Sequence[float],
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients (N,) to mu and log_sigma of all tensors from that to the term."""
    pieces = _pieces(mus, log_sigmas, taus)
    count = sum(mu.numel() for mu in mus)
    to_mu, to_log_sigma = (mus[0].new_empty(count) for _ in range(2))
    with torch.cuda.device_of(grad):
        gradient_kernel[(pieces.programs,)](
            *(to_mu, to_log_sigma, grad, pieces.base, pieces.other_base, pieces.table),
            *(pieces.per_line, temperature),
        )
    return to_mu, to_log_sigma


def _pieces(mus: Sequence[Tensor], log_sigmas: Sequence[Tensor], taus: Sequence[float]) -> Pieces:
    bits = [struct.unpack("q", struct.pack("d", tau**-2))[0] for tau in taus]
    return Pieces(0, mus, log_sigmas, bits)
