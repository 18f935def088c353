"""A linear map from the history of a channel to its forecast, the same for all channels.

    y_c = W [x_c, known] + b_c

On windows normalised by their last value this is NLinear, by mean and variance RLinear; both are
hard to beat on series of electricity, traffic and weather.

Letters: as in ``channelwise``.
Sources: Zeng et al. 2023, doi:10.1609/aaai.v37i9.26317; Li et al. 2023, arXiv:2305.10721.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_bnn.models.channelwise import Channelwise


class Linear(Channelwise):
    """Map windows of a series (H, C) linearly to forecasts (R, C), channel by channel.

    Parameters
    ----------
    history
        H, where the input is flat; the data set gives it.
    """

    def __init__(
        self, input_shape: Sequence[int], output_shape: Sequence[int], *, history: int = 0
    ) -> None:
        super().__init__(input_shape, output_shape, history)
        self.layer = nn.Linear(self.history + self.known, self.rows)

    def channel(self, past: Tensor, known: Tensor) -> Tensor:
        """Return the forecast (B, C, R)."""
        forecast: Tensor = self.layer(torch.cat([past, known], dim=2))
        return forecast
