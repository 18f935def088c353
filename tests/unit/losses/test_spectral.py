"""The score of zonal amplitudes beside that of points: its definition, its gradient, any grid."""

import math

import pytest
import torch
from thread_group import cotangent, on_ranks, own
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.amplitude import wave_weights, zonal_amplitude

LAYOUTS = ("gather", "transposed")
MAKERS = ("crps", "fair_crps", "almost_fair_crps", "energy_score")


def ensemble(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    members = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return members, torch.randn(*shape[1:], generator=generator, dtype=torch.float64)


def wave(columns: int, k: int, amplitude: float = 1.0, turn: float = 0.0) -> Tensor:
    angle = 2 * math.pi * torch.arange(columns, dtype=torch.float64) / columns
    return amplitude * torch.cos(k * angle + turn)


@pytest.mark.parametrize("columns", [7, 8])
def test_amplitudes_are_those_of_the_sum_that_defines_them(columns: int) -> None:
    field = ensemble(3, 2, columns)[0]
    turns = torch.outer(torch.arange(columns // 2 + 1), torch.arange(columns)).double()
    basis = torch.exp(-2j * math.pi * turns / columns)
    expected = (field.to(torch.complex128) @ basis.T).abs() / math.sqrt(columns)
    amplitude = zonal_amplitude(field)
    torch.testing.assert_close(amplitude, expected, rtol=1e-12, atol=1e-13)
    weights = wave_weights(None, columns)
    assert float(weights.sum()) == columns
    mean_square = (weights * amplitude.square()).sum(-1) / columns
    torch.testing.assert_close(mean_square, field.square().mean(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MAKERS)
def test_it_is_the_loss_of_points_and_that_of_amplitudes(name: str, layout: str) -> None:
    """Value and gradient, with weights of channels and rows, against the two written out."""
    members, target = ensemble(4, 3, 2, 3, 10)
    weights = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 3.0]], dtype=torch.float64)[..., None]
    make, each = getattr(losses, name), cotangent((3,))
    results = []
    for written_out in (False, True):
        leaf = members.clone().requires_grad_()
        if written_out:
            points = make(weights=weights, layout=layout)(leaf, target, ALONE)
            of_waves = make(weights=weights * torch.tensor([1.0, 2, 2, 2, 2, 1]), layout=layout)
            waves = of_waves(torch.fft.rfft(leaf).abs(), torch.fft.rfft(target).abs(), ALONE)
            value = points + 0.7 * waves / math.sqrt(10)
        else:
            value = make(weights=weights, layout=layout, spectral=0.7)(leaf, target, ALONE)
        (gradient,) = torch.autograd.grad((value * each).sum(), leaf)
        results.append((value.detach(), gradient))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_it_asks_how_much_of_a_wave_there_is_and_not_where() -> None:
    target = wave(16, 3)[None, None]
    displaced = torch.stack([wave(16, 3, turn=turn)[None, None] for turn in (0.5, 2.0, 4.0)])
    smooth = torch.stack([wave(16, 3, size)[None, None] for size in (0.2, 0.3, 0.4)])

    def spectral(members: Tensor) -> float:
        both, points = (losses.crps(spectral=s)(members, target, ALONE) for s in (1.0, 0.0))
        return float(both - points)

    assert spectral(displaced) == pytest.approx(0.0, abs=1e-14)
    # Amplitudes 2 a of sqrt(16) / 2 at k = 3, of weight 2 of 16: errors 0.8, 0.7, 0.6 of 2.
    skill, spread = 2 * 0.7, 2 * 0.5 * (2 * (0.1 + 0.1 + 0.2)) / 9
    assert spectral(smooth) == pytest.approx((skill - spread) / 8, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fields_without_waves_have_finite_gradients(dtype: torch.dtype) -> None:
    members = torch.ones(3, 2, 4, 8, dtype=dtype, requires_grad=True)
    value = losses.almost_fair_crps(spectral=1.0)(members, torch.zeros(2, 4, 8), ALONE)
    (gradient,) = torch.autograd.grad(value.sum(), members)
    assert value.dtype == torch.float32 and bool(gradient.isfinite().all())


@pytest.mark.parametrize("columns", [1, 5, 12])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["almost_fair_crps", "energy_score"])
def test_ranks_that_share_the_members_get_the_value_and_gradient_of_one(
    name: str, ranks: int, columns: int
) -> None:
    members, target = ensemble(12, 3, 2, columns)

    def work(axis: Group) -> list[tuple[Tensor, Tensor]]:
        results = []
        for layout in LAYOUTS:
            mine = own(members, axis)
            value = getattr(losses, name)(layout=layout, spectral=0.3)(mine, target, axis)
            (gradient,) = torch.autograd.grad((value * cotangent((3,))).sum(), mine)
            results.append((value.detach(), gradient))
        return results

    ((alone, whole), _) = work(ALONE)
    for rank, results in enumerate(on_ranks(ranks, work)):
        part = 12 // ranks
        for value, gradient in results:
            assert torch.allclose(value, alone, rtol=1e-12, atol=0)
            expected = whole[rank * part : (rank + 1) * part]
            assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-14)


def test_what_has_no_spectrum_is_refused_by_name() -> None:
    present = torch.ones(2, 3, 4, dtype=torch.bool)
    losses.crps(spectral=1.0, present=present)
    present[0, 0, 0] = False
    losses.crps(present=present)
    with pytest.raises(ValueError, match=r"loss\.spectral = 1\.0: .*points without values"):
        losses.crps(spectral=1.0, present=present)
    with pytest.raises(ValueError, match=r"loss\.spectral = 2\.0: weights of shape \(4,\)"):
        losses.fair_crps(spectral=2.0, weights=torch.ones(4))
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"loss\.spectral = .*: must be a number"):
            losses.energy_score(spectral=value)
