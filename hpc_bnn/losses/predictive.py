"""Log of the mean over weight samples, exact on any grid: the core of every predictive NLL.

    log p(y_b) = log mean_s exp(l_s(b)) = logsumexp_s l_s(b) - log K,   d/dl_s = softmax_s(l)

One gather of (K, B) floats in forward; backward knows its softmax weights and communicates nothing.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpc_bnn.group import Group


def log_mean_exp(log_likelihood: Tensor, axis: Group) -> Tensor:
    """Collective over the sample axis: return (B,) from the own samples' (S, B)."""
    value: Tensor = _LogMeanExp.apply(log_likelihood, axis)  # type: ignore[no-untyped-call]
    return value


class _LogMeanExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, axis: Group) -> Tensor:
        everyone = axis.all_gather(own.contiguous(), name="predictive.log_likelihood")
        # Not exp(own - total): at a log-likelihood of 1e6 the rounding of the total is a percent.
        first = axis.rank * len(own)
        ctx.save_for_backward(torch.softmax(everyone, dim=0)[first : first + len(own)])
        return torch.logsumexp(everyone, dim=0) - math.log(len(everyone))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return grads[0] * weights, None
