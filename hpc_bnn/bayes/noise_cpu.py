"""Keyed noise on CPUs: hands torch memory to the C kernel (``_noise.c``), on as many threads as
torch uses.
"""

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import WORDS, Stream
from hpc_bnn.compiled import load

_noise = load("hpc_bnn.bayes._noise", needed=False)  # else noise_reference
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


def _address(tensor: Tensor | None, dtype: torch.dtype, count: int) -> int:
    if tensor is None:
        return 0
    assert tensor.dtype == dtype and tensor.device.type == "cpu" and tensor.is_contiguous()
    assert tensor.numel() == count
    return tensor.data_ptr()
