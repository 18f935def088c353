"""Which points of a target count in a score, and how much.

Letters: C channels, H latitude, W longitude, P points that count.
"""

import torch
from torch import Tensor


class PointWeights:
    """Weights of the points of a target that count: those of more than 0.

    of_mean_1: (P,), of these points.
    """

    def __init__(self, weights: Tensor) -> None:
        every = weights.double().cpu()
        if not bool(torch.isfinite(every).all()) or float(every.min()) < 0 or not bool(every.any()):
            raise ValueError(
                f"RegressionTally: weights from {float(every.min())} to {float(every.max())}: "
                "expected finite numbers of at least 0, not all of them 0"
            )
        self._shape, self._counts = weights.shape, every.flatten() > 0
        there = every.flatten()[self._counts]
        self.of_mean_1 = there / there.mean()

    def counted(self, x: Tensor) -> Tensor:
        """Return the points (..., P) that count of ``x`` (..., points)."""
        first = x.dim() - len(self._shape)
        if x.shape[first:] != self._shape:
            raise ValueError(
                f"RegressionTally: weights {tuple(self._shape)} for targets "
                f"{tuple(x.shape[first - 1 :])}: expected the shape of one target"
            )
        flat = x.flatten(first)
        return flat if bool(self._counts.all()) else flat[..., self._counts]


def checked_present(present: Tensor | None, channels: int, rows: int) -> Tensor | None:
    """Return the points that have values, after a check; None where all have."""
    if present is None:
        return None
    found = tuple(present.shape)
    if found[:2] != (channels, rows) or present.dim() != 3 or present.dtype != torch.bool:
        raise ValueError(
            f"WeatherTally: present {found} of {present.dtype}: expected ({channels}, {rows}, W) "
            "of torch.bool"
        )
    if not bool(present.flatten(1).any(1).all()):
        raise ValueError(
            "WeatherTally: present has no point of a channel: expected some of each; leave the "
            "channel out"
        )
    return None if bool(present.all()) else present
