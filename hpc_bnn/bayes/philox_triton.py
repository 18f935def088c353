"""The noise of ``noise.py`` as functions of Triton kernels: Philox blocks and normals of them.

Each thread makes whole blocks, whose four numbers lie side by side: it reads and writes them as one
vector of 16 bytes. Logarithm, sine and cosine are the polynomials of ``_noise.c``: those of the
device's library are too coarse near 1, or keep a table in local memory.
"""

import triton
import triton.language as tl

BLOCKS = tl.constexpr(256)  # Philox blocks of a program
PIECE = 4 * 256  # numbers of a program


@triton.jit
def philox(block, step, sample, key0, key1):
    """Return the four words of each Philox block, each of the shape of ``block`` (int64)."""
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
def _log(u):
    # Of u in [2**-33, 1]: u = m 2**e with m in [sqrt(1/2), sqrt(2)).
    shifted = u.to(tl.int32, bitcast=True) - 0x3F3504F3
    e = (shifted >> 23).to(tl.float32)
    t = ((shifted & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    z = t * t
    p = 7.0376836292e-2 * t - 1.1514610310e-1
    p = p * t + 1.1676998740e-1
    p = p * t - 1.2420140846e-1
    p = p * t + 1.4249322787e-1
    p = p * t - 1.6668057665e-1
    p = p * t + 2.0000714765e-1
    p = p * t - 2.4999993993e-1
    p = p * t + 3.3333331174e-1
    tail = t * z * p - 2.12194440e-4 * e - 0.5 * z
    return (t + tail) + 0.693359375 * e


@triton.jit
def box_muller(x, y):
    """Return the pair of normals of each pair of words."""
    # Multiplying by a power of two is exact, so a fused multiply-add gives the same u as two
    # operations.
    u = x.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt(-2.0 * _log(u))
    # Reduced to an eighth of a turn in integers, so that the rounding to float32 stays below 1e-7.
    quadrant = (y + 0x20000000) >> 30
    f = (y - (quadrant << 30)).to(tl.int32, bitcast=True).to(tl.float32) * 1.4629180792671596e-09
    z = f * f
    sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * f + f
    cosine = (2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2
    cosine = cosine * z * z - 0.5 * z + 1.0
    odd = (quadrant & 1) == 1
    first = tl.where(odd, sine, cosine) * tl.where(((quadrant + 1) & 2) == 2, -1.0, 1.0)
    second = tl.where(odd, cosine, sine) * tl.where((quadrant & 2) == 2, -1.0, 1.0)
    return radius * first, radius * second


@triton.jit
def normals_of(block, step, sample, key0, key1):
    """Return the four normals of each Philox block, each of the shape of ``block`` (int64)."""
    x0, x1, x2, x3 = philox(block, step, sample, key0, key1)
    e0, e1 = box_muller(x0, x1)
    e2, e3 = box_muller(x2, x3)
    return e0, e1, e2, e3


@triton.jit
def interleave(e0, e1, e2, e3):
    """Return the numbers of blocks (n,) as (4 n,) in their order, four of each thread together."""
    pairs = tl.join(tl.join(e0, e2), tl.join(e1, e3))
    return tl.reshape(pairs, (4 * BLOCKS,))
