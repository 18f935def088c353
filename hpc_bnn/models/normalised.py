"""A network on series whose windows are normalised one by one, and put back behind it:

    y = m + s f((x - m) / s),    s^2 = variance of the history + FLOOR^2

with m the mean of the history of a window and channel, or its last value. Levels and spreads that
drift, between training and test as well, are then none of the network's business. Values known
beforehand, such as of a calendar, go through as they are.

Letters: B batch, H history rows, C channels, P rows that are forecast.
Source: Kim et al. 2022 (RevIN, ICLR); Zeng et al. 2023, doi:10.1609/aaai.v37i9.26317 (last value).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# In standard deviations of the training part: below it a window counts as constant. Of the values
# 0.05 and 0.2 the validation split of ETTh2 has the better likelihood with this one.
FLOOR = 0.2
Rescale = Callable[[Tensor, Tensor, Tensor], Tensor]


class NormalisedWindows(nn.Module):
    """Run ``network`` on windows (B, H, C), or (B, H C + ...), normalised by their own history.

    Parameters
    ----------
    history, channels
        H and C.
    last
        Subtract the last value in place of the mean.
    rescale
        (output, location, scale) -> output in units of the input, with location and scale
        (B, 1, C): a loss knows what in an output has which unit.
    """

    def __init__(
        self,
        network: nn.Module,
        history: int,
        channels: int,
        *,
        last: bool,
        rescale: Rescale,
    ) -> None:
        super().__init__()
        self.network = network
        self._history, self._channels, self._last = history, channels, last
        self._rescale = rescale

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, P, C) of the network, put back."""
        past, known = x.flatten(1).tensor_split([self._history * self._channels], dim=1)
        past = torch.unflatten(past, 1, (self._history, self._channels))
        location = past[:, -1:] if self._last else past.mean(1, keepdim=True)
        scale = (past.var(1, keepdim=True, correction=0) + FLOOR**2).sqrt()
        past = (past - location) / scale
        given = torch.cat([past.flatten(1), known], dim=1).reshape(x.shape)
        return self._rescale(self.network(given), location, scale)
