"""Tokens become points by patches that overlap: the sum that the module's docstring states."""

import math

import pytest
import torch
from torch import Tensor

from hpc_bnn.bayes import Gaussian
from hpc_bnn.models.overlap import Overlap
from hpc_bnn.models.swin import Swin
from hpc_bnn.verify.spectrum import zonal_power


def tokens(rows: int, columns: int, width: int = 3, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(batch, rows, columns, width, generator=generator, dtype=torch.float64)


def overlap(
    *, periodic: bool, inside: tuple[int, int] | None = None, smooth: bool = False
) -> Overlap:
    torch.manual_seed(0)
    return Overlap(3, 2, periodic=periodic, inside=inside, smooth=smooth).double()


def along(size: int, *, circle: bool, smooth: bool = False) -> Tensor:
    """Return the map (2 size, size, 2) of values and slopes to points, from h and its definition.

    Beyond an edge, the token on it stands once more, two points further; a point as it is.
    """
    made = torch.zeros(2 * size, size, 2, dtype=torch.float64)
    for position in range(-1, size + 1):
        token = position % size if circle else min(max(position, 0), size - 1)
        for point in range(2 * size):
            d = point - (2 * position + 0.5)
            weight = max(0.0, 1 - abs(d) / 2)
            made[point, token] += weight * torch.tensor([1.0, d], dtype=torch.float64)
    if not smooth:
        return made
    rows = torch.arange(-3, 2 * size + 3)
    padded = made[rows % (2 * size) if circle else rows.clamp(0, 2 * size - 1)]
    taps = (-1, 0, 9, 16, 9, 0, -1)
    return sum(tap / 32 * padded[i : i + 2 * size] for i, tap in enumerate(taps))  # type: ignore[return-value]


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (1, 5), (3, 1)])
def test_it_is_the_sum_over_tokens_of_blended_patches(
    rows: int, columns: int, periodic: bool, smooth: bool
) -> None:
    module, x = overlap(periodic=periodic, smooth=smooth), tokens(rows, columns)
    c = module.coefficients(x).reshape(2, rows, columns, 2, 2, 2)
    maps = along(rows, circle=False), along(columns, circle=periodic, smooth=smooth)
    expected = torch.einsum("yri,xcj,brcijd->byxd", *maps, c)
    torch.testing.assert_close(module(x), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("size", [4, 16])
def test_the_finest_checkerboard_alone_cannot_be_made(size: int, smooth: bool) -> None:
    """Of 2 n points on a circle: + - + - ..., which tokens, all alike, would have to make."""
    matrix = along(size, circle=True, smooth=smooth).reshape(2 * size, 2 * size)
    singular = torch.linalg.svdvals(matrix)
    assert int((singular > 1e-9).sum()) == 2 * size - 1
    alternating = (-1.0) ** torch.arange(2 * size, dtype=torch.float64)
    assert float((alternating @ matrix).abs().max()) < 1e-14


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("smooth", [False, True])
def test_images_of_waves_along_tokens_are_damped_as_stated(size: int, smooth: bool) -> None:
    """Of wave k of values or slopes: power at the image, n - k, against that at k."""
    matrix, k = along(size, circle=True, smooth=smooth), size // 8
    wave = torch.exp(2j * torch.pi * k * torch.arange(size) / size).to(torch.complex128)
    half = torch.pi * k / (2 * size)  # delta / 2
    for coefficient, power in ((0, 3), (1, 2)):
        points = matrix[..., coefficient].to(torch.complex128) @ wave
        found = torch.fft.fft(points).abs()[[k, size + k]]
        sine, cosine = math.sin(half), math.cos(half)
        ratio = (sine / cosine) ** power * (cosine / sine) ** coefficient
        if smooth:
            delta = 2 * half
            ratio *= (sine / cosine) ** 4 * (2 + math.cos(delta)) / (2 - math.cos(delta))
        assert float(found[1] / found[0]) == pytest.approx(ratio, rel=1e-10)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("periodic", [True, False])
def test_equal_tokens_give_one_value_at_all_points_whatever_the_weights(
    periodic: bool, smooth: bool
) -> None:
    module = overlap(periodic=periodic, smooth=smooth)
    points = module(tokens(1, 1).expand(2, 4, 6, 3))
    torch.testing.assert_close(points, points[:, :1, :1].expand_as(points), rtol=0, atol=1e-15)


@pytest.mark.parametrize("smooth", [False, True])
def test_tokens_beyond_the_edge_of_a_region_reach_no_point_inside(smooth: bool) -> None:
    module, x = overlap(periodic=False, inside=(3, 2), smooth=smooth), tokens(4, 6)
    changed = x.clone()
    changed[:, 3:], changed[:, :, 2:] = torch.nan, torch.nan
    alone = overlap(periodic=False, smooth=smooth)(x[:, :3, :2])
    assert torch.equal(module(changed)[:, :6, :4], alone)
    assert torch.equal(module(x)[:, :6, :4], alone)


def test_a_circle_is_invariant_under_turns_to_the_last_bit() -> None:
    module, x = overlap(periodic=True, smooth=True), tokens(4, 8)
    assert torch.equal(module(x.roll(1, 2)), module(x).roll(2, 2))


@pytest.mark.parametrize("recovery", ["overlap", "patch"])
def test_draws_of_a_network_have_no_checkerboard_over_a_smooth_state(recovery: str) -> None:
    """Of one wave round the globe: the share of the highest wavenumber in what a draw adds."""
    torch.manual_seed(0)
    options = {"width": 16, "depths": (2, 2, 2, 2), "heads": (2, 2, 2, 2), "recovery": recovery}
    posterior = Gaussian(Swin((1, 32, 64), (1, 32, 64), **options).double())  # type: ignore[arg-type]
    turn = 2 * torch.pi * torch.arange(64, dtype=torch.float64) / 64
    state = torch.cos(turn).expand(1, 1, 32, 64)
    with torch.no_grad():
        members = torch.cat([posterior(state, posterior.key(0, [k])) for k in range(8)])
    power = zonal_power(members - members.mean(0), torch.ones(32)).flatten(0, -2).mean(0)
    share = float(power[-1] / power[1:].sum())
    assert share < 1e-5 if recovery == "overlap" else share > 1e-2
