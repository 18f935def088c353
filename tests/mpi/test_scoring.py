"""Scores of a posterior are the same on every grid as on one rank, whatever the number of examples.

Tolerance: 1e-12 relative; only the order of float64 sums differs. The network is float64 too: in
float32 the outputs for an example depend in the last bit on how many others share its batch.
"""

import pytest
import torch
from small_run import INPUTS, OUTPUTS, SAMPLES, deviation

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.data.source import InMemory, Scale
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.scoring import score
from hpc_bnn.verify.tally import ClassificationTally, RegressionTally

SCALE = Scale(
    mean=torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64),
    std=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64),
    channels=("a", "b", "c"),
    units="MW",
)
CASES = {
    "classes": ("classification", losses.categorical_nll, None),
    "mixtures": ("regression", lambda: losses.gaussian_nll(variance="predicted"), SCALE),
    "members": ("regression", losses.fair_crps, SCALE),
}


def tally(
    case: str, world: World, *, num_examples: int, samples: int = SAMPLES
) -> ClassificationTally | RegressionTally:
    task, make_loss, scale = CASES[case]
    loss: Loss = make_loss()
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(num_examples, INPUTS, generator=generator)
    y = torch.randn(num_examples, OUTPUTS, generator=generator)
    targets = torch.randint(0, OUTPUTS, (num_examples,), generator=generator)
    torch.manual_seed(5)
    network = MLP((INPUTS,), loss.output_shape((OUTPUTS,)), hidden=(8,), dropout=0.2).double()
    return score(
        Gaussian(network, initial_sigma=0.3, seed=6),
        loss,
        InMemory(x, targets if task == "classification" else y),
        world,
        task=task,
        output_shape=(OUTPUTS,),
        scale=scale,
        samples=samples,
        batch_size=8,
    )


# 3 examples on 4 data ranks: one of them has none.
@pytest.mark.parametrize("num_examples", [37, 3])
@pytest.mark.parametrize("case", CASES)
def test_scores_equal_those_of_one_rank(
    world: World, solo: World, case: str, num_examples: int
) -> None:
    got = tally(case, world, num_examples=num_examples)
    expected = tally(case, solo, num_examples=num_examples)
    assert got.sums[0] == num_examples * (1 if case == "classes" else OUTPUTS)
    assert got.sums.tolist() == pytest.approx(expected.sums.tolist(), rel=1e-12, abs=1e-12)
    assert got.result() == pytest.approx(expected.result(), rel=1e-9)


def test_scores_are_the_same_on_every_rank(world: World) -> None:
    sums = tally("mixtures", world, num_examples=37).sums.tolist()
    everyone = world.all_ranks.gather(sums, name="test.sums")
    assert everyone == [everyone[0]] * world.grid.world_size


def test_more_samples_are_other_scores(solo: World) -> None:
    """The comparison above could tell."""
    few = tally("classes", solo, num_examples=37).sums[:5]
    more = tally("classes", solo, num_examples=37, samples=2 * SAMPLES).sums[:5]
    assert deviation(few, more) > 1e-4


def test_samples_that_do_not_divide_are_refused(world: World) -> None:
    if world.grid.sample_ranks == 1:
        pytest.skip("one sample rank takes any number of samples")
    with pytest.raises(ValueError, match=r"posterior\.samples = 13"):
        tally("classes", world, num_examples=37, samples=13)
