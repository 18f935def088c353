"""IVON: steps by the published formulas, the optimum of a known posterior, and what it refuses."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.bayes import POSTERIORS, ivon
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.ivon import IVON
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.step import Step

ALONE = World(Grid(1, 1, 0), torch.device("cpu"))
K, N, SEED = 3, 40, 6
X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4)
Y = torch.linspace(-2, 2, 10, dtype=torch.float64).view(5, 2).sin()


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)


def posterior(dtype: torch.dtype = torch.float64, **options: Any) -> Gaussian:
    return Gaussian(network(dtype), **{"initial_sigma": 0.1, "seed": SEED, **options})


def step_of(parts: Gaussian, optimizer: IVON, **options: Any) -> Step:
    given = {"samples": K, "num_examples": N, "check": False, "precision": "float64", **options}
    return Step(parts, hb.losses.gaussian_nll(sigma=0.5), optimizer, ALONE, **given)


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def hessians(parts: Gaussian, optimizer: IVON) -> Tensor:
    return flat(optimizer.state[one.log_sigma]["hessian"] for one in parts.mean_field().weights)


class Published:
    """Algorithm 1 of the paper, as ``ivon-opt`` has it, on one vector of weights."""

    def __init__(self, mu: Tensor, ess: float, delta: Tensor, hess_init: Tensor) -> None:
        self.mu, self.ess, self.delta = mu, ess, delta
        self.h, self.m, self.t = hess_init, torch.zeros_like(mu), 0
        self.first = hess_init + delta

    @property
    def sigma(self) -> Tensor:
        return (self.ess * (self.h + self.delta)).rsqrt()

    def update(
        self, eps: Tensor, grads: Tensor, *, lr: float, beta1: float, beta2: float, **options: Any
    ) -> None:
        """Take eps (K, P) and the gradients (K, P) of the mean loss at mu + sigma eps."""
        self.t += 1
        g, f = grads.mean(0), (eps * grads / self.sigma).mean(0)
        self.m = beta1 * self.m + (1 - beta1) * g
        old = self.h
        correction = (1 - beta2) ** 2 / 2 * (old - f) ** 2 / (old + self.delta)
        self.h = beta2 * old + (1 - beta2) * f + correction
        m = self.m / (1 - beta1**self.t) if options.get("debias", True) else self.m
        if options.get("rescale_lr", True):
            lr = lr * float(self.first.mean())
        radius = options.get("clip_radius") or math.inf
        way = (m + self.delta * self.mu) / (self.h + self.delta)
        self.mu = self.mu - lr * way.clamp(-radius, radius)


def data_term(parts: Gaussian, weights: Tensor) -> Tensor:
    """Return the mean loss at one vector of random weights."""
    sizes = [parts.module.get_parameter(name).shape for name in parts.names]
    pieces = torch.split(weights, [size.numel() for size in sizes])
    named = {n: p.view(s) for n, p, s in zip(parts.names, pieces, sizes, strict=True)}
    return hb.losses.gaussian_nll(sigma=0.5)(
        torch.func.functional_call(parts.module, named, X), Y
    ).mean()


def draws(parts: Gaussian, step: int, count: int) -> Tensor:
    streams = (Stream(SEED, Purpose.WEIGHTS, step, s) for s in range(K))
    return torch.stack([normals(stream, [count]).double() for stream in streams])


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"hess_init": 0.4}, {}),
    "the sigma of the posterior": ({"initial_sigma": 0.05}, {}, {}),
    "prior by layer": ({"prior_sigma": "fan_in"}, {"hess_init": 0.4}, {}),
    "no debias": ({}, {"hess_init": 0.4, "debias": False}, {}),
    "no rescaling": ({}, {"hess_init": 0.4, "rescale_lr": False}, {}),
    "clipping": ({}, {"hess_init": 0.4, "clip_radius": 0.05}, {}),
    "tempered": ({"temperature": 0.3}, {"hess_init": 0.4}, {"kl_weight": 0.2}),
    "warm-up": ({}, {}, {"kl_warmup_steps": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_of_the_paper(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivon, "CACHED", 7)  # blocks and pieces of tensors
    of_posterior, of_optimizer, of_step = CASES[case]
    parts = posterior(**{"prior_sigma": 0.8, **of_posterior})
    parts.module[1].requires_grad_(False)
    betas = {"lr": 0.3, "beta1": 0.8, "beta2": 0.9}
    optimizer = IVON(parts, **betas, **of_optimizer)
    step = step_of(parts, optimizer, **of_step)
    field = parts.mean_field()
    taus = flat(torch.full_like(one.mu, one.tau) for one in field.weights)
    factor = of_step.get("kl_weight", 1.0) / N
    ess = 1 / (factor * field.temperature)
    sigma = of_posterior.get("initial_sigma", 0.1)
    first = 1 / (ess * sigma**2) - factor / taus**2
    if "hess_init" in of_optimizer:
        first = torch.full_like(taus, of_optimizer["hess_init"])
    expected = Published(flat(one.mu for one in field.weights), ess, factor / taus**2, first)
    for i in range(4):
        warm = min(1.0, (i + 1) / of_step.get("kl_warmup_steps", 1))
        expected.ess, expected.delta = ess / warm, warm * factor / taus**2
        eps = draws(parts, i, len(taus))
        grads = torch.stack(
            [
                torch.func.grad(lambda w: data_term(parts, w))(expected.mu + expected.sigma * each)
                for each in eps
            ]
        )
        step(X, Y)
        expected.update(eps, grads, **betas, **of_optimizer)
        weights = parts.mean_field().weights
        assert torch.allclose(flat(one.mu for one in weights), expected.mu, rtol=0, atol=1e-12)
        sigmas = flat(one.log_sigma for one in weights).exp()
        assert torch.allclose(sigmas, expected.sigma, rtol=1e-10, atol=0)
        assert torch.allclose(hessians(parts, optimizer), expected.h, rtol=1e-9, atol=1e-12)


def test_one_step_equals_ivon_opt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held against the authors' implementation, which gets our noise."""
    peer = pytest.importorskip("ivon", reason="pip install --no-deps ivon-opt==0.1.3")
    parts = posterior(prior_sigma=0.8)
    parts.module[1].requires_grad_(False)
    options = {"lr": 0.3, "beta1": 0.8, "beta2": 0.9, "hess_init": 0.5}
    step = step_of(parts, IVON(parts, **options))
    weights = nn.Parameter(flat(one.mu for one in parts.mean_field().weights).clone())
    decay = 1 / (N * 0.8**2)
    theirs = peer.IVON([weights], ess=N, weight_decay=decay, **options)
    for i in range(3):
        rows = iter(draws(parts, i, weights.numel()))
        monkeypatch.setattr(torch, "randn", lambda *_, rows=rows, **__: next(rows))
        for _ in range(K):
            with theirs.sampled_params(train=True):
                weights.grad = None
                data_term(parts, weights).backward()
        monkeypatch.undo()
        theirs.step()
        step(X, Y)
        mus = flat(one.mu for one in parts.mean_field().weights)
        assert torch.allclose(mus, weights.detach(), rtol=0, atol=1e-12)


def test_the_loss_holds_the_kl_and_the_gradient_does_not() -> None:
    parts = posterior()
    parts.module[1].requires_grad_(False)
    mu = flat(one.mu for one in parts.mean_field().weights)
    weights = mu + 0.1 * draws(parts, 0, len(mu))
    expected = torch.stack([torch.func.grad(lambda w: data_term(parts, w))(w) for w in weights])
    kl = parts.complexity().item()
    step = step_of(parts, IVON(parts, lr=0.1))
    loss = step(X, Y)
    assert step.report.kl == pytest.approx(kl, rel=1e-10)
    assert float(loss) == pytest.approx(step.report.data_loss + kl / N, rel=1e-12)
    gradient = flat(one.mu.grad for one in parts.mean_field().weights)
    assert torch.allclose(gradient, expected.mean(0), rtol=0, atol=1e-12)


def test_what_has_no_distribution_moves_along_its_momentum() -> None:
    parts = posterior()
    optimizer = IVON(parts, lr=0.1, beta1=0.8)
    step = step_of(parts, optimizer)
    bias = parts.module[1].bias
    expected, momentum = bias.detach().clone(), torch.zeros_like(bias)
    for t in (1, 2, 3):
        step(X, Y)
        momentum = 0.8 * momentum + 0.2 * bias.grad
        expected = expected - 0.1 * momentum / (1 - 0.8**t)
        assert torch.allclose(bias, expected, rtol=0, atol=1e-14)


def test_a_resumed_optimizer_takes_the_same_steps() -> None:
    ends = []
    for resumed in (False, True):
        parts = posterior()
        optimizer = IVON(parts, lr=0.1, beta2=0.9)
        step = step_of(parts, optimizer, kl_warmup_steps=5)
        for i in range(6):
            if resumed and i == 3:
                weights, moments = copy.deepcopy((parts.state_dict(), optimizer.state_dict()))
                parts = posterior(initial_sigma=0.7)
                parts.load_state_dict(weights)
                optimizer = IVON(parts, lr=0.3)
                step = step_of(parts, optimizer, kl_warmup_steps=5)
                optimizer.load_state_dict(moments)
                step.step = 3
            step(X, Y)
        ends.append(flat(parts.parameters()))
    assert torch.equal(*ends)


def test_a_network_in_half_precision_loses_no_step() -> None:
    """Its mean is held in float32, as log_sigma and h are."""
    parts = posterior(torch.bfloat16)
    optimizer = IVON(parts, lr=1e-3)
    step = step_of(parts, optimizer, precision="float32")
    before = flat(one.mu for one in parts.mean_field().weights)
    for _ in range(5):
        step(X.bfloat16(), Y.bfloat16())
    for one in parts.mean_field().weights:
        state = optimizer.state[one.log_sigma]
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert torch.equal(state["mean"].bfloat16(), one.mu)
    means = flat(optimizer.state[one.log_sigma]["mean"] for one in parts.mean_field().weights)
    moved = means != before.float()
    assert moved.all()
    moments = copy.deepcopy(optimizer.state_dict())
    again = IVON(parts, lr=1e-3)
    again.load_state_dict(moments)
    for one in parts.mean_field().weights:
        state = again.state[one.log_sigma]
        assert torch.equal(state["mean"], optimizer.state[one.log_sigma]["mean"])


def test_layout_in_memory_and_cuts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for cut, form in ((1 << 15, torch.contiguous_format), (5, torch.channels_last)):
        monkeypatch.setattr(ivon, "CACHED", cut)
        torch.manual_seed(0)
        conv = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 2)).double()
        parts = Gaussian(conv.to(memory_format=form), seed=SEED)
        optimizer = IVON(parts, lr=0.1, beta2=0.9)
        x = torch.arange(36.0, dtype=torch.float64).view(2, 2, 3, 3).cos()
        step = step_of(parts, optimizer)
        for _ in range(3):
            step(x, Y[:2])
        ends.append(flat(p.contiguous() for p in parts.parameters()))
    assert torch.allclose(*ends, rtol=1e-12, atol=1e-14)


def test_frozen_weights_stay_and_half_frozen_ones_are_refused() -> None:
    parts = posterior()
    parts.module[0].weight.requires_grad_(False)
    parts.log_sigma["0/weight"].requires_grad_(False)
    before = parts.module[0].weight.clone()
    step = step_of(parts, IVON(parts, lr=0.1))
    step(X, Y)
    assert torch.equal(parts.module[0].weight, before)
    parts.log_sigma["3/weight"].requires_grad_(False)
    with pytest.raises(ValueError, match=r"3\.weight: only one of mean and log_sigma is frozen"):
        step(X, Y)


def test_no_complexity_term_is_refused() -> None:
    parts = posterior()
    with pytest.raises(ValueError, match=r"posterior\.kl_weight = 0\.0: IVON finds sigma"):
        step_of(parts, IVON(parts, lr=0.1), kl_weight=0.0)(X, Y)
    with pytest.raises(RuntimeError, match=r"after IVON\.begin"):
        IVON(parts, lr=0.1).step()


def test_other_posteriors_are_refused_by_name() -> None:
    class Other(Gaussian):
        def mean_field(self) -> None:
            return None

    with pytest.raises(
        ValueError, match=r"'ivon': Other is not a mean-field .*posterior\.name = g"
    ):
        IVON(Other(network()), lr=0.1)


def test_of_all_methods_it_takes_the_gaussian() -> None:
    """One that draws more than a mean-field Gaussian does must not pass for one."""
    taken = {
        name for name, method in POSTERIORS.items() if method.mean_field is Gaussian.mean_field
    }
    assert taken == {"gaussian"}
