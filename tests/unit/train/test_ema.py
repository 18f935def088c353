"""Moving averages of weights against their closed form, and how a step holds them."""

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from toy_step import Toy, batch

from hpc_bnn.train.step.ema import EMA

DECAY = 0.8


def averaged(iterates: Iterable[Tensor], decay: float = DECAY) -> Tensor:
    """Return the mean of iterates, the oldest first, with weights decay^age."""
    values = torch.stack(list(iterates)).double()
    weights = decay ** torch.arange(len(values) - 1, -1, -1, dtype=torch.float64)
    return torch.tensordot(weights / weights.sum(), values, 1)


def follow(iterates: Iterable[Tensor], dtype: torch.dtype, decay: float = DECAY) -> EMA:
    named = {"w": nn.Parameter(torch.full((3,), 7.0, dtype=dtype))}
    ema = EMA(named, decay)
    for value in iterates:
        named["w"].data.copy_(value)
        ema.update(named)
    return ema


@pytest.mark.parametrize("count", [1, 2, 30])
@pytest.mark.parametrize("decay", [0.01, 0.8, 0.9999])
def test_it_is_the_weighted_mean_of_all_iterates(count: int, decay: float) -> None:
    iterates = [torch.tensor([math.sin(i), i / 7, 1.0]) for i in range(count)]
    double = [value.double() for value in iterates]
    ema = follow(double, torch.float64, decay)
    assert ema.steps == count
    assert torch.allclose(ema.weights["w"], averaged(double, decay), rtol=1e-12, atol=1e-13)


def test_the_average_of_a_constant_is_the_constant() -> None:
    value = torch.tensor([0.1, -1e-30, 3e7])
    assert torch.equal(follow([value] * 50, torch.float32).weights["w"], value)


def test_it_is_wider_than_half_precision() -> None:
    """One bfloat16 step at 1 is 2^-7: an average kept in it would not leave its first value."""
    iterates = [torch.tensor([1.0, 1.0078125, 0.5]), *[torch.tensor([1.0078125, 1.0, 0.5])] * 3]
    ema = follow(iterates, torch.bfloat16, 0.99)
    expected = averaged(iterates, 0.99)
    assert ema.weights["w"].dtype == torch.float32
    assert torch.allclose(ema.weights["w"].double(), expected, rtol=1e-6)
    with ema.applied():
        held = ema._named["w"]
        assert held.dtype == torch.bfloat16
        assert torch.equal(held, expected.to(torch.bfloat16))


def test_a_block_holds_the_averages_and_gives_the_weights_back() -> None:
    iterates = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 3.0])]
    ema = follow(iterates, torch.float32)
    weight = ema._named["w"]
    with pytest.raises(KeyError), ema.applied():
        assert torch.allclose(weight.double(), averaged(iterates), rtol=1e-6)
        raise KeyError
    assert torch.equal(weight, iterates[-1])


def test_what_was_there_before_the_first_step_does_not_count() -> None:
    """Members may have no weights yet: NaN."""
    named = {"w": nn.Parameter(torch.full((3,), torch.nan))}
    ema = EMA(named, DECAY)
    named["w"].data.fill_(2.0)
    with ema.applied():
        assert torch.equal(named["w"], torch.full((3,), 2.0))
    ema.update(named)
    assert torch.equal(ema.weights["w"], torch.full((3,), 2.0))


def toy(**options: object) -> Toy:
    return Toy("gaussian learned", ema=DECAY, **options)


def values(of: Toy) -> dict[str, Tensor]:
    names = {f"loss.{name}": p for name, p in of.loss.named_parameters()}
    named = {**dict(of.posterior.named_parameters()), **names}
    return {name: p.detach().clone() for name, p in named.items()}


def test_a_step_averages_everything_that_is_trained() -> None:
    made = toy()
    iterates = []
    for i in range(5):
        made.step(*batch(step=i))
        iterates.append(values(made))
    now = iterates[-1]
    assert any(name.startswith("loss.") for name in now)
    with made.step.averaged():
        inside = values(made)
    for name in now:
        expected = averaged(each[name] for each in iterates)
        assert torch.allclose(inside[name], expected, rtol=1e-12, atol=1e-13)
        assert not torch.equal(inside[name], now[name])
    assert all(torch.equal(value, now[name]) for name, value in values(made).items())


def test_training_does_not_depend_on_it() -> None:
    made, plain = toy(), Toy("gaussian learned")
    for i in range(3):
        assert torch.equal(made.step(*batch(step=i)), plain.step(*batch(step=i)))
        with made.step.averaged():
            made.posterior.predict(batch()[0].double(), samples=2)
    assert all(torch.equal(value, values(plain)[name]) for name, value in values(made).items())


def test_without_it_a_block_changes_nothing() -> None:
    plain = Toy("gaussian")
    plain.step(*batch())
    before = values(plain)
    with plain.step.averaged():
        assert all(torch.equal(value, before[name]) for name, value in values(plain).items())
    assert plain.step.ema is None


def test_what_is_frozen_keeps_its_value_and_what_is_thawed_begins_anew() -> None:
    made = toy()
    made.step(*batch())
    bias = made.posterior.module.layers[0].bias
    bias.requires_grad_(False)
    for i in range(2):
        made.step(*batch(step=1 + i))
    frozen = bias.detach().clone()
    with made.step.averaged():
        assert torch.equal(bias, frozen)
    bias.requires_grad_(True)
    made.step(*batch(step=3))
    first = bias.detach().clone()
    with made.step.averaged():
        assert torch.equal(bias, first)
    made.step(*batch(step=4))
    share = (1 - DECAY) / (1 - DECAY**5)
    expected = first + share * (bias.detach() - first)
    assert not torch.equal(bias, first)
    with made.step.averaged():
        assert torch.allclose(bias, expected, rtol=1e-12)


@pytest.mark.parametrize("decay", [1.0, -0.1, math.nan])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"ema = .*: must be at least 0 and less than 1"):
        Toy("gaussian", ema=decay)
