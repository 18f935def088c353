"""Attention within windows of a grid of tokens.

Letters: B batch, N windows, L tokens of a window, D width of a token, A heads.
Source: Liu et al. 2021, arXiv:2103.14030, section 3.2 (shifted windows, relative position bias).
"""

import torch
from torch import Tensor, nn

from hpc_bnn.models.attention import attention


class Windows:
    """How a grid of tokens is cut into windows, and which tokens of a window may see each other.

    Parameters
    ----------
    grid
        Rows and columns of tokens, whole multiples of the window.
    window
        Rows and columns of a window.
    shifted
        Cut half a window further along each axis that holds more than one window.
    periodic
        True: columns are a circle, and only rows are masked where a shift wraps them.
    inside
        Rows and columns that hold data; tokens beyond are padding. None: all.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        window: tuple[int, int],
        *,
        shifted: bool,
        periodic: bool,
        inside: tuple[int, int] | None,
    ) -> None:
        self.grid, self.window = grid, window
        self.shift = tuple(
            w // 2 if shifted and g > w else 0 for g, w in zip(grid, window, strict=True)
        )
        rows = self._labels(0, inside)
        columns = torch.zeros(grid[1], dtype=torch.long) if periodic else self._labels(1, inside)
        labels = rows[:, None] * (int(columns.max()) + 1) + columns[None, :]
        cut = self.cut(labels[None, :, :, None]).reshape(-1, window[0] * window[1])
        allowed = cut[:, :, None] == cut[:, None, :]
        # (N, L, L), or None where every token sees its whole window
        self.allowed: Tensor | None = None if bool(allowed.all()) else allowed

    def cut(self, x: Tensor) -> Tensor:
        """Cut (B, rows, columns, D), already shifted, into (B, N, L, D)."""
        batch, rows, columns, width = x.shape
        high, wide = self.window
        x = x.reshape(batch, rows // high, high, columns // wide, wide, width)
        x = x.permute(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, -1, high * wide, width)

    def join(self, x: Tensor) -> Tensor:
        """Undo ``cut``."""
        batch, _, _, width = x.shape
        (rows, columns), (high, wide) = self.grid, self.window
        x = x.reshape(batch, rows // high, columns // wide, high, wide, width)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, width)

    def roll(self, x: Tensor, direction: int) -> Tensor:
        """Shift the tokens (B, rows, columns, D) into place (-1) or back (+1)."""
        if self.shift == (0, 0):
            return x
        return torch.roll(x, (direction * self.shift[0], direction * self.shift[1]), dims=(1, 2))

    def _labels(self, axis: int, inside: tuple[int, int] | None) -> Tensor:
        """Number the stretches of an axis, as they lie after the shift, that must not mix."""
        size, shift = self.grid[axis], self.shift[axis]
        positions = (torch.arange(size) + shift) % size
        wrapped = torch.arange(size) + shift >= size
        padding = positions >= (size if inside is None else inside[axis])
        return wrapped.long() + 2 * padding.long()


class WindowAttention(nn.Module):
    """Multi-head attention of each token to its window, with a bias for relative position."""

    def __init__(self, width: int, heads: int, windows: Windows) -> None:
        super().__init__()
        self._heads, self._windows = heads, windows
        high, wide = windows.window
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros((2 * high - 1) * (2 * wide - 1), heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer("_index", _relative_index(high, wide), persistent=False)
        mask = None
        if windows.allowed is not None:
            mask = torch.zeros(windows.allowed.shape).masked_fill(~windows.allowed, -torch.inf)
            mask = mask[:, None]
        self.register_buffer("_mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, rows, columns, D)."""
        windows = self._windows
        x = windows.cut(windows.roll(tokens, -1))
        batch, count, length, width = x.shape
        qkv = self.qkv(x).reshape(batch * count, length, 3, self._heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self._bias(q.dtype)
        if len(bias) > 1:  # else one for all windows
            bias = bias.repeat(batch, 1, 1, 1)
        mixed = attention(q, k, v, bias).transpose(1, 2).reshape(batch, count, length, width)
        return windows.roll(windows.join(self.project(mixed)), +1)

    def _bias(self, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores: (N or 1, A, L, L)."""
        index, mask = self._index, self._mask
        assert isinstance(index, Tensor)
        length = index.shape[0]
        bias = self.position_bias[index.flatten()].reshape(length, length, -1).permute(2, 0, 1)
        bias = bias[None]
        if isinstance(mask, Tensor):
            bias = bias + mask
        return bias.to(dtype)


def _relative_index(high: int, wide: int) -> Tensor:
    """Return for each pair of tokens of a window the row (L, L) of their relative position."""
    rows, columns = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows[None, :] + high - 1
    right = columns[:, None] - columns[None, :] + wide - 1
    return down * (2 * wide - 1) + right
