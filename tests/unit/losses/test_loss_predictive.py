"""log_mean_exp: values, gradient, stability, and one gather in forward with nothing in backward."""

import math

import pytest
import torch
from thread_group import ThreadGroup, cotangent, on_ranks, own

from hpc_bnn.group import ALONE
from hpc_bnn.losses.predictive import log_mean_exp


def test_value_and_gradient_are_those_of_the_definition() -> None:
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weights = cotangent((4,))
    got, expected = log_mean_exp(x, ALONE), x.exp().mean(0).log()
    assert torch.allclose(got, expected, rtol=1e-12)
    (gradient,) = torch.autograd.grad((got * weights).sum(), x)
    (gradient_expected,) = torch.autograd.grad((expected * weights).sum(), x)
    assert torch.allclose(gradient, gradient_expected, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda y: log_mean_exp(y, ALONE), x)


def test_one_sample_is_itself() -> None:
    x = torch.randn(1, 5)
    assert torch.equal(log_mean_exp(x, ALONE), x[0])


@pytest.mark.parametrize("shift", [0.0, -1e4, 1e4])
def test_shift_moves_value_and_leaves_gradient(shift: float) -> None:
    x = torch.tensor([[0.0], [-1.0], [-100.0]], dtype=torch.float64)
    moved = (x + shift).requires_grad_()
    value = log_mean_exp(moved, ALONE)
    expected = math.log1p(math.exp(-1)) - math.log(3)
    assert value.item() - shift == pytest.approx(expected, rel=1e-11)
    (gradient,) = torch.autograd.grad(value.sum(), moved)
    share = 1 / (1 + math.exp(-1))
    assert gradient.flatten().tolist() == pytest.approx([share, 1 - share, 0.0], abs=1e-11)


def test_gap_of_a_hundred_in_float32_is_finite_with_all_its_gradient() -> None:
    x = torch.tensor([[-100.0], [-200.0]], requires_grad=True)
    value = log_mean_exp(x, ALONE)
    assert value.item() == pytest.approx(-100 - math.log(2), rel=1e-6)
    value.sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == pytest.approx([1.0, 0.0], abs=1e-40)


def test_sample_that_excludes_the_data_leaves_the_others() -> None:
    x = torch.tensor([[-math.inf], [-1.0]], requires_grad=True)
    value = log_mean_exp(x, ALONE)
    assert value.item() == pytest.approx(-1 - math.log(2))
    value.sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [0.0, 1.0]


def test_more_samples_never_loosen_the_bound_on_average() -> None:
    terms = 3 * torch.randn(4096, dtype=torch.float64)
    bounds = [
        log_mean_exp(terms.reshape(-1, k).T, ALONE).mean().item() for k in (1, 2, 8, 64, 4096)
    ]
    assert bounds == sorted(bounds) and bounds[-1] > bounds[0] + 1


def test_backward_communicates_nothing() -> None:
    x = torch.randn(6, 4, dtype=torch.float64)

    def work(axis: ThreadGroup) -> list[str]:
        value = log_mean_exp(own(x, axis), axis)
        before = list(axis.calls)
        value.sum().backward()
        assert axis.calls == before
        return before

    assert on_ranks(3, work) == [["predictive.log_likelihood"]] * 3


def test_a_second_derivative_is_refused_and_not_silently_wrong() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    value = (log_mean_exp(x, ALONE).square()).sum()
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
