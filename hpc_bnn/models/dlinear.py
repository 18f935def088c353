"""Two linear maps, one of the trend of a channel and one of what is left of it.

    y_c = W_t [trend(x_c), known] + W_r (x_c - trend(x_c)) + b_c

The trend is the mean over ``trend`` rows around each, of a history whose ends are repeated.

Letters: as in ``channelwise``.
Source: Zeng et al. 2023, doi:10.1609/aaai.v37i9.26317 (DLinear).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_bnn.models.channelwise import Channelwise


class DLinear(Channelwise):
    """Map trend and rest of windows of a series (H, C) linearly to forecasts (R, C).

    Parameters
    ----------
    trend
        Rows of the moving mean, an odd number.
    history
        H, where the input is flat; the data set gives it.

    Raises
    ------
    ValueError
        If ``trend`` is even or below 1.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        *,
        trend: int = 25,
        history: int = 0,
    ) -> None:
        super().__init__(input_shape, output_shape, history)
        if trend < 1 or trend % 2 == 0:
            raise ValueError(f"model.trend = {trend}: must be an odd number of rows, such as 25")
        self._trend = trend
        self.trend_layer = nn.Linear(self.history + self.known, self.rows)
        self.rest_layer = nn.Linear(self.history, self.rows, bias=False)

    def channel(self, past: Tensor, known: Tensor) -> Tensor:
        """Return the forecast (B, C, R)."""
        trend = moving_mean(past, self._trend)
        of_trend = self.trend_layer(torch.cat([trend, known], dim=2))
        forecast: Tensor = of_trend + self.rest_layer(past - trend)
        return forecast


def moving_mean(rows: Tensor, width: int) -> Tensor:
    """Return the mean over ``width`` of the rows (..., H) around each, the ends repeated."""
    half = width // 2
    first, last = rows[..., :1], rows[..., -1:]
    longer = torch.cat(
        [first.expand(*rows.shape[:-1], half), rows, last.expand(*rows.shape[:-1], half)], dim=-1
    )
    return longer.unfold(-1, width, 1).mean(-1)
