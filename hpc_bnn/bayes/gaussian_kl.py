"""The complexity term of a mean-field Gaussian with its closed-form gradient: two passes over the
weights where autograd takes eight.

    E_q[-log p(w)] - T H(q) = sum [ (sigma^2 + mu^2) / (2 tau^2) - T log(sigma) + c ]

    c = log(tau) + (1 - T) / 2 log(2 pi) - T / 2

which is KL(q || p) at T = 1; ``gaussian`` has the sources. Letters: N weights of several tensors.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpc_bnn.bayes.draw import apart, flatten, groups, unflatten


def kl(
    mus: Sequence[Tensor], log_sigmas: Sequence[Tensor], taus: Sequence[float], temperature: float
) -> Tensor:
    """Return the term of all tensors, each with its tau, as a float64 scalar."""
    if mus[0].device.type == "cuda" and apart([*mus, *log_sigmas]) is not None:
        value: Tensor = _InOneLaunch.apply(taus, temperature, *mus, *log_sigmas)  # type: ignore[no-untyped-call]
        return value
    terms = [
        _KL.apply(taus[group.start], temperature, *mus[group], *log_sigmas[group])  # type: ignore[no-untyped-call]
        for group in groups(mus, taus)
    ]
    return torch.stack(terms).sum()


def _constant(tau: float, temperature: float) -> float:
    return math.log(tau) + (1 - temperature) / 2 * math.log(2 * math.pi) - temperature / 2


class _InOneLaunch(torch.autograd.Function):
    """On GPUs."""

    @staticmethod
    def forward(ctx: Any, taus: Sequence[float], temperature: float, *parameters: Tensor) -> Tensor:
        from hpc_bnn.bayes import kl_triton

        ctx.save_for_backward(*parameters)
        ctx.taus, ctx.temperature = taus, temperature
        mus, log_sigmas = parameters[: len(taus)], parameters[len(taus) :]
        constant = sum(
            mu.numel() * _constant(tau, temperature) for mu, tau in zip(mus, taus, strict=True)
        )
        return kl_triton.value(mus, log_sigmas, taus, temperature) + constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from hpc_bnn.bayes import kl_triton

        mus, log_sigmas = ctx.saved_tensors[: len(ctx.taus)], ctx.saved_tensors[len(ctx.taus) :]
        shapes = [mu.shape for mu in mus]
        rows = kl_triton.gradients(grads[0], mus, log_sigmas, ctx.taus, ctx.temperature)
        return None, None, *(part for row in rows for part in unflatten(row, shapes))


class _KL(torch.autograd.Function):
    """Of tensors with one tau, copied into one row."""

    @staticmethod
    def forward(ctx: Any, tau: float, temperature: float, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        ctx.tau, ctx.temperature = tau, temperature
        mu, log_sigma = _halves(parameters)
        ctx.rows = (mu, log_sigma) if len(parameters) > 2 else None  # copies of small tensors
        # In float64: the sums of a large network are far larger than their difference.
        scratch = log_sigma.mul(2).exp_()
        squares = scratch.sum(dtype=torch.float64)
        squares += torch.mul(mu, mu, out=scratch).sum(dtype=torch.float64)
        entropy_part = temperature * log_sigma.sum(dtype=torch.float64)
        return squares / (2 * tau**2) - entropy_part + mu.numel() * _constant(tau, temperature)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mu, log_sigma = ctx.rows or _halves(ctx.saved_tensors)
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
