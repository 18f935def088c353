"""The energy score against scoringrules, the CRPS of one point, and autograd of the definition."""

import math

import pytest
import torch
from thread_group import ThreadGroup, cotangent, on_ranks, own
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.ensemble_energy import EnergyScore

ALPHAS = (0.0, 0.5, 0.95, 1.0)
LAYOUTS = ("gather", "transposed")


def ensemble(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    members = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return members, torch.randn(*shape[1:], generator=generator, dtype=torch.float64)


def by_definition(members: Tensor, target: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return the score (B,) of (K, B, P) by its formula; pairs i != j alone, for autograd."""
    count = len(members)

    def norm(x: Tensor) -> Tensor:
        return (x.square() * weights / weights.sum()).sum(-1).sqrt()

    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    spread = torch.stack([norm(members[i] - members[j]) for i, j in pairs]).sum(0)
    c = (1 - (1 - alpha) / count) / (count * (count - 1))
    return norm(members - target).mean(0) - 0.5 * c * spread


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [2, 3, 8])
def test_values_equal_scoringrules(count: int, layout: str) -> None:
    sr = pytest.importorskip("scoringrules", reason="independent implementation")
    members, target = ensemble(count, 6, 5)
    for alpha, estimator in ((0.0, "nrg"), (1.0, "fair")):
        got = losses.energy_score(alpha=alpha, layout=layout)(members, target, ALONE)
        # Its norm is a sum over points, ours a mean.
        oracle = sr.es_ensemble(target.numpy(), members.numpy(), 0, estimator=estimator)
        expected = torch.tensor(oracle) / math.sqrt(5)
        assert torch.allclose(got, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_value_and_gradient_equal_autograd_of_the_definition(alpha: float, layout: str) -> None:
    members, target = ensemble(7, 4, 5)
    members.requires_grad_()
    weights, each = torch.tensor([1.0, 4.0, 0.0, 2.0, 0.5], dtype=torch.float64), cotangent((4,))
    loss = EnergyScore(alpha=alpha, weights=weights, layout=layout)(members, target, ALONE)
    expected = by_definition(members, target, weights, alpha)
    assert torch.allclose(loss, expected, rtol=1e-12, atol=0)
    (got,) = torch.autograd.grad((loss * each).sum(), members)
    (wanted,) = torch.autograd.grad((expected * each).sum(), members)
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_of_one_point_it_is_the_crps(alpha: float) -> None:
    members, target = ensemble(5, 8, 1)
    members.requires_grad_()
    energy = losses.energy_score(alpha=alpha)(members, target, ALONE)
    crps = losses.almost_fair_crps(alpha=alpha)(members, target, ALONE)
    assert torch.allclose(energy, crps, rtol=1e-12, atol=1e-15)
    got, wanted = (torch.autograd.grad(x.sum(), members)[0] for x in (energy, crps))
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-15)


def test_it_sees_how_points_vary_together_and_a_mean_of_crps_does_not() -> None:
    """The same values at each point, put together in the truth's way or against it."""
    along = torch.tensor([[[1.0, 1.0]], [[-1.0, -1.0]]], dtype=torch.float64)
    against = torch.tensor([[[1.0, -1.0]], [[-1.0, 1.0]]], dtype=torch.float64)
    target = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    for loss, equal in ((losses.fair_crps(), True), (losses.energy_score(alpha=1.0), False)):
        values = [loss(members, target, ALONE).item() for members in (along, against)]
        assert (values[0] == pytest.approx(values[1])) == equal
    # Distances to the truth 0 and 2, or 1 and 1 of a mean square of 2; between members 2 and 2.
    assert values == pytest.approx([1 - 1, math.sqrt(2) - 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_members_on_each_other_and_on_the_truth_have_finite_gradients(
    layout: str, dtype: torch.dtype
) -> None:
    """No gradient between coincident members, that to the others is that of the definition."""
    members = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]], [[4.0, 6.0]]], dtype=dtype)
    members.requires_grad_()
    target = torch.tensor([[1.0, 2.0]], dtype=dtype)
    loss = losses.energy_score(alpha=1.0, layout=layout)(members, target, ALONE)
    distance = 5 / math.sqrt(2)
    assert loss.item() == pytest.approx(distance / 3 - 4 * distance / 12, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), members)
    unit = torch.tensor([3.0, 4.0], dtype=dtype) / 2 / distance  # w (x_3 - t) / |x_3 - t|
    # c = 1 / 6: the third is drawn to the truth by 1 / 3, pushed by both others by 1 / 6.
    expected = torch.stack([unit / 6, unit / 6, 0 * unit])[:, None]
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-7)
    same = torch.ones(4, 2, 3, dtype=dtype, requires_grad=True)
    value = losses.energy_score(layout=layout)(same, torch.ones(2, 3, dtype=dtype), ALONE)
    (gradient,) = torch.autograd.grad(value.sum(), same)
    assert value.tolist() == [0.0, 0.0] and not bool(gradient.any())


def test_a_member_that_is_not_finite_is_seen() -> None:
    members, target = ensemble(4, 2, 3)
    members[1, 0, 2] = math.nan
    value = losses.energy_score()(members, target, ALONE)
    assert value.isnan().tolist() == [True, False]


def test_standard_score_of_one_sample_is_its_distance() -> None:
    members, target = ensemble(1, 4, 3)
    for layout in LAYOUTS:
        loss = losses.energy_score(alpha=0.0, layout=layout)
        assert loss.min_samples == 1
        expected = (members[0] - target).square().mean(1).sqrt()
        assert torch.allclose(loss(members, target, ALONE), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"energy_score: .*at least 2 weight samples, got 1"):
        losses.energy_score()(members, target, ALONE)
    with pytest.raises(ValueError, match=r"energy_score: the network gives \(4, 3\)"):
        losses.energy_score()(torch.zeros(5, 4, 3), torch.zeros(4, 1), ALONE)


def test_nothing_cancels_in_float32_far_from_zero() -> None:
    members, target = ensemble(8, 50, 20)
    members, target = (1e4 + 0.05 * members).float(), (1e4 + 0.05 * target).float()
    got = losses.energy_score(alpha=1.0)(members, target, ALONE)
    weights = torch.ones(20, dtype=torch.float64)
    expected = by_definition(members.double(), target.double(), weights, 1.0)
    assert torch.allclose(got.double(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("points", [1, 2, 5, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_layouts_agree_for_points_that_do_not_divide(ranks: int, points: int) -> None:
    members, target = ensemble(12, 3, points)
    weights = 1 + torch.arange(points, dtype=torch.float64)

    def work(axis: Group) -> list[tuple[Tensor, Tensor]]:
        results = []
        for layout in LAYOUTS:
            mine = own(members, axis)
            value = losses.energy_score(weights=weights, layout=layout)(mine, target, axis)
            (gradient,) = torch.autograd.grad((value * cotangent((3,))).sum(), mine)
            results.append((value.detach(), gradient))
        return results

    for gathered, transposed in on_ranks(ranks, work):
        for got, expected in zip(transposed, gathered, strict=True):
            assert torch.allclose(got, expected, rtol=1e-12, atol=1e-15)


def test_exchanges_are_those_promised() -> None:
    members, target = ensemble(4, 3, 5)

    def work(axis: ThreadGroup) -> list[list[str]]:
        found = []
        for layout in LAYOUTS:
            before = len(axis.calls)
            value = losses.energy_score(layout=layout)(own(members, axis), target, axis)
            value.sum().backward()
            found.append(axis.calls[before:])
        return found

    names = [
        ["energy_score.members", "energy_score.score"],
        ["energy_score.points", "energy_score.squares", "energy_score.gradients"],
    ]
    assert on_ranks(2, work) == [names, names]


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_transposed_rank_keeps_its_share_of_members_and_points(ranks: int) -> None:
    members, target = ensemble(12, 2, 30)

    def work(axis: Group) -> int:
        value = losses.energy_score(layout="transposed")(own(members, axis), target, axis)
        gradient: Tensor = value.grad_fn.gradient  # type: ignore[union-attr]
        return gradient.numel()

    assert on_ranks(ranks, work) == [members.numel() // ranks] * ranks


def test_backward_twice_gives_the_gradient_twice() -> None:
    members, target = ensemble(4, 3, 5)
    for layout in LAYOUTS:
        leaf = members.clone().requires_grad_()
        value = losses.energy_score(layout=layout)(leaf, target, ALONE).sum()
        value.backward(retain_graph=True)
        assert leaf.grad is not None
        once = leaf.grad.clone()
        value.backward()
        assert torch.equal(leaf.grad, 2 * once)
