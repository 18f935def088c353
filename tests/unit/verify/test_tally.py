"""Tallies against direct computation by scikit-learn, SciPy and scoringrules, over any split."""

import math
from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from torch import Tensor

from hpc_bnn.verify.tally import TALLIES, ClassificationTally, RegressionTally, Tally

S, B, C, P = 5, 60, 4, 3
TIGHT = {"rel": 1e-12, "abs": 1e-12}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classified() -> tuple[Tensor, Tensor]:
    logits = torch.randn(S, B, C, generator=generator(1), dtype=torch.float64) * 2
    return logits, torch.randint(C, (B,), generator=generator(2))


def forecast() -> tuple[Tensor, Tensor, Tensor]:
    mu = torch.randn(S, B, P, generator=generator(3), dtype=torch.float64)
    sigma = torch.rand(S, B, P, generator=generator(4), dtype=torch.float64) + 0.2
    return mu, sigma, torch.randn(B, P, generator=generator(5), dtype=torch.float64) * 1.5


def tallied(tally: Tally, outputs: Tensor, sigma: Tensor | None, target: Tensor) -> Tally:
    tally.add(outputs, sigma, target)
    return tally


def test_classification_against_direct_computation() -> None:
    logits, y = classified()
    result = tallied(ClassificationTally(), logits, None, y).result()
    p = torch.softmax(logits, -1).mean(0).numpy()
    hot = np.eye(C)[y.numpy()]
    assert result["examples"] == B
    assert result["nll"] == pytest.approx(log_loss(y.numpy(), p, labels=range(C)), **TIGHT)
    assert result["accuracy"] == pytest.approx(accuracy_score(y.numpy(), p.argmax(1)), **TIGHT)
    assert result["brier"] == pytest.approx(float(((p - hot) ** 2).sum(1).mean()), **TIGHT)
    assert result["entropy"] == pytest.approx(float(stats.entropy(p, axis=1).mean()), **TIGHT)
    confidence, hit = p.max(1), p.argmax(1) == y.numpy()
    bins = np.minimum(np.ceil(confidence * 15).astype(int) - 1, 14)
    error = sum(
        abs(hit[bins == k].mean() - confidence[bins == k].mean()) * (bins == k).mean()
        for k in range(15)
        if (bins == k).any()
    )
    assert result["expected_calibration_error"] == pytest.approx(float(error), **TIGHT)


def test_entropies_and_adaptive_calibration_against_direct_computation() -> None:
    logits, y = classified()
    # One example of each fine bin: so the histogram loses nothing.
    place = (torch.softmax(logits, -1).mean(0).amax(1).logit() * 256).floor().numpy()
    logits, y = (logits[:, np.unique(place, return_index=True)[1]], y[: len(np.unique(place))])
    result = tallied(ClassificationTally(), logits, None, y).result()
    assert result["examples"] > 40
    of_samples = torch.softmax(logits, -1)
    p = of_samples.mean(0)
    whole = stats.entropy(p.numpy(), axis=1)
    aleatoric = stats.entropy(of_samples.numpy(), axis=2).mean(0)
    information = float((whole - aleatoric).mean())
    assert result["mutual_information"] == pytest.approx(information, **TIGHT)
    assert 0 < result["mutual_information"] < result["entropy"]
    confidence, predicted = p.max(1)
    gap = ((predicted == y).double() - confidence)[confidence.argsort()]
    exact = float(sum(part.sum().abs() for part in gap.tensor_split(15))) / len(y)
    assert result["adaptive_calibration_error"] == pytest.approx(exact, rel=1e-11)


def test_disagreement_is_epistemic_and_indecision_is_not() -> None:
    """Samples certain of different classes: ln 2; equal samples, however uncertain: 0."""
    certain = torch.tensor([[[40.0, 0.0]], [[0.0, 40.0]]])
    for logits, information in [(certain, math.log(2)), (torch.zeros(2, 1, 2), 0.0)]:
        result = tallied(ClassificationTally(), logits, None, torch.tensor([0])).result()
        assert result["entropy"] == pytest.approx(math.log(2), abs=1e-14)
        assert result["mutual_information"] == pytest.approx(information, abs=1e-14)


def test_fewer_examples_than_bins_have_no_adaptive_error() -> None:
    logits, y = classified()
    few = tallied(ClassificationTally(), logits[:, :14], None, y[:14]).result()
    assert "adaptive_calibration_error" not in few
    enough = tallied(ClassificationTally(), logits[:, :15], None, y[:15]).result()
    assert math.isfinite(enough["adaptive_calibration_error"])


def test_auroc_of_confidence_against_scikit_learn() -> None:
    logits, y = classified()
    foreign = torch.randn(S, 40, C, generator=generator(8), dtype=torch.float64)
    ours, theirs = ClassificationTally(), ClassificationTally()
    ours.add(logits, None, y)
    theirs.add(foreign, None, torch.zeros(40, dtype=torch.int64))
    score = [torch.softmax(x, -1).mean(0).amax(1) for x in (logits, foreign)]
    expected = roc_auc_score([1] * B + [0] * 40, torch.cat(score).numpy())
    # A pair that shares a fine bin counts a half.
    assert ours.auroc(theirs) == pytest.approx(float(expected), abs=1e-3)
    assert ours.auroc(theirs) + theirs.auroc(ours) == pytest.approx(1.0, abs=1e-14)
    assert ours.auroc(ours) == pytest.approx(0.5, abs=1e-14)


def test_one_member_is_scored_by_its_absolute_error() -> None:
    members, _, y = forecast()
    result = tallied(RegressionTally(), members[:1], None, y).result()
    assert result["crps"] == pytest.approx(float((members[0] - y).abs().mean()), **TIGHT)
    assert set(result) == {"points", "rmse", "crps"}


def test_one_gaussian_is_scored_as_such() -> None:
    mu, sigma, y = forecast()
    result = tallied(RegressionTally(), mu[:1], sigma[:1], y).result()
    crps = scoringrules.crps_normal(y.numpy(), mu[0].numpy(), sigma[0].numpy())
    assert result["crps"] == pytest.approx(float(np.mean(crps)), rel=1e-10)
    assert "spread_epistemic" not in result
    ratio = float((sigma[0] ** 2).mean().sqrt()) / result["rmse"]
    assert result["spread_skill_ratio"] == pytest.approx(ratio, **TIGHT)
    assert result["nll_per_point"] == pytest.approx(
        float(-stats.norm.logpdf(y.numpy(), mu[0].numpy(), sigma[0].numpy()).mean()), **TIGHT
    )


@pytest.mark.filterwarnings("ignore:var")  # of a batch without examples
@pytest.mark.parametrize("cuts", [[1] * B, [B], [7] * 8 + [4], [0, 1, 0, 59], [13, 47]])
@pytest.mark.parametrize("kind", ["classification", "mixture", "ensemble"])
def test_sums_add_over_any_split_and_any_ranks(kind: str, cuts: list[int]) -> None:
    if kind == "classification":
        (outputs, y), sigma = classified(), None
    else:
        outputs, sigma, y = forecast()
        sigma = None if kind == "ensemble" else sigma
    name = "classification" if kind == "classification" else "regression"
    whole = tallied(TALLIES[name](), outputs, sigma, y)
    in_batches, total = TALLIES[name](), torch.zeros_like(whole.sums)
    sigmas = [None] * len(cuts) if sigma is None else list(sigma.split(cuts, 1))
    for part, spread, target in zip(outputs.split(cuts, 1), sigmas, y.split(cuts), strict=True):
        in_batches.add(part, spread, target)
        total += tallied(TALLIES[name](), part, spread, target).sums
    assert torch.allclose(in_batches.sums, whole.sums, rtol=1e-13, atol=1e-13, equal_nan=True)
    reduced = TALLIES[name]()
    reduced.sums = total
    assert reduced.result() == pytest.approx(whole.result(), rel=1e-12, nan_ok=True)


def test_outputs_of_any_precision_are_scored_in_float64() -> None:
    logits, y = classified()
    tally = tallied(ClassificationTally(), logits.to(torch.bfloat16), None, y)
    again = tallied(ClassificationTally(), logits.to(torch.bfloat16).double(), None, y)
    assert torch.equal(tally.sums, again.sums)


def test_certain_predictions_are_scored() -> None:
    """Rounding may not push a probability of one out of its range."""
    logits = torch.tensor([[[1000.0, 0.0], [0.0, 1000.0]]]).expand(7, 2, 2)
    result = tallied(ClassificationTally(), logits, None, torch.tensor([0, 1])).result()
    assert result["accuracy"] == 1.0
    assert result["nll"] == pytest.approx(0.0, abs=1e-12)
    assert math.isfinite(result["entropy"])


def test_impossible_classes_have_no_entropy() -> None:
    logits = torch.tensor([[[0.0, -math.inf]]])
    result = tallied(ClassificationTally(), logits, None, torch.tensor([0])).result()
    assert result["entropy"] == 0.0


def test_reliability_and_pit_hold_every_example() -> None:
    logits, y = classified()
    tally = ClassificationTally()
    tally.add(logits, None, y)
    assert float(tally.reliability().count.sum()) == B
    mu, sigma, truth = forecast()
    regression = RegressionTally()
    regression.add(mu, sigma, truth)
    assert float(regression.pit_counts().sum()) == B * P


def weighted_forecast() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mu, sigma, y with points (2, 4, 3), and weights of which 7 are 0."""
    g = generator(11)
    mu = torch.randn(S, B, 2, 4, 3, generator=g, dtype=torch.float64)
    sigma = torch.rand(S, B, 2, 4, 3, generator=g, dtype=torch.float64) + 0.2
    y = torch.randn(B, 2, 4, 3, generator=g, dtype=torch.float64) * 1.5
    weights = (torch.rand(2, 4, 3, generator=g, dtype=torch.float64) + 0.1) * 7
    weights[0, 1:3] = weights[1, 0, 2] = 0
    return mu, sigma, y, weights


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["mixture", "ensemble"])
def test_points_against_direct_computation(kind: str, weighted: bool) -> None:
    mu, sigma, y, weights = weighted_forecast()
    spread = sigma if kind == "mixture" else None
    tally = RegressionTally(weights=weights if weighted else None)
    tally.add(mu, spread, y)
    result = tally.result()
    weights = weights if weighted else torch.ones_like(weights)
    w = (weights / weights.sum()).numpy()
    assert result["points"] == B * int((weights > 0).sum())

    def mean(points: Any) -> float:
        return float((np.asarray(points) * w).sum((1, 2, 3)).mean())

    error = mean((mu.mean(0) - y) ** 2)
    epistemic, aleatoric = mean(mu.var(0)), mean((sigma**2).mean(0))
    if kind == "mixture":
        low = high = stats.norm.cdf(y.numpy(), mu.numpy(), sigma.numpy()).mean(0)
        crps = scoringrules.crps_mixnorm(y.numpy(), mu.numpy(), sigma.numpy(), m_axis=0)
        density = stats.norm.pdf(y.numpy(), mu.numpy(), sigma.numpy()).mean(0)
        assert result["nll_per_point"] == pytest.approx(mean(-np.log(density)), **TIGHT)
    else:
        low = (mu < y).double().sum(0).numpy() / (S + 1)
        high = low + 1 / (S + 1)
        crps = scoringrules.crps_ensemble(y.numpy(), mu.numpy(), m_axis=0, estimator="nrg")
        fair = scoringrules.crps_ensemble(y.numpy(), mu.numpy(), m_axis=0, estimator="fair")
        assert result["fair_crps"] == pytest.approx(mean(fair), rel=1e-10)
        aleatoric = 0.0
        assert {"nll_per_point", "spread_aleatoric"}.isdisjoint(result)

    def inside(first: float, last: float) -> Any:
        """Return the share of the PIT, of no width for a mixture, in [first, last)."""
        if kind == "mixture":
            return (low >= first) & (low < last)
        return np.clip(np.minimum(high, last) - np.maximum(low, first), 0, None) * (S + 1)

    assert result["rmse"] == pytest.approx(math.sqrt(error), **TIGHT)
    assert result["crps"] == pytest.approx(mean(crps), rel=1e-10)
    assert result["coverage_50"] == pytest.approx(mean(inside(0.25, 0.75)), **TIGHT)
    assert result["coverage_90"] == pytest.approx(mean(inside(0.05, 0.95)), **TIGHT)
    assert result["spread_epistemic"] == pytest.approx(math.sqrt(epistemic), **TIGHT)
    if kind == "mixture":
        assert result["spread_aleatoric"] == pytest.approx(math.sqrt(aleatoric), **TIGHT)
    ratio = math.sqrt(((S + 1) / S * epistemic + aleatoric) / error)
    assert result["spread_skill_ratio"] == pytest.approx(ratio, **TIGHT)
    share = np.array([mean(inside(k / 10, (k + 1) / 10)) for k in range(10)]) * result["points"]
    np.testing.assert_allclose(tally.pit_counts().numpy(), share, rtol=1e-12, atol=1e-12)
    counts = share if kind == "mixture" else np.bincount((mu < y).sum(0).numpy().ravel())
    if not weighted:
        assert result["pit_chi_square"] == pytest.approx(stats.chisquare(counts)[0], rel=1e-10)
    assert result["pit_degrees_of_freedom"] == (9 if kind == "mixture" else S)


def test_points_of_weight_zero_may_hold_anything() -> None:
    mu, sigma, y, weights = weighted_forecast()
    clean = tallied(RegressionTally(weights=weights), mu, sigma, y)
    for x in (mu, sigma, y):
        x[..., weights == 0] = math.nan
    assert torch.equal(tallied(RegressionTally(weights=weights), mu, sigma, y).sums, clean.sums)


def test_weighted_points_in_slices() -> None:
    mu, sigma, y, weights = weighted_forecast()
    whole, sliced = RegressionTally(weights=weights), RegressionTally(weights=weights)
    whole.add(mu, sigma, y)
    flat = mu.flatten(1), sigma.flatten(1), y.flatten()
    for first in range(0, y.numel(), 37):
        part = slice(first, first + 37)
        sliced.add(flat[0][:, part], flat[1][:, part], flat[2][part], first=first)
    torch.testing.assert_close(sliced.sums, whole.sums, rtol=1e-13, atol=1e-13)


def test_equal_weights_change_nothing() -> None:
    mu, sigma, y, weights = weighted_forecast()
    equal = tallied(RegressionTally(weights=torch.full_like(weights, 3.0)), mu, sigma, y)
    plain = tallied(RegressionTally(), mu, sigma, y)
    torch.testing.assert_close(equal.sums, plain.sums, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("tally", [RegressionTally(), ClassificationTally()])
def test_nothing_has_no_scores(tally: Tally) -> None:
    with pytest.raises(ValueError, match="expected at least one; add examples first"):
        tally.result()


def test_weights_that_cannot_be() -> None:
    mu, sigma, y, weights = weighted_forecast()
    with pytest.raises(ValueError, match="expected finite numbers of at least 0, not all of them"):
        RegressionTally(weights=torch.zeros(3))
    with pytest.raises(ValueError, match=r"weights \(2, 4, 2\) for targets \(60, 2, 4, 3\)"):
        RegressionTally(weights=weights[..., :2]).add(mu, sigma, y)
    with pytest.raises(ValueError, match="points and weights"):
        RegressionTally(weights=weights, points=(2, 4, 3))
