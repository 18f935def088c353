"""Keyed noise on CPUs: hands torch memory to the C kernel (``_noise.c``), on as many threads as
torch uses.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import DRAW, PULL, WORDS, Key, Stream
from hpc_bnn.compiled import load

_noise = load("hpc_bnn.bayes._noise", needed=False)  # else noise_reference
if not hasattr(_noise, "rows"):
    raise ImportError("the C kernel was compiled from older sources; build the package anew")
LEVEL: int = _noise.level()


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
    level: int = LEVEL,
    threads: int | None = None,
) -> None:
    """Run the kernel; ``level`` and ``threads`` never change the result, only its speed."""
    stream = stream.resolved()
    _noise.fill(
        task,
        _address(out, torch.int32 if task == WORDS else torch.float32, out.numel()),
        *(_address(tensor, torch.float32, out.numel()) for tensor in (mu, log_sigma, grad, keep)),
        out.numel(),
        stream.key,
        stream.step,
        stream.sample,
        offset // 4,
        offset % 4,
        sign,
        torch.get_num_threads() if threads is None else threads,
        level,
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
    counts = [log_sigma.numel() for log_sigma in log_sigmas]
    if isinstance(mus, Tensor):
        first, pitch = mus.data_ptr(), mus.stride(0)
        addresses = [first + 4 * start for start in accumulate(counts[:-1], initial=0)]
    else:
        addresses, pitch = [mu.data_ptr() for mu in mus], 0
    kept = 0
    if keep is not None:
        assert keep.stride() == out.stride()
        kept = keep.data_ptr()
    _rows(
        DRAW, (out, kept, 0, out), (addresses, pitch), log_sigmas, counts, key, offset, antithetic
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
    counts = [log_sigma.numel() for log_sigma in log_sigmas]
    rows = (out, 0, grad.data_ptr(), grad)
    _rows(PULL, rows, ([], 0), log_sigmas, counts, key, offset, antithetic)


def _rows(
    task: int,
    rows: tuple[Tensor, int, int, Tensor],
    means: tuple[list[int], int],
    log_sigmas: Sequence[Tensor],
    counts: list[int],
    key: Key,
    offset: int,
    antithetic: bool,
) -> None:
    key = key.resolved()
    out, keep, grad, pitched = rows
    samples = [sample // 2 for sample in key.samples] if antithetic else list(key.samples)
    signs = [1.0 - 2.0 * (antithetic and sample % 2) for sample in key.samples]
    _noise.rows(
        *(task, out.data_ptr(), keep, grad, pitched.stride(0), *means),
        *([each.data_ptr() for each in log_sigmas], counts),
        *(key.seed | key.purpose << 48, key.step, samples, signs),
        *(offset // 4, offset % 4, torch.get_num_threads(), LEVEL),
    )


def _address(tensor: Tensor | None, dtype: torch.dtype, count: int) -> int:
    if tensor is None:
        return 0
    assert tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.is_contiguous()
    assert tensor.numel() == count
    return tensor.data_ptr()
