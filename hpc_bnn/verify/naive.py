"""The seasonal naive forecast of time series: what comes is what was a season before.

    forecast_p = y_(p - m ceil(p / m)),    p = 1 .. P, y_0 the last known row, m rows a season

m = 1 is persistence. Source: Hyndman, Athanasopoulos 2021, Forecasting: Principles and Practice
(3rd edition), section 5.2.

Shape letters: B batch, H history rows, P lead times, C channels.
"""

import torch
from torch import Tensor


def seasonal_naive(history: Tensor, *, horizon: int, season: int) -> Tensor:
    """Return the forecast (B, P, C) after a history (B, H, C).

    Raises
    ------
    ValueError
        If the history does not hold a whole season.
    """
    rows = history.shape[1]
    if not 1 <= season <= rows:
        raise ValueError(
            f"seasonal_naive: season = {season} rows: must be from 1 to the {rows} rows of the "
            "history"
        )
    return history[:, rows - season + torch.arange(horizon) % season]
