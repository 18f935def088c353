"""Pinball loss and scores by lead time and channel: the same on every grid as on one rank.

Tolerance: 1e-12 relative; only the order of float64 sums differs.
"""

import pytest
import torch
from small_run import INPUTS, SAMPLES

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.data.source import InMemory, Scale
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.scoring import Filled, score
from hpc_bnn.verify.recalibration import RecalibratedTally, SpreadTally
from hpc_bnn.verify.tally import RegressionTally

POINTS = (4, 2)  # lead times, channels
SCALE = Scale(
    mean=torch.tensor([10.0, -200.0], dtype=torch.float64),
    std=torch.tensor([2.0, 300.0], dtype=torch.float64),
    channels=("a", "b"),
    units="MW",
)


def filled(loss: Loss, world: World, empty: Filled, *, num_examples: int) -> Filled:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(num_examples, INPUTS, generator=generator)
    y = torch.randn(num_examples, *POINTS, generator=generator)
    torch.manual_seed(5)
    network = MLP((INPUTS,), loss.output_shape(POINTS), hidden=(8,)).double()
    return score(
        Gaussian(network, initial_sigma=0.3, seed=6),
        loss,
        InMemory(x, y),
        world,
        task="regression",
        output_shape=POINTS,
        scale=SCALE,
        samples=SAMPLES,
        batch_size=8,
        tally=empty,
    )


def tally(loss: Loss, world: World, *, num_examples: int) -> RegressionTally:
    empty = RegressionTally(points=POINTS, levels=(0.05, 0.5, 0.9))
    assert filled(loss, world, empty, num_examples=num_examples) is empty
    return empty


# 3 examples on 4 data ranks: one of them has none.
@pytest.mark.parametrize("num_examples", [37, 3])
@pytest.mark.parametrize("kind", ["mixtures", "members"])
def test_details_equal_those_of_one_rank(
    world: World, solo: World, kind: str, num_examples: int
) -> None:
    loss = losses.gaussian_nll(variance="predicted") if kind == "mixtures" else losses.fair_crps()
    got = tally(loss, world, num_examples=num_examples)
    expected = tally(loss, solo, num_examples=num_examples)
    assert got.pinball() == pytest.approx(expected.pinball(), rel=1e-12)
    assert got.result()["pinball"] > 0
    assert got.result() == pytest.approx(expected.result(), rel=1e-9)
    for name in ("rmse", "crps", "coverage_90", "pinball"):
        mine, reference = getattr(got.by_point(), name), getattr(expected.by_point(), name)
        assert mine.shape == POINTS
        assert torch.allclose(mine, reference, rtol=1e-12, atol=1e-12), name
    # Physical units: the channels differ by their scale.
    crps = got.by_point().crps.mean(0)
    assert crps[1] > 20 * crps[0]


@pytest.mark.parametrize("kind", ["mixtures", "members"])
def test_recalibration_equals_that_of_one_rank(world: World, solo: World, kind: str) -> None:
    loss = losses.gaussian_nll(variance="predicted") if kind == "mixtures" else losses.fair_crps()
    factors, results = [], []
    for place in (world, solo):
        spread = SpreadTally(POINTS)
        filled(loss, place, spread, num_examples=37)
        factors.append(spread.recalibration())
        both = RecalibratedTally(RegressionTally(points=POINTS), factors[0])
        filled(loss, place, both, num_examples=37)
        results.append((both.before.result(), both.result()))
    # Ranks of a counted whole: the same bin, unless round-off moves an example over its edge.
    assert torch.equal(factors[0].factor, factors[1].factor)
    assert factors[0].examples == 37
    for mine, reference in zip(*results, strict=True):
        assert mine == pytest.approx(reference, rel=1e-9)
    before, after = results[0]
    assert before["spread_epistemic"] != pytest.approx(after["spread_epistemic"], rel=0.05)
