"""Bands of one channel of forecasts in physical units: what is scored at a time.

Forecasts are held normalised, in the type that they were computed in; only a band of them becomes
float64, on the device that scores it.

Letters: M members, B start times, C channels, H latitude, W longitude, h rows of a band.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Purpose, Stream, uniforms
from hpc_bnn.data.source import Fields
from hpc_bnn.train.score.noise_times import HOURS_BEFORE_1970, noise_times
from hpc_bnn.verify.climatology import Climatology
from hpc_bnn.verify.field_sums import FieldForecasts

BAND_BYTES = 1 << 24  # of the members of a band, in float64; scoring takes some times that


def rows_at_once(members: int, starts: int, columns: int) -> int:
    """Return the rows of a band, at least 1."""
    return max(1, BAND_BYTES // (8 * members * starts * columns))


@dataclass(frozen=True, eq=False)
class HeldForecasts:
    """All members at one lead time, normalised.

    fields: what they are forecasts of. device: that scores them.
    members: M of (B, C, H, W). truth, persistence: (B, C, H, W). valid: (B,), seconds since 1970.
    """

    fields: Fields
    climatology: Climatology
    device: torch.device
    members: Sequence[Tensor]
    truth: Tensor
    persistence: Tensor
    valid: Tensor

    def bands(self, channel: int) -> Iterator[tuple[slice, FieldForecasts]]:
        """Return bands of all rows of a channel, from north to south."""
        starts, _, height, width = self.truth.shape
        rows = rows_at_once(len(self.members), starts, width)
        for first in range(0, height, rows):
            band = slice(first, min(height, first + rows))
            yield band, self._band(channel, band)

    def _band(self, channel: int, rows: slice) -> FieldForecasts:
        mean, std = self.fields.state_mean[channel], self.fields.state_std[channel]

        def physical(states: Tensor) -> Tensor:
            """Return normalised states (..., h, W) in the units of the channel, float64."""
            return mean.to(states.device) + std.to(states.device) * states.double()

        def of_states(states: Tensor) -> Tensor:
            return physical(states[:, channel, rows].to(self.device))

        truth = of_states(self.truth)
        members = truth.new_empty(len(self.members), *truth.shape)
        for out, member in zip(members, self.members, strict=True):
            out.copy_(of_states(member))
        expected = self.climatology.mean_of(self.valid, channel, rows)
        std_there = self.climatology.std[channel, rows]
        # Where the training never changed, its state to the bit, which is float32 in a pack: a
        # truth that lies above by the rounding of a sum alone is no event.
        expected = torch.where(std_there == 0, expected.float().double(), expected)
        return FieldForecasts(
            members=members,
            truth=truth,
            persistence=of_states(self.persistence),
            climatology=physical(expected.to(self.device)),
            climatology_std=(std_there * std).to(self.device),
            uniforms=self._ties(channel, rows).to(self.device),
        )

    def _ties(self, channel: int, rows: slice) -> Tensor:
        """Return what breaks ties of ranks (B, h, W): a function of valid time and point."""
        height, width = self.truth.shape[2:]
        offset = (channel * height + rows.start) * width
        shape = (rows.stop - rows.start, width)
        drawn = []
        for time in noise_times(self.valid):
            stream = Stream(0, Purpose.OBSERVATION, (time.hour - HOURS_BEFORE_1970) % 2**32)
            drawn.append(uniforms(stream, shape, offset=time.offset + offset))
        return torch.stack(drawn)
