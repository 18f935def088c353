"""The horizontal grid: whatever a file stores, read as rows north to south, longitudes eastward.

A global grid begins at its smallest longitude in [0, 360). A region stays in one piece: it begins
in [0, 360), or west of 0 where it would cross 360.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-3  # of the grid spacing: coordinates are often float32


@dataclass(frozen=True, eq=False)
class Grid:
    """Describe the canonical grid.

    latitude: (H,) float64, decreasing.
    longitude: (W,) float64, increasing.
    periodic: global as the polar padding of a network needs it: the longitudes close the circle,
        and the rows either include both poles (an odd number) or end half a row before them (even).
    """

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    periodic: bool

    @property
    def shape(self) -> tuple[int, int]:
        """H, W."""
        return len(self.latitude), len(self.longitude)

    def same(self, other: Grid) -> bool:
        """Tell whether two grids have the same points."""
        pairs = ((self.latitude, other.latitude), (self.longitude, other.longitude))
        return all(
            len(a) == len(b) and bool(np.all(np.abs(a - b) <= TOLERANCE * _spacing(a)))
            for a, b in pairs
        )

    def __str__(self) -> str:
        kind = "global" if self.periodic else "regional"
        return (
            f"{len(self.latitude)} x {len(self.longitude)} points ({kind}), latitude "
            f"{self.latitude[0]:g} to {self.latitude[-1]:g}, longitude {self.longitude[0]:g} to "
            f"{self.longitude[-1]:g}"
        )


@dataclass(frozen=True)
class Orientation:
    """How the rows and columns of a file are brought into canonical order: flips, then the roll.

    roll: the stored column (after a flip) that comes first.
    """

    flip_rows: bool
    flip_columns: bool
    roll: int

    def turn(self, field: NDArray[Any]) -> NDArray[Any]:
        """Return stored fields (..., H, W) in canonical order."""
        field = field[..., ::-1, :] if self.flip_rows else field
        field = field[..., ::-1] if self.flip_columns else field
        return np.roll(field, -self.roll, axis=-1) if self.roll else field

    def __str__(self) -> str:
        changes = []
        if self.flip_rows:
            changes.append("latitude flipped to north first")
        if self.flip_columns:
            changes.append("longitude flipped to eastward")
        if self.roll:
            changes.append(f"longitude rolled by {self.roll} columns")
        return ", ".join(changes)


def canonical(
    latitude: NDArray[np.float64], longitude: NDArray[np.float64]
) -> tuple[Grid, Orientation]:
    """Return the canonical grid of stored coordinates and the way to it.

    Raises
    ------
    ValueError
        If the points are not equally spaced, out of range or there twice.
    """
    for name, axis in (("latitude", latitude), ("longitude", longitude)):
        if not len(axis):
            raise ValueError(
                f"{name}: has no value: a selection that found nothing? expected at least one"
            )
    lat = np.asarray(latitude, np.float64)
    flip_rows = len(lat) > 1 and bool(lat[1] > lat[0])
    lat = lat[::-1] if flip_rows else lat
    if not (np.abs(lat) <= 90 + 1e-6).all():
        raise ValueError(
            f"latitude from {lat[0]:g} to {lat[-1]:g}: expected -90 to 90 degrees; correct it"
        )
    _require_equal_steps("latitude", -lat)
    _refuse_gaussian(lat)

    lon = np.asarray(longitude, np.float64)
    if not (np.abs(lon) <= 540).all():
        raise ValueError(
            f"longitude from {lon[0]:g} to {lon[-1]:g}: expected degrees east; correct it"
        )
    # Westward: the steps on the circle are negative for most points.
    steps = (np.diff(lon) + 180) % 360 - 180
    flip_columns = len(lon) > 1 and float(np.median(steps)) < 0
    lon = lon[::-1] if flip_columns else lon
    circle = lon % 360
    circle[circle > 360 - 1e-6] = 0.0
    twice = np.diff(np.sort(circle)) < 1e-6
    if twice.any():
        raise ValueError(
            f"longitude {lon[0]:g} to {lon[-1]:g}: the meridian "
            f"{np.sort(circle)[:-1][twice][0]:g} is there twice; drop the repeated column"
        )
    roll = _first_column(circle)
    eastward = np.roll(circle, -roll)
    eastward = eastward + 360 * (eastward < eastward[0] - 1e-9)
    _require_equal_steps("longitude", eastward)
    spacing = _spacing(eastward)
    closes = len(lon) > 1 and bool(abs(spacing * len(lon) - 360) < TOLERANCE * spacing * len(lon))
    if len(lon) > 1 and spacing * len(lon) > 360 * (1 + TOLERANCE):
        raise ValueError(
            f"longitude {lon[0]:g} to {lon[-1]:g} in steps of {spacing:g}: covers more than the "
            "circle, a meridian is there twice; drop the repeated column"
        )
    if eastward[-1] >= 360 - 1e-6:  # a region across the meridian of Greenwich
        eastward = eastward - 360
    periodic = closes and _reaches_both_poles(lat)
    return Grid(lat.copy(), eastward, periodic), Orientation(flip_rows, flip_columns, roll)


def _first_column(circle: NDArray[np.float64]) -> int:
    """Find the column east of the largest gap; on a closed circle the smallest longitude."""
    if len(circle) == 1:
        return 0
    order = np.argsort(circle, kind="stable")
    ordered = circle[order]
    gaps = np.diff(ordered, append=ordered[0] + 360)
    widest = int(np.argmax(gaps))
    if gaps[widest] <= float(np.median(gaps)) * (1 + 10 * TOLERANCE):
        return int(order[0])
    return int(order[(widest + 1) % len(order)])


def _require_equal_steps(name: str, increasing: NDArray[np.float64]) -> None:
    steps = np.diff(increasing)
    if len(steps) == 0:
        return
    spacing = float(increasing[-1] - increasing[0]) / len(steps)
    if spacing <= 0 or not bool(np.all(np.abs(steps - spacing) <= 10 * TOLERANCE * abs(spacing))):
        worst = int(np.argmax(np.abs(steps - spacing)))
        raise ValueError(
            f"{name} is not equally spaced: the step behind {abs(increasing[worst]):g} is "
            f"{abs(steps[worst]):g}, the mean step {abs(spacing):g}; expected a regular grid, each "
            "point once: interpolate the file (a Gaussian grid, for example) to one"
        )


def _refuse_gaussian(lat: NDArray[np.float64]) -> None:
    """Refuse the rows of a Gaussian grid, which are equally spaced but near the poles.

    Its first row lies j / pi = 0.765 steps from the pole, j = 2.405 the first zero of the Bessel
    function J0 (Abramowitz and Stegun 22.16.6); rows of a regular grid 0 or 0.5.
    """
    if len(lat) < 4:
        return
    step = _spacing(lat)
    uneven = float(np.max(np.abs(-np.diff(lat) - step))) > TOLERANCE * step
    if uneven and any(abs((90 - abs(end)) / step - 0.765) < 0.03 for end in (lat[0], lat[-1])):
        raise ValueError(
            f"latitude {lat[0]:g} to {lat[-1]:g} in {len(lat)} rows is that of a Gaussian grid: "
            "expected a regular one: interpolate the file to one"
        )


def _reaches_both_poles(lat: NDArray[np.float64]) -> bool:
    if len(lat) < 2:
        return False
    step = _spacing(lat)
    edge = 90.0 if len(lat) % 2 else 90.0 - step / 2
    return bool(abs(lat[0] - edge) < 10 * TOLERANCE * step) and bool(
        abs(lat[-1] + edge) < 10 * TOLERANCE * step
    )


def _spacing(values: NDArray[np.float64]) -> float:
    """Compute the mean step; 1 for a single point."""
    return abs(float(values[-1] - values[0])) / (len(values) - 1) if len(values) > 1 else 1.0
