"""What a loop of one's own may do to a step between its calls, and what is refused."""

import dataclasses

import pytest
import torch
from toy_step import Toy, batch


@pytest.mark.parametrize("part", ["posterior", "loss", "optimizer", "world", "settings"])
def test_what_a_step_was_made_of_cannot_be_exchanged(part: str) -> None:
    toy = Toy()
    toy.run(2)
    with pytest.raises(AttributeError, match=rf"step\.{part}: .* another hb\.Step .* step to 2"):
        setattr(toy.step, part, getattr(toy.step, part))
    toy.step.step = 5
    toy.run(1)
    assert toy.step.step == 6


def test_another_optimizer_goes_on_in_another_step() -> None:
    toy, expected = Toy(), Toy()
    toy.run(2)
    expected.run(2)
    other = torch.optim.SGD(toy.parameters, lr=0.02)
    options = dataclasses.replace(toy.step.settings, check=False)
    step = type(toy.step)(toy.posterior, toy.loss, other, toy.step.world, options)
    step.step = 2
    step(*batch(step=2))
    for group in expected.optimizer.param_groups:
        group["lr"] = 0.02
    expected.step(*batch(step=2))
    assert all(map(torch.equal, toy.snapshot(), expected.snapshot()))


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("steps", [0, 1])
def test_a_step_without_gradients_is_refused(off: type[torch.no_grad], steps: int) -> None:
    toy = Toy()
    toy.run(steps)
    before = toy.snapshot()
    with off(), pytest.raises(RuntimeError, match=r"no_grad.*call the step outside"):
        toy.step(*batch(step=steps))
    assert toy.step.step == steps
    assert all(map(torch.equal, toy.snapshot(), before))
    toy.run(1)


class Keeping(torch.optim.SGD):
    """Adds up the gradients of several batches."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        return


class Zeroing(torch.optim.SGD):
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=False)


def test_gradients_of_several_batches_do_not_add_up() -> None:
    """Ranks would sum again what they have summed."""
    toy = Toy()
    toy.optimizer.__class__ = Keeping
    toy.run(1)
    with pytest.raises(ValueError, match=r"Keeping\.zero_grad left .* as it was"):
        toy.run(1)


def test_an_optimizer_may_make_gradients_zero() -> None:
    toy, expected = Toy(), Toy()
    toy.optimizer.__class__ = Zeroing
    assert toy.run(3) == expected.run(3)
