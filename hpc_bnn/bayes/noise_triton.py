"""Keyed noise on GPUs: the Triton kernels. Same definition as ``noise.py``.

Each kernel has one compiled variant for each task: neither the values nor the alignment of what it
is given make another. Step and sample are the sums of what a launch is given and of two numbers on
the device (``Stream.shift``): a captured launch is replayed as that of another sample. Letters: S
samples, N numbers of all tensors of a draw.
"""

from collections.abc import Iterator, Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpc_bnn.bayes.noise import Key, Stream
from hpc_bnn.bayes.philox_triton import BLOCKS, PIECE, interleave, normals_of, philox
from hpc_bnn.bayes.pieces_triton import Pieces, fours, is_whole, piece

# Values that make no variant; their annotations fix the types.
SCALARS = [
    *("key0", "key1", "step", "sample", "offset", "count", "sign", "pairs", "first", "stop"),
    *("per_line", "mu_pitch", "pitch"),
]


@triton.jit(do_not_specialize=SCALARS)
def fill_kernel(
    out, shift, key0: tl.int64, key1: tl.int64, step: tl.int64, sample: tl.int64,
    offset: tl.int64, count: tl.int64, sign: tl.float32, TASK: tl.constexpr,
):  # fmt: skip
    """WORDS or NORMALS into ``out`` (count,)."""
    step, sample = step + tl.load(shift), sample + tl.load(shift + 1)
    lanes = tl.arange(0, BLOCKS)
    # The first number of this program; the first program has some in front of ``out``.
    start = tl.program_id(0).to(tl.int64) * (4 * BLOCKS) - (offset & 3)
    block = ((start + offset) >> 2) + lanes
    if TASK == 0:
        e0, e1, e2, e3 = philox(block, step, sample, key0, key1)
        e0, e1 = e0.to(tl.int32, bitcast=True), e1.to(tl.int32, bitcast=True)
        e2, e3 = e2.to(tl.int32, bitcast=True), e3.to(tl.int32, bitcast=True)
    else:
        e0, e1, e2, e3 = normals_of(block, step, sample, key0, key1)
        e0, e1, e2, e3 = e0 * sign, e1 * sign, e2 * sign, e3 * sign
    if ((start & 3) == 0) & (start + 4 * BLOCKS <= count):
        tl.store(out + (fours(start) + tl.arange(0, 4 * BLOCKS)), interleave(e0, e1, e2, e3))
    else:
        place = start + 4 * lanes
        tl.store(out + place, e0, mask=(place >= 0) & (place < count))
        tl.store(out + place + 1, e1, mask=(place >= -1) & (place < count - 1))
        tl.store(out + place + 2, e2, mask=(place >= -2) & (place < count - 2))
        tl.store(out + place + 3, e3, mask=(place >= -3) & (place < count - 3))


@triton.jit
def _signed(block, step, sample, pairs, key0, key1):
    """Return the normals of a sample; where ``pairs`` is 1 and not 0, every second one has those of
    the one before with the other sign.
    """
    e0, e1, e2, e3 = normals_of(block, step, sample >> pairs, key0, key1)
    sign = (1 - 2 * (sample & pairs)).to(tl.float32)
    return e0 * sign, e1 * sign, e2 * sign, e3 * sign


@triton.jit
def _draw_at(eps, place, mask, out, keep, mu, log_sigma, KEEP: tl.constexpr):
    shift = tl.exp(tl.load(log_sigma + place, mask=mask)) * eps
    tl.store(out + place, tl.load(mu + place, mask=mask) + shift, mask=mask)
    if KEEP:
        tl.store(keep + place, shift, mask=mask)


@triton.jit(do_not_specialize=SCALARS)
def draw_kernel(
    out, keep, mu, log_sigma, table, shift, per_line: tl.int32, key0: tl.int64, key1: tl.int64,
    step: tl.int64, sample: tl.int64, pairs: tl.int64, first: tl.int32, stop: tl.int32,
    offset: tl.int64, mu_pitch: tl.int64, pitch: tl.int64, KEEP: tl.constexpr,
):  # fmt: skip
    """mu + exp(log_sigma) eps into the rows first to stop of ``out``, which lie ``pitch`` apart;
    row s is that of the sample ``sample`` + s.
    """
    step, sample = step + tl.load(shift), sample + tl.load(shift + 1)
    start, begin, end, to_log_sigma, to_mu, _ = piece(table, per_line)
    whole = is_whole(start, begin, end, to_mu, to_log_sigma, pitch | mu_pitch)
    lanes = tl.arange(0, BLOCKS)
    block = ((start + offset) >> 2) + lanes
    for s in range(first, stop):
        e0, e1, e2, e3 = _signed(block, step, sample + s, pairs, key0, key1)
        if whole:
            row = fours(s * pitch)
            _draw_at(
                interleave(e0, e1, e2, e3), fours(start) + tl.arange(0, 4 * BLOCKS), None,
                out + row, keep + row, mu + fours(to_mu + s * mu_pitch),
                log_sigma + fours(to_log_sigma), KEEP,
            )  # fmt: skip
        else:
            for lane in tl.static_range(4):
                place = start + 4 * lanes + lane
                eps = e0 if lane == 0 else e1 if lane == 1 else e2 if lane == 2 else e3
                _draw_at(
                    eps, place, (place >= begin) & (place < end), out + s * pitch,
                    keep + s * pitch, mu + (to_mu + s * mu_pitch), log_sigma + to_log_sigma, KEEP,
                )  # fmt: skip


@triton.jit(do_not_specialize=SCALARS)
def pull_kernel(
    out, grad, log_sigma, table, shift, per_line: tl.int32, key0: tl.int64, key1: tl.int64,
    step: tl.int64, sample: tl.int64, pairs: tl.int64, first: tl.int32, stop: tl.int32,
    offset: tl.int64, pitch: tl.int64,
):  # fmt: skip
    """The sum of grad exp(log_sigma) eps over the rows of ``grad``, as of ``draw_kernel``, into
    ``out``.
    """
    step, sample = step + tl.load(shift), sample + tl.load(shift + 1)
    start, begin, end, to_log_sigma, to_grad, _ = piece(table, per_line)
    lanes = tl.arange(0, BLOCKS)
    block = ((start + offset) >> 2) + lanes
    if is_whole(start, begin, end, to_log_sigma, to_grad, pitch):
        place = fours(start) + tl.arange(0, 4 * BLOCKS)
        total = tl.zeros((4 * BLOCKS,), tl.float32)
        for s in range(first, stop):
            e0, e1, e2, e3 = _signed(block, step, sample + s, pairs, key0, key1)
            total += tl.load(grad + (fours(to_grad + s * pitch) + place)) * interleave(
                e0, e1, e2, e3
            )
        sigma = tl.exp(tl.load(log_sigma + (fours(to_log_sigma) + place)))
        tl.store(out + place, total * sigma)
    else:
        edge = start + 4 * lanes
        t0 = tl.zeros((BLOCKS,), tl.float32)
        t1, t2, t3 = t0, t0, t0
        for s in range(first, stop):
            e0, e1, e2, e3 = _signed(block, step, sample + s, pairs, key0, key1)
            row = grad + (to_grad + s * pitch)
            t0 += _load_edge(row, edge, begin, end) * e0
            t1 += _load_edge(row, edge + 1, begin, end) * e1
            t2 += _load_edge(row, edge + 2, begin, end) * e2
            t3 += _load_edge(row, edge + 3, begin, end) * e3
        _pull_edge(out, log_sigma + to_log_sigma, t0, edge, begin, end)
        _pull_edge(out, log_sigma + to_log_sigma, t1, edge + 1, begin, end)
        _pull_edge(out, log_sigma + to_log_sigma, t2, edge + 2, begin, end)
        _pull_edge(out, log_sigma + to_log_sigma, t3, edge + 3, begin, end)


@triton.jit
def _load_edge(row, place, begin, end):
    return tl.load(row + place, mask=(place >= begin) & (place < end), other=0.0)


@triton.jit
def _pull_edge(out, log_sigma, total, place, begin, end):
    sigma = tl.exp(_load_edge(log_sigma, place, begin, end))
    tl.store(out + place, total * sigma, mask=(place >= begin) & (place < end))


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
    assert out.is_contiguous()
    if log_sigma is not None:
        mirrored = sign < 0  # the second of a pair
        assert not (mirrored and stream.shift is not None)
        samples = (2 * stream.sample + 1 if mirrored else stream.sample,)
        key = Key(stream.seed, stream.step, samples, stream.purpose, shift=stream.shift)
        if mu is not None:
            kept = None if keep is None else keep[None]
            draw(out[None], mu[None], [log_sigma], key, offset, antithetic=mirrored, keep=kept)
        elif grad is not None:
            pull(out, grad[None], [log_sigma], key, offset, antithetic=mirrored)
    elif out.numel():
        with torch.cuda.device_of(out):
            fill_kernel[(triton.cdiv(offset % 4 + out.numel(), PIECE),)](
                *(out, _shift_of(stream, out.device)),
                *(stream.key & 0xFFFFFFFF, stream.key >> 32, stream.step, stream.sample),
                *(offset, out.numel(), sign),
                TASK=task,
            )


def draw(
    out: Tensor,
    mus: Sequence[Tensor] | Tensor,
    log_sigmas: Sequence[Tensor],
    key: Key,
    offset: int,
    *,
    antithetic: bool,
    keep: Tensor | None = None,
) -> None:
    """Fill ``out`` (S, N) with the drawn weights of all tensors and ``keep``, of its strides, with
    exp(log_sigma) eps; ``mus`` is a tensor for each of ``log_sigmas``, or one (S, N).
    """
    if not out.numel():
        return
    rows = [mus] if isinstance(mus, Tensor) else mus
    mu_pitch = _pitch(mus) if isinstance(mus, Tensor) else 0
    pieces = Pieces(offset, log_sigmas, rows)
    with torch.cuda.device_of(out):
        for name in _runs(key, antithetic=antithetic):
            draw_kernel[(pieces.programs,)](
                *(out, out if keep is None else keep, pieces.other_base, pieces.base),
                *(pieces.table, _shift_of(key, out.device), pieces.per_line),
                *(*name, offset, mu_pitch, _pitch(out)),
                KEEP=keep is not None,
            )


def pull(
    out: Tensor,
    grad: Tensor,
    log_sigmas: Sequence[Tensor],
    key: Key,
    offset: int,
    *,
    antithetic: bool,
) -> None:
    """Fill ``out`` (N,) with the gradient of the log_sigma of all tensors from that of the drawn
    weights (S, N), summed over samples.
    """
    if not out.numel():
        return
    pieces = Pieces(offset, log_sigmas, [grad])
    parts: list[Tensor] = []
    with torch.cuda.device_of(out):
        for name in _runs(key, antithetic=antithetic):
            parts.append(torch.empty_like(out) if parts else out)
            pull_kernel[(pieces.programs,)](
                *(parts[-1], pieces.other_base, pieces.base, pieces.table),
                *(_shift_of(key, out.device), pieces.per_line, *name, offset, _pitch(grad)),
            )
    for part in parts[1:]:
        out += part


def _shift_of(name: Key | Stream, device: torch.device) -> Tensor:
    return _no_shift(device) if name.shift is None else name.shift


@cache
def _no_shift(device: torch.device) -> Tensor:
    return torch.zeros(2, dtype=torch.int64, device=device)


def _pitch(rows: Tensor) -> int:
    """Return how far rows (S, N) lie apart; 0 for a single one, which is aligned as it begins."""
    return rows.stride(0) if len(rows) > 1 else 0


def _runs(key: Key, *, antithetic: bool) -> Iterator[tuple[int, ...]]:
    """Yield what names the rows of each run of consecutive samples: both halves of the Philox key,
    step, the sample of row 0 if it were one of the run, whether samples are pairs, its rows.
    """
    philox_key = Stream(key.seed, key.purpose).key
    first = 0
    for stop in range(1, len(key.samples) + 1):
        if stop == len(key.samples) or key.samples[stop] != key.samples[stop - 1] + 1:
            halves = philox_key & 0xFFFFFFFF, philox_key >> 32
            yield *halves, key.step, key.samples[first] - first, int(antithetic), first, stop
            first = stop
