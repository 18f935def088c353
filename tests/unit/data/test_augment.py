"""Augmentations against slow loops, their distribution over the uniforms, and bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpc_bnn.data.augment import AUGMENTATIONS, Augmentation, CropFlip, Jitter, Shift

BIGGEST = 1 - 2.0**-24


def uniforms(batch: int, count: int, seed: int = 0) -> Tensor:
    return torch.rand(batch, count, generator=torch.Generator().manual_seed(seed))


def slow_translation(image: Tensor, down: int, right: int) -> Tensor:
    out = torch.zeros_like(image)
    _, height, width = image.shape
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            out[:, row, column] = image[:, row - down, column - right]
    return out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), pixels=st.integers(0, 4), width=st.integers(5, 8))
def test_shift_equals_the_loop(seed: int, pixels: int, width: int) -> None:
    x = torch.randn(6, 2, 5, width, generator=torch.Generator().manual_seed(seed))
    u = uniforms(6, 2, seed)
    moves = (u * (2 * pixels + 1)).floor().long() - pixels
    expected = [slow_translation(x[b], int(moves[b, 0]), int(moves[b, 1])) for b in range(6)]
    assert torch.equal(Shift(pixels)(x, u), torch.stack(expected))


def test_crop_flip_equals_pad_crop_flip() -> None:
    x = torch.randn(16, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    u = uniforms(16, 3)
    out = CropFlip(2)(x, u)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    places = 4 - (u[:, :2] * 5).floor().long()
    for b in range(16):
        top, left = places[b].tolist()
        crop = padded[b, :, top : top + 6, left : left + 7]
        assert torch.equal(out[b], crop.flip(-1) if u[b, 2] < 0.5 else crop)
    assert 0 < int((u[:, 2] < 0.5).sum()) < 16


def test_all_translations_are_equally_likely() -> None:
    """An even grid of uniforms hits each of the 5 x 5 translations equally often."""
    grid = (torch.arange(50) / 50).float()
    u = torch.cartesian_prod(grid, grid)
    x = torch.zeros(len(u), 1, 5, 5)
    x[:, 0, 2, 2] = 1
    assert torch.equal(Shift(2)(x, u).sum(dim=0)[0], torch.full((5, 5), 100.0))


def test_all_crops_and_mirrors_are_equally_likely() -> None:
    """Over an even grid of uniforms a pixel lands equally often on 9 x 9 places, on both sides."""
    grid = (torch.arange(18) / 18).float()
    u = torch.cartesian_prod(grid, grid, torch.tensor([0.25, 0.75]))
    x = torch.zeros(len(u), 3, 32, 32)
    x[:, 1, 16, 10] = 1
    landed = CropFlip(4)(x, u).sum(dim=0)
    assert landed[0].sum() == landed[2].sum() == 0
    assert torch.equal(landed[1, 12:21, 6:15], torch.full((9, 9), 4.0))
    assert torch.equal(landed[1, 12:21, 17:26], torch.full((9, 9), 4.0))
    assert landed.sum() == len(u)


@pytest.mark.parametrize("pixels", [1, 2, 3, 7, 15])
def test_the_biggest_uniform_stays_in_range(pixels: int) -> None:
    x = torch.zeros(2, 1, 32, 32)
    x[:, :, 16, 16] = 1
    out = Shift(pixels)(x, torch.tensor([[0.0, 0.0], [BIGGEST, BIGGEST]]))
    assert out[0, 0, 16 - pixels, 16 - pixels] == 1
    assert out[1, 0, 16 + pixels, 16 + pixels] == 1


@pytest.mark.parametrize(
    ("augment", "shape"),
    [(Shift(2), (3, 8, 8)), (CropFlip(4), (3, 8, 8)), (Jitter(0.1), (12, 2))],
)
def test_pure_per_example_and_of_the_same_kind(
    augment: Augmentation, shape: tuple[int, ...]
) -> None:
    """Each example's view depends on its own row of u only, so any split of a batch agrees."""
    x = torch.randn(10, *shape, generator=torch.Generator().manual_seed(3))
    u = uniforms(10, augment.count(shape))
    before = x.clone()
    out = augment(x, u)
    assert torch.equal(x, before)
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert out.is_contiguous()
    assert torch.equal(torch.cat([augment(x[:3], u[:3]), augment(x[3:], u[3:])]), out)
    assert not torch.equal(out, x)


def test_images_may_be_integers() -> None:
    x = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, 4, 4)
    out = Shift(1)(x, torch.tensor([[0.99, 0.5]]))
    assert out.dtype == torch.uint8
    assert out[0, 0].tolist() == [[0] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


def test_infinite_pixels_leave_no_nan() -> None:
    x = torch.full((1, 1, 4, 4), torch.inf)
    assert not Shift(1)(x, torch.zeros(1, 2)).isnan().any()


def test_jitter_is_standard_normal_times_sigma() -> None:
    """Even grid of 2^16 uniforms: moments of N(0, 0.25) to 1e-3, symmetric, finite at 0."""
    u = (torch.arange(2**16) / 2**16).reshape(1, -1)
    noise = Jitter(0.5)(torch.zeros(1, 2**16, dtype=torch.float64), u)[0]
    assert noise.isfinite().all()
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise[1:].std() == pytest.approx(0.5, abs=1e-3)
    assert (noise.abs() < 0.5).double().mean() == pytest.approx(0.682689, abs=1e-4)


def test_jitter_extremes_are_symmetric() -> None:
    ends = Jitter(1.0)(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.0, BIGGEST]]))
    # The inverse normal cdf of 2^-25.
    assert ends.tolist()[0] == pytest.approx([-5.4202, 5.4202], abs=1e-3)


def test_jitter_of_sigma_zero_changes_nothing() -> None:
    x = torch.randn(2, 3)
    assert torch.equal(Jitter(0.0)(x, uniforms(2, 3)), x)


def test_counts() -> None:
    assert Shift(2).count((3, 32, 32)) == 2
    assert CropFlip(4).count((3, 32, 32)) == 3
    assert Jitter(0.1).count((24, 5)) == 120


def test_table_makes_what_it_names() -> None:
    made = {name: make(1) for name, make in AUGMENTATIONS.items()}
    assert made == {"shift": Shift(1), "crop_flip": CropFlip(1), "jitter": Jitter(1)}


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="shift: pixels = -1: expected an integer >= 0"):
        Shift(-1)
    with pytest.raises(ValueError, match=r"crop_flip: padding = 1\.5: expected an integer"):
        CropFlip(1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="jitter: sigma = nan: expected a finite number"):
        Jitter(float("nan"))


def test_bad_batches() -> None:
    images = torch.zeros(4, 1, 8, 8)
    with pytest.raises(ValueError, match=r"u has shape \(4, 3\): expected \(4, 2\)"):
        Shift(1)(images, torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"x has shape \(4, 24, 2\): expected images.*jitter"):
        CropFlip(1)(torch.zeros(4, 24, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"8 pixels can empty images of 8 x 8: expected at most 7"):
        Shift(8)(images, torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"x is torch.int64: expected floating point"):
        Jitter(1.0)(torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2))
