"""The coastlines of the Earth, for maps and for the land mask of the toy atmosphere.

``coastlines.npz`` holds the land polygons of Natural Earth 4.1.0, 1:110 million (public domain,
naturalearthdata.com), as the npm package world-atlas 2.0.2 redistributes them: ``points`` (N, 2)
int16, longitude and latitude in hundredths of a degree, and ``sizes``, the number of points of each
closed ring. A ring across the antimeridian goes on beyond 180 degrees; that of Antarctica is closed
along the pole. A ring inside another one is a lake.

Shape letters: H latitude, W longitude, N points.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = Path(__file__).with_name("coastlines.npz")
TURNS = (-720.0, -360.0, 0.0, 360.0, 720.0)
LINES_A_ROW = 8  # latitudes along which the land of a row of cells is measured


@cache
def rings() -> tuple[NDArray[np.float64], ...]:
    """Return the closed rings (N, 2) of longitude and latitude in degrees."""
    with np.load(FILE) as held:
        points, ends = held["points"] / 100.0, np.cumsum(held["sizes"])
    return tuple(np.split(points, ends[:-1]))


def draw_coastlines(axes: Axes, *, color: str = "black") -> None:
    """Draw the coastlines over a map in degrees, whatever its longitudes; its limits stay."""
    from matplotlib.patheffects import withStroke  # data sets take the land without drawing

    limits = axes.get_xlim(), axes.get_ylim()
    west, east = sorted(limits[0])
    gap = np.full((1, 2), np.nan)
    line = np.concatenate([part for ring in rings() for part in (ring, gap)])
    line[line[:, 1] <= -90] = np.nan  # the pole is no coast
    halo = withStroke(linewidth=1.4, foreground="white", alpha=0.5)  # seen on dark fields, too
    for turn in TURNS:
        x = line[:, 0] + turn
        if np.nanmax(x) >= west and np.nanmin(x) <= east:
            (drawn,) = axes.plot(x, line[:, 1], color=color, linewidth=0.6, gid="coastlines")
            drawn.set_path_effects([halo])
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def land_share(
    latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the share of land (H, W) of the cells around latitudes (H,) and longitudes (W,), both
    in equal steps.
    """
    height, width = (float(abs(x[1] - x[0])) for x in (latitude, longitude))
    edges = np.append(longitude - width / 2, longitude[-1] + width / 2)
    offsets = (np.arange(LINES_A_ROW) + 0.5) / LINES_A_ROW - 0.5
    lines = np.clip(latitude[:, None] + height * offsets, -89.99, 89.99)
    rows = [np.mean([_land_along(float(y), edges) for y in row], axis=0) for row in lines]
    share: NDArray[np.float64] = np.clip(np.stack(rows) / width, 0, 1)
    return share


def _land_along(latitude: float, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the degrees of land (W,) between edges (W + 1,) along a latitude."""
    start = np.concatenate([ring[:-1] for ring in rings()])
    end = np.concatenate([ring[1:] for ring in rings()])
    crossed = (start[:, 1] <= latitude) != (end[:, 1] <= latitude)
    (x0, y0), (x1, y1) = start[crossed].T, end[crossed].T
    # Land lies between the first and the second crossing, the third and the fourth, ...
    shores = np.sort(x0 + (latitude - y0) * (x1 - x0) / (y1 - y0)).reshape(-1, 2)
    below = [
        np.clip(edges[:, None] - shores[:, 0] + turn, 0, shores[:, 1] - shores[:, 0]).sum(1)
        for turn in TURNS
    ]
    length: NDArray[np.float64] = np.diff(np.sum(below, axis=0))
    return length
