"""The contract between a data set and everything that trains on it or scores it.

A data set is three `Examples` (train, validation, test) and the few facts a network and a score
need to know about them. Adding a data set means writing one function that returns a `Source`.

Shape letters: B batch, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Examples(Protocol):
    """A finite set of training items that can be read by index."""

    def __len__(self) -> int:
        """Count the examples."""
        ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read the examples at `indices` (B,) int64 as inputs x (B, ...) and targets y (B, ...)."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Hold examples as two tensors x (N, ...) and y (N, ...).

    Raises
    ------
    ValueError
        If x and y do not hold the same number of examples.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.x.dim() == 0 or self.y.dim() == 0:
            raise ValueError(
                f"InMemory: x has shape {tuple(self.x.shape)} and y {tuple(self.y.shape)}: "
                "expected the examples along the first dimension of both; use reshape(1, ...) for "
                "a single example"
            )
        if len(self.x) != len(self.y):
            raise ValueError(
                f"InMemory: x has {len(self.x)} examples but y has {len(self.y)}: "
                "expected one target per input; give tensors with equal first dimension"
            )

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.x)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copy the examples at `indices` (B,) int64."""
        return self.x[indices], self.y[indices]


@dataclass(frozen=True, eq=False)
class Scale:
    """Tell how normalised values become physical ones: value = mean + std * normalised.

    mean: (C,) float64, of the training part, in `units`.
    std: (C,) float64, of the training part, in `units`, positive.
    channels: the C names.
    units: text for axes and files, for example "MW"; empty where unknown.
    """

    mean: Tensor
    std: Tensor
    channels: tuple[str, ...]
    units: str

    def physical(self, normalised: Tensor) -> Tensor:
        """Convert normalised values (..., C) to physical ones (..., C), in float64."""
        mean, std = self.mean.to(normalised.device), self.std.to(normalised.device)
        return mean + std * normalised.double()


@dataclass(frozen=True, eq=False)
class Source:
    """Describe what a data set offers to training and verification.

    task: "classification" or "regression".
    input_shape: shape of the input of one example.
    output_shape: what a network must predict per example: (classes,) or (horizon, channels).
    scale: regression only: the way back to physical units.
    """

    name: str
    task: str
    train: Examples
    validation: Examples
    test: Examples
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    scale: Scale | None
