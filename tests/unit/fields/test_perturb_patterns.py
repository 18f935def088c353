"""Patterns of noise: variance 1 at every point, and on the sphere a correlation that depends on the
distance alone and is known in closed form.
"""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, sph_harm_y
from torch import Tensor

from hpc_bnn.fields.perturb import PATTERNS, Gaussian, Spherical
from hpc_bnn.fields.perturb.spherical import RADIUS_KM, associated_legendre

LATITUDE = torch.linspace(87, -87, 30, dtype=torch.float64)
LONGITUDE = torch.arange(60, dtype=torch.float64) * 6


def linear_map(pattern: Spherical | Gaussian) -> Tensor:
    """Return the fields (count, H, W) that each normal alone makes."""
    return pattern(torch.eye(pattern.count, dtype=torch.float64))


@pytest.mark.parametrize("poles", [False, True])
def test_the_variance_is_one_everywhere(poles: bool) -> None:
    latitude = torch.linspace(90, -90, 31, dtype=torch.float64) if poles else LATITUDE
    for name, options in (("gaussian", {}), ("spherical", {"length_km": 1500.0})):
        variance = linear_map(PATTERNS[name](latitude, LONGITUDE, True, **options)).square().sum(0)
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-12, atol=1e-12)


def test_the_correlation_is_that_of_the_spectrum() -> None:
    """C(r) = sum_l p_l P_l(cos r / a), p_l ~ (2 l + 1) exp(-l (l + 1) (length / a)^2 / 2), up
    to the share of the variance that is left out, 1e-4.
    """
    length = 2000.0
    fields = linear_map(Spherical(LATITUDE, LONGITUDE, True, length_km=length))
    degrees = np.arange(1, 200)
    power = (2 * degrees + 1) * np.exp(-0.5 * degrees * (degrees + 1) * (length / RADIUS_KM) ** 2)
    power /= power.sum()
    points = [(0, 0), (0, 30), (7, 3), (15, 20), (15, 50), (29, 59)]
    phi, lam = torch.deg2rad(LATITUDE).numpy(), torch.deg2rad(LONGITUDE).numpy()
    for i, j in points:
        for k, m in points:
            cosine = np.sin(phi[i]) * np.sin(phi[k])
            cosine += np.cos(phi[i]) * np.cos(phi[k]) * np.cos(lam[j] - lam[m])
            expected = float((power * eval_legendre(degrees, min(1.0, cosine))).sum())
            found = float((fields[:, i, j] * fields[:, k, m]).sum())
            assert found == pytest.approx(expected, abs=2e-4)


def test_the_length_is_where_a_gaussian_has_it() -> None:
    """exp(-1/2) at the length, for lengths small against the radius (here 1/6: to 2 %)."""
    latitude = torch.linspace(87.75, -87.75, 40, dtype=torch.float64)  # 4.5 degrees apart
    length = math.radians(9) * RADIUS_KM
    fields = linear_map(Spherical(latitude, LONGITUDE, True, length_km=length))
    found = float((fields[:, 14, 0] * fields[:, 16, 0]).sum())
    assert found == pytest.approx(math.exp(-0.5), abs=0.02)


def test_harmonics_are_those_of_scipy() -> None:
    phi = torch.deg2rad(LATITUDE)
    made = associated_legendre(torch.sin(phi), 12)
    for degree in range(13):
        for order in range(degree + 1):
            known = sph_harm_y(degree, order, (math.pi / 2 - phi).numpy(), 0.0).real
            known = known * (-1) ** order * (math.sqrt(2) if order else 1)
            np.testing.assert_allclose(made[degree, order], known, rtol=1e-10, atol=1e-12)
    assert bool((made[3, 4:] == 0).all())


def test_what_a_grid_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"perturb\.length_km = 200: the grid of 30 x 60 points"):
        Spherical(LATITUDE, LONGITUDE, True, length_km=200.0)
    with pytest.raises(ValueError, match=r"perturb\.length_km = 1e\+09: .* at most 20015$"):
        Spherical(LATITUDE, LONGITUDE, True, length_km=1e9)
    longest = Spherical(LATITUDE, LONGITUDE, True, length_km=20000.0)
    assert bool(linear_map(longest).isfinite().all())
    with pytest.raises(
        ValueError, match=r"perturb\.name = 'spherical': .* the grid is of a region"
    ):
        Spherical(LATITUDE, LONGITUDE, False)
