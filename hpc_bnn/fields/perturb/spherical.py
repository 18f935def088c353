"""Noise that is smooth on the sphere and alike everywhere on it: a sum of spherical harmonics.

    field(lat, lon) = sum_{l = 1 ... L} s_l sum_{m = -l ... l} eps_lm Y_lm(lat, lon)

    s_l^2 ~ exp(-l (l + 1) (length / a)^2 / 2),      sum_l s_l^2 (2 l + 1) / (4 pi) = 1

with real orthonormal Y_lm, so that by their addition theorem the variance is 1 at every point and
the correlation depends on the distance r alone: about exp(-r^2 / (2 length^2)) where the length is
small against the radius a of the Earth. l = 0, the same everywhere, is left out.

Letters: N fields, H latitude, W longitude, L the highest degree, M = L + 1 orders from 0.
"""

import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

RADIUS_KM = 6371.0
SMALL = 1e-4  # share of the variance that degrees beyond L would have


class Spherical:
    """Random fields on a global grid.

    Parameters
    ----------
    length_km
        Distance over which the noise decorrelates: exp(-1/2) is left at this distance.

    Raises
    ------
    ValueError
        If the grid is of a region, or does not resolve the length.
    """

    def __init__(
        self,
        latitude: Tensor,
        longitude: Tensor,
        periodic: bool,
        *,
        length_km: Annotated[float, Gt(0)] = 1000.0,
    ) -> None:
        if not periodic:
            raise ValueError(
                "perturb.name = 'spherical': its waves close round the globe, and the grid is of a "
                "region; choose perturb.name = gaussian"
            )
        if not 0 < length_km < math.inf:
            raise ValueError(f"perturb.length_km = {length_km!r}: must be positive")
        if length_km > math.pi * RADIUS_KM:
            raise ValueError(
                f"perturb.length_km = {length_km:g}: is longer than half the way round the globe: "
                f"expected at most {math.pi * RADIUS_KM:.0f}"
            )
        rows, self._columns = len(latitude), len(longitude)
        most = min(rows - 1, (self._columns - 1) // 2)
        scales = _scales(length_km / RADIUS_KM, most)
        if len(scales) > most:
            spacing = math.pi * RADIUS_KM / rows
            raise ValueError(
                f"perturb.length_km = {length_km:g}: the grid of {rows} x {self._columns} points, "
                f"{spacing:.0f} km apart, resolves waves of degree {most} and shorter ones would "
                "count; give a larger length, or choose perturb.name = gaussian"
            )
        self._orders = len(scales) + 1
        legendre = associated_legendre(torch.sin(torch.deg2rad(latitude.double())), len(scales))
        weights = torch.cat([torch.zeros(1, dtype=torch.float64), scales])[:, None, None]
        self._maps = (weights * legendre).permute(1, 0, 2).contiguous()  # (M, L + 1, H)

    @property
    def count(self) -> int:
        """Two normals, of cosine and sine, for each degree and order; those that no harmonic has
        are not used.
        """
        return 2 * self._orders**2

    def __call__(self, eps: Tensor) -> Tensor:
        """Return the fields (N, H, W) of standard normals (N, 2 M M)."""
        maps = self._maps = self._maps.to(eps.device)
        parts = eps.double().view(len(eps), 2, self._orders, self._orders)
        waves = torch.einsum("npml,mlh->nphm", parts, maps)
        # cos(m lon) and sin(m lon) of a real field are twice the real and imaginary part.
        spectrum = torch.complex(waves[:, 0], -waves[:, 1]) * (self._columns / 2)
        spectrum[..., 0] = 2 * spectrum[..., 0].real
        fields: Tensor = torch.fft.irfft(spectrum, n=self._columns, dim=-1)
        return fields.to(eps.dtype)


def _scales(length: float, most: int) -> Tensor:
    """Return s_l (L,) of l = 1 ... L in float64, at most one more than ``most``; length: in units
    of the radius.
    """
    degrees = torch.arange(1, max(2, most, math.ceil(8 / length)) + 1, dtype=torch.float64)
    power = (-0.5 * degrees * (degrees + 1) * length**2).exp() * (2 * degrees + 1)
    behind = power.sum() - power.cumsum(0)
    highest = min(int((behind > SMALL * power.sum()).sum()) + 1, most + 1)
    power = power[:highest] / power[:highest].sum()
    return (4 * math.pi * power / (2 * degrees[:highest] + 1)).sqrt()


def associated_legendre(x: Tensor, degree: int) -> Tensor:
    """Return the associated Legendre functions (degree + 1, degree + 1, H), by l and m, of x (H,),
    normalised so that P_l0 and P_lm times cos(m lon) or sin(m lon) are orthonormal on the sphere; 0
    where m > l.

    Source: the recursion that is stable to thousands of degrees, Holmes, Featherstone 2002,
    doi:10.1007/s00190-002-0216-2, eq. 11.
    """
    made = x.new_zeros(degree + 1, degree + 1, len(x))
    cosine = (1 - x.square()).clamp(min=0).sqrt()
    made[0, 0] = math.sqrt(1 / (4 * math.pi))
    for m in range(1, degree + 1):
        factor = math.sqrt((2 * m + 1) / (2 * m)) * (math.sqrt(2) if m == 1 else 1)
        made[m, m] = factor * cosine * made[m - 1, m - 1]
    for m in range(degree):
        made[m + 1, m] = math.sqrt(2 * m + 3) * x * made[m, m]
        for n in range(m + 2, degree + 1):
            a = math.sqrt((4 * n * n - 1) / (n * n - m * m))
            b = math.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1))
            made[n, m] = a * (x * made[n - 1, m] - b * made[n - 2, m])
    return made
