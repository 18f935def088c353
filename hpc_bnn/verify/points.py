"""Which points of a target count in a score, and how much.

Letters: C channels, H latitude, W longitude, P points that count.
"""

import math

import torch
from torch import Tensor


class PointWeights:
    """Weights of the points of a target; those of 0 do not count.

    They are looked up by place, so weights that are expanded, such as cell areas, take no memory.
    """

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights.double().cpu()
        least, most = float(self._weights.min()), float(self._weights.max())
        if not (least >= 0 and 0 < most < math.inf):
            raise ValueError(
                f"RegressionTally: weights from {least} to {most}: expected finite numbers of at "
                "least 0, not all of them 0"
            )
        self._mean = float(self._weights.sum()) / float((self._weights > 0).sum())

    def check(self, shape: torch.Size) -> None:
        """Refuse targets (B, ...) of another shape."""
        if shape[1:] != self._weights.shape:
            raise ValueError(
                f"RegressionTally: weights {tuple(self._weights.shape)} for targets "
                f"{tuple(shape)}: expected the shape of one target"
            )

    def of(self, first: int, number: int) -> tuple[Tensor, Tensor]:
        """Return which of ``number`` points of flattened targets count, from place ``first`` on,
        and the weights (P,) of those, relative to the mean of all that count.
        """
        places = torch.arange(first, first + number) % self._weights.numel()
        weights = self._weights[torch.unravel_index(places, self._weights.shape)]
        return weights > 0, weights[weights > 0] / self._mean


def checked_present(present: Tensor | None, channels: int, rows: int) -> Tensor | None:
    """Return the points that have values, after a check; None where all have."""
    if present is None:
        return None
    shape = tuple(present.shape)
    if len(shape) != 3 or shape[:2] != (channels, rows) or present.dtype != torch.bool:
        raise ValueError(
            f"WeatherTally: present {shape} of {present.dtype}: "
            f"expected ({channels}, {rows}, W) of torch.bool"
        )
    if not bool(present.flatten(1).any(1).all()):
        raise ValueError(
            "WeatherTally: present has no point of a channel: expected some of each; "
            "leave the channel out"
        )
    return None if bool(present.all()) else present
