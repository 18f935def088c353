"""The mean absolute and squared error: values by hand, gradients, weights and refusals."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hpc_bnn import losses
from hpc_bnn.group import ALONE

KINDS = {"mae": (losses.mae, functional.l1_loss), "mse": (losses.mse, functional.mse_loss)}
every_kind = pytest.mark.parametrize("name", KINDS)


def fields(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    output = torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
    return output, torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_by_hand() -> None:
    output, target = torch.tensor([[1.0, 5.0], [0.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 4.0]])
    weights = torch.tensor([3.0, 1.0])
    assert losses.mae()(output, target).tolist() == [1.5, 2.0]
    assert losses.mse()(output, target).tolist() == [2.5, 8.0]
    assert losses.mae(weights=weights)(output, target).tolist() == [1.25, 1.0]
    assert losses.mse(weights=weights)(output, target).tolist() == [1.75, 4.0]


@every_kind
def test_value_and_gradient_are_those_of_torch(name: str) -> None:
    make, oracle = KINDS[name]
    output, target = fields(3, 2, 4, 5)
    got = make()(output, target)
    assert got.shape == (3,)
    expected = torch.stack([oracle(o, t) for o, t in zip(output, target, strict=True)])
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)
    (gradient,) = torch.autograd.grad(got.mean(), output)
    (wanted,) = torch.autograd.grad(oracle(output, target), output)
    torch.testing.assert_close(gradient, wanted, rtol=1e-13, atol=1e-16)


def test_the_absolute_error_is_the_standard_crps_of_one_member() -> None:
    output, target = fields(3, 2, 4, 5)
    weights = torch.tensor([0.4, 1.3, 1.2, 0.5], dtype=torch.float64)[:, None]
    crps = losses.crps(weights=weights)(output[None], target, ALONE)
    got = losses.mae(weights=weights)(output, target)
    torch.testing.assert_close(got, crps, rtol=1e-13, atol=0)


@every_kind
def test_an_exact_forecast_has_no_gradient(name: str) -> None:
    output = torch.ones(2, 3, requires_grad=True)
    value = KINDS[name][0]()(output, torch.ones(2, 3))
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0]
    assert output.grad is not None and not bool(output.grad.any())


@every_kind
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: the network gives \(4, 3\) for .*\(4, 1\)"):
        KINDS[name][0]()(torch.zeros(4, 3), torch.zeros(4, 1))


@every_kind
def test_half_precision_is_scored_in_float32(name: str) -> None:
    output, target = (x.detach().bfloat16() for x in fields(3, 7))
    value = KINDS[name][0]()(output, target)
    assert torch.equal(value, KINDS[name][0]()(output.float(), target.float()))
