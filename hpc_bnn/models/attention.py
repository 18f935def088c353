"""Attention in the one form that torch has fast kernels for: queries, keys and values (B, A, L, E).

Several weight samples in one pass of ``torch.vmap`` are more of the batch: folded into it, they run
in the same kernel, for which vmap itself would fall back to one call after the other.

Letters: S samples, B batch, A heads, L tokens, E width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return softmax(q k^T / sqrt(E) + bias) v, (B, A, L, E), of q, k and v of that shape.

    bias: (B or 1, A, L, L), of their dtype; None: there is none.
    """
    each = (q, k, v) if bias is None else (q, k, v, bias)
    if any(torch._C._functorch.is_batchedtensor(tensor) for tensor in each):
        folded: Tensor = _Folded.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
        return folded
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)


class _Folded(torch.autograd.Function):
    """What vmap does with attention; autograd sees the operations inside."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        return attention(q, k, v, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, int]:
        samples = info.batch_size

        def rows(tensor: Tensor, dim: int | None) -> Tensor:
            return tensor.expand(samples, *tensor.shape) if dim is None else tensor.movedim(dim, 0)

        q, k, v = (rows(*each) for each in zip((q, k, v), in_dims, strict=False))
        if bias is not None and not (in_dims[3] is None and len(bias) == 1):
            bias = rows(bias, in_dims[3]).expand(-1, q.shape[1], -1, -1, -1).flatten(0, 1)
        mixed = attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), bias)
        return mixed.view(samples, -1, *mixed.shape[1:]), 0
