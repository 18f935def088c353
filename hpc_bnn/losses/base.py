"""The two kinds of losses. A loss gives one number an example; means over the batch are taken
outside.

A *separable* loss is a mean over weight samples of something each sample knows by itself. A *joint*
loss needs the outputs of all samples at once; it exchanges what it needs in forward, and its
backward is the local formula, so that the gradients of all ranks of the sample axis SUM to the
gradient of the loss.

Letters: S own samples, K samples in all, B batch, C classes.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from hpc_bnn.losses.axis import SampleAxis


class _Forecasts(nn.Module):
    """What verification asks of a loss."""

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a network must give per example for targets of ``target_shape``."""
        return target_shape

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the outputs (S, B, ...) forecast: members, or means and standard deviations
        of Gaussians.
        """
        return outputs, None


class SeparableLoss(_Forecasts):
    """Base of losses whose value is the mean over samples of a per-sample loss."""

    @abstractmethod
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss (B,) of one sample's ``output`` (B, ...)."""


class JointLoss(_Forecasts):
    """Base of losses that join all weight samples.

    Attributes
    ----------
    min_samples
        Fewest samples K for which the loss is defined.
    """

    min_samples = 1

    @abstractmethod
    def forward(self, outputs: Tensor, target: Tensor, axis: SampleAxis) -> Tensor:
        """Collective over the sample axis: return the loss (B,) from the own ``outputs`` (S, B,
        ...).

        The value is the same on all ranks of the axis; its gradient covers the own samples only.
        """


Loss = SeparableLoss | JointLoss


def share_parameter(parameter: Tensor, axis: SampleAxis) -> Tensor:
    """Return ``parameter`` with 1 / size of its gradient.

    A joint loss computes its whole value on every rank of the axis. A parameter of the loss itself
    that enters after the exchange would therefore get its gradient once a rank; the shares sum to
    one.
    """
    if axis.size == 1:
        return parameter
    return parameter / axis.size + (parameter - parameter / axis.size).detach()


def check_finite_sigma(name: str, value: float) -> float:
    """Return ``value``, refusing what is not a positive number."""
    if not 0 < value < float("inf"):
        raise ValueError(f"loss.{name} = {value!r}: must be a positive number")
    return value


def flat_points(x: Tensor, keep: int) -> Tensor:
    """Flatten all dimensions after the first ``keep`` into one of points (none left: one point)."""
    return x.reshape(*x.shape[:keep], -1)


def same_shape(output: Tensor, target: Tensor, what: str) -> None:
    """Refuse an output that would be broadcast against its target."""
    if output.shape != target.shape:
        raise ValueError(
            f"{what}: the network gives {tuple(output.shape)} for targets of "
            f"{tuple(target.shape)}; they must be equal"
        )


def to_float(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32: losses are never computed in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
