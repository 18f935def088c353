"""CRPS of predicted Gaussians: against an independent implementation, the scores of verification,
and gradients by differences.
"""

import pytest
import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.verify.scores import mixture_crps

scoringrules = pytest.importorskip("scoringrules", reason="independent implementation of scores")
K, B, P, C = 4, 5, 3, 2
WEIGHTS = torch.tensor([1.0, 3.0])


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


OUTPUTS, TARGET = normal(K, B, 2 * P, C), normal(B, P, C, seed=1)


def parts(**options: object) -> tuple[SeparableLoss, JointLoss]:
    each = losses.gaussian_crps(**options)  # type: ignore[arg-type]
    joint = losses.gaussian_crps(predictive=True, **options)  # type: ignore[arg-type]
    assert isinstance(each, SeparableLoss)
    assert isinstance(joint, JointLoss)
    return each, joint


def test_expected_is_the_mean_over_points_of_the_closed_form() -> None:
    each, _ = parts()
    assert each.output_shape((P, C)) == (2 * P, C)
    mean, sigma = each.forecast(OUTPUTS)
    assert sigma is not None
    for k in range(K):
        expected = scoringrules.crps_normal(TARGET.numpy(), mean[k].numpy(), sigma[k].numpy())
        assert each(OUTPUTS[k], TARGET).numpy() == pytest.approx(expected.mean((1, 2)), rel=1e-10)


def test_predictive_is_the_score_of_the_mixture() -> None:
    each, joint = parts()
    mean, sigma = joint.forecast(OUTPUTS)
    assert sigma is not None
    expected = mixture_crps(mean, sigma, TARGET).mean((1, 2))
    got = joint(OUTPUTS, TARGET, ALONE)
    assert torch.allclose(got, expected, rtol=1e-10)
    assert bool((got <= torch.stack([each(o, TARGET) for o in OUTPUTS]).mean(0)).all())
    assert torch.allclose(joint(OUTPUTS[:1], TARGET, ALONE), each(OUTPUTS[0], TARGET), rtol=1e-10)


def test_points_are_weighted() -> None:
    for loss in parts(weights=WEIGHTS, present=torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()):
        mean, sigma = loss.forecast(OUTPUTS)
        assert sigma is not None
        share = WEIGHTS.double().expand(P, C).clone()
        share[1, 1] = 0
        if isinstance(loss, JointLoss):
            score, got = mixture_crps(mean, sigma, TARGET), loss(OUTPUTS, TARGET, ALONE)
        else:
            score = mixture_crps(mean[:1], sigma[:1], TARGET)
            got = loss(OUTPUTS[0], TARGET)
        expected = (score * share).sum((1, 2)) / share.sum()
        assert torch.allclose(got, expected, rtol=1e-10)


def test_gradients_are_those_of_differences() -> None:
    each, joint = parts()
    outputs = OUTPUTS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: joint(o, TARGET, ALONE), [outputs])
    assert torch.autograd.gradcheck(
        lambda o: each(o, TARGET), [outputs[0].detach().requires_grad_()]
    )


def test_outputs_of_another_shape_are_refused() -> None:
    each, joint = parts()
    with pytest.raises(ValueError, match="dimension 1 must be even"):
        each(OUTPUTS[0][:, :5], TARGET)
    with pytest.raises(ValueError, match="gaussian_crps: the network gives"):
        joint(OUTPUTS[:, :, :4], TARGET, ALONE)
    with pytest.raises(ValueError, match="min_sigma"):
        losses.gaussian_crps(min_sigma=0.0)
