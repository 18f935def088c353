"""Train on states that are wrong by keyed noise, as those that forecasts begin with.

    x' = x + noise            at all states of the history
    y' = y + noise * state_std / tendency_std

y' is the output on x' plus what the start is wrong by, in units of the change: so the change that
is learned leads from a wrong state to the true one, at every lead time of a rollout. Where every
step of a rollout has noise of its own, that is so at each: the noise is part of the state after
the step, not of the one before it.

Letters: S samples of one pass, B examples, n steps, h states of the history, C channels, C'
channels of the output, H latitude, W longitude.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hpc_bnn.bayes.noise import Key, Purpose, Stream
from hpc_bnn.data.source import Fields
from hpc_bnn.fields.perturb.perturbation import Perturbation

OnSamples = Callable[[Tensor], Tensor]  # of a batch of each sample


class InputNoise:
    """Noise of its own for each weight sample and example of a training step, or of what else
    ``purpose`` says.
    """

    def __init__(
        self,
        perturbation: Perturbation,
        fields: Fields,
        *,
        purpose: Purpose = Purpose.PERTURBED_INPUT,
    ) -> None:
        self._perturbation, self._history, self._purpose = perturbation, fields.history, purpose
        self._per_change = (fields.state_std / fields.tendency_std)[:, None, None]

    @property
    def each_step(self) -> bool:
        """Whether the states of every lead time have noise of their own, else the first only."""
        return self._perturbation.each_step

    def around(self, network: OnSamples, x: Tensor, key: Key, *, first: int) -> Tensor:
        """Return the outputs (S, B n, C', H, W) of ``network``, which takes (S, B, channels, H, W),
        on states with noise, as changes of the states without; ``first``: see ``draw``.
        """
        noise = self.draw(key, like=x, first=first)
        return self.outputs(network(self.inputs(x, noise)), noise)

    def around_places(
        self, network: OnSamples, x: Tensor, key: Key, places: Sequence[int]
    ) -> Tensor:
        """Do what ``around`` does, of examples (B,) anywhere in what the noise is of."""
        each = [self.draw(key, like=x[i : i + 1], first=at) for i, at in enumerate(places)]
        noise = torch.cat(each, 1)
        return self.outputs(network(self.inputs(x, noise)), noise)

    def draw(self, key: Key, *, like: Tensor, first: int) -> Tensor:
        """Return the noise (S, B, C, H, W) of a pass over inputs ``like`` (..., B, channels, H, W),
        the first of which is ``first`` of the global batch.
        """
        kind, examples = self._purpose, like.shape[-4]
        streams = [Stream(key.seed, kind, key.step, sample) for sample in key.samples]
        return self._perturbation.draw(streams, like, first=first, number=examples)

    def inputs(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return ``x`` (B, channels, H, W), or (S, B, channels, H, W), with noise on its states, of
        each sample (S, B, channels, H, W).
        """
        wrong = torch.cat([noise] * self._history, 2)
        return x + functional.pad(wrong, (0, 0, 0, 0, 0, x.shape[-3] - wrong.shape[2]))

    def outputs(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Return outputs (S, B n, C', H, W) as changes of the true start."""
        self._per_change = self._per_change.to(noise.device)
        change = (noise * self._per_change).to(noise.dtype)
        change = change.repeat_interleave(outputs.shape[1] // noise.shape[1], 1)
        more = outputs.shape[2] - change.shape[2]
        return outputs + functional.pad(change, (0, 0, 0, 0, 0, more))
