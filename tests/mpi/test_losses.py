"""Every loss on the sample axis equals the same loss on one rank: values and gradients.

Tolerance: 1e-12 in float64, 1e-5 in float32, relative to the largest number of the same kind.
"""

from collections.abc import Sequence

import pytest
import torch
from small_run import LOSSES, OUTPUTS, SAMPLES, deviation
from torch import Tensor, nn

from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.base import JointLoss, Loss
from hpc_bnn.losses.objective import joint_share
from hpc_bnn.parallel.world import World

BATCH = 4
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
# Half precision is what autocast hands to a loss, which computes in float32 from there.
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def random(*shape: int, seed: int) -> Tensor:
    """The same numbers on every rank."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(loss: Loss, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the outputs of all samples (K, B, ...) and the targets."""
    outputs = random(SAMPLES, BATCH, *loss.output_shape((OUTPUTS,)), seed=1).to(dtype)
    if name.startswith("categorical"):
        return outputs, torch.arange(BATCH) % OUTPUTS
    target = random(BATCH, OUTPUTS, seed=2)
    return outputs, target.to(torch.float32 if dtype == torch.bfloat16 else dtype)


def share(loss: Loss, outputs: Tensor, target: Tensor, axis: Group, cotangent: Tensor) -> Tensor:
    """Return what a rank adds to a weighted sum of the losses of the examples."""
    if isinstance(loss, JointLoss):
        return (loss(outputs, target, axis) * cotangent).sum()
    return sum((loss(output, target) * cotangent).sum() for output in outputs) / SAMPLES


def gradients(value: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [g.double() for g in torch.autograd.grad(value, list(tensors))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(world: World, name: str, dtype: torch.dtype) -> None:
    real = torch.float32 if dtype == torch.bfloat16 else dtype
    loss = LOSSES[name]().to(real)
    learned: list[nn.Parameter] = list(loss.parameters())
    outputs, target = problem(loss, name, dtype)
    cotangent = random(BATCH, seed=3).to(real)
    own = world.grid.own_samples(SAMPLES)

    everything = outputs.clone().requires_grad_()
    expected = share(loss, everything, target, ALONE, cotangent)
    expected_gradient, *expected_learned = gradients(expected, [everything, *learned])

    mine = outputs[own.start : own.stop].clone().requires_grad_()
    got = share(loss, mine, target, world.sample_axis, cotangent)
    gradient, *got_learned = gradients(got, [mine, *learned])

    total = got.detach().double().reshape(1)
    if not isinstance(loss, JointLoss):
        total = world.sample_axis.all_reduce(total, reduction="sum", name="test.value")
    # A half-precision gradient is itself rounded to 8 bits.
    tolerance = TOLERANCE[real]
    rounding = 2.0**-8 if dtype == torch.bfloat16 else tolerance
    assert deviation(total, expected.detach().double()) <= tolerance
    assert deviation(gradient, expected_gradient[own.start : own.stop]) <= rounding
    # The gradients of the ranks sum to the gradient: also of what the loss itself learns.
    for shared, whole in zip(got_learned, expected_learned, strict=True):
        summed = world.sample_axis.all_reduce(
            shared.reshape(1), reduction="sum", name="test.learned"
        )
        assert deviation(summed, whole) <= tolerance


@pytest.mark.parametrize("name", LOSSES)
def test_value_of_a_joint_loss_is_the_same_on_every_rank(world: World, name: str) -> None:
    loss = LOSSES[name]().double()
    if not isinstance(loss, JointLoss):
        pytest.skip("a separable loss has no common value: its ranks hold shares")
    outputs, target = problem(loss, name, torch.float64)
    own = world.grid.own_samples(SAMPLES)
    value = loss(outputs[own.start : own.stop], target, world.sample_axis)
    everyone = world.sample_axis.gather(value.tolist(), name="test.values")
    assert everyone == [everyone[0]] * world.sample_axis.size


@pytest.mark.parametrize("name", ["gaussian predictive fixed", "fair crps gather"])
def test_inexact_loss_sees_one_rank_only(world: World, name: str) -> None:
    """``loss.exact: false`` averages the ranks' own losses, which depends on the grid."""
    loss = LOSSES[name]().double()
    assert isinstance(loss, JointLoss)
    outputs, target = problem(loss, name, torch.float64)
    own = world.grid.own_samples(SAMPLES)
    mine = outputs[own.start : own.stop]
    got = joint_share(loss, mine, target, world.sample_axis, exact=False)
    expected = loss(mine, target, ALONE).mean() / world.grid.sample_ranks
    assert deviation(got, expected) <= 1e-12
    total = world.sample_axis.all_reduce(got.reshape(1), reduction="sum", name="test.inexact")
    exact = loss(outputs, target, ALONE).mean()
    assert (deviation(total, exact) <= 1e-12) == (world.grid.sample_ranks == 1)
