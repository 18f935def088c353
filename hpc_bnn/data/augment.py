"""Random views of a batch as pure functions of (x, u): no generator, no state.

The caller supplies the uniforms u in [0, 1), keyed as it likes (per weight sample, per rank or
shared), so the same u gives the same view on any grid of ranks. `augmentation.count(shape)` says
how many uniforms one example of that shape needs. Everything is a batched gather; nothing loops
over examples.

Shape letters: B batch, C channels, H image height, W image width, U uniforms per example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Augmentation(Protocol):
    """A random view that is a function of the batch and of given uniforms."""

    def count(self, shape: tuple[int, ...]) -> int:
        """Say how many uniforms U one example of `shape` (without the batch dimension) needs."""
        ...

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Return the view (B, ...) of x (B, ...) that u (B, U) in [0, 1) selects."""
        ...


@dataclass(frozen=True)
class Shift:
    """Move each image by up to `pixels` along both axes, zeros moving in.

    The (2 * pixels + 1)^2 translations are equally likely. Zero is the mean of a standardised
    image.

    Parameters
    ----------
    pixels
        Farthest move.
    """

    pixels: int

    def __post_init__(self) -> None:
        _require_count("shift", "pixels", self.pixels)

    def count(self, shape: tuple[int, ...]) -> int:
        """Two uniforms: down, right."""
        return 2

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Translate x (B, C, H, W) by u (B, 2)."""
        _require_images("shift", x, self.pixels)
        _require_uniforms("shift", x, u, self.count(tuple(x.shape[1:])))
        return _translate(x, _offset(u[:, 0], self.pixels), _offset(u[:, 1], self.pixels))


@dataclass(frozen=True)
class CropFlip:
    """Pad by `padding` zeros, crop at a random place, and mirror left-right every other time.

    The usual augmentation of CIFAR (He et al. 2016, section 4.2, with padding 4).

    Parameters
    ----------
    padding
        Pixels on each side.
    """

    padding: int

    def __post_init__(self) -> None:
        _require_count("crop_flip", "padding", self.padding)

    def count(self, shape: tuple[int, ...]) -> int:
        """Three uniforms: down, right, mirror."""
        return 3

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Crop and mirror x (B, C, H, W) by u (B, 3)."""
        _require_images("crop_flip", x, self.padding)
        _require_uniforms("crop_flip", x, u, self.count(tuple(x.shape[1:])))
        moved = _translate(x, _offset(u[:, 0], self.padding), _offset(u[:, 1], self.padding))
        mirror = (u[:, 2] < 0.5).reshape(-1, 1, 1, 1)
        return torch.where(mirror, moved.flip(-1), moved)


@dataclass(frozen=True)
class Jitter:
    """Add N(0, sigma^2) noise to every value, for (normalised) series.

    The noise is the inverse normal cdf of the uniforms, each moved to the middle of its 2^-24 cell
    so that u = 0 is finite and the noise is symmetric: |noise| <= 5.42 sigma.

    Parameters
    ----------
    sigma
        Standard deviation, in units of the (normalised) values.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(
                f"jitter: sigma = {self.sigma}: expected a finite number >= 0; "
                "it is in units of the normalised values, 0.05 is a mild choice"
            )

    def count(self, shape: tuple[int, ...]) -> int:
        """One uniform per value of the example."""
        return math.prod(shape)

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        """Add noise to x (B, ...) floating by u (B, number of values per example)."""
        if not x.is_floating_point():
            raise ValueError(
                f"jitter: x is {x.dtype}: expected floating point values; normalise the batch first"
            )
        _require_uniforms("jitter", x, u, self.count(tuple(x.shape[1:])))
        middle = (u.double() + 2.0**-25).clamp(max=1 - 2.0**-25)
        noise: Tensor = self.sigma * torch.special.ndtri(middle)
        return x + noise.to(x.dtype).reshape(x.shape)


def _offset(u: Tensor, largest: int) -> Tensor:
    """Map u (B,) in [0, 1) to equally likely integers (B,) from -largest to largest."""
    choices = 2 * largest + 1
    return (u * choices).floor().long().clamp(0, choices - 1) - largest


def _translate(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move image b of x (B, C, H, W) by down[b] rows and right[b] columns; zeros move in."""
    batch, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) - down.reshape(batch, 1)
    columns = torch.arange(width, device=x.device) - right.reshape(batch, 1)
    inside_rows = (rows >= 0) & (rows < height)
    inside_columns = (columns >= 0) & (columns < width)
    from_rows = rows.clamp(0, height - 1).reshape(batch, 1, height, 1).expand(x.shape)
    from_columns = columns.clamp(0, width - 1).reshape(batch, 1, 1, width).expand(x.shape)
    moved = x.gather(2, from_rows).gather(3, from_columns)
    inside = inside_rows.reshape(batch, 1, height, 1) & inside_columns.reshape(batch, 1, 1, width)
    # where, not a product: a product would turn an infinite pixel that left the image into NaN.
    return torch.where(inside, moved, torch.zeros((), dtype=x.dtype, device=x.device))


def _require_count(name: str, field: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(
            f"{name}: {field} = {value!r}: expected an integer >= 0; 4 is usual for 32 x 32 images"
        )


def _require_images(name: str, x: Tensor, largest: int) -> None:
    if x.dim() != 4:
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)}: expected images (B, C, H, W); "
            "use jitter for series"
        )
    if largest >= min(x.shape[2:]):
        raise ValueError(
            f"{name}: moving by up to {largest} pixels can empty images of {x.shape[2]} x "
            f"{x.shape[3]}: expected at most {min(x.shape[2:]) - 1}; set a smaller number"
        )


def _require_uniforms(name: str, x: Tensor, u: Tensor, count: int) -> None:
    if tuple(u.shape) != (x.shape[0], count):
        raise ValueError(
            f"{name}: u has shape {tuple(u.shape)}: expected ({x.shape[0]}, {count}), "
            "one row per example of x and count(shape of one example) columns"
        )


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "crop_flip": CropFlip,
    "jitter": Jitter,
    "shift": Shift,
}
