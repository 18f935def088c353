"""A linear map from the history of a channel to its forecast, and a perceptron that corrects it.

    h_0 = A [x_c, known],    h_(i+1) = h_i + W_i drop(relu(V_i norm(h_i)))
    y_c = W [x_c, known] + U h_depth + b_c

Letters: as in ``channelwise``.
Sources: Das et al. 2023, arXiv:2304.08424 (TiDE); Li et al. 2023, arXiv:2305.10721 (RMLP).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_bnn.models.channelwise import Channelwise


class ResidualMLP(Channelwise):
    """Map windows of a series (H, C) to forecasts (R, C), channel by channel.

    Parameters
    ----------
    width
        Of the hidden layers.
    depth
        Number of residual blocks.
    dropout
        Probability of dropping a hidden unit in training.
    history
        H, where the input is flat; the data set gives it.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        *,
        width: int = 128,
        depth: int = 1,
        dropout: float = 0.1,
        history: int = 0,
    ) -> None:
        super().__init__(input_shape, output_shape, history)
        for name, value in (("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"model.{name} = {value}: must be at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"model.dropout = {dropout}: must be at least 0 and less than 1")
        inputs = self.history + self.known
        self.linear = nn.Linear(inputs, self.rows)
        self.encode = nn.Linear(inputs, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, dropout) for _ in range(depth)))
        self.decode = nn.Linear(width, self.rows)

    def channel(self, past: Tensor, known: Tensor) -> Tensor:
        """Return the forecast (B, C, R)."""
        given = torch.cat([past, known], dim=2)
        forecast: Tensor = self.linear(given) + self.decode(self.blocks(self.encode(given)))
        return forecast


class ResidualBlock(nn.Module):
    """Add to each row of numbers (..., W) what a perceptron makes of it, normalised."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., W)."""
        result: Tensor = x + self.down(self.drop(torch.relu(self.up(self.norm(x)))))
        return result
