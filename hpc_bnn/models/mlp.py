"""Multilayer perceptron: plain torch, no Bayes inside."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Map examples of ``input_shape`` to outputs of ``output_shape`` through hidden linear layers.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.
    activation
        ``relu``, ``gelu`` or ``tanh``.
    dropout
        Probability of dropping a hidden unit in training.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (128, 128),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"model.activation = {activation!r}: expected one of {', '.join(ACTIVATIONS)}"
            )
        if any(width < 1 for width in hidden):
            raise ValueError(f"model.hidden = {list(hidden)}: widths must be at least 1")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"model.dropout = {dropout}: must be at least 0 and less than 1")
        self.output_shape = tuple(output_shape)
        layers: list[nn.Module] = []
        widths = [prod(input_shape), *hidden]
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], prod(self.output_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, *output_shape) for ``x`` (B, *input_shape)."""
        flat: Tensor = self.layers(torch.flatten(x, 1))
        return flat.reshape(-1, *self.output_shape)
