"""Inputs that do not belong to a data set: does the network notice?

A calibrated network is less certain of them than of its own test examples. Both kinds keep the
mean and the standard deviation of the inputs, so that their size alone does not give them away.

Shape letters: B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Purpose, Stream, normals, uniforms
from hpc_bnn.data.source import Examples


@dataclass(frozen=True, eq=False)
class _OfExamples:
    """One foreign example for each of a data set."""

    examples: Examples

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.examples)


class Noise(_OfExamples):
    """Offer as many examples of independent standard normal values, with the targets of others."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Make the inputs at `indices` (B,) int64, each by its index alone."""
        x, y = self.examples.batch(indices)
        made = [normals(_stream(index), tuple(x.shape[1:])) for index in indices.tolist()]
        return torch.stack(made).to(x.dtype), y


class Shuffled(_OfExamples):
    """Offer the examples with the values of each input in a random order of its own."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read the examples at `indices` (B,) int64 and shuffle each by its index alone."""
        x, y = self.examples.batch(indices)
        values = x.flatten(1)
        keys = [uniforms(_stream(index), (values.shape[1],)) for index in indices.tolist()]
        order = torch.stack(keys).argsort(dim=1, stable=True)
        return values.gather(1, order).reshape(x.shape), y


class Shifted(_OfExamples):
    """Offer images rolled by half their height and width: what was the middle is at the corners."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read the images (B, C, H, W) at `indices` (B,) int64 and roll them."""
        x, y = self.examples.batch(indices)
        return x.roll([x.shape[-2] // 2, x.shape[-1] // 2], dims=[-2, -1]), y


FOREIGN: dict[str, Callable[[Examples], Examples]] = {
    "noise": Noise,
    "shuffled": Shuffled,
    "shifted": Shifted,
}


def _stream(index: int) -> Stream:
    return Stream(0, Purpose.FOREIGN, 0, index)
