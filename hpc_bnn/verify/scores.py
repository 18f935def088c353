"""Scores of probabilistic forecasts, one value per example or per point; the caller reduces.

Everything is computed and returned in float64, because a sum over a test set is published. A NaN in
goes out as NaN at its point; nothing is skipped silently. Lower is better for every score here but
`correct`. CRPS and spread are in the unit of the forecast, NLL in nats.

Three kinds of forecast: categorical (log probabilities), ensemble (members are exchangeable draws),
and the Gaussian mixture of a network that predicts mean and spread under S weight samples.

Shape letters: S samples or members (always first), B batch, C classes; `...` any points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SQRT_2_PI = math.sqrt(2 * math.pi)


def categorical_nll(log_prob: Tensor, y: Tensor) -> Tensor:
    """Compute -log p(y) (B,) from log_prob (B, C) and y (B,) of any integer type.

    Of a Bayesian network: log_prob = logsumexp over samples - log S, the log of the mean
    probability.
    """
    log_prob, y = _log_probabilities("categorical_nll", log_prob, y)
    return -log_prob.gather(1, y.unsqueeze(1)).squeeze(1)


def brier(log_prob: Tensor, y: Tensor) -> Tensor:
    """Compute sum_c (p_c - [y = c])^2 (B,) in [0, 2] (Brier 1950) from log_prob (B, C), y (B,)."""
    log_prob, y = _log_probabilities("brier", log_prob, y)
    hit = torch.nn.functional.one_hot(y, log_prob.shape[1])
    return (log_prob.exp() - hit).square().sum(dim=1)


def correct(log_prob: Tensor, y: Tensor) -> Tensor:
    """Compute 1.0 (B,) where the most probable class is y, else 0.0; the lower class wins a tie."""
    log_prob, y = _log_probabilities("correct", log_prob, y)
    hit = (log_prob.argmax(dim=1) == y).double()
    return torch.where(log_prob.isnan().any(dim=1), torch.nan, hit)


def log_odds(log_prob: Tensor) -> Tensor:
    """Compute log(p / (1 - p)) (B,) of the most probable class from log_prob (B, C).

    1 - p is summed from the other classes, so that it keeps its digits where p rounds to 1.
    """
    log_prob = log_prob.double()
    top = log_prob.argmax(dim=1, keepdim=True)
    others = log_prob.scatter(1, top, -torch.inf)
    return log_prob.gather(1, top).squeeze(1) - others.logsumexp(dim=1)


def crps_ensemble(members: Tensor, truth: Tensor) -> Tensor:
    """Compute the standard CRPS (...) of members (S, ...) by sorting, O(S log S).

    mean_i |x_i - y| - 1 / (2 S^2) sum_ij |x_i - x_j| (Hersbach 2000,
    doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2). One member: the absolute error.
    """
    num_members = _num_members("crps_ensemble", members, truth)
    # Differences to the truth score the same and lose no digits where values lie far from zero;
    # sorted before every sum, the result does not depend on the order of the members.
    error = (members.double() - truth.double()).sort(dim=0).values
    rank = torch.arange(1, num_members + 1, dtype=torch.float64, device=error.device)
    # sum_ij |x_i - x_j| = 2 sum_k (2 k - S - 1) x_(k)
    weight = (2 * rank - num_members - 1).reshape(-1, *[1] * truth.dim())
    return error.abs().mean(dim=0) - (weight * error).sum(dim=0) / num_members**2


def crps_gaussian(mu: Tensor, sigma: Tensor, truth: Tensor) -> Tensor:
    """Compute the CRPS (...) of N(mu, sigma^2): sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)).

    Gneiting et al. 2005, doi:10.1175/MWR2904.1.
    """
    _require_positive("crps_gaussian", sigma)
    difference, sigma = truth.double() - mu.double(), sigma.double()
    return _expected_distance(difference, sigma) - sigma / math.sqrt(math.pi)


def spread_skill_ratio(
    mean_variance: Tensor,
    mean_squared_error: Tensor,
    members: float,
    *,
    noise_variance: Tensor | float = 0.0,
) -> Tensor:
    """Compute sqrt(((M + 1) / M variance + noise) / MSE): 1 if M members are calibrated.

    The mean of M members errs by their variance / M more than that of all (Fortin et al. 2014,
    doi:10.1175/JHM-D-14-0008.1). Below 1: overconfident.

    noise_variance: of a mixture, the mean variance within its components.
    """
    if members < 2 and not isinstance(noise_variance, Tensor):
        raise ValueError(f"spread_skill_ratio: members = {members}: expected at least 2")
    variance = (members + 1) / members * mean_variance.double() + noise_variance
    return (variance / mean_squared_error.double()).sqrt()


def fair_crps(crps: Tensor, absolute_error: Tensor, members: int) -> Tensor:
    """Compute the fair CRPS (...) from the standard one and mean_i |x_i - y|, both (...) or means.

    The standard CRPS is the absolute error less a term of pairs over M^2; the fair one, unbiased in
    M (Ferro 2014, doi:10.1002/qj.2270), divides that term by M (M - 1) instead.
    """
    return crps - (absolute_error - crps) / (members - 1)


def mixture_nll(mu: Tensor, sigma: Tensor, truth: Tensor) -> Tensor:
    """Compute -log mean_s N(truth; mu_s, sigma_s^2) (...) from mu, sigma (S, ...)."""
    num_samples = _num_mixture("mixture_nll", mu, sigma, truth)
    sigma = sigma.double()
    z = (truth.double() - mu.double()) / sigma
    log_density = -0.5 * z.square() - sigma.log() - math.log(SQRT_2_PI)
    return math.log(num_samples) - log_density.logsumexp(dim=0)


def mixture_crps(mu: Tensor, sigma: Tensor, truth: Tensor) -> Tensor:
    """Compute the CRPS (...) of the mixture mean_s N(mu_s, sigma_s^2) from mu, sigma (S, ...).

    mean_s A(y - mu_s, sigma_s^2) - 1 / (2 S^2) sum_st A(mu_s - mu_t, sigma_s^2 + sigma_t^2) with
    A(m, v) = E|N(m, v)| (Grimit et al. 2006, doi:10.1256/qj.05.235). Time O(S^2), memory O(S).
    """
    num_samples = _num_mixture("mixture_crps", mu, sigma, truth)
    mu, sigma = mu.double(), sigma.double()
    skill = _expected_distance(truth.double() - mu, sigma).mean(dim=0)
    # The pairs s = t: A(0, 2 sigma^2) = 2 sigma / sqrt(pi).
    pairs = (2 / math.sqrt(math.pi)) * sigma.sum(dim=0)
    for s in range(num_samples - 1):
        both = torch.hypot(sigma[s], sigma[s + 1 :])
        pairs += 2 * _expected_distance(mu[s] - mu[s + 1 :], both).sum(dim=0)
    return skill - pairs / (2 * num_samples**2)


def mixture_pit(mu: Tensor, sigma: Tensor, truth: Tensor) -> Tensor:
    """Compute the probability integral transform mean_s Phi((truth - mu_s) / sigma_s) (...)."""
    _num_mixture("mixture_pit", mu, sigma, truth)
    return _mixture_cdf(mu.double(), sigma.double(), truth.double())


def mixture_quantile(mu: Tensor, sigma: Tensor, probability: float) -> Tensor:
    """Compute a quantile (...) of the mixture of mu, sigma (S, ...) to 1e-9 of the least sigma.

    By Newton's method, so mostly to round-off, inside a bracket that bisection narrows: the
    quantile lies between the smallest and the largest quantile of the components.
    """
    _num_mixture("mixture_quantile", mu, sigma, mu[0])
    _require_probability("mixture_quantile", probability)
    mu, sigma = mu.double(), sigma.double()
    z = float(torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)))
    components = mu + z * sigma
    low, high = components.amin(dim=0), components.amax(dim=0)
    quantile, least = components.mean(dim=0), sigma.amin(dim=0)
    step = high - low
    going = step > 0  # not for NaN
    # Usually 5 to 10; where the density vanishes between components, bisection alone needs 60.
    for _ in range(200):
        if not bool(going.any()):
            break
        excess = _mixture_cdf(mu, sigma, quantile) - probability
        low = torch.where(going & (excess < 0), quantile, low)
        high = torch.where(going & (excess >= 0), quantile, high)
        newton = quantile - excess / _mixture_density(mu, sigma, quantile)
        # Newton where it stays inside and at least halves its step (also not for NaN).
        good = (newton >= low) & (newton <= high) & ((newton - quantile).abs() < step.abs() / 2)
        following = torch.where(good, newton, (low + high) / 2)
        step = torch.where(going, following - quantile, step)
        quantile = torch.where(going, following, quantile)
        # The next step of Newton's method would be the square of this one.
        going &= step.abs() > torch.maximum(1e-9 * least, 4e-16 * quantile.abs())
    return quantile


def ensemble_quantile(members: Tensor, probability: float) -> Tensor:
    """Compute a quantile (...) of members (S, ...), linear between them (numpy's default)."""
    _require_probability("ensemble_quantile", probability)
    place = probability * (len(members) - 1)
    ordered = members.double().sort(dim=0).values
    below = ordered[math.floor(place)]
    return below + (place - math.floor(place)) * (ordered[math.ceil(place)] - below)


def pinball(quantile: Tensor, truth: Tensor, probability: float) -> Tensor:
    """Compute the pinball (quantile) loss (...): p (y - q) above the quantile q, (1 - p) (q - y)
    below.

    Koenker and Bassett 1978, doi:10.2307/1913643. Its mean over all probabilities is CRPS / 2.
    """
    _require_probability("pinball", probability)
    difference = truth.double() - quantile.double()
    return torch.maximum(probability * difference, (probability - 1) * difference)


def _mixture_cdf(mu: Tensor, sigma: Tensor, value: Tensor) -> Tensor:
    below: Tensor = torch.special.ndtr((value - mu) / sigma)
    return below.mean(dim=0)


def _mixture_density(mu: Tensor, sigma: Tensor, value: Tensor) -> Tensor:
    z = (value - mu) / sigma
    return (torch.exp(-0.5 * z.square()) / (SQRT_2_PI * sigma)).mean(dim=0)


def _expected_distance(mean: Tensor, sigma: Tensor) -> Tensor:
    """Compute E|N(mean, sigma^2)| = 2 sigma phi(z) + mean (2 Phi(z) - 1) with z = mean / sigma."""
    z = mean / sigma
    density = torch.exp(-0.5 * z.square()) / SQRT_2_PI
    # erf, not 2 Phi - 1: no cancellation near zero.
    return 2 * sigma * density + mean * torch.erf(z / math.sqrt(2))


def _require_probability(where: str, probability: float) -> None:
    if not 0 < probability < 1:
        raise ValueError(
            f"{where}: probability = {probability}: expected between 0 and 1, both excluded"
        )


def _num_members(where: str, members: Tensor, truth: Tensor) -> int:
    if members.dim() == 0 or members.shape[1:] != truth.shape or len(members) == 0:
        raise ValueError(
            f"{where}: members {tuple(members.shape)} and truth {tuple(truth.shape)}: expected "
            f"members (S, ...) with the shape of truth behind S >= 1; put members first"
        )
    return len(members)


def _num_mixture(where: str, mu: Tensor, sigma: Tensor, truth: Tensor) -> int:
    if mu.shape != sigma.shape:
        raise ValueError(
            f"{where}: mu {tuple(mu.shape)} and sigma {tuple(sigma.shape)}: expected equal shapes"
        )
    _require_positive(where, sigma)
    return _num_members(where, mu, truth)


def _require_positive(where: str, sigma: Tensor) -> None:
    bad = sigma <= 0
    if bool(bad.any()):
        raise ValueError(
            f"{where}: {int(bad.sum())} of {sigma.numel()} values of sigma are not positive, the "
            f"smallest is {float(sigma[bad].min())}: expected standard deviations > 0; give sigma, "
            "not its logarithm"
        )


def _log_probabilities(where: str, log_prob: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return log_prob (B, C) in float64 and y (B,) in int64 after a check against logits and wrong
    labels.
    """
    if y.is_floating_point() or y.is_complex():
        raise ValueError(
            f"{where}: y of {str(y.dtype).removeprefix('torch.')}: expected class indices of an "
            "integer type; give y.long() if they are whole numbers"
        )
    if log_prob.dim() != 2 or y.shape != log_prob.shape[:1]:
        raise ValueError(
            f"{where}: log_prob {tuple(log_prob.shape)} and y {tuple(y.shape)}: "
            "expected (B, C) and (B,)"
        )
    log_prob, y = log_prob.double(), y.long()
    total = log_prob.logsumexp(dim=1)
    # 1e-2 lets bfloat16 through and catches logits.
    wrong = total.abs() > 1e-2
    if bool(wrong.any()):
        example = int(wrong.nonzero()[0])
        raise ValueError(
            f"{where}: the probabilities of example {example} sum to "
            f"{float(total[example].exp()):.6g}, expected 1; "
            "give log probabilities (log_softmax), not logits"
        )
    if y.numel() and (int(y.min()) < 0 or int(y.max()) >= log_prob.shape[1]):
        raise ValueError(
            f"{where}: y holds classes {int(y.min())} to {int(y.max())}: "
            f"expected 0 to {log_prob.shape[1] - 1}, the columns of log_prob; no label is left out"
        )
    return log_prob, y
