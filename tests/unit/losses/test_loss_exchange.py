"""Distributed equals local: every loss on 1, 2, 3 and 4 ranks against one that holds all samples.

Compared are the value on every rank, the gradient to every member, and the gradient to the loss's
own parameters summed over the ranks, in float64 to 1e-12. The ranks are threads (``thread_group``).
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from thread_group import ThreadGroup, cotangent, on_ranks, own
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss, share_parameter
from hpc_bnn.losses.objective import joint_share, separable_share

K, B = 12, 3  # 12 samples divide among 1, 2, 3 and 4 ranks; one rank holds up to 12, or 3
POINTS = (2, 5)  # ten points do not divide among 3 and 4
RANKS = (1, 2, 3, 4)
AREA = torch.tensor([[1.0], [3.0]], dtype=torch.float64)


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


FIELDS = (normal(K, B, *POINTS, seed=0), normal(B, *POINTS, seed=1))
PAIRED = (normal(K, B, 4, 5, seed=2), FIELDS[1])
LOGITS = (4 * normal(K, B, 6, seed=3), torch.arange(B))

Make = Callable[[], Loss]
predictive = partial(losses.gaussian_nll, predictive=True)

# name: (loss, (outputs of all samples, target), number of its own parameters)
JOINT: dict[str, tuple[Make, tuple[Tensor, Tensor], int]] = {
    "categorical_nll": (partial(losses.categorical_nll, predictive=True), LOGITS, 0),
    "gaussian_nll fixed": (partial(predictive, sigma=0.8), FIELDS, 0),
    "gaussian_nll learned": (partial(predictive, variance="learned", sigma=2.0), FIELDS, 1),
    "gaussian_nll predicted": (partial(predictive, variance="predicted"), PAIRED, 0),
    "gaussian_moments": (partial(losses.gaussian_moments, sigma=0.3), FIELDS, 0),
    "gaussian_moments learned": (
        partial(losses.gaussian_moments, sigma=0.3, learned=True),
        FIELDS,
        1,
    ),
    "gaussian_crps": (partial(losses.gaussian_crps, predictive=True), PAIRED, 0),
    "gaussian_crps weighted": (
        partial(losses.gaussian_crps, predictive=True, weights=AREA),
        PAIRED,
        0,
    ),
    "student_t_nll": (partial(losses.student_t_nll, predictive=True), PAIRED, 0),
    "crps": (losses.crps, FIELDS, 0),
    "fair_crps": (losses.fair_crps, FIELDS, 0),
    "almost_fair_crps": (losses.almost_fair_crps, FIELDS, 0),
    "crps weighted": (partial(losses.crps, weights=AREA), FIELDS, 0),
    "crps transposed": (partial(losses.crps, layout="transposed"), FIELDS, 0),
    "fair_crps transposed": (partial(losses.fair_crps, layout="transposed"), FIELDS, 0),
    "almost_fair_crps transposed and weighted": (
        partial(losses.almost_fair_crps, weights=AREA, layout="transposed"),
        FIELDS,
        0,
    ),
    "energy_score": (losses.energy_score, FIELDS, 0),
    "energy_score weighted": (partial(losses.energy_score, alpha=1.0, weights=AREA), FIELDS, 0),
    "energy_score transposed and weighted": (
        partial(losses.energy_score, weights=AREA, layout="transposed"),
        FIELDS,
        0,
    ),
}
SEPARABLE: dict[str, tuple[Make, tuple[Tensor, Tensor], int]] = {
    "categorical_nll": (losses.categorical_nll, LOGITS, 0),
    "gaussian_nll fixed": (partial(losses.gaussian_nll, sigma=0.8), FIELDS, 0),
    "gaussian_nll learned": (
        partial(losses.gaussian_nll, variance="learned", sigma=2.0),
        FIELDS,
        1,
    ),
    "gaussian_nll predicted": (
        partial(losses.gaussian_nll, variance="predicted"),
        PAIRED,
        0,
    ),
    "gaussian_crps": (losses.gaussian_crps, PAIRED, 0),
    "student_t_nll": (losses.student_t_nll, PAIRED, 0),
    "mae": (losses.mae, FIELDS, 0),
    "mse": (partial(losses.mse, weights=AREA), FIELDS, 0),
}


def close(got: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-12 * max(1.0, float(expected.abs().max()))
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=0, atol=tolerance)


def build(make: Make, parameters: int) -> Loss:
    loss = make().double()
    assert len(list(loss.parameters())) == parameters
    return loss


Result = tuple[Tensor, Tensor, list[Tensor]]


def joint_result(
    loss: Loss, outputs: Tensor, target: Tensor, axis: Group, weights: Tensor
) -> Result:
    """Return value (B,), gradient to the own outputs, and to the parameters of the loss."""
    assert isinstance(loss, JointLoss)
    mine, loss = own(outputs, axis), copy.deepcopy(loss)
    value = loss(mine, target, axis)
    (value * weights).sum().backward()
    assert mine.grad is not None
    return value.detach(), mine.grad, [p.grad for p in loss.parameters() if p.grad is not None]


def added(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def assert_gradients(results: Sequence[Result], wanted: Sequence[Tensor]) -> None:
    """Those to outputs lie side by side on the ranks, those to the loss's own are summed."""
    assert close(torch.cat([mine for _, mine, _ in results]), wanted[0])
    for i, expected in enumerate(wanted[1:]):
        assert close(added([gradients[i] for _, _, gradients in results]), expected)


def test_every_loss_of_the_registry_is_here() -> None:
    tested = {name.split()[0] for name in JOINT} | {name.split()[0] for name in SEPARABLE}
    assert tested == set(losses.LOSSES)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", JOINT)
def test_joint_loss_on_ranks_equals_local(name: str, ranks: int) -> None:
    make, (outputs, target), parameters = JOINT[name]
    loss, weights = build(make, parameters), cotangent((B,))
    value, gradient, own_gradients = joint_result(loss, outputs, target, ALONE, weights)
    assert len(own_gradients) == parameters
    results = on_ranks(ranks, lambda axis: joint_result(loss, outputs, target, axis, weights))
    for rank_value, _, _ in results:
        assert close(rank_value, value)
    assert_gradients(results, [gradient, *own_gradients])


@pytest.mark.parametrize("name", [n for n in JOINT if "transposed" not in n])
def test_only_the_transposed_form_communicates_in_backward(name: str) -> None:
    make, (outputs, target), parameters = JOINT[name]
    loss = build(make, parameters)

    def work(axis: ThreadGroup) -> None:
        assert isinstance(loss, JointLoss)
        value = copy.deepcopy(loss)(own(outputs, axis), target, axis).sum()
        forward = len(axis.calls)
        assert forward > 0
        value.backward()
        assert len(axis.calls) == forward

    on_ranks(2, work)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", SEPARABLE)
def test_shares_of_a_separable_loss_sum_to_the_objective(name: str, ranks: int) -> None:
    make, (outputs, target), parameters = SEPARABLE[name]
    loss = build(make, parameters)
    assert isinstance(loss, SeparableLoss)

    def result(axis: Group) -> Result:
        mine, twin = own(outputs, axis), copy.deepcopy(loss)
        assert isinstance(twin, SeparableLoss)
        share = separable_share(twin, mine, target, K)
        share.backward()
        assert mine.grad is not None
        return share.detach(), mine.grad, [p.grad for p in twin.parameters() if p.grad is not None]

    # The objective by its definition: the mean over all samples and examples.
    everything = outputs.clone().requires_grad_()
    objective = torch.stack([loss(output, target) for output in everything]).mean()
    wanted = torch.autograd.grad(objective, [everything, *loss.parameters()])
    results = on_ranks(ranks, result)
    assert close(added([share for share, _, _ in results]), objective.detach())
    assert_gradients(results, wanted)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", JOINT)
def test_inexact_share_is_the_average_of_the_losses_of_each_rank(name: str, ranks: int) -> None:
    """What published implementations do, different from the exact loss, and with no exchange."""
    make, (outputs, target), parameters = JOINT[name]
    loss = build(make, parameters)
    assert isinstance(loss, JointLoss)
    everything = outputs.clone().requires_grad_()
    parts = [loss(part, target, ALONE).mean() for part in everything.chunk(ranks)]
    average = torch.stack(parts).mean()
    wanted = torch.autograd.grad(average, [everything, *loss.parameters()])

    def result(axis: ThreadGroup) -> Result:
        mine, twin = own(outputs, axis), copy.deepcopy(loss)
        assert isinstance(twin, JointLoss)
        share = joint_share(twin, mine, target, axis, exact=False)
        share.backward()
        assert mine.grad is not None and axis.calls == []
        return share.detach(), mine.grad, [p.grad for p in twin.parameters() if p.grad is not None]

    results = on_ranks(ranks, result)
    total = added([share for share, _, _ in results])
    assert close(total, average.detach())
    assert_gradients(results, wanted)
    exact = loss(outputs, target, ALONE).mean()
    if ranks > 1:
        assert abs(total.item() - exact.item()) > 1e-4


@pytest.mark.parametrize("name", JOINT)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    make, (outputs, target), parameters = JOINT[name]
    loss = build(make, parameters)
    few = outputs[:3].clone().requires_grad_()
    own_parameters = [p.detach().clone().requires_grad_() for p in loss.parameters()]
    names = [n for n, _ in loss.named_parameters()]

    def value(x: Tensor, *values: Tensor) -> Tensor:
        changed = dict(zip(names, values, strict=True))
        out: Tensor = torch.func.functional_call(loss, changed, (x, target, ALONE))
        return out

    assert torch.autograd.gradcheck(value, (few, *own_parameters), eps=1e-7, atol=1e-6)


def test_shared_parameter_keeps_its_value_and_splits_its_gradient() -> None:
    parameter = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def work(axis: Group) -> tuple[Tensor, Tensor]:
        leaf = parameter.detach().clone().requires_grad_()
        shared = share_parameter(leaf, axis)
        (gradient,) = torch.autograd.grad(3 * shared, leaf)
        return shared.detach(), gradient

    for ranks in RANKS:
        results = on_ranks(ranks, work)
        assert all(close(value, parameter.detach()) for value, _ in results)
        assert sum(gradient.item() for _, gradient in results) == pytest.approx(3.0, rel=1e-14)
    assert share_parameter(parameter, ALONE) is parameter


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", JOINT)
def test_joint_losses_score_half_precision_in_float32(name: str, dtype: torch.dtype) -> None:
    make, (outputs, target), _ = JOINT[name]
    loss = make()
    assert isinstance(loss, JointLoss)
    target = target.float() if target.is_floating_point() else target
    half = outputs.to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    value, expected = (loss(x, target, ALONE) for x in (half, single))
    assert value.dtype in (torch.float32, torch.float64)  # sums over points are in float64
    assert torch.equal(value, expected)
    value.sum().backward()
    expected.sum().backward()
    assert half.grad is not None and single.grad is not None
    assert half.grad.dtype == dtype
    assert torch.equal(half.grad, single.grad.to(dtype))


@pytest.mark.parametrize("name", SEPARABLE)
def test_separable_losses_score_half_precision_in_float32(name: str) -> None:
    make, (outputs, target), _ = SEPARABLE[name]
    loss = make()
    assert isinstance(loss, SeparableLoss)
    target = target.float() if target.is_floating_point() else target
    half = outputs[0].bfloat16()
    value = loss(half, target)
    assert value.dtype in (torch.float32, torch.float64)  # sums over points are in float64
    assert torch.equal(value, loss(half.float(), target))
