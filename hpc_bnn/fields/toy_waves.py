"""A small model atmosphere: waves that a zonal flow carries round the globe, and its fields.

Complex amplitudes A[p, m, row] of zonal wave number m on each level p and latitude follow

    A(t + dt) = r exp(-i m omega(lat, p, season) dt) A(t) + sqrt(1 - r^2) noise,   r = exp(-dt / D)

with noise that is smooth in latitude and mostly shared by the levels. The angular velocity omega
depends on latitude and level and is larger in winter. So one day moves a wave by a visible part of
its length, as a network can learn; and the noise limits how far ahead anybody can know, so that an
ensemble has something to say. Geopotential, wind (geostrophic), temperature and pressure are
functions of A, the season, the time of day and a land mask.

It is no model of the Earth: only units, ranges and the shape of the land are.

Shape letters: P levels (the surface first), M waves, H latitude, W longitude, T time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_bnn.verify.coastlines import land_share

WAVES = np.arange(1, 7)
WEIGHTS = np.array([0.5, 0.8, 1.0, 1.0, 0.8, 0.6])
MEMORY_S = 20 * 86400.0  # D: after it, noise has replaced 1 - 1/e of the waves
OMEGA_S = 3.3e-6  # angular velocity of the flow at the equator: 16 degrees a day
SPIN_UP_S = 60 * 86400.0
SURFACE_HPA = 1000.0
RADIUS_M = 6.371e6
CORIOLIS_S = 2 * 7.292e-5
GAS_CONSTANT = 287.05  # J kg-1 K-1, dry air
YEAR_S = 365.2425 * 86400


@dataclass(frozen=True, eq=False)
class ToyGrid:
    """Hold latitudes (H,) north to south, longitudes (W,) and levels (P,) in hPa, surface first."""

    latitude: NDArray[np.float64]
    longitude: NDArray[np.float64]
    levels_hpa: NDArray[np.float64]

    @property
    def phi(self) -> NDArray[np.float64]:
        """Latitude in radians (H,)."""
        return np.radians(self.latitude)


def toy_grid(rows: int, columns: int, levels: tuple[float, ...]) -> ToyGrid:
    """Make a global grid: an odd number of rows includes the poles, an even one ends before them.

    Raises
    ------
    ValueError
        If the grid cannot carry the waves.
    """
    if rows < 4 or columns <= 2 * WAVES[-1]:
        raise ValueError(
            f"toy atmosphere of {rows} x {columns} points: expected at least 4 rows and "
            f"{2 * WAVES[-1] + 1} columns, for {WAVES[-1]} waves round the globe"
        )
    edge = 90.0 if rows % 2 else 90.0 - 90.0 / rows
    latitude = np.linspace(edge, -edge, rows, dtype=np.float64).round(10)
    longitude = np.arange(columns, dtype=np.float64) * (360.0 / columns)
    return ToyGrid(latitude, longitude, np.array([SURFACE_HPA, *levels]))


class ToyWaves:
    """Make amplitudes step by step; the same seed gives the same numbers."""

    def __init__(self, grid: ToyGrid, *, step_s: float, start_s: int, seed: int) -> None:
        self._grid, self._step_s, self._now_s = grid, step_s, start_s - SPIN_UP_S
        self._bits = np.random.Philox(key=seed)
        self._keep = math.exp(-step_s / MEMORY_S)
        self._smooth = _smoothing(grid.latitude)
        shape = (len(grid.levels_hpa), len(WAVES), len(grid.latitude))
        self._amplitudes = self._noise(shape)
        while self._now_s < start_s:
            self._advance()

    def run(self, steps: int) -> NDArray[np.complex64]:
        """Return the amplitudes (T, P, M, H) of the next steps, and go on behind them."""
        shape = (steps, *self._amplitudes.shape)
        out = np.empty(shape, np.complex64)
        for step in range(steps):
            out[step] = self._amplitudes
            self._advance()
        return out

    def _advance(self) -> None:
        turned = self._amplitudes * rotation(self._grid, self._now_s, self._step_s)
        fresh = math.sqrt(1 - self._keep**2) * self._noise(self._amplitudes.shape)
        self._amplitudes = self._keep * turned + fresh
        self._now_s += self._step_s

    def _noise(self, shape: tuple[int, ...]) -> NDArray[np.complex128]:
        """Draw noise (P, M, H) of the waves' variance, smooth in latitude, alike on all levels."""
        shared, own = self._normals(shape[1:]), self._normals(shape)
        mixed = math.sqrt(0.9) * shared + math.sqrt(0.1) * own
        weights = WEIGHTS / math.sqrt(float(np.square(WEIGHTS).sum()))
        return mixed @ self._smooth.T * weights[:, None]

    def _normals(self, shape: tuple[int, ...]) -> NDArray[np.complex128]:
        """Draw complex normals of variance 2, from raw bits, which numpy promises to keep."""
        count = 2 * math.prod(shape)
        bits = self._bits.random_raw(count)
        uniforms = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        normals = torch.special.ndtri(torch.from_numpy(uniforms)).numpy()
        made: NDArray[np.complex128] = normals[: count // 2] + 1j * normals[count // 2 :]
        return made.reshape(shape)


def rotation(grid: ToyGrid, time_s: float, step_s: float) -> NDArray[np.complex128]:
    """Return exp(-i m omega dt) (P, M, H): what the flow does to the amplitudes in one step."""
    height = 1 - grid.levels_hpa / 1000.0
    shear = 1 + 0.3 * np.square(np.sin(2 * grid.phi))
    season = 1 + 0.2 * winter(time_s) * np.sin(grid.phi)
    omega: NDArray[np.float64] = OMEGA_S * (0.85 + 0.3 * height)[:, None, None] * shear * season
    result: NDArray[np.complex128] = np.exp(-1j * step_s * WAVES[:, None] * omega)
    return result


def winter(time_s: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 in the northern, -1 in the southern midwinter."""
    return np.asarray(np.cos(2 * np.pi * (np.asarray(time_s) / YEAR_S - 15 / 365)))


def toy_fields(
    grid: ToyGrid, amplitudes: NDArray[np.complex64], times_s: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Compute the fields of amplitudes (T, P, M, H): z, t, u, v (T, P - 1, H, W) on the levels and
    t2m, u10, v10, msl (T, H, W), in SI units.
    """
    phi, columns = grid.phi, len(grid.longitude)
    cosine, sine = np.maximum(np.cos(phi), 0.01), np.sin(phi)
    season = winter(times_s.astype(np.float64))[:, None, None, None]
    pressure = grid.levels_hpa[:, None, None]
    height = 1 - pressure / 1000.0
    # Waves end at the poles, as any smooth field must.
    envelope = np.square(np.cos(phi)) * (0.5 + 1.5 * np.square(np.sin(2 * phi)))
    shaped = amplitudes * envelope.astype(np.float32)

    z_size = 400.0 + 600.0 * height
    per_f = sine / (np.square(sine) + 0.1) / CORIOLIS_S  # 1 / f, without its pole at the equator
    along = shaped * (1j * WAVES[:, None]).astype(np.complex64)
    across = np.gradient(shaped, phi, axis=-1)
    wave = _synthesis(shaped, columns)
    warm = _synthesis(shaped * np.complex64(np.exp(-1j * np.pi / 3)), columns)
    v = z_size * (per_f / (RADIUS_M * cosine))[:, None] * _synthesis(along, columns)
    u = -z_size * (per_f / RADIUS_M)[:, None] * _synthesis(across, columns)
    jet = 25.0 * (0.12 + height) * np.square(np.sin(2 * phi))[:, None]
    u = u + jet * (1 + 0.3 * season * sine[:, None]) - 4.0 * np.square(np.cos(phi))[:, None]

    # Temperature: a standard profile, colder to the poles and in winter, less so aloft.
    profile = np.maximum(288.15 * (pressure / 1013.25) ** 0.19, 216.65)
    poleward = 12.0 - 36.0 * np.square(sine)[:, None] - 10.0 * season * sine[:, None]
    temperature = profile + (pressure / 1000.0) * poleward
    t = temperature + 3.0 * warm
    layer = 0.5 * (288.15 + profile) + 0.5 * (0.5 + 0.5 * pressure / 1000.0) * poleward
    z = GAS_CONSTANT * layer * np.log(1013.25 / pressure) + z_size * wave

    hour = 2 * np.pi * ((times_s[:, None] / 86400.0 + grid.longitude / 360.0) % 1.0)
    daily = -np.cos(hour - np.pi / 6)[:, None, :] * np.cos(phi)[:, None]  # warmest at 14 h
    land = land_mask(grid)
    msl = 101325.0 + 500.0 * np.cos(4 * phi)[:, None] - 300.0 * np.square(sine)[:, None]
    fields = {
        "z": z[:, 1:],
        "t": t[:, 1:],
        "u": u[:, 1:],
        "v": v[:, 1:],
        "t2m": t[:, 0] + (0.5 + 4.0 * land) * daily,
        "u10": 0.6 * u[:, 0],
        "v10": 0.6 * v[:, 0],
        "msl": msl + 900.0 * wave[:, 0],
    }
    return {name: field.astype(np.float32) for name, field in fields.items()}


def land_mask(grid: ToyGrid) -> NDArray[np.float32]:
    """Return the share of land (H, W) of each cell, that of the Earth."""
    return land_share(grid.latitude, grid.longitude).astype(np.float32)


def _synthesis(amplitudes: NDArray[np.complex64], columns: int) -> NDArray[np.float64]:
    """Compute Re sum_m A_m exp(i m longitude) (T, P, H, W) from (T, P, M, H)."""
    spectrum = np.zeros((*amplitudes.shape[:2], amplitudes.shape[3], columns // 2 + 1), complex)
    spectrum[..., WAVES] = np.moveaxis(amplitudes, 2, 3) * (columns / 2)
    result: NDArray[np.float64] = np.fft.irfft(spectrum, n=columns, axis=-1)
    return result


def _smoothing(latitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (H, H) that makes noise smooth over some 15 degrees, of unit variance."""
    kernel = np.exp(-0.5 * np.square((latitude[:, None] - latitude) / 15.0))
    result: NDArray[np.float64] = kernel / np.sqrt(np.square(kernel).sum(axis=1, keepdims=True))
    return result
