"""Vision transformer for images, the plain one: no class token, nothing of Bayes.

    patches -> linear -> + fixed sin-cos positions -> blocks -> norm -> mean over tokens -> linear

Letters: B batch, C channels, H image height, W image width, L tokens, D width of a token, A heads.
Source: Beyer, Zhai, Kolesnikov 2022, arXiv:2205.01580 (SimpleViT). The initial weights are
torch's: those of the authors' code learn the digits slower (accuracy after 240 steps of a network
of width 96 and depth 2, mean of 3 seeds: 0.58, with torch's 0.75).
"""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from hpc_bnn.models.attention import attention

LONGEST_WAVE = 10_000.0  # of the positions, over 2 pi tokens


class ViT(nn.Module):
    """Map images (B, C, H, W) to outputs of ``output_shape``, such as the logits of classes.

    The defaults are the tiny network for 32 x 32 images; the base one has width 768 and 12 heads.

    Parameters
    ----------
    patch
        Pixels of a patch along each axis; must divide height and width of the image.
    width
        D, a multiple of 4 and of ``heads``.
    depth
        Number of blocks.
    heads
        Attention heads of a block.
    mlp_ratio
        Hidden width of a block's perceptron over D.
    dropout
        Probability of dropping, in training, what attention gives and hidden units of perceptrons.

    Raises
    ------
    ValueError
        If image, patch, width and heads do not fit; the message says which do.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        *,
        patch: int = 4,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(
                f"model.vit: input of shape {tuple(input_shape)}: expected images (C, H, W)"
            )
        channels, height, breadth = input_shape
        _check(height, breadth, patch, width, depth, heads, mlp_ratio)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"model.dropout = {dropout}: must be at least 0 and less than 1")
        self.output_shape = tuple(output_shape)
        self._patch = patch
        # Patches do not overlap, so their convolution is a linear map; under vmap that is one
        # batched product, where a convolution is one of many groups.
        self.embed = nn.Linear(channels * patch**2, width)
        positions = sin_cos_positions(height // patch, breadth // patch, width)
        self.register_buffer("_positions", positions, persistent=False)
        blocks = (Block(width, heads, mlp_ratio, dropout) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, prod(self.output_shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, *output_shape) for ``x`` (B, C, H, W)."""
        positions = self._positions
        assert isinstance(positions, Tensor)
        tokens = self.embed(_cut(x, self._patch)) + positions
        pooled = self.norm(self.blocks(tokens)).mean(dim=1)
        output: Tensor = self.head(pooled)
        return output.reshape(-1, *self.output_shape)


class Block(nn.Module):
    """Attention of all tokens, then a perceptron, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        hidden = round(width * mlp_ratio)
        self._heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        activation = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, L, D)."""
        tokens = tokens + self.drop(self._attend(self.attention_norm(tokens)))
        result: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return result

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, length, 3, self._heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v)
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return projected


def sin_cos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return the positions (L, D) of a grid of tokens, row by row, in float32.

    For the frequencies f_k = 10000^(-k / (D/4 - 1)), k = 0 ... D/4 - 1, the quarters of D are
    sin(column f), cos(column f), sin(row f), cos(row f).
    """
    quarter = width // 4
    power = torch.arange(quarter, dtype=torch.float64) / (quarter - 1)
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64),
        torch.arange(columns, dtype=torch.float64),
        indexing="ij",
    )
    waves = [place.reshape(-1, 1) * LONGEST_WAVE**-power for place in (column, row)]
    return torch.cat([part for wave in waves for part in (wave.sin(), wave.cos())], dim=1).float()


def _cut(x: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, L, C * patch^2), row by row."""
    batch, channels, height, breadth = x.shape
    x = x.reshape(batch, channels, height // patch, patch, breadth // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch**2)


def _check(
    height: int,
    breadth: int,
    patch: int,
    width: int,
    depth: int,
    heads: int,
    mlp_ratio: float,
) -> None:
    if patch < 1 or height % patch or breadth % patch:
        raise ValueError(
            f"model.patch = {patch}: must divide images of {height} x {breadth}; what fits: "
            f"{_divisors(math.gcd(height, breadth))}"
        )
    if width < 8 or width % 4:
        below = max(8, width // 4 * 4)
        raise ValueError(
            f"model.width = {width}: the sin-cos positions need a multiple of 4, at least 8, such "
            f"as {below} or {below + 4}"
        )
    if heads < 1 or width % heads:
        raise ValueError(
            f"model.heads = {heads}: must divide model.width = {width}; what fits: "
            f"{_divisors(width)}"
        )
    if depth < 1:
        raise ValueError(f"model.depth = {depth}: must be at least 1")
    if not (math.isfinite(mlp_ratio) and round(width * mlp_ratio) >= 1):
        raise ValueError(
            f"model.mlp_ratio = {mlp_ratio}: the perceptron needs a hidden width of at least 1; "
            "4 is usual"
        )


def _divisors(number: int) -> str:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return ", ".join(map(str, sorted({*small, *(number // n for n in small)})))
