"""What a pattern of noise on a grid is."""

from typing import Protocol

from torch import Tensor


class Pattern(Protocol):
    """A random field of mean 0 and variance 1 at every point, a linear map of standard normals."""

    @property
    def count(self) -> int:
        """The standard normals that one field takes."""
        ...

    def __call__(self, eps: Tensor) -> Tensor:
        """Return the fields (N, H, W) of standard normals ``eps`` (N, count), of their dtype."""
        ...
