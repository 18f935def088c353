"""Every score against a closed form, an independent implementation, or both.

Tolerances: 1e-12 relative where two float64 formulas of the same quantity are compared.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpc_bnn.verify import scores

sr = pytest.importorskip("scoringrules", reason="independent implementation of scores")
metrics = pytest.importorskip("sklearn.metrics", reason="independent implementation of scores")


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(got: Tensor, expected: object, *, rtol: float = 1e-12, atol: float = 1e-13) -> bool:
    return bool(np.allclose(got.numpy(), np.asarray(expected), rtol=rtol, atol=atol))


# Categorical


def predictions() -> tuple[Tensor, Tensor]:
    log_prob = normal(50, 4).log_softmax(dim=1)
    return log_prob, torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(1))


def test_categorical_scores_equal_scikit_learn() -> None:
    log_prob, y = predictions()
    probability = log_prob.exp().numpy()
    nll = scores.categorical_nll(log_prob, y)
    assert nll.shape == (50,)
    assert nll.mean() == pytest.approx(metrics.log_loss(y, probability, labels=range(4)), rel=1e-12)
    hit = np.eye(4)[y.numpy()]
    by_class = sum(metrics.brier_score_loss(hit[:, c], probability[:, c]) for c in range(4))
    assert scores.brier(log_prob, y).mean() == pytest.approx(by_class, rel=1e-12)
    accuracy = metrics.accuracy_score(y, probability.argmax(1))
    assert scores.correct(log_prob, y).mean() == pytest.approx(accuracy, rel=1e-12)


def test_categorical_scores_of_certain_and_uniform_forecasts() -> None:
    certain = torch.tensor([[0.0, -math.inf]])
    right, wrong = torch.tensor([0]), torch.tensor([1])
    assert scores.categorical_nll(certain, right).item() == 0
    assert scores.categorical_nll(certain, wrong).item() == math.inf
    assert scores.brier(certain, right).item() == 0
    assert scores.brier(certain, wrong).item() == 2
    uniform = torch.full((1, 10), -math.log(10), dtype=torch.float64)
    assert scores.categorical_nll(uniform, right).item() == pytest.approx(math.log(10), rel=1e-15)
    assert scores.brier(uniform, right).item() == pytest.approx(0.9, rel=1e-12)


def test_categorical_scores_are_float64_of_bfloat16_too() -> None:
    log_prob, y = predictions()
    low = log_prob.bfloat16()
    assert scores.correct(low, y).dtype == torch.float64
    for score in (scores.categorical_nll, scores.brier):
        assert score(low, y).dtype == torch.float64
        assert torch.allclose(score(low, y), score(log_prob, y), atol=3e-2)


def test_nan_goes_out_as_nan_at_its_place() -> None:
    log_prob, y = predictions()
    log_prob[3] = math.nan
    for score in (scores.categorical_nll, scores.brier, scores.correct):
        assert score(log_prob, y).isnan().nonzero().flatten().tolist() == [3]
    members, truth = normal(4, 5), normal(5, seed=1)
    members[2, 1] = math.nan
    truth[4] = math.nan
    mixture = scores.mixture_crps(members, torch.ones(4, 5), truth)
    nll = scores.mixture_nll(members, torch.ones(4, 5), truth)
    for values in (scores.crps_ensemble(members, truth), mixture, nll):
        assert values.isnan().nonzero().flatten().tolist() == [1, 4]
    quantile = scores.mixture_quantile(members, torch.ones(4, 5), 0.3)
    assert quantile.isnan().nonzero().flatten().tolist() == [1]


def test_log_odds_keep_their_digits_where_the_probability_rounds_to_one() -> None:
    logits = torch.tensor([[50.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2.0, 2.0, -math.inf]]).double()
    got = scores.log_odds(logits.log_softmax(dim=1))
    assert close(got, [50 - math.log(2), 1 - math.log(2), 0.0])
    log_prob, _ = predictions()
    assert close(scores.log_odds(log_prob), log_prob.exp().amax(1).logit())
    assert scores.log_odds(torch.zeros(1, 1)).item() == math.inf


def test_categorical_bad_input() -> None:
    log_prob, y = predictions()
    logits = log_prob.clone()
    logits[7] += 1.0
    with pytest.raises(ValueError, match=r"example 7 sum to 2.71828, expected 1.*log_softmax"):
        scores.categorical_nll(logits, y)
    with pytest.raises(ValueError, match=r"brier: y holds classes 0 to 4: expected 0 to 3"):
        scores.brier(log_prob, torch.arange(50) % 5)
    with pytest.raises(ValueError, match=r"correct: log_prob \(50, 4\) and y \(49,\)"):
        scores.correct(log_prob, y[1:])


# Ensembles


def fair(members: Tensor, truth: Tensor) -> Tensor:
    standard, absolute = scores.crps_ensemble(members, truth), (members - truth).abs().mean(0)
    return scores.fair_crps(standard, absolute, len(members))


@pytest.mark.parametrize("num_members", [1, 2, 16])
def test_crps_equals_scoringrules(num_members: int) -> None:
    members, truth = normal(num_members, 7, 5), normal(7, 5, seed=1)
    for crps, estimator in ((scores.crps_ensemble, "nrg"), (fair, "fair"))[: min(num_members, 2)]:
        expected = sr.crps_ensemble(truth.numpy(), members.numpy(), m_axis=0, estimator=estimator)
        assert close(crps(members, truth), expected)


@settings(max_examples=50, deadline=None)
@given(members=st.lists(st.floats(-100, 100), min_size=2, max_size=8), truth=st.floats(-100, 100))
def test_crps_sorted_equals_pairwise(members: list[float], truth: float) -> None:
    """Also with ties. Tolerance 1e-12 of 100."""
    x = torch.tensor(members, dtype=torch.float64)
    pairs = (x.unsqueeze(0) - x.unsqueeze(1)).abs().sum()
    expected = (x - truth).abs().mean() - pairs / (2 * len(x) ** 2)
    got = scores.crps_ensemble(x, torch.tensor(truth, dtype=torch.float64))
    assert got.item() == pytest.approx(expected.item(), abs=1e-10)


def test_crps_of_one_member_is_the_absolute_error() -> None:
    members, truth = normal(1, 9), normal(9, seed=1)
    assert torch.equal(scores.crps_ensemble(members, truth), (members[0] - truth).abs())


def test_crps_does_not_depend_on_order_nor_place() -> None:
    members, truth = normal(6, 9), normal(9, seed=1)
    value = scores.crps_ensemble(members, truth)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(scores.crps_ensemble(members[order], truth), value)
    far = scores.crps_ensemble(members + 2.0**20, truth + 2.0**20)
    # Shifting rounds the values themselves to 2^-32.
    assert torch.allclose(far, value, atol=2.0**-30, rtol=0)


def test_crps_of_float32_is_computed_in_float64() -> None:
    members, truth = normal(8, 50).float(), normal(50, seed=1).float()
    got = scores.crps_ensemble(members, truth)
    assert got.dtype == torch.float64
    assert torch.equal(got, scores.crps_ensemble(members.double(), truth.double()))


def test_members_that_do_not_fit_the_truth() -> None:
    with pytest.raises(ValueError, match=r"members \(9, 3\) and truth \(9,\).*members first"):
        scores.crps_ensemble(normal(9, 3), normal(9))


def test_spread_skill_ratio_is_the_formula() -> None:
    ratio = scores.spread_skill_ratio(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0]), 2)
    assert close(ratio, [math.sqrt(0.5), math.sqrt(6.0)])
    with pytest.raises(ValueError, match="members = 1: expected at least 2"):
        scores.spread_skill_ratio(torch.tensor(1.0), torch.tensor(1.0), 1)


# Gaussian and mixture


def mixture(num_samples: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    sigma = normal(num_samples, 6, 2, seed=2).mul(0.5).exp()
    return normal(num_samples, 6, 2), sigma, normal(6, 2, seed=1)


def test_crps_gaussian_equals_scoringrules() -> None:
    mu, sigma, truth = mixture(1)
    expected = sr.crps_normal(truth.numpy(), mu[0].numpy(), sigma[0].numpy())
    assert close(scores.crps_gaussian(mu[0], sigma[0], truth), expected)
    at_mean = scores.crps_gaussian(torch.zeros(1), torch.ones(1), torch.zeros(1))
    assert at_mean.item() == pytest.approx((math.sqrt(2) - 1) / math.sqrt(math.pi), rel=1e-14)


def test_mixture_of_one_component_is_the_gaussian() -> None:
    mu, sigma, truth = mixture(1)
    gaussian = torch.distributions.Normal(mu[0], sigma[0])
    assert close(
        scores.mixture_crps(mu, sigma, truth), scores.crps_gaussian(mu[0], sigma[0], truth)
    )
    assert close(scores.mixture_nll(mu, sigma, truth), -gaussian.log_prob(truth))
    assert close(scores.mixture_pit(mu, sigma, truth), gaussian.cdf(truth))
    quantile = scores.mixture_quantile(mu, sigma, 0.9)
    assert close(quantile, gaussian.icdf(torch.tensor(0.9, dtype=torch.float64)))


def test_mixture_equals_scoringrules_and_torch_distributions() -> None:
    mu, sigma, truth = mixture()
    weight = np.full((6, 2, 4), 0.25)
    mu_last, sigma_last = mu.movedim(0, -1), sigma.movedim(0, -1)
    crps = sr.crps_mixnorm(truth.numpy(), mu_last.numpy(), sigma_last.numpy(), weight)
    assert close(scores.mixture_crps(mu, sigma, truth), crps)
    same = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.from_numpy(weight)),
        torch.distributions.Normal(mu_last, sigma_last),
    )
    assert close(scores.mixture_nll(mu, sigma, truth), -same.log_prob(truth))
    assert close(scores.mixture_pit(mu, sigma, truth), same.cdf(truth))


def test_mixture_crps_of_narrow_components_is_the_ensemble_crps() -> None:
    members, truth = normal(5, 9), normal(9, seed=1)
    narrow = scores.mixture_crps(members, torch.full_like(members, 1e-9), truth)
    assert torch.allclose(narrow, scores.crps_ensemble(members, truth), atol=1e-8, rtol=0)


def test_mixture_nll_far_away_stays_finite() -> None:
    mu, sigma = torch.zeros(3, 1), torch.ones(3, 1)
    far = scores.mixture_nll(mu, sigma, torch.tensor([1e4]))
    assert far.item() == pytest.approx(0.5e8 + 0.5 * math.log(2 * math.pi), rel=1e-14)


def test_quantile_between_two_far_components() -> None:
    """Half of the mass at 0, half at 100: the median lies in the middle, to 1e-6 of sigma."""
    mu = torch.tensor([[0.0], [100.0]])
    sigma = torch.tensor([[20.0], [20.0]])
    assert scores.mixture_quantile(mu, sigma, 0.5).item() == pytest.approx(50, abs=2e-5)


def test_mixture_bad_input() -> None:
    mu, sigma, truth = mixture()
    sigma[1, 2, 0] = -0.5
    for score in (scores.mixture_nll, scores.mixture_crps, scores.mixture_pit):
        with pytest.raises(ValueError, match=r"1 of 48 values.*not positive.*-0.5.*logarithm"):
            score(mu, sigma, truth)
    with pytest.raises(ValueError, match=r"crps_gaussian: .*not positive"):
        scores.crps_gaussian(truth, 0 * truth, truth)
    with pytest.raises(ValueError, match=r"mu \(4, 6, 2\) and sigma \(6, 2\): expected equal"):
        scores.mixture_nll(mu, sigma[0], truth)
    for probability in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"probability = {probability}: expected between"):
            scores.mixture_quantile(mu, sigma.abs(), probability)
