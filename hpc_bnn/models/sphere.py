"""Latitude rows beyond the poles.

A meridian that crosses a pole goes on along the meridian half a turn away, so the row beyond the
pole is a row of the grid, turned by 180 degrees, in reverse order. Eastward and northward
components of vectors change sign there.

Letters: B batch, C channels, H rows (north to south), W columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PolarPadding(nn.Module):
    """Add ``padding`` rows to (B, C, H, W), half beyond the north pole, the rest beyond the south.

    A grid with an odd number of rows has a row on each pole, which is not repeated; one with an
    even number has the poles half a row outside.

    Raises
    ------
    ValueError
        If the half turn is not a whole number of columns, or more rows are wanted than there are.
    """

    def __init__(
        self, rows: int, columns: int, padding: int, vector_channels: Sequence[int] = ()
    ) -> None:
        super().__init__()
        if columns % 2:
            raise ValueError(
                f"{columns} longitudes: half a turn over a pole needs an even number of them"
            )
        on_pole = rows % 2
        self._turn = columns // 2
        north, south = padding // 2, padding - padding // 2
        if max(north, south) + on_pole > rows:
            raise ValueError(
                f"{rows} latitudes cannot be extended by {padding} rows over the poles; use "
                "windows of fewer rows"
            )
        above = [north - 1 - k + on_pole for k in range(north)]
        below = [rows - 1 - k - on_pole for k in range(south)]
        self.register_buffer("above", torch.tensor(above, dtype=torch.long), persistent=False)
        self.register_buffer("below", torch.tensor(below, dtype=torch.long), persistent=False)
        self._vectors = tuple(vector_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H + padding, W)."""
        turned = torch.roll(x, self._turn, dims=-1)
        if self._vectors:
            sign = x.new_ones(x.shape[-3])
            sign[list(self._vectors)] = -1.0
            turned = turned * sign[:, None, None]
        above, below = self.above, self.below
        assert isinstance(above, Tensor) and isinstance(below, Tensor)
        return torch.cat([turned[..., above, :], x, turned[..., below, :]], dim=-2)
