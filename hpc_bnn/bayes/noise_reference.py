"""Keyed noise in plain torch integers: the slow reference that the C and Triton kernels are held
against.

Works on any device. Words are exact; normals are computed in float64 and rounded once to float32.
"""

import math

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import DRAW, WORDS, Stream

MASK = 0xFFFFFFFF


def blocks(
    key: int, counters: Tensor, step: int, sample: int, shift: Tensor | None = None
) -> Tensor:
    """Return the Philox4x32-10 words of blocks ``counters`` (n,), int64 bit patterns, as int64 (n,
    4); ``shift`` (2,) is added to step and sample.
    """
    a, b = counters & MASK, (counters >> 32) & MASK
    c, d = torch.full_like(a, step), torch.full_like(a, sample)
    if shift is not None:
        c, d = c + shift[0], d + shift[1]
    key0, key1 = key & MASK, key >> 32
    for _ in range(10):
        # int64 products wrap, but their low 64 bits, which is all that is used, are exact.
        product0, product1 = a * 0xD2511F53, c * 0xCD9E8D57
        high0, high1 = (product0 >> 32) & MASK, (product1 >> 32) & MASK
        a, b, c, d = high1 ^ b ^ key0, product1 & MASK, high0 ^ d ^ key1, product0 & MASK
        key0, key1 = (key0 + 0x9E3779B9) & MASK, (key1 + 0xBB67AE85) & MASK
    return torch.stack([a, b, c, d], dim=-1)


def _stream_blocks(
    stream: Stream, offset: int, count: int, device: torch.device
) -> tuple[Tensor, int]:
    first, skip = divmod(offset, 4)
    counters = torch.arange((skip + count + 3) // 4, dtype=torch.int64, device=device) + first
    return blocks(stream.key, counters, stream.step, stream.sample, stream.shift), skip


def words(out: Tensor, stream: Stream, offset: int) -> None:
    """Fill ``out`` with random words."""
    values, skip = _stream_blocks(stream, offset, out.numel(), out.device)
    out.copy_(values.flatten()[skip : skip + out.numel()].to(torch.int32).view_as(out))


def normals(out: Tensor, stream: Stream, offset: int, sign: float) -> None:
    """Fill ``out`` with standard normals times ``sign``."""
    values, skip = _stream_blocks(stream, offset, out.numel(), out.device)
    pairs = values.reshape(-1, 2)
    unit = pairs[:, 0].to(torch.float32) * 2.0**-32 + 2.0**-33
    radius = torch.sqrt(-2.0 * torch.log(unit.to(torch.float64)))
    angle = pairs[:, 1].to(torch.float64) * (2.0 * math.pi * 2.0**-32)
    eps = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1).flatten()
    out.copy_(sign * eps[skip : skip + out.numel()].view_as(out))


def fill(
    task: int,
    out: Tensor,
    stream: Stream,
    offset: int,
    *,
    sign: float = 1.0,
    mu: Tensor | None = None,
    log_sigma: Tensor | None = None,
    grad: Tensor | None = None,
    keep: Tensor | None = None,
) -> None:
    """See ``noise.fill``."""
    if task == WORDS:
        return words(out, stream, offset)
    shift = keep
    if shift is None:
        shift = torch.empty_like(out) if task == DRAW else out
    normals(shift, stream, offset, sign)
    if log_sigma is not None:
        shift.mul_(torch.exp(log_sigma))
    if mu is not None:
        torch.add(mu, shift, out=out)
    if grad is not None:
        out.mul_(grad)
    return None
