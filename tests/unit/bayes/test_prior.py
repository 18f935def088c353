"""-log of the Gaussian prior against scipy, in float64: 1e-12."""

import pytest
import torch
from scipy.stats import norm
from torch import nn

from hpc_bnn.bayes.prior import negative_log_prior, taus

TENSORS = [torch.linspace(-2, 3, 12).view(3, 4), torch.tensor([0.5, -0.25]), torch.tensor(1.5)]


def weights(dtype: torch.dtype) -> list[torch.Tensor]:
    return [w.to(dtype, copy=True).requires_grad_() for w in TENSORS]


def test_value_and_gradient_are_those_of_the_density() -> None:
    centres = [w.double() / 3 - 0.1 for w in TENSORS]
    for given in (None, centres):
        own, each = weights(torch.float64), [0.5, 2.0, 1.0]
        value = negative_log_prior(own, each, given)
        expected = 0.0
        for place, (w, tau) in enumerate(zip(own, each, strict=True)):
            centre = 0.0 if given is None else given[place].numpy()
            expected -= norm.logpdf(w.detach().numpy(), centre, tau).sum()
        assert value.dtype == torch.float64
        assert value.item() == pytest.approx(expected, rel=1e-12)
        value.mul(3).backward()
        for place, (w, tau) in enumerate(zip(own, each, strict=True)):
            centre = torch.zeros(()) if given is None else given[place]
            assert torch.allclose(w.grad, 3 * (w.detach() - centre) / tau**2, rtol=0, atol=1e-12)


def test_half_precision_is_summed_in_float64() -> None:
    w = torch.full((4096,), 1.0, dtype=torch.bfloat16, requires_grad=True)
    value = negative_log_prior([w], [1.0])
    assert value.item() == pytest.approx(4096 * -norm.logpdf(1.0), rel=1e-12)
    value.backward()
    assert w.grad is not None
    assert w.grad.dtype == torch.bfloat16
    assert torch.equal(w.grad, w.detach())


def test_tau_is_a_number_or_follows_from_the_layer() -> None:
    network = nn.Sequential(nn.Linear(16, 4), nn.Conv2d(3, 2, 3))
    names = [name for name, _ in network.named_parameters()]
    assert taus(network, names, 0.3) == [0.3] * 4
    assert taus(network, names, "fan_in") == [0.25, 0.25, 27**-0.5, 27**-0.5]
    for wrong in (0.0, -1.0, float("inf"), "wide"):
        with pytest.raises(ValueError, match=r"posterior\.prior_sigma = .*: must be a positive"):
            taus(network, names, wrong)
