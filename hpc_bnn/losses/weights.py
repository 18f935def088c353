"""Weights of the points of an example, such as cell areas times channel weights.

Losses that average over points take a weighted mean, losses that sum over points a weighted sum
whose weights have mean 1: equal weights change nothing.

Letters: B batch, P points.
"""

import torch
from torch import Tensor


def checked_weights(weights: Tensor | None) -> Tensor | None:
    """Return ``weights``, refusing what is no weight.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or all are 0.
    """
    if weights is None:
        return None
    good = bool(torch.isfinite(weights).all()) and float(weights.min()) >= 0
    if not good or float(weights.sum()) == 0:
        raise ValueError(
            f"loss.weights: from {float(weights.min())} to {float(weights.max())}: expected finite "
            "numbers of at least 0, not all of them 0"
        )
    return weights


def point_weights(weights: Tensor | None, target: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights (P,) of mean 1 for the points of ``target`` (B, ...).

    Raises
    ------
    ValueError
        If ``weights`` do not broadcast against an example.
    """
    example = target.shape[1:]
    if weights is None:
        return torch.ones(example.numel(), dtype=dtype, device=target.device)
    try:
        flat = weights.to(target.device, dtype).expand(example).reshape(-1)
    except RuntimeError as error:
        raise ValueError(
            f"loss.weights of shape {tuple(weights.shape)} for examples of {tuple(example)}: "
            "expected a shape that broadcasts against them"
        ) from error
    return flat / flat.mean()


def weighted_sum(points: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum (B,) over the points (B, ...) of an example under weights of mean 1.

    In float64: a million log-likelihoods of order one leave 0.1 of float32's resolution.
    """
    flat = points.reshape(len(points), -1)
    if weights is not None:
        flat = flat * point_weights(weights, points, points.dtype)
    return flat.sum(1, dtype=torch.float64)
