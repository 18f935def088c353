"""Negative log-likelihoods, each *expected* (the ELBO's data term) and *predictive* (of the mean
over samples).

    expected:    mean_s [ -log p(y | x, w_s) ]          separable
    predictive:  -log [ mean_s p(y | x, w_s) ]          joint, never larger than the expected one

A Gaussian's variance is a fixed number, one learned parameter, or predicted by the network: then
the outputs hold the means in the first half and raw scales in the second half of dimension 1, with
sigma = softplus(raw) + min_sigma. Its log-likelihood sums over all points of an example that have
values.

Letters: S own samples, B batch, C classes, P points.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpc_bnn.group import Group
from hpc_bnn.losses.base import (
    JointLoss,
    Loss,
    SeparableLoss,
    check_finite_sigma,
    check_finite_target,
    same_shape,
    to_float,
)
from hpc_bnn.losses.predictive import log_mean_exp
from hpc_bnn.losses.scales import location_and_scale, rescaled
from hpc_bnn.losses.weights import checked_weights, point_weights, share_of, weighted_sum

Variance = Literal["fixed", "learned", "predicted"]


class CategoricalLikelihood(nn.Module):
    """log p(y) of class indices y (B,) under logits (B, C).

    A label that is no class makes its example NaN, torch's ignore_index -100 too: a mean over some
    of the examples would depend on how ranks share them. Compared on the device, since a look at
    the labels would make a GPU wait; a step whose loss is not finite names the label
    (``check_target``).
    """

    independent = False  # outputs of an example

    def __init__(self) -> None:
        super().__init__()
        self._classes = 0  # of the last outputs

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        return target_shape

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return outputs, None

    def rescale(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        raise ValueError("categorical_nll: classes have no scale; choose a loss of numbers")

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point() or target.is_complex():
            probabilities = target.shape == output.shape
            raise ValueError(
                f"categorical_nll: targets {tuple(target.shape)} of "
                f"{str(target.dtype).removeprefix('torch.')}: expected class indices (B,) of an "
                "integer type; "
                + (
                    "give y.argmax(1), or a SeparableLoss of your own for class probabilities"
                    if probabilities
                    else "give y.long() if they are whole numbers"
                )
            )
        if output.dim() != 2 or output.shape[1] < 2 or target.shape != output.shape[:1]:
            raise ValueError(
                f"categorical_nll: logits of {tuple(output.shape)} for targets of "
                f"{tuple(target.shape)}; expected (B, classes) and (B,), at least two classes"
            )
        self._classes = output.shape[1]
        labels = target.long()
        wrong = (labels < 0) | (labels >= self._classes)
        nll = functional.cross_entropy(
            to_float(output), labels.masked_fill(wrong, 0), reduction="none"
        )
        return -nll.masked_fill(wrong, math.nan)

    def curvature(self, output: Tensor) -> Tensor:
        """Return the Hessian of -log p in the logits (B, C): diag(p) - p p^T (B, C, C), float64."""
        p = output.double().softmax(1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def check_target(self, target: Tensor) -> None:
        """Raise ValueError for the first label that is no class."""
        labels = target.long()
        wrong = ((labels < 0) | (labels >= self._classes)).nonzero()
        if len(wrong):
            example = int(wrong[0])
            raise ValueError(
                f"target {int(target[example])} "
                f"({str(target.dtype).removeprefix('torch.')}, example {example} of this rank's "
                f"batch): expected classes 0 to {self._classes - 1}; no label is left out, -100 "
                "and 255 neither: leave such examples out of the data set"
            )


class GaussianLikelihood(nn.Module):
    """log p(y) of points y (B, ...) under independent Gaussians."""

    independent = True  # outputs of an example

    def __init__(
        self,
        *,
        variance: Variance = "fixed",
        sigma: float = 1.0,
        min_sigma: float = 1e-3,
        weights: Tensor | None = None,
        present: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.weights: Tensor | None
        self.register_buffer("weights", checked_weights(weights, present), persistent=False)
        self.share = share_of(present)
        if variance not in ("fixed", "learned", "predicted"):
            raise ValueError(f"loss.variance = {variance!r}: expected fixed, learned or predicted")
        self.variance, self.min_sigma = variance, check_finite_sigma("min_sigma", min_sigma)
        log_sigma = torch.tensor(math.log(check_finite_sigma("sigma", sigma)))
        if variance == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma, persistent=False)

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.variance != "predicted":
            return target_shape
        return (2 * target_shape[0], *target_shape[1:])

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        mean, sigma = self.moments(outputs.flatten(0, 1))
        both = outputs.shape[:2]
        return torch.unflatten(mean, 0, both), torch.unflatten(sigma.expand_as(mean), 0, both)

    def moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and sigma, each of the target's shape (or sigma a scalar), from one sample's
        output (B, ...).
        """
        output = to_float(output)
        if self.variance != "predicted":
            return output, torch.exp(self.log_sigma.to(output.dtype))
        return location_and_scale(output, self.min_sigma)

    def rescale(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        """Return the output whose means and predicted scales go with other units; a fixed or a
        learned sigma is in those of the targets.
        """
        if self.variance == "predicted":
            return rescaled(output, location, scale)
        return location + scale * output

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        mean, sigma = self.moments(output)
        same_shape(mean, target, "gaussian_nll")
        z = (target - mean) / sigma
        points = -0.5 * z.square() - torch.log(sigma) - 0.5 * math.log(2 * math.pi)
        return weighted_sum(points, self.weights, self.share)

    def curvature(self, output: Tensor) -> Tensor:
        """Return the diagonal of the Hessian of -log p in the means (B, ...): their weights over
        sigma^2, float64.

        Raises
        ------
        ValueError
            If the network predicts the variance, which the means then go with.
        """
        if self.variance == "predicted":
            raise ValueError(
                "loss.variance = 'predicted': means and scales of a Gaussian have no independent "
                "curvature; expected fixed or learned"
            )
        each = torch.exp(-2 * self.log_sigma.double()).expand(output.shape)
        if self.weights is not None:
            shares = point_weights(self.weights, output, torch.float64)
            each = each * self.share * shares.view(output.shape[1:])
        return each


Likelihood = CategoricalLikelihood | GaussianLikelihood


class _Likelihood(nn.Module):
    """What both NLLs tell of their likelihood."""

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood

    def output_shape(self, target_shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.likelihood.output_shape(target_shape)

    def forecast(self, outputs: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.likelihood.forecast(outputs)

    def rescale(self, output: Tensor, location: Tensor, scale: Tensor) -> Tensor:
        return self.likelihood.rescale(output, location, scale)

    def check_target(self, target: Tensor) -> None:
        if isinstance(self.likelihood, CategoricalLikelihood):
            self.likelihood.check_target(target)
        else:
            check_finite_target(target)


class ExpectedNLL(_Likelihood, SeparableLoss):
    """Mean over weight samples of -log p(y | x, w_s)."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = -self.likelihood(output, target)
        return loss


class PredictiveNLL(_Likelihood, JointLoss):
    """-log of the mean over weight samples of p(y | x, w_s)."""

    def forward(self, outputs: Tensor, target: Tensor, axis: Group) -> Tensor:
        each = torch.stack([self.likelihood(output, target) for output in outputs])
        return -log_mean_exp(each, axis)


def categorical_nll(*, predictive: bool = False) -> Loss:
    """NLL of classes: outputs are logits (B, C), targets class indices (B,).

    Parameters
    ----------
    predictive
        False: the mean of the samples' NLL, the data term of the ELBO; true: the NLL of their mean
        probability, a joint loss.
    """
    return _nll(CategoricalLikelihood(), predictive)


def gaussian_nll(
    *,
    variance: Variance = "fixed",
    sigma: float = 1.0,
    min_sigma: float = 1e-3,
    predictive: bool = False,
    weights: Tensor | None = None,
    present: Tensor | None = None,
) -> Loss:
    """NLL of a Gaussian observation.

    Parameters
    ----------
    variance
        ``fixed``: sigma; ``learned``: one number, from sigma on; ``predicted``: by the network,
        beside each mean.
    sigma
        Fixed or initial standard deviation, in units of the target.
    min_sigma
        Smallest standard deviation that is learned or predicted.
    predictive
        False: the mean of the samples' NLL, the data term of the ELBO; true: the NLL of their
        mixture, a joint loss.
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    """
    likelihood = GaussianLikelihood(
        variance=variance, sigma=sigma, min_sigma=min_sigma, weights=weights, present=present
    )
    return _nll(likelihood, predictive)


def _nll(likelihood: Likelihood, predictive: bool) -> Loss:
    kind: Callable[[Likelihood], Loss] = PredictiveNLL if predictive else ExpectedNLL
    return kind(likelihood)
