"""R-hat and effective sample size: the formulas written out in loops, and chains of which both are
known.
"""

import math

import pytest
import torch
from torch import Tensor

from hpc_bnn.bayes.convergence import effective_samples, rank_normalised, split_r_hat

Chains = list[list[float]]


def autoregressive(rho: float, *, chains: int, draws: int, seed: int = 0) -> Tensor:
    """Return chains (K, N) of x_t = rho x_(t-1) + sqrt(1 - rho^2) eps_t, started in their
    stationary distribution N(0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains, draws, generator=generator, dtype=torch.float64)
    x = [noise[:, 0]]
    for t in range(1, draws):
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * noise[:, t])
    return torch.stack(x, 1)


# The formulas of Vehtari et al. 2021 in loops over numbers, as ArviZ and Stan write them.


def mean(x: list[float]) -> float:
    return sum(x) / len(x)


def variance(x: list[float]) -> float:
    return sum((each - mean(x)) ** 2 for each in x) / (len(x) - 1)


def halves_of(draws: Tensor) -> Chains:
    half = draws.shape[1] // 2
    return [x for chain in draws.tolist() for x in (chain[:half], chain[-half:])]


def var_plus(halves: Chains) -> float:
    n = len(halves[0])
    return (n - 1) / n * mean([variance(x) for x in halves]) + variance([mean(x) for x in halves])


def r_hat_in_loops(draws: Tensor) -> float:
    halves = halves_of(draws)
    return math.sqrt(var_plus(halves) / mean([variance(x) for x in halves]))


def effective_samples_in_loops(draws: Tensor) -> float:
    halves = halves_of(draws)
    n = len(halves[0])

    def autocovariance(x: list[float], lag: int) -> float:
        return sum((x[t] - mean(x)) * (x[t + lag] - mean(x)) for t in range(n - lag)) / n

    def rho(lag: int) -> float:
        if lag == 0:
            return 1.0
        covariance = mean([autocovariance(x, lag) for x in halves])
        return 1 - (mean([variance(x) for x in halves]) - covariance) / var_plus(halves)

    tau, before = -1.0, math.inf
    for j in range(n // 2):
        pair = rho(2 * j) + rho(2 * j + 1)
        if pair <= 0:
            break
        before = min(before, pair)
        tau += 2 * before
    return len(halves) * n / max(tau, 1 / math.log10(len(halves) * n))


@pytest.mark.parametrize("draws", [4, 5, 12, 31])
@pytest.mark.parametrize("rho", [-0.7, 0.0, 0.8])
def test_formulas_in_loops(rho: float, draws: int) -> None:
    chains = torch.stack([autoregressive(rho, chains=3, draws=draws, seed=s) for s in (1, 2)], -1)
    shifted = chains + torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[0.0, -1.0]]])
    for q in range(2):
        one = shifted[..., q]
        assert float(split_r_hat(shifted)[q]) == pytest.approx(r_hat_in_loops(one), rel=1e-12)
        expected = effective_samples_in_loops(one)
        assert float(effective_samples(shifted)[q]) == pytest.approx(expected, rel=1e-10)


def test_four_draws_by_hand() -> None:
    """Halves (0, 2), (4, 6), (0, 0), (0, 2): W = 6 / 4, means 1, 5, 0, 1 with variance 59 / 12."""
    draws = torch.tensor([[0.0, 2, 4, 6], [0, 0, 0, 2]])
    expected = math.sqrt((1.5 / 2 + 59 / 12) / 1.5)
    assert float(split_r_hat(draws)) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.5])
def test_chains_whose_effective_size_is_known(rho: float) -> None:
    """Of x_t = rho x_(t-1) + noise it is K N (1 - rho) / (1 + rho)."""
    chains, draws = 16, 4000
    x = autoregressive(rho, chains=chains, draws=draws)
    expected = chains * draws * (1 - rho) / (1 + rho)
    assert float(effective_samples(x)) == pytest.approx(expected, rel=0.12)
    assert abs(float(split_r_hat(x)) - 1) < 0.01


def test_chains_that_stand_apart_are_told() -> None:
    x = autoregressive(0.0, chains=4, draws=400)
    apart = x + torch.tensor([[0.0], [0.0], [0.0], [3.0]])
    drifting = x + torch.linspace(0, 3, 400)  # all alike: only the halves show it
    for chains in (apart, drifting):
        assert float(split_r_hat(chains)) > 1.2
        assert float(effective_samples(chains)) < 0.05 * chains.numel()


def test_ranks_are_normal_scores_and_do_not_change_with_the_scale() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    position = torch.tensor([4.0, 1.0, 2.5, 2.5], dtype=torch.float64)
    expected = torch.special.ndtri((position - 3 / 8) / 4.25)
    assert torch.allclose(rank_normalised(x)[0], expected, rtol=0, atol=1e-14)
    chains = torch.stack([autoregressive(0.3, chains=3, draws=50, seed=s) for s in (1, 2)], -1)
    assert torch.equal(rank_normalised(chains.exp()), rank_normalised(chains))
    assert float(split_r_hat(rank_normalised(chains))[1]) == pytest.approx(
        r_hat_in_loops(rank_normalised(chains)[..., 1]), rel=1e-12
    )


def test_what_does_not_vary_has_no_figure() -> None:
    still = torch.ones(3, 8)
    assert math.isnan(float(split_r_hat(still)))
    assert math.isnan(float(effective_samples(still)))
    assert float(split_r_hat(still * torch.tensor([[1.0], [2.0], [3.0]]))) == math.inf
    with pytest.raises(ValueError, match="3 draws a chain: split R-hat needs at least 4"):
        split_r_hat(torch.zeros(2, 3))
