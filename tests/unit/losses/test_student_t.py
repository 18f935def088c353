"""Student-t likelihood by torch's distribution, and its forecast as a mixture of Gaussians."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import StudentT

from hpc_bnn import losses
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.losses.student_t import NODES, scale_nodes

K, B, P, C = 4, 5, 3, 2
NU = 4.0


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


OUTPUTS, TARGET = normal(K, B, 2 * P, C), normal(B, P, C, seed=1)


def log_likelihoods() -> Tensor:
    mean, raw = OUTPUTS.chunk(2, dim=2)
    sigma = torch.nn.functional.softplus(raw) + 1e-3
    each: Tensor = StudentT(NU, mean, sigma).log_prob(TARGET)  # type: ignore[no-untyped-call]
    return each.sum((2, 3))


def test_expected_and_predictive_by_torch_distributions() -> None:
    each = losses.student_t_nll(degrees_of_freedom=NU)
    joint = losses.student_t_nll(degrees_of_freedom=NU, predictive=True)
    assert isinstance(each, SeparableLoss)
    assert isinstance(joint, JointLoss)
    assert each.output_shape((P, C)) == (2 * P, C)
    expected = log_likelihoods()
    for k in range(K):
        assert torch.allclose(each(OUTPUTS[k], TARGET), -expected[k], rtol=1e-10)
    mixture = -(expected.logsumexp(0) - math.log(K))
    assert torch.allclose(joint(OUTPUTS, TARGET, ALONE), mixture, rtol=1e-10)


def test_many_degrees_of_freedom_are_gaussian() -> None:
    heavy = losses.student_t_nll(degrees_of_freedom=1e7)
    gaussian = losses.gaussian_nll(variance="predicted")
    assert isinstance(heavy, SeparableLoss)
    assert isinstance(gaussian, SeparableLoss)
    assert torch.allclose(heavy(OUTPUTS[0], TARGET), gaussian(OUTPUTS[0], TARGET), rtol=1e-5)


@pytest.mark.parametrize("nu", [3.0, 5.0, 30.0])
def test_nodes_have_its_variance_and_its_quantiles(nu: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="quantiles of Student's t")
    nodes = scale_nodes(nu)
    assert float(nodes.square().mean()) == pytest.approx(nu / (nu - 2), rel=1e-9)
    for probability in (0.5, 0.75, 0.95):
        quantile = stats.t.ppf(probability, nu)
        below = float(torch.special.ndtr(quantile / nodes).mean())
        assert below == pytest.approx(probability, abs=0.01), probability


def test_forecasts_are_gaussians_of_every_node_and_sample() -> None:
    loss = losses.student_t_nll(degrees_of_freedom=NU)
    mean, sigma = loss.forecast(OUTPUTS)
    assert sigma is not None
    assert mean.shape == sigma.shape == (K * NODES, B, P, C)
    location, raw = OUTPUTS.chunk(2, dim=2)
    scale = torch.nn.functional.softplus(raw) + 1e-3
    assert torch.equal(mean[NODES : 2 * NODES], location[1].expand(NODES, B, P, C))
    assert torch.allclose(sigma[NODES + 3], scale[1] * scale_nodes(NU)[3], rtol=1e-12)


@pytest.mark.parametrize("nu", [2.0, 0.5, math.inf])
def test_degrees_of_freedom_without_a_variance_are_refused(nu: float) -> None:
    with pytest.raises(ValueError, match=r"loss\.degrees_of_freedom = .* must be a number above 2"):
        losses.student_t_nll(degrees_of_freedom=nu)
