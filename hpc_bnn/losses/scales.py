"""Locations and scales that a network predicts: the first and the second half of dimension 1.

    sigma = softplus(raw) + min_sigma

Letters: B batch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from hpc_bnn.losses.base import to_float

LEAST = 1e-12  # of softplus(raw) in float32, before its logarithm


def location_and_scale(output: Tensor, min_sigma: float) -> tuple[Tensor, Tensor]:
    """Return the locations and the scales (B, ...) that an output (B, ...) holds.

    Raises
    ------
    ValueError
        If its dimension 1 has no two halves.
    """
    output = to_float(output)
    if output.dim() < 2 or output.shape[1] % 2:
        raise ValueError(
            f"loss.variance = 'predicted': the network gives {tuple(output.shape)}; "
            "dimension 1 must be even (means, then raw scales)"
        )
    mean, raw = output.chunk(2, dim=1)
    return mean, functional.softplus(raw) + min_sigma


def rescaled(output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
    """Return the output (B, ...) whose locations are location + scale * those of ``output``, and
    whose softplus(raw) is ``scale`` times that of ``output``.

    min_sigma is the same before and after: a floor in units of the targets.
    """
    mean, spread = location_and_scale(output, 0.0)
    spread = (scale * spread).clamp(min=LEAST)
    # softplus^-1(s) = log(exp(s) - 1), without the exponential of large s
    raw = spread + torch.log(-torch.expm1(-spread))
    return torch.cat([location + scale * mean, raw], dim=1)
