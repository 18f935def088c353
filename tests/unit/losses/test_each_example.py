"""A loss gives one number an example, of it alone; anything else is named, not averaged."""

from collections.abc import Callable

import pytest
import torch
from thread_group import on_ranks, own
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses import JointLoss, SeparableLoss
from hpc_bnn.losses.base import require_loss
from hpc_bnn.losses.objective import joint_share, separable_share
from hpc_bnn.parallel.grid import Grid

B = 8
TARGET = torch.sin(torch.arange(float(B)))


def outputs(*shape: int) -> Tensor:
    made: Tensor = torch.cos(torch.arange(float(torch.Size((2, B, *shape)).numel())))
    return made.reshape(2, B, *shape).requires_grad_()


class Own(SeparableLoss):
    """A user's loss."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.function(output, target)


class OwnJoint(JointLoss):
    """The same of the mean over samples."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Tensor, target: Tensor, axis: Group) -> Tensor:
        total = axis.all_reduce(outputs.detach().sum(0), reduction="sum", name="own")
        mean = total / (len(outputs) * axis.size)
        return self.function(mean + (outputs - outputs.detach()).mean(0), target)


def share(function: Callable[[Tensor, Tensor], Tensor], given: Tensor, target: Tensor) -> Tensor:
    return separable_share(Own(function), given, target, 2)


def joint(function: Callable[[Tensor, Tensor], Tensor], given: Tensor, target: Tensor) -> Tensor:
    return joint_share(OwnJoint(function), given, target, ALONE)


def squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square()


WRONG: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], Tensor, str]] = {
    "broadcast to (B, B)": (
        squares,
        (1,),
        TARGET,
        (
            r"gave a loss of shape \(8, 8\) for 8 examples; expected \(8,\): one number an "
            r"example \(sum or mean over its points\); outputs \(8, 1\), targets \(8,\)"
        ),
    ),
    "not summed over points": (
        squares,
        (4,),
        TARGET[:, None].expand(B, 4),
        r"shape \(8, 4\) .* outputs \(8, 4\), targets \(8, 4\)",
    ),
    "a mean over the batch": (
        lambda o, t: squares(o, t).mean(),
        (),
        TARGET,
        r"shape \(\) for 8 examples; expected \(8,\)",
    ),
    "broadcast, then summed to the right shape": (
        lambda o, t: squares(o, t).sum(-1),
        (1,),
        TARGET,
        r"of 8, and .* among other examples; .*outputs \(8, 1\), targets",
    ),
    "broadcast, then averaged": (
        lambda o, t: squares(o, t).mean(0),
        (1,),
        TARGET,
        "a loss of each example alone",
    ),
    "normalised over the batch": (
        lambda o, t: squares(o, t) / squares(o, t).sum(),
        (),
        TARGET,
        "a loss of each example alone",
    ),
    "no gradient": (
        lambda o, t: (o.sign() != t.sign()).float(),
        (),
        TARGET,
        "without a gradient to the outputs",
    ),
    "integers": (lambda o, t: (o > t).long(), (), TARGET, "a loss of int64"),
    "complex": (lambda o, t: torch.complex(o, t), (), TARGET, "a loss of complex64"),
    "no tensor": (lambda o, t: None, (), TARGET, "gave NoneType for 8 examples"),  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("kind", [share, joint])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_one_number_an_example_is_named(
    wrong: str, kind: Callable[..., Tensor]
) -> None:
    function, shape, target, words = WRONG[wrong]
    with pytest.raises(ValueError, match=rf"^Own.*{words}"):
        kind(function, outputs(*shape), target)


def test_one_example_alone_is_no_exception() -> None:
    with pytest.raises(ValueError, match=r"shape \(\) for 1 examples; expected \(1,\)"):
        share(lambda o, t: squares(o, t).mean(), outputs()[:, :1], TARGET[:1])


@pytest.mark.parametrize("kind", [share, joint])
def test_right_losses_have_the_right_value(kind: Callable[..., Tensor]) -> None:
    """In place, with hard-coded sizes, of half precision: what is of each example alone may."""
    given = outputs(1)
    one = given if kind is share else given.mean(0, keepdim=True)
    expected = (one[..., 0] - TARGET).square().mean()
    for function in (
        lambda o, t: squares(o[:, 0], t),
        lambda o, t: squares(o.squeeze(), t),
        lambda o, t: squares(o.view(B), t),
        lambda o, t: (o.clone()[:, 0].sub_(t)).square_(),
    ):
        got = kind(function, given, TARGET).item()
        assert got == pytest.approx(expected.item(), rel=1e-6)
    half = kind(lambda o, t: squares(o[:, 0], t).bfloat16(), given, TARGET)
    assert half.dtype == torch.float32
    rounded = (one[..., 0] - TARGET).square().bfloat16().float().mean()
    assert half.item() == pytest.approx(rounded.item(), rel=1e-6)


def test_equal_targets_show_nothing_and_are_asked_again() -> None:
    loss, given = Own(lambda o, t: squares(o, t).sum(-1)), outputs(1)
    separable_share(loss, given, torch.zeros(B), 2)
    with pytest.raises(ValueError, match="of each example alone"):
        separable_share(loss, given, TARGET, 2)


def test_a_loss_is_asked_once() -> None:
    calls = []
    loss = Own(lambda o, t: calls.append(1) or squares(o[:, 0], t))  # type: ignore[func-returns-value]
    for _ in range(3):
        separable_share(loss, outputs(1), TARGET, 2)
    assert len(calls) == 3 + 3 * 2


@pytest.mark.parametrize("largest", [0, 3, 7])
def test_a_loss_that_is_relative_to_the_worst_example_is_refused(largest: int) -> None:
    target = TARGET.clone()
    target[largest] = 100.0
    with pytest.raises(ValueError, match="of each example alone"):
        share(lambda o, t: squares(o[:, 0], t) / squares(o[:, 0], t).max(), outputs(1), target)


def test_ranks_of_a_joint_loss_ask_together() -> None:
    loss, given = OwnJoint(lambda o, t: squares(o[:, 0], t)), outputs(1)
    values = on_ranks(2, lambda axis: joint_share(loss, own(given, axis), TARGET, axis).item())
    expected = (given.mean(0)[:, 0] - TARGET).square().mean().item()
    assert values == pytest.approx([expected] * 2, rel=1e-6)


NO_LOSS: dict[str, tuple[object, str]] = {
    "mean squared error": (nn.MSELoss(), r"loss = MSELoss: .*hb\.losses\.mse\(\), or .*sigma="),
    "cross entropy": (nn.CrossEntropyLoss(), r"CrossEntropyLoss: .*categorical_nll\(\)"),
    "without reduction": (nn.L1Loss(reduction="none"), r"L1Loss: .*SeparableLoss.*\(B,\)"),
    "of a user": (nn.Identity(), "Identity: .*one of hb.losses, or a subclass of hb.losses.Sep"),
    "function": (nn.functional.mse_loss, "loss = mse_loss: "),
    "lambda": (lambda o, t: o, "loss = <lambda>: "),
    "name": ("categorical_nll", "loss = str: "),
    "not called": (hb.losses.categorical_nll, r"loss = categorical_nll: .*categorical_nll\(\.\.\."),
    "class": (Own, r"loss = Own: makes a loss when it is called; give Own\(\.\.\.\)"),
}


@pytest.mark.parametrize("kind", NO_LOSS)
def test_what_is_no_loss_is_named_with_what_to_give(kind: str) -> None:
    loss, words = NO_LOSS[kind]
    with pytest.raises(TypeError, match=words):
        require_loss(loss)


def test_a_step_refuses_what_is_no_loss() -> None:
    posterior = hb.Gaussian(nn.Linear(6, 1))
    optimizer = torch.optim.SGD(posterior.parameters(), lr=0.1)
    world = hb.World(Grid(1, 1, 0), torch.device("cpu"))
    with pytest.raises(TypeError, match="MSELoss"):
        hb.Step(posterior, nn.MSELoss(), optimizer, world, samples=2, num_examples=8)  # type: ignore[arg-type]
