"""The CRPS family against scoringrules, the verification score, and autograd of the definition."""

import itertools
import math

import pytest
import torch
from thread_group import ThreadGroup, cotangent, on_ranks, own
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.ensemble_crps import CRPS, TRANSPOSE_BYTES

sr = pytest.importorskip("scoringrules", reason="independent implementation of the CRPS")
ALPHAS = (0.0, 0.5, 0.95, 1.0)
LAYOUTS = ("gather", "transposed")


def ensemble(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return members (K, ...) and a target that some of them miss on one side."""
    generator = torch.Generator().manual_seed(seed)
    members = torch.randn(*shape, generator=generator, dtype=torch.float64)
    target = 1.5 * torch.randn(*shape[1:], generator=generator, dtype=torch.float64)
    return members, target


def by_definition(members: Tensor, target: Tensor, alpha: float) -> Tensor:
    """Return mean_i |x_i - t| - c / 2 sum_ij |x_i - x_j| of every point (...)."""
    count = len(members)
    skill = (members - target).abs().mean(0)
    c = (1 - (1 - alpha) / count) / (count * (count - 1))
    spread = (members.unsqueeze(0) - members.unsqueeze(1)).abs().sum((0, 1))
    return skill - 0.5 * c * spread


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [2, 3, 8])
def test_values_equal_scoringrules(count: int, layout: str) -> None:
    members, target = ensemble(count, 6, 5)
    # The estimator by probability-weighted moments, pwm, is the fair one.
    oracles = {losses.crps: ("nrg", "qd"), losses.fair_crps: ("fair", "pwm")}
    for make, estimators in oracles.items():
        got = make(layout=layout)(members, target, ALONE)
        assert got.shape == (6,)
        for estimator in estimators:
            oracle = sr.crps_ensemble(target.numpy(), members.numpy(), 0, estimator=estimator)
            assert torch.allclose(got, torch.tensor(oracle).mean(1), rtol=1e-12), estimator


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradient_equals_autograd_of_the_definition(alpha: float, layout: str) -> None:
    members, target = ensemble(7, 4, 5)
    members.requires_grad_()
    weights = cotangent((4,))
    loss = CRPS(alpha=alpha, layout=layout)(members, target, ALONE)
    (got,) = torch.autograd.grad((loss * weights).sum(), members)
    definition = by_definition(members, target, alpha).mean(1)
    (expected,) = torch.autograd.grad((definition * weights).sum(), members)
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-15)


def test_named_losses_are_the_family() -> None:
    members, target = ensemble(6, 3, 2)
    by_name = {
        0.0: losses.crps(),
        1.0: losses.fair_crps(),
        0.95: losses.almost_fair_crps(),
        0.3: losses.almost_fair_crps(alpha=0.3),
    }
    for alpha, loss in by_name.items():
        expected = by_definition(members, target, alpha).mean(1)
        assert torch.allclose(loss(members, target, ALONE), expected, rtol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_make_a_weighted_mean_whatever_their_scale(layout: str) -> None:
    members, target = ensemble(5, 4, 2, 3)
    area = torch.tensor([[1.0], [3.0]], dtype=torch.float64)  # broadcast along the last dimension
    points = by_definition(members, target, 0.95)
    expected = (points * area).flatten(1).sum(1) / (3 * area.sum())
    for scale in (1.0, 250.0):
        loss = losses.almost_fair_crps(weights=scale * area, layout=layout)
        assert torch.allclose(loss(members, target, ALONE), expected, rtol=1e-12)


def test_equal_weights_are_no_weights_and_are_not_saved() -> None:
    members, target = ensemble(5, 4, 6)
    bare, equal = losses.crps(), losses.crps(weights=torch.full((6,), 7.0))
    assert torch.allclose(bare(members, target, ALONE), equal(members, target, ALONE), rtol=1e-12)
    assert equal.state_dict() == {}


def test_standard_score_of_one_sample_is_the_absolute_error() -> None:
    members, target = ensemble(1, 4, 3)
    members.requires_grad_()
    for layout in LAYOUTS:
        loss = losses.crps(layout=layout)(members, target, ALONE)
        assert torch.allclose(loss, (members[0] - target).abs().mean(1), rtol=1e-12)
        (gradient,) = torch.autograd.grad(loss.sum(), members)
        assert torch.allclose(gradient, torch.sign(members - target) / 3, rtol=1e-12)


def test_scores_of_the_spread_need_two_samples() -> None:
    members, target = ensemble(1, 4, 3)
    assert [losses.crps().min_samples, losses.fair_crps().min_samples] == [1, 2]
    for loss in (losses.fair_crps(), losses.almost_fair_crps()):
        with pytest.raises(ValueError, match="at least 2 weight samples, got 1"):
            loss(members, target, ALONE)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"loss\.alpha = .*between 0 \(standard\) and 1 \(fair\)"):
        losses.almost_fair_crps(alpha=alpha)


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.layout = 'ring'"):
        losses.crps(layout="ring")


@pytest.mark.parametrize("target", [(4, 1), (4,), (1, 3), (4, 3, 1)])
def test_shapes_that_would_broadcast_are_refused(target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"crps: the network gives \(4, 3\)"):
        losses.crps()(torch.zeros(5, 4, 3), torch.zeros(target), ALONE)


def test_ties_have_finite_values_and_no_gradient_between_them() -> None:
    members = torch.tensor([[[1.0]], [[1.0]], [[3.0]]], dtype=torch.float64, requires_grad=True)
    loss = losses.fair_crps()(members, torch.tensor([[1.0]], dtype=torch.float64), ALONE)
    assert loss.item() == pytest.approx(2 / 3 - (2 * 2 + 2 * 2) / (2 * 6))
    (gradient,) = torch.autograd.grad(loss.sum(), members)
    # Members 1 and 2 sit on the target and on each other: only member 3 pulls, (+1 + 1) / 6 each.
    assert gradient.flatten().tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3 - 2 / 6])


def test_nothing_cancels_in_float32_far_from_zero() -> None:
    members, target = ensemble(8, 50, 20)
    members, target = (1e4 + 0.05 * members).float(), (1e4 + 0.05 * target).float()
    got = losses.fair_crps()(members, target, ALONE)
    expected = by_definition(members.double(), target.double(), 1.0).mean(1)
    # Differences of neighbours are exact in float32; what is left is the rounding of a sum.
    assert torch.allclose(got.double(), expected, rtol=1e-5)


def test_every_pair_of_the_almost_fair_score_is_non_negative() -> None:
    members, target = ensemble(2, 1000, 1)
    # Up to the rounding of three numbers of size 4
    assert torch.all(losses.fair_crps()(members, target, ALONE) >= -4e-15)


# Layouts over ranks


@pytest.mark.parametrize("points", [1, 2, 5, 12, 13])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_layouts_agree_for_points_that_do_not_divide(ranks: int, points: int) -> None:
    members, target = ensemble(12, 3, points)
    weights = 1 + torch.arange(points, dtype=torch.float64)

    def work(axis: Group) -> list[tuple[Tensor, Tensor]]:
        results = []
        for layout in LAYOUTS:
            mine = own(members, axis)
            loss = losses.almost_fair_crps(weights=weights, layout=layout)
            value = loss(mine, target, axis)
            (gradient,) = torch.autograd.grad((value * cotangent((3,))).sum(), mine)
            results.append((value.detach(), gradient))
        return results

    for gathered, transposed in on_ranks(ranks, work):
        for got, expected in zip(transposed, gathered, strict=True):
            assert torch.allclose(got, expected, rtol=1e-12, atol=1e-15)


def exchanges(loss: CRPS, members: Tensor, target: Tensor) -> tuple[list[str], list[str]]:
    """Return the collectives of forward and of backward on two ranks."""

    def work(axis: ThreadGroup) -> tuple[list[str], list[str]]:
        value = loss(own(members, axis), target, axis)
        forward = list(axis.calls)
        value.sum().backward()
        return forward, axis.calls[len(forward) :]

    first, second = on_ranks(2, work)
    assert first == second
    return first


def test_exchanges_are_those_promised() -> None:
    members, target = ensemble(4, 3, 5)
    gather, transposed = (CRPS(alpha=0.5, layout=layout) for layout in LAYOUTS)
    assert exchanges(gather, members, target) == (["crps.members", "crps.score"], [])
    assert exchanges(transposed, members, target) == (
        ["crps.points", "crps.score"],
        ["crps.gradients"],
    )


def test_auto_layout_transposes_large_fields_only() -> None:
    limit = TRANSPOSE_BYTES // (2 * 8)  # points of two float64 members in one example
    for points, name in ((limit, "crps.members"), (limit + 1, "crps.points")):
        members = torch.zeros(2, 1, points, dtype=torch.float64)
        forward, _ = exchanges(CRPS(alpha=0.0), members, members[0])
        assert forward[0] == name


def test_backward_twice_gives_the_gradient_twice() -> None:
    members, target = ensemble(4, 3, 5)
    for layout, alpha in itertools.product(LAYOUTS, (0.0, 1.0)):
        leaf = members.clone().requires_grad_()
        value = CRPS(alpha=alpha, layout=layout)(leaf, target, ALONE).sum()
        value.backward(retain_graph=True)
        assert leaf.grad is not None
        once = leaf.grad.clone()
        value.backward()
        assert torch.equal(leaf.grad, 2 * once)
