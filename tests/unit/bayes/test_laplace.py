"""Last-layer Laplace against exact posteriors, evidences and Hessians."""

import math
from collections.abc import Callable

import pytest
import torch
from test_exact_posterior import LOG_EVIDENCE, S2, X, Y, exact_mean, precision
from torch import Tensor, nn
from torch.func import functional_call

import hpc_bnn as hb
from hpc_bnn.bayes import laplace as module_of_laplace
from hpc_bnn.bayes.laplace import best_precision
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.losses.base import Loss

B, IN, HIDDEN, CLASSES = 12, 3, 5, 4


def parts(data: tuple[Tensor, Tensor], *sizes: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(tensor.split(list(sizes)) for tensor in data), strict=True))


def inputs(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# The exact posterior of a linear model


def regression(
    delta: float | None = 1.0, *, at: float = 1.0, s2: float = S2
) -> hb.LastLayerLaplace:
    """Laplace at the maximum of the posterior under a prior precision of ``at``."""
    linear = nn.Linear(10, 1, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.linalg.solve(X.T @ X / s2 + at * torch.eye(10), X.T @ Y / s2))
    laplace = hb.LastLayerLaplace(linear, seed=3)
    loss = hb.losses.gaussian_nll().double()
    loss.likelihood.log_sigma.fill_(math.log(s2) / 2)  # which is made in float32
    laplace.fit(parts((X, Y[:, None]), 200, 200, 42), loss, prior_precision=delta)
    return laplace


def test_evidence_and_posterior_of_linear_regression_are_exact() -> None:
    laplace = regression()
    assert laplace.log_evidence.item() == pytest.approx(LOG_EVIDENCE, abs=1e-6)
    assert torch.allclose(laplace.factor[0] @ laplace.factor[0].mT, precision(), atol=1e-9)
    samples = range(5)
    drawn = laplace.sample(laplace.key(0, samples, Purpose.PREDICTION))["weight"]
    assert drawn.shape == (5, 1, 10)
    eps = torch.stack([normals(Stream(3, Purpose.LAPLACE, 0, s), (10,)) for s in samples])
    root = torch.linalg.cholesky(precision())
    expected = exact_mean() + torch.linalg.solve(root.mT, eps.double().mT).mT
    assert torch.allclose(drawn[:, 0], expected, rtol=0, atol=1e-12)


def test_draws_have_the_moments_of_the_exact_posterior() -> None:
    laplace, count = regression(), 4000
    drawn = laplace.sample(laplace.key(0, range(count)))["weight"][:, 0]
    covariance = torch.linalg.inv(precision())
    sd = covariance.diagonal().sqrt()
    assert ((drawn.mean(0) - exact_mean()) / sd).abs().max() < 5 / math.sqrt(count)
    off = (drawn.T.cov() - covariance) / (sd[:, None] * sd)
    assert off.abs().max() < 5 * math.sqrt(2 / count)


def test_the_evidence_is_largest_where_the_fixed_point_of_mackay_is() -> None:
    """scikit-learn's BayesianRidge on these data ends at precisions 2.0222 and 30.0425."""
    laplace = regression(None, at=30.0425, s2=1 / 2.0222)
    assert laplace.prior_precision.item() == pytest.approx(30.0425, rel=1e-3)
    best = laplace.log_evidence.item()
    for factor in (0.9, 1.1):
        other = regression(factor * laplace.prior_precision.item(), at=30.0425, s2=1 / 2.0222)
        assert other.log_evidence.item() < best


def test_bisection_ends_at_the_stationary_point() -> None:
    curvatures, square = torch.tensor([0.0, 1e-3, 2.0, 300.0], dtype=torch.float64), 0.7
    delta = best_precision(curvatures, square)
    assert float((curvatures / (curvatures + delta)).sum()) == pytest.approx(delta * square)
    for nothing in ((curvatures, 0.0), (torch.zeros(3), 1.0)):
        with pytest.raises(ValueError, match="the evidence has no maximum"):
            best_precision(*nothing)


# The curvature of networks


class Tokens(nn.Module):
    """A linear layer on tokens, whose outputs are moved, scaled and cut."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, 2)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(torch.tanh(self.body(x)))  # (B, T, 2)
        return (x[:, :3, :2] - 3 * z[:, :3]).transpose(1, 2)


def classifier() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(IN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)).double()


def tokens() -> nn.Module:
    torch.manual_seed(2)
    return Tokens().double()


WEIGHTS = torch.tensor([[1.0, 2.0, 4.0]])  # of the points
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Loss], Tensor, Tensor, str]] = {
    "classes": (
        classifier,
        hb.losses.categorical_nll,
        inputs(B, IN),
        torch.arange(B) % CLASSES,
        "2",
    ),
    "classes, predictive": (
        classifier,
        lambda: hb.losses.categorical_nll(predictive=True),
        inputs(B, IN),
        torch.arange(B) % CLASSES,
        "2",
    ),
    "points": (
        classifier,
        lambda: hb.losses.gaussian_nll(sigma=0.7, variance="learned"),
        inputs(B, IN),
        inputs(B, CLASSES, seed=1),
        "2",
    ),
    "weighted points of tokens": (
        tokens,
        lambda: hb.losses.gaussian_nll(sigma=0.7, weights=WEIGHTS, present=WEIGHTS < 3),
        inputs(B, 4, IN),
        inputs(B, 2, 3, seed=1),
        "head",
    ),
}


def exact_hessian(network: nn.Module, likelihood: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the Hessian (P, P) of -log p in [W | b] of the last layer, by autograd."""
    names = [name for name, _ in network.named_parameters()][-2:]
    weight, bias = (network.get_parameter(name).detach() for name in names)

    def nll(theta: Tensor) -> Tensor:
        held = dict(zip(names, (theta[:, :-1], theta[:, -1]), strict=True))
        return -likelihood(functional_call(network, held, (x,)), y).sum()

    theta = torch.cat([weight, bias[:, None]], 1)
    return torch.autograd.functional.hessian(nll, theta).reshape(theta.numel(), -1)


@pytest.mark.parametrize("case", CASES)
def test_the_precision_is_the_hessian_of_the_last_layer(case: str) -> None:
    make, make_loss, x, y, layer = CASES[case]
    network, loss = make(), make_loss().double()
    laplace = hb.LastLayerLaplace(network)
    assert laplace.layer == layer
    laplace.fit(parts((x, y), 5, 0, 7), loss, prior_precision=0.3)
    blocks = laplace.factor @ laplace.factor.mT
    expected = exact_hessian(network, loss.likelihood, x, y)
    size = len(expected)
    assert len(blocks) == (1 if "classes" in case else len(network.get_parameter(f"{layer}.bias")))
    expected += 0.3 * torch.eye(size, dtype=torch.float64)
    assert torch.allclose(torch.block_diag(*blocks), expected, rtol=0, atol=1e-9)
    log_p = loss.likelihood(network(x), y).sum()
    theta = torch.cat([p.detach().flatten() for p in list(network.parameters())[-2:]])
    evidence = (
        log_p
        + size / 2 * math.log(0.3)
        - 0.15 * theta.square().sum()
        - 0.5 * torch.logdet(expected)
    )
    assert laplace.log_evidence.item() == pytest.approx(evidence.item(), abs=1e-9)


def test_a_fitted_one_predicts_as_any_posterior_and_comes_back_from_its_state() -> None:
    make, make_loss, x, y, _ = CASES["classes"]
    network = make()
    laplace = hb.LastLayerLaplace(network, seed=5)
    laplace.fit([(x, y)], make_loss())
    together = laplace.predict(x, samples=6, samples_per_pass=4)
    apart = torch.cat([laplace.predict(x, samples=2, first=first) for first in (0, 2, 4)])
    assert torch.allclose(together, apart, rtol=0, atol=1e-12)
    assert (together.std(0) > 0).all()
    assert torch.allclose(laplace.to_module(4)(x), together[4], rtol=0, atol=1e-12)
    again = hb.LastLayerLaplace(make(), blocks=len(laplace.factor), seed=5)
    again.load_state_dict(laplace.state_dict())
    assert torch.equal(again.predict(x, samples=6, samples_per_pass=4), together)
    narrow = hb.LastLayerLaplace(make().bfloat16(), seed=5)
    narrow.fit([(x, y)], make_loss())
    assert narrow.predict(x.bfloat16(), samples=2).dtype == torch.bfloat16


# What is refused


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = classifier()

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.network(x), 1)


class Turned(Softmax):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).flip(1)


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    return network


def test_a_layer_that_is_not_the_last_or_not_its_own_is_refused() -> None:
    x, y = inputs(B, IN), torch.arange(B) % CLASSES
    nll = hb.losses.categorical_nll()
    for network, layer in ((Softmax(), ""), (Turned(), ""), (classifier(), "0")):
        with pytest.raises(ValueError, match=r"computes its outputs from those of this layer"):
            hb.LastLayerLaplace(network, layer=layer).fit([(x, y)], nll)
    unused = classifier()
    unused.register_module("aside", nn.Linear(2, 2))
    aside = hb.LastLayerLaplace(nn.Sequential(classifier(), nn.Identity()), layer="0.2")
    aside.fit([(x, y)], nll)
    twice = classifier()
    twice.forward = lambda x: twice[2](twice[1](twice[0](x))) + twice[2](twice[1](twice[0](x)))
    with pytest.raises(ValueError, match="ran 2 times in a pass"):
        hb.LastLayerLaplace(twice).fit([(x, y)], nll)
    with pytest.raises(ValueError, match=r"posterior\.layer = '1': is under .* tied to another"):
        hb.LastLayerLaplace(tied())
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="is under a parametrization"):
        hb.LastLayerLaplace(weighted)
    with pytest.raises(ValueError, match=r"posterior\.layer = 'head': .* it has 0, 2"):
        hb.LastLayerLaplace(classifier(), layer="head")
    with pytest.raises(ValueError, match="it has none"):
        hb.LastLayerLaplace(nn.Conv1d(2, 2, 1))


def test_losses_and_sizes_that_have_no_such_posterior_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = inputs(B, IN), inputs(B, CLASSES)
    laplace = hb.LastLayerLaplace(classifier())
    with pytest.raises(ValueError, match=r"loss = CRPS.*needs a likelihood"):
        laplace.fit([(x, y)], hb.losses.crps())
    with pytest.raises(ValueError, match=r"loss\.variance = 'predicted'"):
        laplace.fit([(x, y[:, :2])], hb.losses.gaussian_nll(variance="predicted"))
    with pytest.raises(ValueError, match=r"prior_precision = -1\.0: must be a positive"):
        laplace.fit([(x, y)], hb.losses.gaussian_nll(), prior_precision=-1.0)
    with pytest.raises(ValueError, match="not fitted yet"):
        laplace.predict(x, samples=1)
    with pytest.raises(ValueError, match=r"blocks = 3: expected 1, or 4"):
        hb.LastLayerLaplace(classifier(), blocks=3)
    with pytest.raises(ValueError, match="is fitted to a trained network, not trained"):
        laplace.check_samples(1, samples_per_pass=1)
    with pytest.raises(ValueError, match="of the training set is not finite"):
        laplace.fit([(torch.full_like(x, torch.inf), y)], hb.losses.gaussian_nll())
    monkeypatch.setattr(module_of_laplace, "LARGEST_BYTES", 8 * 24**2 - 1)
    laplace.fit([(x, y)], hb.losses.gaussian_nll())  # blocks are smaller
    with pytest.raises(ValueError, match=r"'2': 24 weights have a curvature matrix of 0\.0 GiB"):
        laplace.fit([(x, y[:, 0].long().abs())], hb.losses.categorical_nll())
