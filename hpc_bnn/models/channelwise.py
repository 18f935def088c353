"""What the networks of series here share: every channel is forecast from its own history, by the
same weights, and from what is known of the times of the targets.

    y_c = f(x_c, known) + b_c,    b (C, R) each channel's own

A channel that is forecast alone has less to learn from and much less to overfit on (Nie et al.
2023, arXiv:2211.14730, section 3.1); the weights see every channel of every window.

Letters: B batch, H history rows, C channels, K known values, R rows of the output: those of the
horizon, or twice as many where the network also predicts scales.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Channelwise(nn.Module):
    """Base of networks (B, H, C), or with known values (B, H C + K), -> (B, R, C).

    Parameters
    ----------
    history
        H, where the input is flat; 0: the input has a row for each.

    Raises
    ------
    ValueError
        If the shapes are not those of windows of a series.
    """

    def __init__(self, input_shape: Sequence[int], output_shape: Sequence[int], history: int):
        super().__init__()
        flat = len(input_shape) == 1
        if len(output_shape) != 2 or not (flat or len(input_shape) == 2):
            raise ValueError(
                f"{type(self).__name__}: input {tuple(input_shape)}, output {tuple(output_shape)}: "
                "expected windows of a series, (history, channels) -> (horizon, channels)"
            )
        self.rows, self.channels = output_shape
        self.history = history if flat else input_shape[0]
        self.known = input_shape[0] - self.history * self.channels if flat else 0
        if self.history < 1 or self.known < 0 or not (flat or input_shape[1] == self.channels):
            raise ValueError(
                f"model.history = {history}: input {tuple(input_shape)} for {self.channels} "
                "channels that are forecast: expected the rows of the history, which data sets of "
                "series give"
            )
        self.channel_bias = nn.Parameter(torch.zeros(self.channels, self.rows))

    @abstractmethod
    def channel(self, past: Tensor, known: Tensor) -> Tensor:
        """Return the forecast (B, C, R) of histories (B, C, H) and known values (B, C, K)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, R, C) for ``x`` (B, H, C) or (B, H C + K)."""
        past, known = x.flatten(1).tensor_split([self.history * self.channels], dim=1)
        past = torch.unflatten(past, 1, (self.history, self.channels)).transpose(1, 2)
        known = known.unsqueeze(1).expand(-1, self.channels, -1)
        return (self.channel(past, known) + self.channel_bias).transpose(1, 2)
