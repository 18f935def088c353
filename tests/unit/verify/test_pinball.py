"""Quantiles and pinball loss against SciPy, scikit-learn and scoringrules, alone and in a tally."""

import math

import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.metrics import mean_pinball_loss
from torch import Tensor

from hpc_bnn.verify import scores
from hpc_bnn.verify.tally import RegressionTally

S, B, H, C = 6, 40, 3, 2
LEVELS = (0.05, 0.3, 0.5, 0.95)


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def forecast() -> tuple[Tensor, Tensor, Tensor]:
    mu, sigma = 100 + 30 * drawn(S, B, H, C, seed=1), 20 * drawn(S, B, H, C, seed=2).exp()
    return mu, sigma, 100 + 40 * drawn(B, H, C, seed=3)


def exact_quantile(mu: Tensor, sigma: Tensor, probability: float) -> float:
    """Solve F(q) = p of one mixture (S,) with SciPy, to round-off."""
    m, s = mu.numpy(), sigma.numpy()
    ends = stats.norm.ppf(probability, m, s)
    return float(
        optimize.brentq(
            lambda q: stats.norm.cdf(q, m, s).mean() - probability,
            ends.min() - 1e-9,
            ends.max() + 1e-9,
            xtol=1e-13,
            rtol=1e-15,
        )
    )


@pytest.mark.parametrize("level", LEVELS)
def test_mixture_quantiles_equal_those_of_a_root_finder(level: float) -> None:
    mu, sigma, _ = forecast()
    got = scores.mixture_quantile(mu, sigma, level)
    for at in [(0, 0, 0), (7, 2, 1), (39, 1, 0), (20, 0, 1)]:
        one = (slice(None), *at)
        expected = exact_quantile(mu[one], sigma[one], level)
        assert float(got[at]) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    level=st.floats(0.001, 0.999),
    distance=st.floats(0, 1e4),
    ratio=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_mixture_quantile_of_far_and_unequal_components(
    level: float, distance: float, ratio: float, seed: int
) -> None:
    """The quantile lies where the distribution function passes the level, to 1e-9 of sigma."""
    mu = distance * drawn(4, 5, seed=seed)
    sigma = torch.tensor([1.0, ratio, 1.0, ratio], dtype=torch.float64)[:, None].expand(4, 5)
    q = scores.mixture_quantile(mu, sigma, level)
    # Where values are large against sigma, their float64 neighbours lie further apart.
    apart = torch.maximum(2e-9 * sigma.amin(0), 1e-14 * q.abs())
    assert bool((scores.mixture_pit(mu, sigma, q - apart) <= level + 1e-13).all())
    assert bool((scores.mixture_pit(mu, sigma, q + apart) >= level - 1e-13).all())


def test_a_point_of_a_batch_has_the_quantile_that_it_has_alone() -> None:
    mu, sigma, _ = forecast()
    whole = scores.mixture_quantile(mu, sigma, 0.3)
    alone = [scores.mixture_quantile(mu[:, b], sigma[:, b], 0.3) for b in range(B)]
    # torch sums the components in another order.
    assert torch.allclose(whole, torch.stack(alone), rtol=1e-14, atol=0)


@pytest.mark.parametrize("members", [1, 2, 7])
@pytest.mark.parametrize("level", LEVELS)
def test_ensemble_quantile_is_numpys(members: int, level: float) -> None:
    x = drawn(members, 11, 2, seed=4)
    expected = np.quantile(x.numpy(), level, axis=0)
    assert np.allclose(scores.ensemble_quantile(x, level).numpy(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("level", LEVELS)
def test_pinball_loss_equals_scikit_learn_and_scoringrules(level: float) -> None:
    quantile, truth = drawn(50, seed=5), drawn(50, seed=6)
    got = scores.pinball(quantile, truth, level)
    peer = mean_pinball_loss(truth.numpy(), quantile.numpy(), alpha=level)
    assert float(got.mean()) == pytest.approx(peer, rel=1e-10)
    each = scoringrules.quantile_score(truth.numpy(), quantile.numpy(), level)
    assert np.allclose(got.numpy(), each, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1])
def test_probabilities_out_of_range(probability: float) -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=f"probability = {probability}: expected between 0 and 1"):
        scores.pinball(x[0], x[0], probability)
    with pytest.raises(ValueError, match="ensemble_quantile: probability"):
        scores.ensemble_quantile(x, probability)


def test_mean_pinball_over_dense_levels_is_half_the_crps() -> None:
    """CRPS = 2 * integral of the pinball loss over the level; the midpoint rule of 400 levels."""
    cases = 40
    width = torch.linspace(0.1, 3.0, cases, dtype=torch.float64)[:, None]
    mu, sigma = drawn(5, cases, 8, seed=7), width * drawn(5, cases, 8, seed=8).mul(0.3).exp()
    truth = 2 * drawn(cases, 8, seed=9)
    levels = [(k + 0.5) / 400 for k in range(400)]
    losses = [
        scores.pinball(scores.mixture_quantile(mu, sigma, p), truth, p).mean(1) for p in levels
    ]
    crps = scores.mixture_crps(mu, sigma, truth).mean(1)
    # The rule is off by the ends of the integrand, about width / 400^2 times some logarithm.
    assert (2 * torch.stack(losses).mean(0)).tolist() == pytest.approx(crps.tolist(), rel=1e-3)


@pytest.mark.parametrize("kind", ["mixture", "ensemble"])
def test_tally_against_scikit_learn_level_by_level_and_point_by_point(kind: str) -> None:
    mu, sigma, truth = forecast()
    tally = RegressionTally(points=(H, C), levels=LEVELS)
    spread = sigma if kind == "mixture" else None
    for part in torch.arange(B).split(9):
        tally.add(mu[:, part], None if spread is None else spread[:, part], truth[part])
    at_level = []
    for level in LEVELS:
        if kind == "mixture":
            flat = zip(mu.reshape(S, -1).T, sigma.reshape(S, -1).T, strict=True)
            quantile = np.reshape([exact_quantile(m, s, level) for m, s in flat], (B, H, C))
        else:
            quantile = np.quantile(mu.numpy(), level, axis=0)
        at_level.append(scoringrules.quantile_score(truth.numpy(), quantile, level))
        expected = mean_pinball_loss(truth.numpy().ravel(), quantile.ravel(), alpha=level)
        assert tally.pinball()[len(at_level) - 1] == pytest.approx(expected, rel=1e-10)
    assert tally.result()["pinball"] == pytest.approx(float(np.mean(at_level)), rel=1e-10)
    points = tally.by_point()
    assert np.allclose(points.pinball.numpy(), np.mean(at_level, axis=(0, 1)), rtol=1e-10)
    for h, c in np.ndindex(H, C):
        alone = RegressionTally()
        alone.add(mu[:, :, h, c], None if spread is None else spread[:, :, h, c], truth[:, h, c])
        for name, value in alone.result().items():
            if name in ("rmse", "crps", "coverage_90"):
                assert float(getattr(points, name)[h, c]) == pytest.approx(value, rel=1e-12), name


def test_detail_changes_no_other_score() -> None:
    mu, sigma, truth = forecast()
    plain, detailed = RegressionTally(), RegressionTally(points=(H, C), levels=LEVELS)
    plain.add(mu, sigma, truth)
    detailed.add(mu, sigma, truth)
    assert "pinball" not in plain.result()
    assert {**detailed.result(), **plain.result()} == detailed.result()
    assert torch.equal(plain.pit_counts(), detailed.pit_counts())


def test_detailed_sums_add_over_any_split() -> None:
    mu, sigma, truth = forecast()
    whole, total = RegressionTally(points=(H, C), levels=LEVELS), 0
    whole.add(mu, sigma, truth)
    for part in torch.arange(B).split([13, 0, 1, 26]):
        one = RegressionTally(points=(H, C), levels=LEVELS)
        if len(part):
            one.add(mu[:, part], sigma[:, part], truth[part])
        total = one.sums + total
    assert torch.allclose(torch.as_tensor(total), whole.sums, rtol=1e-13, atol=1e-13)


def test_points_without_levels_have_no_pinball_loss() -> None:
    mu, sigma, truth = forecast()
    tally = RegressionTally(points=(H, C))
    tally.add(mu, sigma, truth)
    assert bool(tally.by_point().pinball.isnan().all())
    assert bool(tally.by_point().crps.isfinite().all())
    assert all(math.isfinite(v) for v in tally.result().values())


def test_points_that_do_not_fit() -> None:
    mu, sigma, truth = forecast()
    with pytest.raises(ValueError, match=r"targets \(40, 3, 2\): expected \(B, 3\)"):
        RegressionTally(points=(3,)).add(mu, sigma, truth)
    with pytest.raises(ValueError, match="by_point: expected points"):
        RegressionTally().by_point()
