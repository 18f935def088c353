"""Mean and standard deviation of the training rows of series, the way back to physical units.

Shape letters: T rows of all series, C channels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_bnn.data.source import Scale

logger = logging.getLogger(__name__)


def training_scale(name: str, training: Tensor, channels: Sequence[str], units: str) -> Scale:
    """Compute mean and standard deviation (ddof=0) of the training rows (T, C).

    NaN is missing. A constant channel is centred, not scaled, and reported.

    Raises
    ------
    ValueError
        If a channel has no value.
    """
    held = training.isfinite()
    if not bool(held.any(dim=0).all()):
        absent = channels[int(held.any(dim=0).int().argmin())]
        raise ValueError(
            f"{name}: column '{absent}' has no value in the training part: expected some; "
            "leave the column out, or cut the file"
        )
    mean = training.nanmean(dim=0)
    std = (training - mean).square().nanmean(dim=0).sqrt()
    low, high = (
        torch.where(held, training, torch.full_like(training, beyond))
        for beyond in (math.inf, -math.inf)
    )
    constant = low.amin(dim=0) == high.amax(dim=0)
    for channel, is_constant in zip(channels, constant.tolist(), strict=True):
        if is_constant:
            logger.warning(
                "%s: column '%s' is constant in the training part; it is centred, not scaled",
                name,
                channel,
            )
    std = torch.where(constant, torch.ones_like(std), std)
    return Scale(mean=mean, std=std, channels=tuple(channels), units=units)
