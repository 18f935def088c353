"""One scenario, every score: a calibrated ensemble of any size is scored as calibrated everywhere,
one that is too narrow, too wide or biased is not, and ties of members and truth change nothing.

Truth and members are independent draws, N points. Standard errors: of a coverage at most
sqrt(p (1 - p) / N); of a spread-skill ratio sqrt(M / (M - 1) / (2 N)); of chi-square of d degrees
of freedom sqrt(2 d); of a mean CRPS 0.7 / sqrt(N), from its standard deviation of at most 0.7.
Every bound is five of them.
"""

import math
from dataclasses import dataclass

import pytest
import scoringrules
import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE
from hpc_bnn.verify import scores
from hpc_bnn.verify.calibration import covered, ensemble_pit, flatness, pit_counts
from hpc_bnn.verify.channel_scores import ChannelScores
from hpc_bnn.verify.field_sums import FieldForecasts
from hpc_bnn.verify.tally import RegressionTally
from hpc_bnn.verify.weather import WeatherTally

N = 4_000
SIZES = (2, 3, 4, 8, 9, 10, 16, 19, 64)


@dataclass(frozen=True)
class Scored:
    """The scores of one ensemble by every way the package has."""

    coverage_50: list[float]
    coverage_90: list[float]
    spread_skill_ratio: list[float]
    flat: list[tuple[float, int]]  # chi-square and its degrees of freedom


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tallied(members: Tensor, truth: Tensor, tally: RegressionTally) -> RegressionTally:
    for part in torch.arange(N).split(1_501):
        tally.add(members[:, part], None, truth[part])
    return tally


def weather(members: Tensor, truth: Tensor) -> ChannelScores:
    """Score the points as those of a row of a map."""
    tally = WeatherTally(starts=1, leads=1, channels=1, members=len(members), area=torch.ones(1))
    row = truth.reshape(1, 1, N)
    forecasts = FieldForecasts(
        members=members.reshape(-1, 1, 1, N),
        truth=row,
        persistence=row,
        climatology=row,
        climatology_std=torch.ones(1, N),
        uniforms=torch.rand(1, 1, N, generator=torch.Generator().manual_seed(2)),
    )
    tally.add(0, 0, [0], [(slice(0, 1), forecasts)])
    return tally.result(tally.of_starts(torch.arange(1), [24.0], ["a"], ["K"]))["a"]


def scored(members: Tensor, truth: Tensor) -> Scored:
    """Score by validation, a series' lead times, fields with weights, and weather forecasts."""
    plain = tallied(members, truth, RegressionTally())
    pointwise = RegressionTally(points=(1,))
    pointwise.add(members[..., None], None, truth[:, None])
    weighted = tallied(members, truth, RegressionTally(weights=torch.tensor(3.0)))
    of_fields = weather(members, truth)
    results = [tally.result() for tally in (plain, pointwise, weighted)]
    single = pointwise.by_point()
    ranks = torch.tensor(of_fields["rank_histogram"][0])
    return Scored(
        [r["coverage_50"] for r in results] + of_fields["coverage_50"],
        [r["coverage_90"] for r in results]
        + of_fields["coverage_90"]
        + single.coverage_90.tolist(),
        [r["spread_skill_ratio"] for r in results if "spread_skill_ratio" in r]
        + [x for x in of_fields["spread_skill_ratio"] if math.isfinite(x)],
        [(r["pit_chi_square"], int(r["pit_degrees_of_freedom"])) for r in results]
        + [flatness(ranks)],
    )


def assert_calibrated(got: Scored) -> None:
    for values, level in ((got.coverage_50, 0.5), (got.coverage_90, 0.9)):
        error = math.sqrt(level * (1 - level) / N)
        assert values == pytest.approx([level] * len(values), abs=5 * error)
    for chi_square, freedom in got.flat:
        assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("members", SIZES)
def test_calibrated(members: int) -> None:
    draws = normal(members + 1, N, seed=members)
    got = scored(draws[1:], draws[0])
    assert_calibrated(got)
    error = math.sqrt(members / (members - 1) / (2 * N))
    assert got.spread_skill_ratio == pytest.approx([1] * 4, abs=5 * error)
    # One definition: without ties the ways differ by the order of sums.
    for values in (got.coverage_50, got.coverage_90, got.spread_skill_ratio):
        assert values == pytest.approx([values[0]] * len(values), rel=1e-9)
    assert {freedom for _, freedom in got.flat[:-1]} == {min(members, 9)}
    if members < 10:  # the bins of the histogram tell all ranks
        assert got.flat[0][0] == pytest.approx(got.flat[-1][0], rel=1e-6)


@pytest.mark.parametrize("members", SIZES)
def test_far_too_narrow(members: int) -> None:
    """All truths are outside, at either end: what the outermost ranks have of each interval."""
    truth = normal(N)
    got = scored(0.001 * normal(members, N, seed=2), truth)
    for values, level in ((got.coverage_50, 0.5), (got.coverage_90, 0.9)):
        outermost = max(0.0, 1 - (1 - level) * (members + 1) / 2)
        assert values == pytest.approx([outermost] * len(values), abs=0.01)
    assert max(got.spread_skill_ratio) < 0.002
    assert min(chi_square / freedom for chi_square, freedom in got.flat) > 100


@pytest.mark.parametrize("members", SIZES)
def test_far_too_wide(members: int) -> None:
    """The truth is where half of the members are below it, give or take what chance has."""
    got = scored(100 * normal(members, N, seed=3), 0.01 * normal(N))
    # Ranks are binomial; an interval has its share of each.
    chance = [math.comb(members, r) / 2**members for r in range(members + 1)]
    for values, level in ((got.coverage_50, 0.5), (got.coverage_90, 0.9)):
        first, last = (1 - level) / 2 * (members + 1), (1 + level) / 2 * (members + 1)
        inside = sum(p * max(0, min(r + 1, last) - max(r, first)) for r, p in enumerate(chance))
        assert values == pytest.approx([inside] * len(values), abs=5 * math.sqrt(0.25 / N))
    assert min(got.spread_skill_ratio) > 1
    if members > 2:  # of two, 1/4, 1/2, 1/4
        assert min(chi_square / freedom for chi_square, freedom in got.flat) > 100


@pytest.mark.parametrize("members", SIZES)
def test_biased(members: int) -> None:
    draws = normal(members + 1, N, seed=members)
    got = scored(draws[1:] + 3, draws[0])
    assert max(got.coverage_50) < 0.4
    assert max(got.coverage_90) < 0.9 - 5 * math.sqrt(0.09 / N)
    assert max(got.spread_skill_ratio) < 0.5
    assert min(chi_square / freedom for chi_square, freedom in got.flat) > 100


@pytest.mark.parametrize("members", SIZES)
@pytest.mark.parametrize("dry", [0.3, 1.0])
def test_ties(members: int, dry: float) -> None:
    """Rain: a calibrated ensemble that is zero at a share of the points, or at all."""
    draws = normal(members + 1, N, seed=members)
    rain = (draws - float(torch.special.ndtri(torch.tensor(dry)))).clamp(min=0)
    got = scored(rain[1:], rain[0])
    assert_calibrated(got)
    if dry == 1.0:
        assert got.spread_skill_ratio == []  # no spread, no error
        tally = tallied(rain[1:], rain[0], RegressionTally())
        assert tally.result()["coverage_50"] == pytest.approx(0.5, rel=1e-12)
        assert tally.result()["coverage_90"] == pytest.approx(0.9, rel=1e-12)
        assert tally.pit_counts().tolist() == pytest.approx([N / 10] * 10, rel=1e-12)


@pytest.mark.parametrize("members", SIZES)
def test_crps(members: int) -> None:
    """The CRPS of scores, of losses and of both tallies are those of scoringrules; the fair one
    does not depend on the number of members.
    """
    draws = normal(members + 1, N, seed=members)
    x, y = draws[1:], draws[0]
    theirs = {
        alpha: scoringrules.crps_ensemble(y.numpy(), x.numpy(), m_axis=0, estimator=name)
        for alpha, name in ((0.0, "nrg"), (1.0, "fair"))
    }
    assert scores.crps_ensemble(x, y).numpy() == pytest.approx(theirs[0.0], rel=1e-10, abs=1e-10)
    theirs[0.95] = 0.95 * theirs[1.0] + 0.05 * theirs[0.0]
    for alpha, expected in theirs.items():
        loss = losses.almost_fair_crps(alpha=alpha)(x[:, None, :99], y[None, :99], ALONE)
        assert float(loss) == pytest.approx(float(expected[:99].mean()), rel=1e-10)
    of_fields = weather(x, y)
    assert of_fields["crps"] == pytest.approx([float(theirs[0.0].mean())], rel=1e-10)
    assert of_fields["fair_crps"] == pytest.approx([float(theirs[1.0].mean())], rel=1e-10)
    of_points = tallied(x, y, RegressionTally()).result()
    for name in ("crps", "fair_crps"):
        assert of_points[name] == pytest.approx(of_fields[name][0], rel=1e-10)
    fair = of_points["fair_crps"]
    # E|X - Y| - E|X - X'| / 2 of normal numbers.
    assert fair == pytest.approx(1 / math.sqrt(math.pi), abs=5 * 0.7 / math.sqrt(N))


@pytest.mark.parametrize("samples", [1, 2, 4, 8, 16])
def test_mixtures(samples: int) -> None:
    """A truth drawn from the mixture itself has a flat PIT; one that is what another weight sample
    would forecast has a spread-skill ratio of 1.
    """
    mu, noise = normal(samples + 1, N, seed=samples), 0.5 * normal(N, seed=99)
    sigma = torch.full((samples, N), 0.5, dtype=torch.float64)
    chosen = torch.randint(samples, (1, N), generator=torch.Generator().manual_seed(3))
    issued = RegressionTally()
    issued.add(mu[1:], sigma, mu[1:].gather(0, chosen)[0] + noise)
    got = issued.result()
    for name, level in (("coverage_50", 0.5), ("coverage_90", 0.9)):
        assert got[name] == pytest.approx(level, abs=5 * math.sqrt(level * (1 - level) / N))
    assert got["pit_degrees_of_freedom"] == 9
    assert got["pit_chi_square"] < 9 + 5 * math.sqrt(18)

    exchangeable = RegressionTally()
    truth = (mu[1] if samples == 1 else mu[0]) + noise  # of one sample: only its sigma is known
    exchangeable.add(mu[1:], sigma, truth)
    assert exchangeable.result()["spread_skill_ratio"] == pytest.approx(1, abs=5 / math.sqrt(N))
    narrow, wide = RegressionTally(), RegressionTally()
    narrow.add(mu[1:], sigma / 100, truth + 3)
    assert narrow.result()["spread_skill_ratio"] < 0.5
    wide.add(mu[1:], sigma * 100, truth)
    assert wide.result()["spread_skill_ratio"] > 20
    assert wide.result()["pit_chi_square"] > 1000


def test_what_is_not_a_number_stays_visible() -> None:
    for spoilt in range(2):
        draws = normal(5, 30)
        draws[spoilt, 7] = math.nan
        for sigma in (None, torch.ones(4, 30, dtype=torch.float64)):
            tally = RegressionTally()
            tally.add(draws[1:], sigma, draws[0])
            result = tally.result()
            for name in ("rmse", "crps", "coverage_90", "spread_skill_ratio", "pit_chi_square"):
                assert math.isnan(result[name]), (name, sigma)


def test_the_pit_of_an_ensemble_is_an_interval() -> None:
    """Of three members above none, above two, and tied with one and with all of them."""
    members = torch.tensor([[2.0, 0.0, 1.0, 1.0], [3.0, 0.0, 2.0, 1.0], [4.0, 3.0, 0.0, 1.0]])
    low, high = ensemble_pit(members, torch.ones(4))
    assert low.tolist() == [0, 0.5, 0.25, 0]
    assert high.tolist() == [0.25, 0.75, 0.75, 1]
    assert covered(low, high, 0.5).tolist() == [0, 1, 1, 0.5]
    assert pit_counts(low, high, 4).tolist() == [1.25, 0.75, 1.75, 0.25]
