"""What a batch (x, y) looks like, and where its tensors lie in a piece of memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

ALIGNED = 64  # bytes: a line of the cache, which two ranks should not write at once


@dataclass(frozen=True)
class BatchLayout:
    """Describe batches of `examples` examples.

    shapes, dtypes: of one example's x and y.
    """

    examples: int
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[torch.dtype, torch.dtype]

    @classmethod
    def like(cls, x: Tensor, y: Tensor, examples: int) -> BatchLayout:
        """Describe batches whose examples are those of x (B, ...) and y (B, ...)."""
        return cls(examples, (tuple(x.shape[1:]), tuple(y.shape[1:])), (x.dtype, y.dtype))

    @property
    def batch_bytes(self) -> int:
        """Count the bytes of x and y."""
        return sum(self._sizes)

    @property
    def slot_bytes(self) -> int:
        """Count the bytes of memory that `place` needs."""
        return sum(_up(size) for size in self._sizes)

    def place(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, ...) and y (B, ...) as views of memory (slot_bytes,) uint8."""
        first, second = self._sizes
        parts = memory[:first], memory[_up(first) : _up(first) + second]
        x, y = (
            part.view(dtype).view(self.examples, *shape)
            for part, dtype, shape in zip(parts, self.dtypes, self.shapes, strict=True)
        )
        return x, y

    def empty(self, examples: int) -> tuple[Tensor, Tensor]:
        """Return new tensors x and y for some examples, not filled."""
        x, y = (
            torch.empty((examples, *shape), dtype=dtype)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )
        return x, y

    @property
    def _sizes(self) -> tuple[int, int]:
        x, y = (
            self.examples * prod(shape) * dtype.itemsize
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )
        return x, y


def _up(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
