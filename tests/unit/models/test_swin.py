"""The SWIN transformer on the sphere and on regions."""

import pytest
import torch

from hpc_bnn.bayes import Gaussian
from hpc_bnn.models.sphere import PolarPadding
from hpc_bnn.models.swin import Swin
from hpc_bnn.models.windows import Windows

SMALL = {"width": 8, "depths": (2, 2, 2, 2), "heads": (2, 4, 4, 2)}


def swin(rows: int, columns: int, channels: int = 2, **options: object) -> Swin:
    torch.manual_seed(0)
    chosen = {**SMALL, **options}
    return Swin((channels, rows, columns), (channels, rows, columns), **chosen).double()  # type: ignore[arg-type]


def fields(rows: int, columns: int, channels: int = 2, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(batch, channels, rows, columns, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rows", "columns", "window"),
    [(32, 64, (4, 8)), (33, 64, (2, 4)), (73, 144, (4, 6)), (121, 48, (4, 6)), (181, 24, (6, 6))],
)
def test_any_number_of_rows_fits_a_globe(rows: int, columns: int, window: tuple[int, int]) -> None:
    x = fields(rows, columns)
    assert swin(rows, columns, window=window)(x).shape == x.shape


def test_patches_recovered_alone_are_the_network_of_earlier_checkpoints() -> None:
    """By the names that they hold, so that neither is taken for the other."""
    old, new = (
        set(swin(16, 32, window=(2, 4), recovery=way).state_dict()) for way in ("patch", "overlap")
    )
    assert old - new == {"expand.weight", "expand.bias", "recover.weight", "recover.bias"}


ROLLED = [
    (32, 64, (4, 8)),
    (33, 64, (4, 8)),
    (33, 64, (2, 4)),
    (73, 144, (4, 12)),
    (121, 240, (4, 6)),
]


@pytest.mark.parametrize(("rows", "columns", "window"), ROLLED)
@pytest.mark.parametrize("batch", [1, 3])
def test_rolling_longitude_by_a_window_period_rolls_the_output_exactly(
    rows: int, columns: int, window: tuple[int, int], batch: int
) -> None:
    network, x = swin(rows, columns, window=window), fields(rows, columns, batch=batch)
    period = 4 * window[1]
    with torch.no_grad():
        rolled = network(x.roll(period, -1)).roll(-period, -1)
        assert torch.equal(rolled, network(x))


def test_rolling_is_exact_with_two_threads_and_drawn_weights() -> None:
    posterior, x, period = Gaussian(swin(32, 64, width=32)), fields(32, 64, batch=2), 32
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            rolled = posterior(x.roll(period, -1), posterior.key(0, [0])).roll(-period, -1)
            assert torch.equal(rolled, posterior(x, posterior.key(0, [0])))
    finally:
        torch.set_num_threads(before)


def test_rolling_is_exact_to_the_last_bit_where_tokens_are_no_multiple_of_four() -> None:
    """MKL's float64 product sums the last rows, beyond a multiple of four, in another order."""
    network, x, period = swin(9, 20, window=(3, 1)), fields(9, 20), 4  # 15 merged tokens
    with torch.no_grad():
        rolled = network(x.roll(period, -1)).roll(-period, -1)
        torch.testing.assert_close(rolled, network(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rows", [32, 33])
@pytest.mark.parametrize("pole", [0, -1])
def test_a_change_at_one_pole_ends_a_few_rows_behind_the_equator(rows: int, pole: int) -> None:
    """Windows end there; two overlaps, of merged and of fine tokens, carry it four rows further."""
    network, x = swin(rows, 64, depths=(2, 0, 0, 0)), fields(rows, 64)
    changed = x.clone()
    changed[:, :, pole] += 1.0
    difference = (network(changed) - network(x)).abs().amax((0, 1, 3))
    other = difference[rows // 2 + 4 :] if pole == 0 else difference[: (rows + 1) // 2 - 4]
    assert difference[pole] > 0
    assert torch.equal(other, torch.zeros_like(other))


def test_longitude_is_a_circle() -> None:
    network, x = swin(32, 64), fields(32, 64)
    changed = x.clone()
    changed[..., 0] += 1.0
    assert (network(changed) - network(x))[..., -1].abs().max() > 0


def test_polar_rows_are_half_a_turn_away() -> None:
    x = fields(4, 6, channels=2)
    without_pole_row = PolarPadding(4, 6, 3, vector_channels=(1,))(x)
    torch.testing.assert_close(without_pole_row[:, 0, 0], x[:, 0, 0].roll(3, -1))
    torch.testing.assert_close(without_pole_row[:, 1, 0], -x[:, 1, 0].roll(3, -1))
    torch.testing.assert_close(without_pole_row[:, 0, -1], x[:, 0, -2].roll(3, -1))
    torch.testing.assert_close(without_pole_row[..., 1:5, :], x)

    odd = fields(5, 6)
    with_pole_row = PolarPadding(5, 6, 2)(odd)  # the pole row itself is not repeated
    torch.testing.assert_close(with_pole_row[:, :, 0], odd[:, :, 1].roll(3, -1))
    torch.testing.assert_close(with_pole_row[:, :, -1], odd[:, :, -2].roll(3, -1))


def test_windows_cut_and_join_are_inverse_and_shift_masks_only_wrapped_rows() -> None:
    windows = Windows((8, 16), (4, 8), shifted=True, periodic=True, inside=None)
    x = fields(8, 16, channels=3).permute(0, 2, 3, 1)
    assert torch.equal(windows.roll(windows.join(windows.cut(windows.roll(x, -1))), +1), x)
    assert windows.allowed is not None
    # two rows of two windows: the upper ones are whole, the lower ones hold both poles
    assert bool(windows.allowed[:2].all())
    assert not bool(windows.allowed[2:].any(-1).logical_not().any())
    assert float(windows.allowed[2:].double().mean()) == 0.5
    plain = Windows((8, 16), (4, 8), shifted=False, periodic=True, inside=None)
    assert plain.allowed is None


def test_a_region_has_no_neighbours_beyond_its_edges() -> None:
    network = swin(25, 29, window=(2, 2), periodic=False, depths=(2, 0, 0, 0))
    x = fields(25, 29)
    for edge, far in (((..., 0), (..., -1)), ((..., 0, slice(None)), (..., -1, slice(None)))):
        changed = x.clone()
        changed[edge] += 1.0
        difference = (network(changed) - network(x)).abs()
        assert difference[edge].max() > 0
        assert difference[far].max() == 0


def test_padding_of_a_region_is_never_seen() -> None:
    network, x = swin(12, 12, window=(2, 2), periodic=False), fields(12, 12)  # padded to 16 x 16
    expected = network(x)
    pad = network._pad
    outside = pad(torch.ones_like(x)) == 0
    assert outside.any()
    network._pad = lambda field: pad(field) + 7.0 * outside  # type: ignore[method-assign]
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


def test_recomputed_blocks_use_the_drawn_weights() -> None:
    kept, again = (
        Gaussian(swin(16, 32, window=(2, 4))),
        Gaussian(swin(16, 32, window=(2, 4), recompute=True)),
    )
    x = fields(16, 32)
    for posterior in (kept, again):
        posterior(x, posterior.key(3, [1])).square().sum().backward()
    for (name, p), q in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.filterwarnings("error:There is a performance drop")
@pytest.mark.parametrize("options", [{}, {"periodic": False}])
def test_several_samples_in_one_pass_equal_one_at_a_time(options: dict[str, bool]) -> None:
    """Outputs without gradients, for which torch has other kernels, and with; gradients."""
    posterior = Gaussian(swin(16, 32, window=(2, 4), **options), random=["*"])
    x = fields(16, 32, batch=2)
    with torch.no_grad():
        predicted = posterior(x, posterior.key(0, [0, 1, 2]))
    together = posterior(x, posterior.key(0, [0, 1, 2]))
    alone = torch.cat([posterior(x, posterior.key(0, [s])) for s in range(3)])
    for outputs in (predicted, together):
        torch.testing.assert_close(outputs, alone, rtol=1e-12, atol=1e-12)
    parameters = list(posterior.parameters())
    got = torch.autograd.grad(together.square().sum(), parameters)
    expected = torch.autograd.grad(alone.square().sum(), parameters)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_norms_and_position_tables_stay_deterministic() -> None:
    names = Gaussian(swin(16, 32, window=(2, 4), latitude_embedding=True)).names
    assert not [n for n in names if "norm" in n or "position_bias" in n]
    assert "latitude" not in names and "embed.weight" in names
    assert "recover.coefficients.weight" in names and "expand.coefficients.weight" in names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (4, 7)}, r"28 of 64 longitudes.*window widths that fit: 1, 2, 4, 8, 16"),
        ({"depths": (2, 3, 2, 2)}, "even numbers"),
        ({"depths": (2, 2)}, "expected four"),
        ({"heads": (3, 4, 4, 2)}, "3 heads must divide the 8 channels of stage 1"),
        ({"vector_channels": (5,)}, "channels 0 to 1"),
        ({"window": (32, 8)}, "cannot be extended"),
        ({"recovery": "patches"}, r"model\.recovery = 'patches': expected overlap or patch"),
    ],
)
def test_what_does_not_fit_says_what_does(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swin(32, 64, **options)
