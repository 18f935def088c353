"""Forecasts of fields by stepping states forward: the output of one step is the input of the next.

    state(t + step) = state(t) + tendency_std * network(states up to t, forcing(t))

At points that never have a value every normalised state is 0, as in training. States are sums of
many steps: they are held in float32 at least, whatever the network runs in.

A member is one weight sample, kept through the whole forecast or drawn anew at every step, and
where the loss has an observation noise, a draw of that noise at every step. All of it is keyed by
member and lead time, what belongs to examples by their start time, too. So a member is the same
wherever it is computed.

Letters: B start times, h states of the history, C channels, F forcing channels, H latitude, W
longitude.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.config.forecast_settings import Redraw
from hpc_bnn.data.source import Fields
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.kept_draws import KeptDraws
from hpc_bnn.train.score.noise_times import HOUR_S, noise_times

DEFAULT_HOURS = 120  # of a forecast: five days

DRAWN: dict[Redraw, str] = {
    "never": "kept through the forecast",
    "each_step": "drawn anew at every step",
}

Network = Callable[[Tensor], Tensor]


class Rollout:
    """Reads states and steps them forward, all of them normalised.

    kept_bytes: of drawn weights, which are kept for the next start times.
    """

    def __init__(
        self,
        parts: Parts,
        device: torch.device,
        *,
        redraw: Redraw = "never",
        kept_bytes: int = 0,
    ) -> None:
        if parts.source.fields is None:
            raise ValueError(
                f"{parts.source.name}: forecasts are rolled out on data sets of fields only"
            )
        self.fields: Fields = parts.source.fields
        self._posterior, self._loss, self.device = parts.posterior, parts.loss, device
        self._redraw, self._perturbation = redraw, parts.perturbation
        self._draws = KeptDraws(parts.posterior, kept_bytes)
        self._network_dtype = next(parts.posterior.parameters()).dtype
        self._dtype = torch.promote_types(self._network_dtype, torch.float32)
        ratio = self.fields.tendency_std / self.fields.state_std
        self._ratio = ratio[:, None, None].to(device, self._dtype)
        present = self.fields.present
        self._absent = None if present is None else ~present.to(device)

    @property
    def step_s(self) -> int:
        """Seconds from a state to the next."""
        return self.fields.step_hours * HOUR_S

    def states(self, seconds: Tensor) -> Tensor:
        """Read the states (B, C, H, W) of times (B,).

        Raises
        ------
        ValueError
            If a time is not in the files.
        """
        times = self.fields.record.times
        at = torch.searchsorted(times, seconds).clamp(max=len(times) - 1)
        absent = seconds[times[at] != seconds]
        if len(absent):
            near = times[(times - absent[0]).abs().argmin()]
            raise ValueError(
                f"no state at {time_text(absent[0])}; the files have {time_text(times[0])} to "
                f"{time_text(times[-1])}, near it {time_text(near)}"
            )
        return self.fields.record.states(at).to(self.device, self._dtype)

    def history(self, starts: Tensor) -> Tensor:
        """Read the states (B, h, C, H, W) up to start times (B,), the oldest first."""
        # The start first: if it is missing, the message is about it.
        back = range(self.fields.history)
        newest_first = [self.states(starts - k * self.step_s) for k in back]
        return torch.stack(newest_first[::-1], 1)

    def first(self, history: Tensor, starts: Tensor, member: int) -> Tensor:
        """Return the history (B, h, C, H, W) that a member starts from: with noise of its own where
        initial states are perturbed.
        """
        if self._perturbation is None:
            return history
        seed, kind = self._posterior.seed, Purpose.PERTURBATION
        times = noise_times(starts)
        streams = [Stream(seed, kind, time.hour, member) for time in times]
        offsets = [time.offset for time in times]
        return history + self._perturbation.draw(streams, history, offsets=offsets)

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a block in which the network stays in the mode that it predicts in."""
        return self._posterior.evaluating()

    def networks(self, member: int, starts: Tensor) -> Callable[[int], Network]:
        """Return which network steps a member from start times (B,) forward, by the steps made so
        far. What is drawn once is drawn here.
        """
        positions = [time.position for time in noise_times(starts)]

        def network(redraw: int) -> Network:
            weights = self._draws.weights(member, redraw)
            return self._posterior.network(
                member, positions=positions, redraw=redraw, weights=weights
            )

        if self._redraw == "each_step":
            return network
        once = network(0)
        return lambda _: once

    def advance(
        self, history: Tensor, starts: Tensor, lead: int, member: int, network: Network
    ) -> Tensor:
        """Return the history (B, h, C, H, W) one step later.

        starts: (B,), seconds since 1970. lead: steps made so far. network: that of the member.
        """
        seconds = starts + lead * self.step_s
        forcing = self.fields.record.forcing(seconds).to(self.device, self._dtype)
        inputs = torch.cat([history.flatten(1, 2), forcing], 1)
        output = network(inputs.to(self._network_dtype)).to(self._dtype)
        mean, sigma = self._loss.forecast(output[None])
        tendency = mean[0]
        if sigma is not None:
            tendency = tendency + sigma[0] * self._noise(starts, lead, member, tendency.shape)
        newest = history[:, -1] + self._ratio * tendency
        if self._absent is not None:
            newest = newest.masked_fill(self._absent, 0.0)
        return torch.cat([history[:, 1:], newest[:, None]], 1)

    def _noise(self, starts: Tensor, lead: int, member: int, shape: torch.Size) -> Tensor:
        """Return the observation noise (B, C, H, W) of a member at one lead time."""
        points = shape[1:]
        drawn = [
            normals(
                Stream(self._posterior.seed, Purpose.OBSERVATION, time.hour, member),
                points,
                offset=time.offset + lead * points.numel(),
                device=self.device,
            )
            for time in noise_times(starts)
        ]
        return torch.stack(drawn).to(self._dtype)


def time_text(seconds: int | Tensor) -> str:
    """Return a time, seconds since 1970, as ISO 8601 text."""
    return str(np.datetime64(int(seconds), "s")).removesuffix(":00")
