"""Train on forecasts of several steps: the output of a step is part of the input of the next.

    state_l = state_(l-1) + ratio * tendency_l,      tendency_l = first C channels of the network's
    y_l     = tendency_1 + ... + tendency_l          output on states up to l - 1 and forcing_(l-1)

as ``Rollout`` steps a forecast, with the same drawn weights at every step or with weights of each
step (``StepSettings.redraw``). At points that never
have a value every state is 0, as in the windows, whatever the network says there. y_l is the change
since the start, which the windows hold as the target of lead time l; further channels of the
output, such as a predicted variance, are those of step l. States and changes are sums: they add up
in float32 at least, whatever the network runs in. Each lead time is scored as one more
example, so the objective is the mean over lead times of the loss of one step.

All steps but the last are run again in backward instead of keeping their activations: the memory of
one step and the states between them.

Letters: S samples of one pass, B examples, n steps, h states of the history, C channels, C'
channels of the output, F forcing channels, H latitude, W longitude.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hpc_bnn.data.source import Fields
from hpc_bnn.losses.base import to_float

# x, whether it holds one batch a sample, steps made so far -> (S, B, ...)
Network = Callable[[Tensor, bool, int], Tensor]
Contexts = Callable[[], tuple[AbstractContextManager[object], AbstractContextManager[object]]]


class Unroll:
    """Run a network along the steps that an input has forcing for.

    An input of n steps (B, h C + F + (n - 1) max(F, 1), H, W) is that of one step, then the forcing
    of the later ones: one channel each where there is none, to tell n.
    """

    def __init__(self, fields: Fields) -> None:
        self._channels, forced = len(fields.channels), len(fields.forcing)
        self._states = self._channels * fields.history
        self._forced, self._per_step = forced, max(1, forced)
        self._ratio = (fields.tendency_std / fields.state_std)[:, None, None]
        self._absent = None if fields.present is None else ~fields.present

    def steps(self, x: Tensor) -> int:
        """Return n of an input (..., channels, H, W)."""
        more = x.shape[-3] - self._states - self._forced
        if more < 0 or more % self._per_step:
            raise ValueError(
                f"an input of {x.shape[-3]} channels: expected {self._states + self._forced}, and "
                f"{self._per_step} more for each step of a rollout after the first"
            )
        return 1 + more // self._per_step

    def __call__(self, x: Tensor, network: Network, *, views: bool, contexts: Contexts) -> Tensor:
        """Return the outputs (S, B n, C', H, W) for ``x`` (B, ...), or with ``views`` (S, B, ...),
        the lead times of an example one after the other.

        contexts: what surrounds the forward pass of a step and its repetition in backward.
        """
        steps = self.steps(x)
        if steps == 1:
            return network(x, views, 0)
        states = to_float(x[..., : self._states, :, :])
        ratio = self._ratio = self._ratio.to(states)
        if self._absent is not None and self._absent.device != x.device:
            self._absent = self._absent.to(x.device)
        history, inputs = states, x[..., : self._states + self._forced, :, :]
        change, outputs = torch.zeros((), dtype=states.dtype, device=x.device), []
        for step in range(steps):
            own_states = views or step > 0
            if step < steps - 1 and torch.is_grad_enabled():
                output: Tensor = checkpoint(
                    network,
                    inputs,
                    own_states,
                    step,
                    use_reentrant=False,
                    preserve_rng_state=False,  # the noise is keyed
                    context_fn=contexts,
                )
            else:
                output = network(inputs, own_states, step)
            # A sum of two types has the smaller one where the other is a scalar, as ``change`` is.
            tendency, further = output.to(states.dtype).tensor_split([self._channels], 2)
            change = change + tendency
            outputs.append(torch.cat([change, further], 2))
            if step == steps - 1:
                break
            newest = history[..., -self._channels :, :, :] + ratio * tendency
            if self._absent is not None:
                newest = newest.masked_fill(self._absent, 0.0)
            older = history[..., self._channels :, :, :]
            history = torch.cat([older.expand(*newest.shape[:2], *older.shape[-3:]), newest], 2)
            forcing = self._forcing(x, step + 1)
            forcing = forcing.expand(*newest.shape[:2], *forcing.shape[-3:])
            inputs = torch.cat([history.to(x.dtype), forcing], 2)
        return torch.stack(outputs, 2).flatten(1, 2)

    def targets(self, y: Tensor) -> Tensor:
        """Return targets (B, n, C, H, W) as (B n, C, H, W), and those of one step as they are."""
        return y.flatten(0, 1) if y.dim() == 5 else y

    def lengthened(self, x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return a batch of one step with the shapes of a rollout, for what needs no numbers."""
        if steps == 1:
            return x, y
        later = x[:, :1].expand(-1, (steps - 1) * self._per_step, -1, -1)
        return torch.cat([x, later], 1), torch.stack([y] * steps, 1)

    def _forcing(self, x: Tensor, step: int) -> Tensor:
        """Return the forcing (..., F, H, W) of a step after the first."""
        first = self._states + self._forced + (step - 1) * self._per_step
        return x[..., first : first + self._forced, :, :]
