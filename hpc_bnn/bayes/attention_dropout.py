"""Attention whose weights are dropped by a function that is given, instead of torch's own kernels.

    attention(q, k, v) = drop(softmax(q k^T / sqrt(E) + mask)) v

torch drops these weights inside fused kernels, with numbers of its own generator. Here they are an
activation as any other: (B, ..., A, L, S) or (B A, L, S), so its first dimension holds the examples
one after the other, however the activations of the network lie. They are held in memory, L S
numbers for each head and example, and twice more for backward.

Letters: B batch, A heads, L queries, S keys, E width of a head. Source: Vaswani et al. 2017,
arXiv:1706.03762, eq. 1.
"""

import math
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Drop = Callable[..., Tensor]  # the weights and p -> the weights that are left


def keyed_attention(func: Callable[..., Any], drop: Drop) -> Callable[..., Any] | None:
    """Return what does the same as ``func``, an attention function of ``torch.nn.functional``, with
    ``drop``; None: it is another function.
    """
    if func is functional.scaled_dot_product_attention:
        return partial(attend, drop)
    if func is functional.multi_head_attention_forward:
        return _multi_head_attention(drop)
    return None


def attend(
    drop: Drop,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Do what ``torch.nn.functional.scaled_dot_product_attention`` does for query (..., A, L, E),
    key and value (..., A, S, E).

    A query that may see no key gets 0, and no gradient. With ``enable_gqa`` key and value have
    fewer heads, each for several heads of the query one after the other.
    """
    if dropout_p == 0.0:
        return functional.scaled_dot_product_attention(
            *(query, key, value, attn_mask),
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    if is_causal and attn_mask is not None:
        raise ValueError("scaled_dot_product_attention: attn_mask and is_causal: give one of them")
    if enable_gqa:
        key, value = (
            each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value)
        )
    if is_causal:
        pairs = query.new_ones((query.shape[-2], key.shape[-2]), dtype=torch.bool)
        attn_mask = pairs.tril()
    scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    blind = scores.isneginf().all(-1, keepdim=True)  # whose softmax would be 0 / 0
    weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
    return drop(weights, dropout_p) @ value


def _multi_head_attention(drop: Drop) -> Callable[..., Any]:
    """Return ``torch.nn.functional.multi_head_attention_forward`` with ``drop``.

    It is torch's own function, masks, projections and all, with other functions behind two names
    that it calls. Called under its own name it would only hand itself over to the mode, whole.
    """
    plain = functional.multi_head_attention_forward
    assert isinstance(plain, FunctionType)
    names = {
        **plain.__globals__,
        "has_torch_function": lambda _: False,
        "dropout": drop,
        "scaled_dot_product_attention": partial(attend, drop),
    }
    keyed = FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__)
    keyed.__kwdefaults__ = plain.__kwdefaults__
    return keyed
