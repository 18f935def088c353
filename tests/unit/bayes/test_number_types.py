"""Networks in half precision, double and complex numbers."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes import noise
from hpc_bnn.bayes.chains import SGHMC
from hpc_bnn.bayes.gaussian import Gaussian

HALVES = [torch.bfloat16, torch.float16]


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16, dtype=torch.float32), nn.Linear(16, 3, dtype=torch.float32)]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1]).to(dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("keep_noise", [False, True])
def test_a_network_in_half_precision_has_scales_in_float32(
    dtype: torch.dtype, keep_noise: bool
) -> None:
    rounded = network(dtype)
    exact = network(dtype).float()
    posteriors = [
        Gaussian(module, initial_sigma=0.3, keep_noise=keep_noise) for module in (rounded, exact)
    ]
    assert {p.dtype for p in posteriors[0].log_sigma.values()} == {torch.float32}
    drawn = [p.sample(p.key(3, (0, 1))) for p in posteriors]
    for name, weight in drawn[1].items():
        assert drawn[0][name].dtype == dtype
        assert torch.equal(drawn[0][name], weight.to(dtype)), "drawn in float32, rounded once"
    for weights in drawn:
        torch.autograd.backward(sum((w.float() * w.float()).sum() for w in weights.values()))
    for a, b in zip(posteriors[0].parameters(), posteriors[1].parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and a.grad.dtype == a.dtype
        eps = torch.finfo(dtype).eps
        assert torch.allclose(a.grad.float(), b.grad, rtol=4 * eps, atol=4 * eps)
    kls = [p.complexity() for p in posteriors]
    assert float(kls[0].detach()) == pytest.approx(float(kls[1].detach()), rel=1e-6)


@pytest.mark.parametrize("dtype", HALVES)
def test_scales_stay_in_float32_when_a_posterior_is_converted(dtype: torch.dtype) -> None:
    posterior = Gaussian(network(torch.float32), initial_sigma=0.01977)
    before = [p.detach().clone() for p in posterior.log_sigma.values()]
    posterior.to(dtype)
    assert all(map(torch.equal, posterior.log_sigma.values(), before)), "not by way of the halves"
    assert {p.dtype for p in posterior.module.parameters()} == {dtype}
    assert {p.dtype for p in posterior.log_sigma.values()} == {torch.float32}
    assert {p.dtype for p in posterior.double().log_sigma.values()} == {torch.float64}


def test_means_in_float64_beside_scales_in_float32_keep_their_digits() -> None:
    posterior = Gaussian(network(torch.float32), initial_sigma=1e-9)
    posterior.module.double()
    weight = posterior.module.get_parameter("0.weight")
    with torch.no_grad():
        weight += 1e-9
    drawn = posterior.sample(posterior.key(0, (0,)))["0.weight"][0]
    assert drawn.dtype == torch.float64
    assert 0 < float((drawn - weight).detach().abs().max()) < 1e-8
    torch.autograd.backward(drawn.sum() + posterior.complexity())
    assert weight.grad is not None and weight.grad.dtype == torch.float64


class Spectral(nn.Module):
    """A layer with a complex weight, as Fourier operators have."""

    def __init__(self) -> None:
        super().__init__()
        self.modes = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head((self.modes * x).real)
        return result


def test_complex_weights_are_refused_by_name_and_may_stay_deterministic() -> None:
    with pytest.raises(ValueError, match=r"modes.*complex64"):
        Gaussian(Spectral(), random=["*"])
    posterior = Gaussian(Spectral(), random=["head.*"])
    draws = posterior.key(0, (0,))
    assert posterior.check(draws, torch.randn(4, 3), gradients=True) == []


def test_whole_numbers_are_refused_by_name() -> None:
    module = nn.Linear(3, 2)
    module.table = nn.Parameter(torch.ones(3, dtype=torch.int32), requires_grad=False)
    with pytest.raises(ValueError, match=r"table.*int32"):
        Gaussian(module, random=["*"])


@pytest.fixture
def double_by_default() -> Iterator[None]:
    noise._load.cache_clear()  # the first use of a kernel tries it
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def moved_chains() -> list[Tensor]:
    chains = SGHMC(network(torch.float32), samples=2, burn_in=0)
    chains.initialise()
    optimizer = chains.optimizer(lr=0.01)
    chains.begin(optimizer, num_examples=10)
    for row in chains.rows.values():
        row.grad = torch.ones_like(row)
    optimizer.step()
    return [row.detach().clone() for row in chains.rows.values()]


def drawn_weights() -> list[Tensor]:
    posterior = Gaussian(network(torch.float32), seed=3)
    return list(posterior.sample(posterior.key(2, (0, 1))).values())


@pytest.mark.parametrize("numbers", [drawn_weights, moved_chains])
def test_noise_does_not_ask_what_dtype_torch_makes_by_default(
    numbers: Callable[[], list[Tensor]], request: pytest.FixtureRequest
) -> None:
    expected = numbers()
    request.getfixturevalue("double_by_default")
    assert all(map(torch.equal, numbers(), expected))
