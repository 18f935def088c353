"""The contract between a data set and everything that trains on it or scores it.

A data set is three `Examples` (train, validation, test) and the few facts a network and a score
need to know about them. Adding a data set means writing one function that returns a `Source`.

Shape letters: B batch, C channels; of fields: F forcing channels, H latitude, W longitude, T time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

BEYOND = 1e15  # no value of any variable in any units is so large; fill values of models are 1e20


class Examples(Protocol):
    """A finite set of training items that can be read by index."""

    def __len__(self) -> int:
        """Count the examples."""
        ...

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read the examples at `indices` (B,) int64 as inputs x (B, ...) and targets y (B, ...)."""
        ...


class RolloutExamples(Examples, Protocol):
    """Examples with targets of several steps."""

    def batch(self, indices: Tensor, rollout: int = 1) -> tuple[Tensor, Tensor]:
        """Read examples for so many steps: y (B, ...) of one step, (B, rollout, ...) of several."""
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

    def spread(self, sigma: Tensor) -> Tensor:
        """Convert standard deviations (..., C) of normalised values to `units`, in float64."""
        return self.std.to(sigma.device) * sigma.double()


@dataclass(frozen=True, eq=False)
class Pixels:
    """Tell how images become inputs: x = (white * value - mean) / std, value from 0 to 1.

    mean, std: (C, 1, 1) or (C, H, W), of the training part; x has their type.
    white: what the data set calls the brightest value, such as 255.
    """

    mean: Tensor
    std: Tensor
    white: float

    def inputs(self, images: Tensor) -> Tensor:
        """Convert images (B, C, H, W), uint8 or values from 0 to 1, to inputs float32."""
        unit = self.white / 255 if images.dtype == torch.uint8 else self.white
        return ((images.to(self.mean.dtype) * unit - self.mean) / self.std).float()


class FieldRecord(Protocol):
    """What a data set of fields can read besides examples, so that a forecast can be rolled out.

    times: (T,) int64, seconds since 1970-01-01T00:00 UTC, sorted.
    """

    times: Tensor

    def states(self, indices: Tensor) -> Tensor:
        """Read the normalised states (B, C, H, W) float32 at positions (B,) in `times`; 0 where
        there is never a value.
        """
        ...

    def forcing(self, seconds: Tensor) -> Tensor:
        """Return the forcing (B, F, H, W) float32 of any times (B,), seconds since 1970."""
        ...


@dataclass(frozen=True)
class FieldChannel:
    """Describe one variable on one level.

    name: such as "t2m" or "z500". units: such as "K".
    level_hpa: pressure level, None at the surface.
    vector: a component of a horizontal vector.
    """

    name: str
    units: str
    standard_name: str
    long_name: str
    level_hpa: float | None
    vector: bool


@dataclass(frozen=True, eq=False)
class Fields:
    """Describe fields on a latitude-longitude grid and the way back to physical units.

    Inputs x are h states, the oldest first, then the forcing; targets y are normalised tendencies:

        state = mean + state_std * x[C (h - 1) : C h]
        next state = state + tendency_std * y

    channels: the C channels of a state.
    latitude: (H,) float64, north to south; longitude: (W,) float64, eastward.
    periodic: global: the longitudes close a circle and the rows reach both poles.
    history: h, states in the input.
    forcing: names of the F input channels that are not predicted.
    state_mean, state_std, tendency_std: (C,) float64, of the training part, in `units`.
    step_hours: from a state to the next.
    train_times, test_times: (n,) int64, the times of the newest input of all training and test
        windows of one step, seconds since 1970, sorted.
    present: (C, H, W) bool, the points that have values, the same at all times; None where all
        have. At the others a normalised state and its change hold 0; no loss or score counts them.
    files: those that the states are read from, which no output may replace.
    """

    channels: tuple[FieldChannel, ...]
    latitude: Tensor
    longitude: Tensor
    periodic: bool
    history: int
    forcing: tuple[str, ...]
    state_mean: Tensor
    state_std: Tensor
    tendency_std: Tensor
    step_hours: int
    train_times: Tensor
    test_times: Tensor
    record: FieldRecord
    present: Tensor | None = None
    files: tuple[str, ...] = ()

    @property
    def vector_inputs(self) -> tuple[int, ...]:
        """The input channels that are components of a horizontal vector."""
        states = self.channels * self.history
        return tuple(i for i, channel in enumerate(states) if channel.vector)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the channels."""
        return tuple(channel.name for channel in self.channels)

    def physical(self, states: Tensor) -> Tensor:
        """Convert normalised states (..., C, H, W) to the units of the channels, in float64; NaN at
        points without values.
        """
        mean, std = (x.to(states.device)[:, None, None] for x in (self.state_mean, self.state_std))
        values = mean + std * states.double()
        if self.present is None:
            return values
        return values.masked_fill_(~self.present.to(states.device), torch.nan)


Normalisation = Literal["training", "window", "window_last"]


@dataclass(frozen=True)
class WindowLayout:
    """Describe the inputs of a series: the history (H, C) first, what is known of the targets next.

    history, channels: H and C.
    normalize: what the network is given and gives. "training": values by the mean and the standard
        deviation of the training part, as examples hold them. "window": by those of the history of
        each window; "window_last": its last value in place of its mean.
    step_s: seconds from one row to the next; None: not known, of a run that did not keep it.
    instants: whether times are instants (they have an offset or a zone) and not what some clock
        showed; None: not known.
    """

    history: int
    channels: int
    normalize: Normalisation = "training"
    step_s: float | None = None
    instants: bool | None = None


# Means (S, B, ...) of inputs x (B, ...) under S weight samples, and standard deviations if any.
Forecast = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class Report(Protocol):
    """What evaluation tells of a data set beyond the scores of its task."""

    def tally(self) -> Any:
        """Return an empty tally of ``hpc_bnn.verify`` for the test split."""

    def details(self, tally: Any) -> dict[str, Any]:
        """Return what ``evaluation.json`` holds besides the scores."""

    def draw(self, plots: Path, tally: Any, forecast: Forecast) -> None:
        """Draw pictures into the folder; ``forecast`` gives normalised values."""


@dataclass(frozen=True, eq=False)
class Source:
    """Describe what a data set offers to training and verification.

    task: "classification" or "regression".
    input_shape: shape of the input of one example.
    output_shape: what a network must predict per example: (classes,) or (horizon, channels).
    scale: regression only: the way back to physical units, one mean and std a channel.
    pixels: of images only. classes: their names, where there are some.
    fields: of fields on a grid only, which have no `scale`.
    window: of series only.
    report: makes the report of the source; what draws is imported then, not before.
    """

    name: str
    task: str
    train: Examples
    validation: Examples
    test: Examples
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    scale: Scale | None
    fields: Fields | None = None
    report: Callable[[Source], Report] | None = None
    window: WindowLayout | None = None
    pixels: Pixels | None = None
    classes: tuple[str, ...] = ()

    @property
    def score_units(self) -> str:
        """The units of scores of single examples; empty where there are none or not known."""
        if self.fields is not None:
            return "standard deviations of the change in a step"
        return "" if self.scale is None else self.scale.units
