"""Negative log-likelihoods, expected and predictive, against independent implementations."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from hpc_bnn import losses
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss

metrics = pytest.importorskip("sklearn.metrics", reason="independent implementation of log loss")
K, B = 5, 20


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def expected(loss: Loss, outputs: Tensor, target: Tensor) -> Tensor:
    """Return the mean over samples of a separable loss."""
    assert isinstance(loss, SeparableLoss)
    return torch.stack([loss(output, target) for output in outputs]).mean(0)


def predictive(loss: Loss, outputs: Tensor, target: Tensor) -> Tensor:
    assert isinstance(loss, JointLoss)
    value: Tensor = loss(outputs, target, ALONE)
    return value


# Categorical

LOGITS, CLASSES = 3 * normal(K, B, 4), torch.arange(B) % 4


def test_categorical_expected_is_the_mean_log_loss() -> None:
    got = expected(losses.categorical_nll(), LOGITS, CLASSES)
    assert got.shape == (B,)
    probabilities = LOGITS.softmax(-1).numpy()
    log_losses = [metrics.log_loss(CLASSES, p, labels=range(4)) for p in probabilities]
    assert got.mean().item() == pytest.approx(np.mean(log_losses), rel=1e-12)


def test_categorical_predictive_is_the_log_loss_of_the_mean_probability() -> None:
    got = predictive(losses.categorical_nll(predictive=True), LOGITS, CLASSES)
    mean = LOGITS.softmax(-1).mean(0).numpy()
    assert got.shape == (B,)
    wanted = metrics.log_loss(CLASSES, mean, labels=range(4))
    assert got.mean().item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("output", "target"),
    [((B, 4), (B - 1,)), ((B, 4), (B, 1)), ((B, 4, 3), (B, 3)), ((4,), ()), ((B,), (B,))],
)
def test_categorical_refuses_other_shapes(output: tuple[int, ...], target: tuple[int, ...]) -> None:
    message = r"categorical_nll: .*expected \(B, classes\) and \(B,\)"
    with pytest.raises(ValueError, match=message):
        losses.categorical_nll()(torch.zeros(output), torch.zeros(target, dtype=torch.long))


# Gaussian: the outputs that a loss reads, and the means and sigmas that they stand for

POINTS = (2, 3)
TARGET = normal(B, *POINTS, seed=1)


def gaussian(variance: str, *, is_predictive: bool) -> tuple[Loss, Tensor, Tensor, Tensor]:
    """Return a loss, outputs for it, and the means and sigmas (K, B, *POINTS) that they say."""
    loss = losses.gaussian_nll(
        variance=variance,
        sigma=0.7,
        min_sigma=0.05,
        predictive=is_predictive,
    ).double()
    mean = normal(K, B, *POINTS, seed=2)
    if variance != "predicted":
        return loss, mean, mean, torch.full_like(mean, 0.7)
    raw = 5 * normal(K, B, *POINTS, seed=3)
    # softplus by its definition
    return loss, torch.cat([mean, raw], dim=2), mean, torch.log1p(raw.exp()) + 0.05


VARIANCES = ("fixed", "learned", "predicted")


@pytest.mark.parametrize("variance", VARIANCES)
def test_gaussian_expected_sums_over_points(variance: str) -> None:
    loss, outputs, mean, sigma = gaussian(variance, is_predictive=False)
    wanted = -Normal(mean, sigma).log_prob(TARGET).flatten(2).sum(2).mean(0)
    # math.log(0.7) is kept in float32
    assert torch.allclose(expected(loss, outputs, TARGET), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("variance", VARIANCES)
def test_gaussian_predictive_is_the_mixture_of_whole_examples(variance: str) -> None:
    loss, outputs, mean, sigma = gaussian(variance, is_predictive=True)
    components = torch.distributions.Independent(
        Normal(mean.flatten(2).transpose(0, 1), sigma.flatten(2).transpose(0, 1)), 1
    )
    mixture = MixtureSameFamily(Categorical(torch.ones(B, K, dtype=torch.float64)), components)
    wanted = -mixture.log_prob(TARGET.flatten(1))
    assert torch.allclose(predictive(loss, outputs, TARGET), wanted, rtol=1e-6, atol=0)


def test_gaussian_of_one_number_per_example() -> None:
    loss = losses.gaussian_nll(sigma=2.0)
    got = expected(loss, torch.tensor([[1.0, 4.0]]), torch.tensor([1.0, 0.0]))
    constant = math.log(2) + 0.5 * math.log(2 * math.pi)
    assert got.tolist() == pytest.approx([constant, constant + 2.0], rel=1e-6)


@pytest.mark.parametrize("is_predictive", [False, True])
def test_learned_sigma_has_its_maximum_likelihood_at_the_rms_error(is_predictive: bool) -> None:
    target, outputs = TARGET[:, 0], torch.zeros(1, B, 3, dtype=torch.float64)
    best = target.square().mean().sqrt().item()
    loss = losses.gaussian_nll(variance="learned", sigma=best, predictive=is_predictive).double()
    (log_sigma,) = loss.parameters()
    with torch.no_grad():
        log_sigma.fill_(math.log(best))
    value = (predictive if is_predictive else expected)(loss, outputs, target).mean()
    value.backward()
    assert log_sigma.grad is not None and abs(log_sigma.grad.item()) < 1e-12
    fixed = losses.gaussian_nll(sigma=best, predictive=is_predictive)
    assert list(fixed.parameters()) == []


@pytest.mark.parametrize("variance", VARIANCES)
def test_predictive_is_never_larger_than_expected_and_equal_for_equal_samples(
    variance: str,
) -> None:
    loss, outputs, _, _ = gaussian(variance, is_predictive=True)
    mean_loss, _, _, _ = gaussian(variance, is_predictive=False)
    joint, mean = predictive(loss, outputs, TARGET), expected(mean_loss, outputs, TARGET)
    assert torch.all(joint < mean)
    same = outputs[:1].expand_as(outputs)
    alike = predictive(loss, same, TARGET), expected(mean_loss, same, TARGET)
    assert torch.allclose(*alike, rtol=1e-12)


def test_output_shapes_and_forecasts() -> None:
    fixed, outputs, mean, sigma = gaussian("fixed", is_predictive=False)
    assert fixed.output_shape((2, 3)) == (2, 3)
    forecast_mean, forecast_sigma = fixed.forecast(outputs)
    assert forecast_sigma is not None
    assert torch.equal(forecast_mean, mean) and torch.allclose(forecast_sigma, sigma, rtol=1e-6)
    predicted, outputs, mean, sigma = gaussian("predicted", is_predictive=True)
    assert predicted.output_shape((2, 3)) == (4, 3)
    forecast_mean, forecast_sigma = predicted.forecast(outputs)
    assert forecast_sigma is not None
    assert torch.equal(forecast_mean, mean) and torch.allclose(forecast_sigma, sigma, rtol=1e-12)
    categorical = losses.categorical_nll()
    assert categorical.output_shape(()) == ()
    assert categorical.forecast(LOGITS) == (LOGITS, None)


@pytest.mark.parametrize("is_predictive", [False, True])
@pytest.mark.parametrize("target", [(B, 1), (B,), (1, 3), (B, 3, 1)])
def test_gaussian_refuses_shapes_that_would_broadcast(
    target: tuple[int, ...], is_predictive: bool
) -> None:
    loss = losses.gaussian_nll(predictive=is_predictive)
    evaluate = predictive if is_predictive else expected
    with pytest.raises(ValueError, match=rf"gaussian_nll: the network gives \({B}, 3\)"):
        evaluate(loss, torch.zeros(K, B, 3), torch.zeros(target))


def test_predicted_variance_needs_pairs_of_channels() -> None:
    loss = losses.gaussian_nll(variance="predicted")
    for shape in ((B, 3), (B,)):
        with pytest.raises(ValueError, match="dimension 1 must be even"):
            expected(loss, torch.zeros(1, *shape), torch.zeros(shape))


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_scales_that_are_not_positive_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"loss\.sigma = .*positive number"):
        losses.gaussian_nll(sigma=value)
    with pytest.raises(ValueError, match=r"loss\.min_sigma = .*positive number"):
        losses.gaussian_nll(min_sigma=value)
    with pytest.raises(ValueError, match=r"loss\.sigma = .*positive number"):
        losses.gaussian_moments(sigma=value)


def test_unknown_variance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.variance = 'free': expected fixed, learned or"):
        losses.gaussian_nll(variance="free")


def test_confident_errors_keep_their_loss_and_gradient() -> None:
    """A peer clamps the probability at 1e-5: its loss ends at 11.5 and its gradient at 1e-39."""
    logits = torch.tensor([[[100.0, 0.0]], [[100.0, -5.0]]], requires_grad=True)
    loss = predictive(losses.categorical_nll(predictive=True), logits, torch.tensor([1]))
    wanted = 100 + math.log(2) - math.log1p(math.exp(-5))
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    # All of the gradient goes to the samples by their share: 1 / (1 + e^-5) and the rest.
    assert logits.grad[:, 0, 1].sum().item() == pytest.approx(-1.0, rel=1e-6)
    assert logits.grad[0, 0, 1].item() == pytest.approx(-1 / (1 + math.exp(-5)), rel=1e-5)


def test_far_targets_of_a_gaussian_keep_their_loss_and_gradient() -> None:
    outputs = torch.zeros(K, 1, 1, requires_grad=True)
    loss = predictive(losses.gaussian_nll(predictive=True), outputs, torch.tensor([[1000.0]]))
    assert loss.item() == pytest.approx(5e5 + 0.5 * math.log(2 * math.pi), rel=1e-6)
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.flatten().tolist() == pytest.approx([-1000.0 / K] * K, rel=1e-5)
