"""Transformer on patches of the history of a channel.

    patches -> linear -> + learned positions -> blocks -> norm -> flatten -> linear

Patches of ``patch`` rows begin every ``stride`` rows; the last row is repeated so that they reach
the end of the history. Values known beforehand are one more token.

Letters: B batch, C channels, H history rows, K known values, L tokens, D width, R rows of output.
Source: Nie et al. 2023, arXiv:2211.14730 (PatchTST); its normalisation is ``normalised``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpc_bnn.models.channelwise import Channelwise
from hpc_bnn.models.vit import Block


class PatchTransformer(Channelwise):
    """Map windows of a series (H, C) to forecasts (R, C), channel by channel.

    Parameters
    ----------
    patch
        Rows of a patch, at most H.
    stride
        Rows between the beginnings of patches, at most ``patch``.
    width
        D, a multiple of ``heads``.
    depth
        Number of blocks.
    heads
        Attention heads of a block.
    mlp_ratio
        Hidden width of a block's perceptron over D.
    dropout
        Probability of dropping, in training, what attention gives and hidden units of perceptrons.
    history
        H, where the input is flat; the data set gives it.

    Raises
    ------
    ValueError
        If history, patch, stride, width and heads do not fit.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        *,
        patch: int = 16,
        stride: int = 8,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        mlp_ratio: float = 2.0,
        dropout: float = 0.1,
        history: int = 0,
    ) -> None:
        super().__init__(input_shape, output_shape, history)
        if not 1 <= stride <= patch <= self.history:
            raise ValueError(
                f"model.patch = {patch}, model.stride = {stride}: expected 1 <= stride <= patch <= "
                f"the {self.history} rows of the history"
            )
        if heads < 1 or width < 1 or width % heads or depth < 1 or round(mlp_ratio * width) < 1:
            raise ValueError(
                f"model.width = {width}, model.heads = {heads}, model.depth = {depth}, "
                f"model.mlp_ratio = {mlp_ratio}: expected positive numbers, and heads that divide "
                "the width"
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"model.dropout = {dropout}: must be at least 0 and less than 1")
        self._patch, self._stride = patch, stride
        self._padding = -(self.history - patch) % stride
        patches = (self.history + self._padding - patch) // stride + 1
        tokens = patches + (self.known > 0)
        self.embed = nn.Linear(patch, width)
        self.embed_known = nn.Linear(self.known, width) if self.known else None
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp_ratio, dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(tokens * width, self.rows)

    def channel(self, past: Tensor, known: Tensor) -> Tensor:
        """Return the forecast (B, C, R)."""
        last = past[..., -1:].expand(*past.shape[:-1], self._padding)
        patches = torch.cat([past, last], dim=2).unfold(2, self._patch, self._stride)
        tokens = self.embed(patches.flatten(0, 1))
        if self.embed_known is not None:
            more = self.embed_known(known.flatten(0, 1).unsqueeze(1))
            tokens = torch.cat([tokens, more], dim=1)
        tokens = self.norm(self.blocks(tokens + self.positions))
        forecast: Tensor = self.head(tokens.flatten(1))
        return forecast.reshape(-1, self.channels, self.rows)
