"""Weights of the points of an example, such as cell areas times channel weights.

Losses that average over points take a weighted mean, losses that sum over points a weighted sum
whose weights have mean 1: equal weights change nothing.

Points without values (``present`` is False) have weight 0 and do not count as points: the mean is
that over the others, and so is the mean of the weights of a sum, which is as many times the mean as
there are others. So an average per point can be compared between fields with and without such
points, and a likelihood is that of what was observed.

Letters: B batch, P points.
"""

import torch
from torch import Tensor


def checked_weights(weights: Tensor | None, present: Tensor | None = None) -> Tensor | None:
    """Return ``weights``, 0 where not ``present``, refusing what is no weight.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or all are 0.
    """
    if present is not None:
        weights = present.double() if weights is None else weights * present
    if weights is None:
        return None
    good = bool(torch.isfinite(weights).all()) and float(weights.min()) >= 0
    if not good or float(weights.sum()) == 0:
        raise ValueError(
            f"loss.weights: from {float(weights.min())} to {float(weights.max())}: expected finite "
            "numbers of at least 0, not all of them 0"
        )
    return weights


def share_of(present: Tensor | None) -> float:
    """Return the share of points that have values, 1 where all have."""
    return 1.0 if present is None else float(present.double().mean())


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


def weighted_sum(points: Tensor, weights: Tensor | None, share: float = 1.0) -> Tensor:
    """Return the sum (B,) over the points (B, ...) of an example under weights of mean 1.

    share: of points that have values (`share_of`); the weights of the others are 0, and those of
    mean 1 are these.

    In float64: a million log-likelihoods of order one leave 0.1 of float32's resolution.
    """
    flat = points.reshape(len(points), -1)
    if weights is not None:
        flat = flat * point_weights(weights, points, points.dtype)
    total = flat.sum(1, dtype=torch.float64)
    return total if share == 1.0 else total * share
