"""Ensembles; anchored ones sample the exact posterior of conjugate regression.

The diabetes data of ``test_exact_posterior``: X and y standardised, noise variance 1/2, prior
N(0, I). Member k must end at m_k = L^-1 (X' y_k / s2 + a_k), L = X'X / s2 + I: to 1e-7, as
momentum converges. Over many members, z = L^(1/2) (m - mean) is then a standard normal, so that

    |mean of z|^2 K            is chi-squared of 10 degrees,
    an entry of cov(z)         is 0 or 1 with error sqrt(1 / K), on the diagonal sqrt(2 / K).
"""

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.config import Settings
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import check_choices

ALONE = World(Grid(1, 1, 0), torch.device("cpu"))
S2, FEATURES, STEPS, SEED = 0.5, 10, 250, 4
TRAINED, MANY = 12, 4096


def diabetes() -> tuple[Tensor, Tensor]:
    datasets = pytest.importorskip("sklearn.datasets", reason="the diabetes data")
    x, y = map(torch.tensor, datasets.load_diabetes(return_X_y=True))
    return (x - x.mean(0)) / x.std(0, correction=0), (y - y.mean()) / y.std(correction=0)


def trained(x: Tensor, y: Tensor, loss: hb.losses.Loss) -> Tensor:
    """Return the weights (TRAINED, FEATURES) of an anchored ensemble of linear models."""
    linear = nn.Linear(FEATURES, 1, bias=False).double()
    posterior = hb.Ensemble(linear, samples=TRAINED, anchored=True, seed=SEED)
    # Eigenvalues of the Hessian of each member, and the best momentum for them.
    least, largest = torch.linalg.eigvalsh(precision(x) / len(x))[[0, -1]].sqrt().tolist()
    optimizer = torch.optim.SGD(
        [p for p in posterior.parameters() if p.requires_grad],
        lr=(2 / (least + largest)) ** 2,
        momentum=((largest - least) / (largest + least)) ** 2,
    )
    options = {"samples": TRAINED, "samples_per_pass": TRAINED, "precision": "float64"}
    step = hb.Step(posterior, loss, optimizer, ALONE, num_examples=len(x), **options)
    for _ in range(STEPS):
        step(x, y)
    return posterior.rows["weight"].detach().squeeze(1)


def precision(x: Tensor) -> Tensor:
    return x.T @ x / S2 + torch.eye(FEATURES, dtype=x.dtype)


def minima(x: Tensor, targets: Tensor, members: int) -> Tensor:
    """Return m (members, FEATURES) for targets (N, members or 1)."""
    streams = [Stream(SEED, Purpose.ANCHORS, 0, k) for k in range(members)]
    anchors = torch.stack([normals(stream, (FEATURES,)) for stream in streams])
    right = targets.T @ x / S2 + anchors
    return torch.linalg.solve(precision(x), right.T).T


def errors_of_covariance(z: Tensor) -> Tensor:
    """Return how far cov(z) is from the identity, in standard errors."""
    error = (z.T.cov() - torch.eye(FEATURES)) * math.sqrt(len(z))
    return error / (1 + torch.eye(FEATURES) * (math.sqrt(2) - 1))


def test_an_anchored_ensemble_samples_the_exact_posterior() -> None:
    x, y = diabetes()
    sigma = math.sqrt(S2)
    targets = hb.perturbed_targets(y[:, None], sigma=sigma, samples=MANY, seed=SEED)
    ends = minima(x, targets.squeeze(2), MANY)
    loss = hb.losses.member_targets(hb.losses.gaussian_nll(sigma=sigma))
    w = trained(x, targets[:, :TRAINED], loss)
    assert torch.allclose(w, ends[:TRAINED], rtol=0, atol=1e-7)
    mean = torch.linalg.solve(precision(x), x.T @ y / S2)
    z = (ends - mean) @ torch.linalg.cholesky(precision(x))
    low, high = chi2.ppf([0.001, 0.999], FEATURES)
    assert low < MANY * z.mean(0).square().sum().item() < high
    assert errors_of_covariance(z).abs().max() < 4


def test_anchors_alone_spread_too_little() -> None:
    """Their covariance is L^-2 in place of L^-1."""
    x, y = diabetes()
    ends = minima(x, y[:, None], MANY)
    w = trained(x, y[:, None], hb.losses.gaussian_nll(sigma=math.sqrt(S2)))
    assert torch.allclose(w, ends[:TRAINED], rtol=0, atol=1e-7)
    z = (ends - ends.mean(0)) @ precision(x)
    assert errors_of_covariance(z).abs().max() < 4
    assert ends.var(0).sum() < 0.2 * torch.linalg.inv(precision(x)).trace()


def test_the_complexity_term_is_that_of_the_anchors() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    posterior = hb.Ensemble(network, samples=4, prior_sigma=0.5, anchored=True, seed=2)
    posterior.hold(range(1, 3))
    value = posterior.complexity()
    prior = torch.distributions.Normal(0.0, 0.5)
    expected, offset = 0.0, 0
    for name in posterior.names:
        for place, k in enumerate((1, 2)):
            row = posterior.rows[name.replace(".", "/")].detach()[place]
            anchor = normals(Stream(2, Purpose.ANCHORS, 0, k), row.shape, offset=offset) * 0.5
            expected -= prior.log_prob(row - anchor).sum().item() / 2
        offset += row.numel()
    assert value.item() == pytest.approx(expected, rel=1e-7)


def test_perturbed_targets_belong_to_member_and_example() -> None:
    y = torch.linspace(0, 1, 24, dtype=torch.float64).view(6, 4)
    whole = hb.perturbed_targets(y, sigma=0.3, samples=5, seed=8)
    assert whole.shape == (6, 5, 4)
    eps = normals(Stream(8, Purpose.TARGETS, 0, 3), (6, 4))
    assert torch.equal(whole[:, 3], y + 0.3 * eps.double())
    part = hb.perturbed_targets(y[2:5], sigma=0.3, samples=5, seed=8, first_example=2)
    assert torch.equal(part, whole[2:5])
    with pytest.raises(ValueError, match="targets of int64: noise is added to floating-point"):
        hb.perturbed_targets(torch.arange(3), sigma=1.0, samples=2)
    with pytest.raises(ValueError, match=r"sigma = 0\.0: must be a positive number"):
        hb.perturbed_targets(y, sigma=0.0, samples=2)


def test_settings_know_the_method_and_refuse_too_few_members() -> None:
    content = {
        "posterior": {"name": "ensemble", "samples": 4, "anchored": True, "prior_sigma": "fan_in"},
        "loss": {"name": "categorical_nll"},
        "model": {"name": "mlp"},
        "data": {"name": "digits"},
        "train": {"steps": 1, "batch_size": 4},
    }
    check_choices(Settings.model_validate(content), "my.yaml")
    with pytest.raises(ValueError, match=r"posterior\.samples = 1: an ensemble has at least 2"):
        hb.Ensemble(nn.Linear(2, 2), samples=1)
    with pytest.raises(ValueError, match=r"samples = 5, from 0 on: .* has 4 weight samples"):
        hb.Ensemble(nn.Linear(2, 2), samples=4).predict(torch.zeros(1, 2), samples=5)
