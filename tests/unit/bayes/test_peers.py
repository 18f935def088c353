"""Methods held against other libraries, where the quantity is the same.

Their noise is not ours: it is put in place of theirs where a step can be compared, else moments
are, within four standard errors of what is measured. A library that is not installed is skipped;
only the files that are needed of it are read, since the rest of some wants a build of torchvision.
"""

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.bayes.langevin import Dynamics, Langevin
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.bayes.posterior import row_key

N, SEED = 50, 6
CHAINS, WEIGHTS = 16, 2048
CURVATURE, CENTRE = 7.0, 0.4
INSTALL = "pip install --no-deps"


def file_of(package: str, path: str, *, version: str, name: str = "peer") -> ModuleType:
    """Return one file of an installed package as a module, without what else it imports."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package}: {INSTALL} {version}")
    location = Path(found.submodule_search_locations[0]) / path
    spec = importlib.util.spec_from_file_location(name, location)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def walk(friction: float, temperature: float, lr: float, steps: int) -> Tensor:
    """Return the weights of all chains after steps on U = sum CURVATURE (w - CENTRE)^2 / 2."""
    dynamics = Dynamics(
        friction=friction,
        temperature=temperature,
        burn_in=0,
        preconditioning=False,
        cycle=0,
        exploration=0.8,
    )
    row = nn.Parameter(torch.zeros(CHAINS, WEIGHTS, dtype=torch.float64))
    sampler = Langevin([row], dynamics, lr=lr, seed=SEED, samples=lambda: range(CHAINS))
    sampler.num_examples = N
    for _ in range(steps):
        row.grad = (row.detach() - CENTRE) * CURVATURE / N
        sampler.step()
    return row.detach()


def walk_of_peer(build: Callable[..., Any], steps: int, **options: Any) -> Tensor:
    """Return the same of a transform of ``posteriors``."""

    def log_posterior(weights: Tensor, batch: None) -> tuple[Tensor, Tensor]:
        return -CURVATURE * (weights - CENTRE).square().sum() / 2, torch.zeros(())

    transform = build(log_posterior, **options)
    state = transform.init(torch.zeros(CHAINS, WEIGHTS, dtype=torch.float64))
    for _ in range(steps):
        state, _ = transform.update(state, None)
    weights: Tensor = state.params
    return weights


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_sgld_is_that_of_posteriors(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, with the same noise: its rate is that of the sum over examples, h / N."""
    sgld = pytest.importorskip("posteriors.sgmcmc.sgld", reason=f"{INSTALL} posteriors==0.1.3")
    lr, steps, made = 0.3 * N / CURVATURE, 5, []

    def noise(like: Tensor) -> Tensor:
        streams = [Stream(SEED, Purpose.DYNAMICS, len(made), chain) for chain in range(CHAINS)]
        made.append(torch.stack([normals(s, (WEIGHTS,)) for s in streams]).to(like.dtype))
        return made[-1]

    monkeypatch.setattr(torch, "randn_like", noise)
    theirs = walk_of_peer(sgld.build, steps, lr=lr / N, temperature=temperature)
    assert len(made) == steps
    ours = walk(1.0, temperature, lr, steps)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
    assert float(ours.std()) > 0.1


def test_sghmc_has_the_target_of_posteriors() -> None:
    """With rate e and friction alpha of theirs, h = e^2 N and our friction is e alpha. They move
    weights by the momentum before the step, we by that after it: both have the stationary variance
    of their rule, which is that of the target as the rate goes to 0.
    """
    sghmc = pytest.importorskip("posteriors.sgmcmc.sghmc", reason=f"{INSTALL} posteriors==0.1.3")
    torch.manual_seed(1)
    friction, share, steps = 0.2, 0.02, 300
    rate = math.sqrt(share / CURVATURE)
    options = {"lr": rate, "alpha": friction / rate, "momenta": 0.0}
    step = np.array([[1.0, 1.0], [-share, 1 - friction]])  # of w - CENTRE and rate * momentum
    noise = np.diag([0.0, 2 * friction * share / CURVATURE])
    variance = np.linalg.solve(np.eye(4) - np.kron(step, step), noise.ravel())[0]
    expected = {
        "theirs": float(variance),
        "ours": 1 / (CURVATURE * (1 - share / (2 * (2 - friction)))),
    }
    walks = {
        "theirs": walk_of_peer(sghmc.build, steps, **options),
        "ours": walk(friction, 1.0, share / CURVATURE * N, steps),
    }
    count = CHAINS * WEIGHTS
    for whose, weights in walks.items():
        error = math.sqrt(2 / count)
        assert float(weights.var()) == pytest.approx(expected[whose], rel=4 * error), whose
        error = math.sqrt(expected[whose] / count)
        assert float(weights.mean()) == pytest.approx(CENTRE, abs=4 * error), whose
    for whose, bias in (("theirs", 0.12), ("ours", 0.006)):
        assert expected[whose] == pytest.approx(1 / CURVATURE, rel=bias)


def mlp(dropout: float = 0.0) -> nn.Sequential:
    layers = nn.Linear(3, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 2)
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("collections", [4, 9])
def test_swag_is_that_of_swa_gaussian(collections: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, diagonal and low rank of the same iterates; the covariance of its draws at half our
    scale, since its ``scale`` has the factor 1/2 of the paper in it.
    """
    for name in ("gpytorch", "gpytorch.lazy", "gpytorch.distributions"):  # of likelihoods alone
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    lazy = ("RootLazyTensor", "DiagLazyTensor", "AddedDiagLazyTensor")
    for module, names in (
        ("gpytorch.lazy", lazy),
        ("gpytorch.distributions", ("MultivariateNormal",)),
    ):
        for name in names:
            monkeypatch.setattr(sys.modules[module], name, object, raising=False)
    for name in ("peer", "peer.posteriors"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    path, version = "posteriors/swag.py", "swa-gaussian==0.1.9"
    utils = file_of("swag", "utils.py", version=version, name="peer.utils")
    monkeypatch.setitem(sys.modules, "peer.utils", utils)
    peer = file_of("swag", path, version=version, name="peer.posteriors.swag")

    torch.manual_seed(1)
    rank = 4
    ours = hb.SWAG(mlp(), samples=1, rank=rank, start=0, collect_every=1, initial_spread=0.1)
    ours.initialise()
    theirs = peer.SWAG(mlp, no_cov_mat=False, max_num_models=rank)
    for step in range(collections):
        iterate = mlp()
        for name, p in iterate.named_parameters():
            ours.rows[row_key(name)].data[0] = p.detach()
        ours.collect(step)
        theirs.collect_model(iterate)
    means, variances, roots = theirs.generate_mean_var_covar()
    whole = []
    for name, mean, variance, root in zip(ours.names, means, variances, roots, strict=True):
        m, v, d = (each[0].flatten(-mean.dim()) for each in ours._moments(name))
        assert torch.allclose(m, mean.flatten(), rtol=0, atol=1e-14), name
        assert torch.allclose(v, variance.flatten(), rtol=0, atol=1e-14), name
        # Ours is a ring: the columns in another order.
        assert torch.allclose(d.T @ d, root.T @ root, rtol=0, atol=1e-13), name
        whole.append((m, v, d))
    m, v = (torch.cat([each[i] for each in whole]) for i in (0, 1))
    d = torch.cat([each[2] for each in whole], 1)
    covariance = (torch.diag(v) + d.T @ d / (rank - 1)) / 2
    count, draws = 4000, []
    for _ in range(count):
        theirs.sample(scale=0.5, cov=True)
        draws.append(torch.cat([getattr(p, n).flatten() for p, n, _ in theirs.params]))
    drawn = torch.stack(draws)
    variance = covariance.diagonal()
    error = 4 * (variance / count).sqrt()
    assert ((drawn.mean(0) - m).abs() < error + 1e-12).all()
    error = 5 * ((variance[:, None] * variance + covariance**2) / count).sqrt()
    assert ((drawn.T.cov() - covariance).abs() < error).all()
    weights = [ours.sample(ours.key(0, (i,), Purpose.PREDICTION)) for i in range(count)]
    ours_drawn = torch.stack([torch.cat([w.flatten() for w in one.values()]) for one in weights])
    assert ((ours_drawn.T.cov() - covariance).abs() < error).all()


def test_mc_dropout_is_that_of_torch_uncertainty() -> None:
    pytest.importorskip("einops", reason=f"{INSTALL} einops")
    path, version = "methods/mc_dropout.py", "torch-uncertainty==0.13.0"
    peer = file_of("torch_uncertainty", path, version=version)
    torch.manual_seed(1)
    network, count = mlp(0.3), 20_000
    x = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    theirs = peer.mc_dropout(network, count, on_batch=True).eval()
    with torch.no_grad():
        peers = theirs(x)
    ours = hb.Dropout(network.train(), seed=SEED).predict(x.expand(2000, 3), samples=10)
    moments = []
    for outputs in (peers, ours.flatten(0, 1)):
        assert outputs.shape == (count, 2)
        mean, apart = outputs.mean(0), (outputs - outputs.mean(0)).square()
        moments.append((mean, apart.mean(0), apart.var(0)))
    (mean, variance, fourth), (own_mean, own_variance, own_fourth) = moments
    assert ((mean - own_mean).abs() < 4 * ((variance + own_variance) / count).sqrt()).all()
    assert ((variance - own_variance).abs() < 4 * ((fourth + own_fourth) / count).sqrt()).all()
    assert (own_variance > 1e-3).all()


def test_an_ensemble_is_that_of_torch_uncertainty() -> None:
    path, version = "methods/deep_ensembles.py", "torch-uncertainty==0.13.0"
    peer = file_of("torch_uncertainty", path, version=version)
    torch.manual_seed(1)
    ours, x = hb.Ensemble(mlp(), samples=4), torch.randn(6, 3, dtype=torch.float64)
    members = [ours.to_module(k) for k in range(4)]
    theirs = peer.deep_ensembles(members, task="classification")(x).view(4, 6, 2)
    outputs = ours.predict(x, samples=4)
    assert torch.allclose(theirs, outputs, rtol=0, atol=1e-14)
    assert torch.allclose(theirs.mean(0), outputs.mean(0), rtol=0, atol=1e-14)
    assert float(outputs.std(0).min()) > 1e-3
