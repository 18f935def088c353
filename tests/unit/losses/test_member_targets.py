"""A loss with targets of their own for each weight sample."""

import pytest
import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.losses.objective import separable_share

B, K = 3, 4
OUTPUTS = torch.linspace(-1, 1, K * B * 2, dtype=torch.float64).view(K, B, 2)
TARGETS = torch.cos(torch.arange(B * K * 2.0, dtype=torch.float64)).view(B, K, 2)


def nll() -> losses.SeparableLoss:
    loss = losses.gaussian_nll(sigma=0.5).double()
    assert isinstance(loss, losses.SeparableLoss)
    return loss


def test_each_sample_has_the_target_of_its_global_index() -> None:
    loss = losses.member_targets(nll())
    for own in (range(K), range(1, 3), range(3, 4)):
        outputs = OUTPUTS[own.start : own.stop].clone().requires_grad_()
        share = separable_share(loss, outputs, TARGETS, K, own)
        expected = [nll()(OUTPUTS[k], TARGETS[:, k]).mean() for k in own]
        assert share.item() == pytest.approx(sum(expected).item() / K, rel=1e-12)
        share.backward()
        assert outputs.grad is not None
        errors = torch.stack([OUTPUTS[k] - TARGETS[:, k] for k in own])
        assert torch.allclose(outputs.grad, errors / 0.25 / B / K, rtol=1e-12)


def test_it_forecasts_as_the_loss_does() -> None:
    loss = losses.member_targets(losses.gaussian_nll(variance="predicted"))
    assert loss.output_shape((2,)) == (4,)
    mean, sigma = loss.forecast(torch.zeros(K, B, 4))
    assert mean.shape == (K, B, 2)
    assert sigma is not None
    with pytest.raises(ValueError, match="target of example 1"):
        loss.check_target(torch.where(torch.arange(B) == 1, torch.nan, 0.0).view(B, 1, 1))


def test_refusals() -> None:
    with pytest.raises(TypeError, match="joins the weight samples"):
        losses.member_targets(losses.crps())
    loss = losses.member_targets(nll())
    with pytest.raises(ValueError, match=r"targets \(3, 4, 2\) have none for the weight sample 5"):
        separable_share(loss, OUTPUTS[:1], TARGETS, K, [5])


class Batchwide(losses.SeparableLoss):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean(1) * output.mean()


def test_a_loss_of_ones_own_is_still_asked_to_keep_examples_apart() -> None:
    with pytest.raises(ValueError, match="Batchwide"):
        separable_share(losses.member_targets(Batchwide()), OUTPUTS, TARGETS, K)
