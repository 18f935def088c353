"""Keyed noise on GPUs: the Triton kernel. Same definition as ``noise.py``, one program per 4 *
BLOCK elements.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpc_bnn.bayes.noise import Stream

BLOCK = 256  # Philox blocks per program


@triton.jit
def _philox(block, step, sample, key0, key1):
    a = block.to(tl.uint32)
    b = (block >> 32).to(tl.uint32)
    c = tl.zeros_like(a) + step.to(tl.uint32)
    d = tl.zeros_like(a) + sample.to(tl.uint32)
    k0 = key0.to(tl.uint32)
    k1 = key1.to(tl.uint32)
    for _ in tl.static_range(10):
        product0 = a.to(tl.uint64) * 0xD2511F53
        product1 = c.to(tl.uint64) * 0xCD9E8D57
        a = (product1 >> 32).to(tl.uint32) ^ b ^ k0
        b = product1.to(tl.uint32)
        c = (product0 >> 32).to(tl.uint32) ^ d ^ k1
        d = product0.to(tl.uint32)
        k0 = (k0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return a, b, c, d


@triton.jit
def _box_muller(x, y):
    # Multiplying by a power of two is exact, so a fused multiply-add gives the same u as two
    # operations.
    u = x.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt(-2.0 * tl.log(u))
    # Reduced to an eighth of a turn in integers, so that the rounding to float32 stays below 1e-7.
    quadrant = ((y.to(tl.uint64) + 0x20000000) >> 30).to(tl.uint32) & 3
    rest = (y.to(tl.int64) - (((y.to(tl.int64) + 0x20000000) >> 30) << 30)).to(tl.float32)
    angle = rest * 1.4629180792671596e-09
    sine, cosine = tl.sin(angle), tl.cos(angle)
    odd = (quadrant & 1) == 1
    first = tl.where(odd, sine, cosine) * tl.where(((quadrant + 1) & 2) == 2, -1.0, 1.0)
    second = tl.where(odd, cosine, sine) * tl.where((quadrant & 2) == 2, -1.0, 1.0)
    return radius * first, radius * second


@triton.jit
def _emit(
    value, lane, block_index, skip, count, sign, out, mu, log_sigma, grad, keep,
    TASK: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    position = block_index * 4 + lane - skip
    inside = (position >= 0) & (position < count)
    if TASK == 0:
        tl.store(out + position, value.to(tl.int32, bitcast=True), mask=inside)
    else:
        eps = value * sign
        if TASK == 2:
            shift = tl.exp(tl.load(log_sigma + position, mask=inside, other=0.0)) * eps
            mean = tl.load(mu + position, mask=inside, other=0.0)
            tl.store(out + position, mean + shift, mask=inside)
            if KEEP:
                tl.store(keep + position, shift, mask=inside)
        elif TASK == 3:
            sigma = tl.exp(tl.load(log_sigma + position, mask=inside, other=0.0))
            pull = tl.load(grad + position, mask=inside, other=0.0)
            tl.store(out + position, pull * (sigma * eps), mask=inside)
        else:
            tl.store(out + position, eps, mask=inside)


@triton.jit(do_not_specialize=["key0", "key1", "step", "sample", "first", "skip"])
def _fill_kernel(
    out, mu, log_sigma, grad, keep, count, key0, key1, step, sample, first, skip, sign,
    TASK: tl.constexpr, KEEP: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    x0, x1, x2, x3 = _philox(index + first, step, sample, key0, key1)
    if TASK == 0:
        e0, e1, e2, e3 = x0, x1, x2, x3
    else:
        e0, e1 = _box_muller(x0, x1)
        e2, e3 = _box_muller(x2, x3)
    _emit(e0, 0, index, skip, count, sign, out, mu, log_sigma, grad, keep, TASK, KEEP)
    _emit(e1, 1, index, skip, count, sign, out, mu, log_sigma, grad, keep, TASK, KEEP)
    _emit(e2, 2, index, skip, count, sign, out, mu, log_sigma, grad, keep, TASK, KEEP)
    _emit(e3, 3, index, skip, count, sign, out, mu, log_sigma, grad, keep, TASK, KEEP)


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
    """Run the kernel; see ``noise.fill``."""
    if out.numel() == 0:
        return
    for tensor in (out, mu, log_sigma, grad, keep):
        assert tensor is None or (tensor.is_contiguous() and tensor.numel() == out.numel())
    first, skip = divmod(offset, 4)
    programs = triton.cdiv(skip + out.numel(), 4 * BLOCK)
    unused = out
    with torch.cuda.device_of(out):
        _fill_kernel[(programs,)](
            out,
            *(unused if tensor is None else tensor for tensor in (mu, log_sigma, grad, keep)),
            out.numel(),
            *(stream.key & 0xFFFFFFFF, stream.key >> 32, stream.step, stream.sample),
            *(first, skip, sign),
            TASK=task,
            KEEP=keep is not None,
            SIZE=BLOCK,
        )
