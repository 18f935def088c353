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

from hpc_bnn.group import Group


class _Forecasts(nn.Module):
    """What verification asks of a loss.

    Attributes
    ----------
    examples_apart
        It was seen that the loss of an example depends on that example alone (``each_example``).
    """

    examples_apart = False

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a network must give per example for targets of ``target_shape``."""
        return target_shape

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the outputs (S, B, ...) forecast: members, or means and standard deviations
        of Gaussians.
        """
        return outputs, None

    def rescale(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        """Return the output (B, ...) of one sample that forecasts location + scale * y where
        ``output`` forecasts y: how a network answers that is given inputs normalised one by one.
        """
        return location + scale * output

    def check_target(self, target: Tensor) -> None:
        """Raise ValueError for a target of which no loss can be finite: asked where one is not."""
        check_finite_target(target)


class SeparableLoss(_Forecasts):
    """Base of losses whose value is the mean over samples of a per-sample loss."""

    @abstractmethod
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss (B,) of one sample's ``output`` (B, ...)."""

    def target_of(self, target: Tensor, sample: int) -> Tensor:
        """Return the targets (B, ...) of a weight sample, by its global index."""
        return target


class JointLoss(_Forecasts):
    """Base of losses that join all weight samples.

    Attributes
    ----------
    min_samples
        Fewest samples K for which the loss is defined.
    """

    min_samples = 1

    @abstractmethod
    def forward(self, outputs: Tensor, target: Tensor, axis: Group) -> Tensor:
        """Collective over the sample axis: return the loss (B,) from the own ``outputs`` (S, B,
        ...).

        The value is the same on all ranks of the axis; its gradient covers the own samples only.
        """


Loss = SeparableLoss | JointLoss


# What to give in place of a torch loss of the same purpose.
_BUILT_IN = {
    "CrossEntropyLoss": "categorical_nll()",
    "NLLLoss": "categorical_nll(), on logits",
    "MSELoss": "mse(), or of a posterior gaussian_nll(sigma=...): the squared error / (2 sigma^2), "
    "summed over the points",
    "GaussianNLLLoss": "gaussian_nll(variance='predicted')",
    "L1Loss": "mae()",
    "BCEWithLogitsLoss": "categorical_nll(), on two logits",
    "BCELoss": "categorical_nll(), on two logits",
}


def require_loss(loss: object) -> None:
    """Raise TypeError unless ``loss`` is one of the two kinds, saying which to give instead."""
    if isinstance(loss, SeparableLoss | JointLoss):
        return
    name = getattr(loss, "__name__", type(loss).__name__)
    inside = "hpc_bnn.losses" in (getattr(loss, "__module__", None) or "")
    if inside or (isinstance(loss, type) and issubclass(loss, SeparableLoss | JointLoss)):
        raise TypeError(f"loss = {name}: makes a loss when it is called; give {name}(...)")
    similar = f"hb.losses.{_BUILT_IN[name]}" if name in _BUILT_IN else "one of hb.losses"
    raise TypeError(
        f"loss = {name}: a mean over the batch cannot be split over ranks and weight samples; "
        f"give {similar}, or a subclass of hb.losses.SeparableLoss whose forward(output, target) "
        "returns one number an example, (B,)"
    )


def share_parameter(parameter: Tensor, axis: Group) -> Tensor:
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


def check_finite_target(target: Tensor) -> None:
    """Raise ValueError for the first example whose target is not finite."""
    if not target.is_floating_point():
        return
    bad = ~target.isfinite()
    if bool(bad.any()):
        example = int(bad.reshape(len(bad), -1).any(1).nonzero()[0])
        raise ValueError(
            f"target of example {example} of this rank's batch holds {int(bad[example].sum())} "
            f"numbers that are not finite, such as {float(target[bad][0])}; correct it or leave "
            "it out of the data set"
        )


def flat_points(x: Tensor, keep: int) -> Tensor:
    """Flatten all dimensions after the first ``keep`` into one of points (none left: one point)."""
    return x.reshape(*x.shape[:keep], -1)


def same_shape(output: Tensor, target: Tensor, what: str) -> None:
    """Refuse an output that would be broadcast against its target, and what is no real number."""
    for name, tensor in (("outputs", output), ("targets", target)):
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(
                f"{what}: {name} are {str(tensor.dtype).removeprefix('torch.')}: expected real "
                "numbers; give the parts of complex numbers as channels, and classes to "
                "categorical_nll"
            )
    if output.shape != target.shape:
        raise ValueError(
            f"{what}: the network gives {tuple(output.shape)} for targets of "
            f"{tuple(target.shape)}; they must be equal"
        )


def to_float(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32: losses are never computed in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
