"""SWIN transformer for fields on a latitude-longitude grid: plain torch, no Bayes inside.

Patches of 2 x 2 points become tokens; blocks attend within windows, every second one within windows
shifted by half their size; the middle of the network runs on tokens merged 2 x 2.

    embed -> stage 1 -> merge -> stages 2, 3 -> expand -> stage 4 -> join stage 1 -> recover

On a *global* grid longitude is a circle: windows are rolled round it and never masked. Latitude is
extended over the poles (``PolarPadding``), so any number of rows fits; windows that a shift would
wrap from pole to pole are masked. On a *regional* grid nothing is periodic: the field is padded to
whole windows and tokens that are not neighbours, or lie in the padding, never see each other.

Letters: B batch, C channels, H latitude rows (north to south), W longitude columns, L tokens of a
window, D width of a token. Source: Liu et al. 2021, arXiv:2103.14030.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from hpc_bnn.models.overlap import Overlap
from hpc_bnn.models.sphere import PolarPadding
from hpc_bnn.models.swin_checks import check_columns, check_options, field_shape
from hpc_bnn.models.windows import WindowAttention, Windows

PATCH = 2  # points of a patch along each axis
STRIDE = 2 * PATCH  # points of a merged token along each axis


class Swin(nn.Module):
    """Map fields (B, C, H, W) to fields (B, C', H, W), such as states to their tendencies.

    Parameters
    ----------
    width
        D, width of a token in the outer stages; the inner ones have 2 D.
    depths
        Blocks of the four stages; an even number each, so that shifted and unshifted alternate.
    heads
        Attention heads of the four stages.
    window
        Rows and columns of a window, in tokens.
    periodic
        True for a global grid, False for a region.
    vector_channels
        Input channels that change sign when carried over a pole: the components of vectors.
    latitude_embedding
        Add a learned vector to the tokens of each latitude row.
    mlp_ratio
        Hidden width of a block's perceptron over its token width.
    dropout
        Probability of dropping, in training, what attention gives and hidden units of perceptrons.
    recompute
        Keep only the inputs of blocks for backward and run them again: less memory, more time.
    recovery
        How tokens become finer ones and points: ``overlap``, blended with their neighbours, so that
        no edges of patches show; ``patch``, each alone, as networks had it that were trained before
        there was a choice.

    Raises
    ------
    ValueError
        If grid, window, widths or heads do not fit; the message says which do.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        *,
        width: int = 96,
        depths: Sequence[int] = (2, 6, 6, 2),
        heads: Sequence[int] = (4, 8, 8, 4),
        window: Sequence[int] = (4, 8),
        periodic: bool = True,
        vector_channels: Sequence[int] = (),
        latitude_embedding: bool = False,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        recompute: bool = False,
        recovery: Literal["overlap", "patch"] = "overlap",
    ) -> None:
        super().__init__()
        channels, rows, columns = field_shape("input", input_shape)
        out_channels, *out_grid = field_shape("output", output_shape)
        if out_grid != [rows, columns]:
            raise ValueError(
                f"model.swin: input fields of {rows} x {columns}, output fields of {out_grid[0]} x "
                f"{out_grid[1]}: they must lie on one grid"
            )
        check_options(width, depths, heads, window, channels, vector_channels)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"model.dropout = {dropout}: must be at least 0 and less than 1")
        if recovery not in ("overlap", "patch"):
            raise ValueError(f"model.recovery = {recovery!r}: expected overlap or patch")
        self._rows, self._columns, self._periodic = rows, columns, periodic
        self._recompute = recompute
        height, breadth = window
        self._padded_rows = _up(rows, STRIDE * height)
        self._padded_columns = _up(columns, STRIDE * breadth)
        if periodic:
            check_columns(columns, breadth, STRIDE)
            self.polar = PolarPadding(rows, columns, self._padded_rows - rows, vector_channels)
        fine = (self._padded_rows // PATCH, self._padded_columns // PATCH)
        coarse = (fine[0] // 2, fine[1] // 2)
        inside = None if periodic else (rows, columns)

        # Patches do not overlap: the convolutions at both ends are linear maps of tokens. Written
        # as such, every token is computed alike wherever it lies: float64 convolutions are not.
        self.embed = nn.Linear(4 * channels, width)
        self.latitude = nn.Parameter(torch.zeros(fine[0], 1, width)) if latitude_embedding else None
        stages = []
        for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            outer = i in (0, 3)
            stages.append(
                _stage(
                    width if outer else 2 * width,
                    depth,
                    count,
                    fine if outer else coarse,
                    (height, breadth),
                    periodic=periodic,
                    inside=_inside(inside, PATCH if outer else STRIDE),
                    mlp_ratio=mlp_ratio,
                    dropout=dropout,
                )
            )
        self.stages = nn.ModuleList(stages)
        self.merge = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width))
        self._overlap = recovery == "overlap"
        self.expand = self._finer(2 * width, width, _inside(inside, STRIDE), smooth=False)
        self.expand_norm = nn.LayerNorm(width)
        self.recover = self._finer(2 * width, out_channels, _inside(inside, PATCH), smooth=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', H, W) for ``x`` (B, C, H, W)."""
        tokens = self.embed(_gather_patches(self._pad(x).permute(0, 2, 3, 1)))
        if self.latitude is not None:
            tokens = tokens + self.latitude
        outer = self._run(0, tokens)
        inner = self.merge(_gather_patches(outer))
        inner = self._run(2, self._run(1, inner))
        tokens = self._run(3, self.expand_norm(self._scatter(self.expand(inner))))
        fields = self._scatter(self.recover(torch.cat([tokens, outer], dim=-1)))
        fields = fields.permute(0, 3, 1, 2)
        first = (self._padded_rows - self._rows) // 2 if self._periodic else 0
        return fields[..., first : first + self._rows, : self._columns].contiguous()

    def _finer(
        self, width: int, out_width: int, inside: tuple[int, int] | None, *, smooth: bool
    ) -> nn.Module:
        if not self._overlap:
            return nn.Linear(width, 4 * out_width)
        return Overlap(width, out_width, periodic=self._periodic, inside=inside, smooth=smooth)

    def _scatter(self, x: Tensor) -> Tensor:
        return x if self._overlap else _scatter_patches(x)

    def _pad(self, x: Tensor) -> Tensor:
        if self._periodic:
            padded: Tensor = self.polar(x)
            return padded
        right, below = self._padded_columns - self._columns, self._padded_rows - self._rows
        return functional.pad(x, (0, right, 0, below))

    def _run(self, index: int, tokens: Tensor) -> Tensor:
        stage = self.stages[index]
        assert isinstance(stage, nn.ModuleList)
        for block in stage:
            tokens = _recomputed(block, tokens) if self._recompute else block(tokens)
        return tokens


class Block(nn.Module):
    """Attention within windows, then a perceptron, each on normalised tokens and added to them."""

    def __init__(
        self, width: int, heads: int, windows: Windows, mlp_ratio: float, dropout: float
    ) -> None:
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, windows)
        self.mlp_norm = nn.LayerNorm(width)
        activation = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, rows, columns, D)."""
        tokens = tokens + self.drop(self.attention(self.attention_norm(tokens)))
        result: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return result


def _stage(
    width: int,
    depth: int,
    heads: int,
    grid: tuple[int, int],
    window: tuple[int, int],
    *,
    periodic: bool,
    inside: tuple[int, int] | None,
    mlp_ratio: float,
    dropout: float,
) -> nn.ModuleList:
    plain = Windows(grid, window, shifted=False, periodic=periodic, inside=inside)
    shifted = Windows(grid, window, shifted=True, periodic=periodic, inside=inside)
    return nn.ModuleList(
        Block(width, heads, shifted if i % 2 else plain, mlp_ratio, dropout) for i in range(depth)
    )


def _recomputed(block: nn.Module, tokens: Tensor) -> Tensor:
    """Run a block without keeping its activations.

    The weights go in as arguments: when backward runs the block again, drawn weights are no longer
    in the module, and it would silently compute with the means.
    """
    names, weights = zip(*block.named_parameters(), strict=True)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        result: Tensor = functional_call(block, dict(zip(names, values, strict=True)), (x,))
        return result

    # A pass whose torch saves the state of a GPU's generator cannot be captured.
    drops = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in block.modules())
    again: Tensor = checkpoint(run, tokens, *weights, use_reentrant=False, preserve_rng_state=drops)
    return again


def _gather_patches(x: Tensor) -> Tensor:
    """Merge 2 x 2 points or tokens: (B, 2 h, 2 w, D) -> (B, h, w, 4 D)."""
    batch, rows, columns, width = x.shape
    x = x.reshape(batch, rows // 2, 2, columns // 2, 2, width).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows // 2, columns // 2, 4 * width)


def _scatter_patches(x: Tensor) -> Tensor:
    """Undo ``_gather_patches``: (B, h, w, 4 D) -> (B, 2 h, 2 w, D)."""
    batch, rows, columns, width = x.shape
    x = x.reshape(batch, rows, columns, 2, 2, width // 4).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * rows, 2 * columns, width // 4)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _inside(points: tuple[int, int] | None, stride: int) -> tuple[int, int] | None:
    """Return how many rows and columns of tokens hold points of the region, the rest is padding."""
    return None if points is None else (-(-points[0] // stride), -(-points[1] // stride))
