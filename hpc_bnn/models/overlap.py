"""Make two rows and columns of points of every one of tokens, without edges of patches.

A linear map gives each token the coefficients of a patch, and patches that overlap are blended:

    f(x) = sum_t h(x - t) (v_t + g_t (x - t)),   h(d) = max(0, 1 - |d| / 2)

along each axis, with d in points. Tokens lie 2 points apart, so every point lies in two patches of
4 points, of weights 3/4 and 1/4, which sum to 1. In two dimensions a token has four coefficients
(of 1, x, y and x y), as many as it has points.

h reproduces straight lines: equal tokens give one value at all points, whatever the weights of the
map are. A map from tokens to separate points does so for weights only that happen to be equal, so
each draw of a posterior has its own checkerboard. As filters, value and slope are (1 + z)^3 and
(1 - z) (1 + z)^2, z a step of one point: waves along the tokens come out with images at the highest
wavenumbers, damped by sin(delta / 2)^3 and ^2 at delta radians a point below the highest.
Smoothed, f is followed along columns by the filter (-1, 0, 9, 16, 9, 0, -1) / 32, which leaves
waves of many points as they are and damps images by another sin(delta / 2)^4 (2 + cos(delta)). Rows
are left as they are: fields change within few rows, at the equator and towards the poles.

On a circle of longitude the first and the last token are neighbours. Beyond a pole or the edge of a
region, the token on it stands once more.

Letters: B batch, D values of a token.
"""

import torch
from torch import Tensor, nn


class Overlap(nn.Module):
    """Map tokens (B, rows, columns, D) to (B, 2 rows, 2 columns, D').

    Parameters
    ----------
    width, out_width
        D and D'.
    periodic
        True: columns are a circle.
    inside
        Rows and columns of tokens that hold data, others lie beyond the edge; None: all.
    smooth
        Smooth what comes out along columns.
    """

    def __init__(
        self,
        width: int,
        out_width: int,
        *,
        periodic: bool,
        inside: tuple[int, int] | None = None,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        self.coefficients = nn.Linear(width, 4 * out_width)
        self._periodic, self._inside, self._smooth = periodic, inside, smooth

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, 2 rows, 2 columns, D')."""
        batch, rows, columns, _ = tokens.shape
        high, wide = (rows, columns) if self._inside is None else self._inside
        x = self.coefficients(tokens).reshape(batch, rows, columns, 2, 2, -1)
        x = _finer(x[:, :, :, 0], x[:, :, :, 1], 1, high, circle=False)
        x = _finer(x[..., 0, :], x[..., 1, :], 2, wide, circle=self._periodic)
        return _smoothed(x, 2, 2 * wide, circle=self._periodic) if self._smooth else x


def _finer(value: Tensor, slope: Tensor, axis: int, inside: int, *, circle: bool) -> Tensor:
    """Return the points, twice as many along ``axis``, of tokens by their value at the centre and
    their slope a point; tokens from ``inside`` on lie beyond the edge.
    """
    # What a token gives to the nearest point of the token before it, and of that behind it.
    back, on = 0.25 * value - 0.375 * slope, 0.25 * value + 0.375 * slope
    half = 0.5 * value
    first = half + back + _before(on, axis, 1, circle=circle)
    second = half + on + _behind(back, axis, 1, inside, circle=circle)
    return torch.stack([first, second], axis + 1).flatten(axis, axis + 1)


def _smoothed(x: Tensor, axis: int, inside: int, *, circle: bool) -> Tensor:
    near, far = (
        _before(x, axis, by, circle=circle) + _behind(x, axis, by, inside, circle=circle)
        for by in (1, 3)
    )
    return 0.5 * x + 0.28125 * near - 0.03125 * far


def _before(x: Tensor, axis: int, by: int, *, circle: bool) -> Tensor:
    """Return at each place what ``x`` holds ``by`` places before it along ``axis``."""
    if circle:
        return x.roll(by, axis)
    size = x.shape[axis]
    by = min(by, size)
    return torch.cat([x.narrow(axis, 0, 1)] * by + [x.narrow(axis, 0, size - by)], axis)


def _behind(x: Tensor, axis: int, by: int, inside: int, *, circle: bool) -> Tensor:
    """Return at each place what ``x`` holds ``by`` places behind it, in place of what is not inside
    the last that is.
    """
    if circle:
        return x.roll(-by, axis)
    by = min(by, inside)
    last, beyond = x.narrow(axis, inside - 1, 1), x.narrow(axis, inside, x.shape[axis] - inside)
    return torch.cat([x.narrow(axis, by, inside - by), *[last] * by, beyond], axis)
