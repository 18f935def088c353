"""KL divergence of a mean-field Gaussian from its prior, as one autograd function.

    E_q[-log p(w)] - T H(q),   q = N(mu, sigma^2),   p = N(0, tau^2),   sigma = exp(log_sigma)

At temperature T = 1 this is KL(q || p).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpc_bnn.bayes.flat import flatten, unflatten


def complexity(
    mus: Sequence[Tensor], log_sigmas: Sequence[Tensor], *, tau: float, temperature: float
) -> Tensor:
    """Return the sum over tensors with one prior as a float64 scalar."""
    term: Tensor = _KL.apply(tau, temperature, *mus, *log_sigmas)  # type: ignore[no-untyped-call]
    return term


class _KL(torch.autograd.Function):
    """E_q[-log p] - T H(q) of tensors with one tau, with its closed-form gradient: two passes where
    autograd takes eight.
    """

    @staticmethod
    def forward(ctx: Any, tau: float, temperature: float, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        ctx.tau, ctx.temperature = tau, temperature
        mu, log_sigma = _halves(parameters)
        # In float64: the sums of a large network are far larger than their difference.
        scratch = log_sigma.mul(2).exp_()
        squares = scratch.sum(dtype=torch.float64)
        squares += torch.mul(mu, mu, out=scratch).sum(dtype=torch.float64)
        constant = math.log(tau) + (1 - temperature) / 2 * math.log(2 * math.pi) - temperature / 2
        entropy_part = temperature * log_sigma.sum(dtype=torch.float64)
        return squares / (2 * tau**2) - entropy_part + mu.numel() * constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mu, log_sigma = _halves(ctx.saved_tensors)
        first_mu, first_log_sigma = ctx.saved_tensors[0], ctx.saved_tensors[-1]
        shapes = [part.shape for part in ctx.saved_tensors[: len(ctx.saved_tensors) // 2]]
        scale = grads[0] / ctx.tau**2
        to_log_sigma = log_sigma.mul(2).exp_().mul_(scale).sub_(grads[0] * ctx.temperature)
        to_mus = unflatten((mu * scale).to(first_mu.dtype), shapes)
        to_log_sigmas = unflatten(to_log_sigma.to(first_log_sigma.dtype), shapes)
        return None, None, *to_mus, *to_log_sigmas


def _halves(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mu and log_sigma (N,) of all tensors, in the wider type of the two."""
    count = len(parameters) // 2
    wide = torch.promote_types(parameters[0].dtype, parameters[-1].dtype)
    return flatten(parameters[:count]).to(wide), flatten(parameters[count:]).to(wide)
