"""What a trained run predicts for inputs of today: series in their own units, classes with what is
not known of them.

Letters: K weight samples, B examples, P rows of the horizon, C channels or classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.data.source import Scale
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.scoring import as_input
from hpc_bnn.verify.class_tally import entropies
from hpc_bnn.verify.recalibration import Recalibration
from hpc_bnn.verify.scores import ensemble_quantile, mixture_quantile


@dataclass(frozen=True, eq=False)
class SeriesPrediction:
    """The rows that follow, in the units of the data.

    Attributes
    ----------
    mean
        (K, B, P, C) of each weight sample.
    sigma
        (K, B, P, C), the standard deviation of what is observed around it; None where the loss
        knows none.
    samples
        (K, B, P, C): one draw of what is observed for each weight sample.
    """

    mean: Tensor
    sigma: Tensor | None
    samples: Tensor

    def quantile(self, probability: float) -> Tensor:
        """Return a quantile (B, P, C) of all weight samples together."""
        if self.sigma is None:
            return ensemble_quantile(self.mean, probability)
        return mixture_quantile(self.mean, self.sigma, probability)

    def std(self) -> Tensor:
        """Return the standard deviation (B, P, C) of all together."""
        variance = self.mean.var(0, correction=0)
        return (variance if self.sigma is None else variance + self.sigma.square().mean(0)).sqrt()

    def recalibrated(self, recalibration: Recalibration) -> "SeriesPrediction":
        """Return the prediction with the spread that covers the validation split as it should."""
        mean, sigma = recalibration.apply(self.mean, self.sigma)
        samples = recalibration.stretched(self.samples, self.mean.mean(0))
        return SeriesPrediction(mean, sigma, samples)


@dataclass(frozen=True, eq=False)
class ClassPrediction:
    """Classes and how certain they are.

    Attributes
    ----------
    log_probabilities
        (K, B, C) of each weight sample.
    """

    log_probabilities: Tensor

    @property
    def probabilities(self) -> Tensor:
        """The mean (B, C) over the weight samples."""
        return self.log_probabilities.exp().mean(0)

    @property
    def entropy(self) -> Tensor:
        """Of the mean (B,), in nats: all that is uncertain."""
        return entropies(self.log_probabilities)[0]

    @property
    def mutual_information(self) -> Tensor:
        """Of class and weights (B,), in nats: what more data could tell."""
        return entropies(self.log_probabilities)[1]


Prediction = SeriesPrediction | ClassPrediction


def predict_inputs(
    parts: Parts, x: Tensor, samples: range, *, positions: Sequence[int], device: torch.device
) -> Prediction:
    """Return what the weight samples ``samples`` predict for inputs x (B, ...), on the CPU.

    positions: (B,) of all that is predicted, which key the noise: a prediction is the same however
    it is shared out.
    """
    posterior, scale = parts.posterior, parts.source.scale
    x = as_input(posterior, x, device)
    outputs = posterior.predict(
        x, samples=len(samples), first=samples.start, positions=list(positions)
    )
    mean, sigma = parts.loss.forecast(outputs)
    if parts.source.task == "classification":
        return ClassPrediction(torch.log_softmax(mean.double().cpu(), -1))
    return observed(
        mean.cpu(),
        None if sigma is None else sigma.cpu(),
        samples,
        positions,
        scale=scale,
        seed=posterior.seed,
    )


def observed(
    mean: Tensor,
    sigma: Tensor | None,
    samples: range,
    positions: Sequence[int],
    *,
    scale: Scale | None,
    seed: int,
) -> SeriesPrediction:
    """Return the prediction in physical units of means and standard deviations (S, B, P, C)."""
    if scale is not None:
        mean, sigma = scale.physical(mean), None if sigma is None else scale.spread(sigma)
    if sigma is None:
        return SeriesPrediction(mean, None, mean)
    noise = [
        [normals(Stream(seed, Purpose.OBSERVATION, at, k), mean.shape[2:]) for at in positions]
        for k in samples
    ]
    eps = torch.stack([torch.stack(of_one) for of_one in noise])
    return SeriesPrediction(mean, sigma, mean + sigma * eps)


def joined(predictions: Sequence[Prediction], dim: int) -> Prediction:
    """Return several predictions as one: of all weight samples (``dim`` 0), or of all examples (1),
    in their order.
    """
    if isinstance(predictions[0], ClassPrediction):
        parts = [p.log_probabilities for p in predictions if isinstance(p, ClassPrediction)]
        return ClassPrediction(torch.cat(parts, dim))
    series = [each for each in predictions if isinstance(each, SeriesPrediction)]
    sigmas = [each.sigma for each in series if each.sigma is not None]
    return SeriesPrediction(
        torch.cat([each.mean for each in series], dim),
        torch.cat(sigmas, dim) if sigmas else None,
        torch.cat([each.samples for each in series], dim),
    )
