"""Noise that is independent from point to point."""

from torch import Tensor


class Gaussian:
    """White noise on a grid: each point has a standard normal of its own."""

    def __init__(self, latitude: Tensor, longitude: Tensor, periodic: bool) -> None:
        self._shape = len(latitude), len(longitude)

    @property
    def count(self) -> int:
        """One normal a point."""
        return self._shape[0] * self._shape[1]

    def __call__(self, eps: Tensor) -> Tensor:
        """Return the fields (N, H, W) of standard normals (N, H W)."""
        return eps.view(-1, *self._shape)
