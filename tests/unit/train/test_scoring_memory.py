"""What scoring holds at a time: never more than a part of a batch, a budget of members and a slice.

Counted in bytes of live tensors. The budgets are made small, so that fields of a few KB exceed them
as those of a quarter of a degree exceed the real ones. Scores are compared with those of all
examples, members and points at once; tolerance 1e-12 relative, the order of float64 sums.
"""

from threading import Lock
from typing import Any

import pytest
import torch
from thread_group import on_ranks
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.data.source import InMemory
from hpc_bnn.group import Group
from hpc_bnn.losses.base import Loss
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.counting_axis import CountingAxis
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.score import dealing, scoring
from hpc_bnn.train.score.dealing import own_part, slices
from hpc_bnn.train.score.scoring import examples_at_once, score
from hpc_bnn.verify.tally import RegressionTally

CPU = torch.device("cpu")
ONE_AT_A_TIME = Lock()  # initial weights come from torch's generator, which threads share
FIELD = (4, 32, 63)
SAMPLES, EXAMPLES = 8, 5
KIB = 1 << 10
ENSEMBLE = 8 * SAMPLES * 4 * 32 * 63  # float64 bytes of one example
SLICE = 16 * KIB

LOSSES: dict[str, Any] = {
    "members": losses.almost_fair_crps,
    "mixtures": losses.gaussian_nll,
    "predicted": lambda: losses.gaussian_nll(variance="predicted"),
}


class Field(nn.Module):
    """A network of few weights and large outputs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(FIELD[0], channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(x)
        return mixed


class Seen(InMemory):
    """Examples that note how many were asked for at a time."""

    sizes: list[int]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(indices))
        return super().batch(indices)


def examples() -> Seen:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(EXAMPLES, *FIELD, generator=generator).double() for _ in range(2))
    made = Seen(x, y)
    object.__setattr__(made, "sizes", [])
    return made


def posterior_of(loss: Loss) -> Gaussian:
    """Return a posterior whose network has been checked, as after training."""
    generator = torch.Generator().manual_seed(5)
    with ONE_AT_A_TIME:
        network = Field(loss.output_shape(FIELD)[0]).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
        posterior = Gaussian(network, initial_sigma=0.3, seed=6)
        posterior.predict(torch.zeros(1, *FIELD, dtype=torch.float64), samples=1)
    return posterior


def at_once(kind: str) -> Tensor:
    """Return the sums of everything scored together."""
    loss, data, tally = LOSSES[kind](), examples(), RegressionTally()
    outputs = posterior_of(loss).predict(data.x, samples=SAMPLES)
    mean, sigma = loss.forecast(outputs)
    tally.add(mean, None if sigma is None else sigma.detach(), data.y)
    return tally.sums


def scored(kind: str, world: World, *, batch_size: int) -> tuple[Tensor, int, list[int]]:
    """Return the sums, the most bytes of tensors there were, and the sizes of the batches read."""
    loss, data = LOSSES[kind](), examples()
    posterior = posterior_of(loss)
    with LiveMemory() as live:
        sums = score(
            posterior,
            loss,
            data,
            world,
            task="regression",
            output_shape=FIELD,
            scale=None,
            samples=SAMPLES,
            batch_size=batch_size,
        ).sums
    return sums, live.peak, data.sizes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MEMBER_BYTES", 3 * KIB)
    monkeypatch.setattr(dealing, "SLICE_BYTES", SLICE)


def same(got: Tensor, expected: Tensor) -> bool:
    return torch.allclose(got, expected, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", LOSSES)
def test_one_example_at_a_time_and_its_scores_in_slices(kind: str) -> None:
    sums, peak, sizes = scored(kind, World(Grid(1, 1, 0), CPU), batch_size=4)
    assert same(sums, at_once(kind))
    assert sizes == [1] * EXAMPLES
    # Outputs; where the variance is predicted twice as many, and means and sigmas apart.
    outputs = {"members": 1, "mixtures": 1, "predicted": 4}[kind]
    # Beside them a member, input and target, each an eighth of that.
    assert peak < (outputs + 0.5) * ENSEMBLE


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(("sample_ranks", "data_ranks"), [(4, 1), (2, 2)])
def test_no_rank_holds_all_members(kind: str, sample_ranks: int, data_ranks: int) -> None:
    def work(all_ranks: Group) -> tuple[Tensor, int, list[int]]:
        grid = Grid(sample_ranks, data_ranks, all_ranks.rank)
        sample = all_ranks.split(grid.data_rank, grid.sample_rank)
        data = all_ranks.split(grid.sample_rank, grid.data_rank)
        world = World(grid, CPU, all_ranks, sample, data)
        return scored(kind, world, batch_size=4)

    expected = at_once(kind)
    outputs = {"members": 1, "mixtures": 1, "predicted": 4}[kind]
    for sums, peak, sizes in on_ranks(4, work):
        assert same(sums, expected)
        assert set(sizes) == {1}
        assert peak < (outputs / sample_ranks + 0.5) * ENSEMBLE + 20 * SLICE


@pytest.mark.usefixtures("small")
def test_weights_follow_the_points_to_their_rank() -> None:
    weights = torch.arange(FIELD[0] * FIELD[1], dtype=torch.float64).reshape(*FIELD[:2], 1)
    weights = weights.expand(FIELD)

    def work(all_ranks: Group) -> Tensor:
        loss, data = losses.almost_fair_crps(), examples()
        return score(
            posterior_of(loss),
            loss,
            data,
            World(Grid(4, 1, all_ranks.rank), CPU, all_ranks, all_ranks),
            task="regression",
            output_shape=FIELD,
            scale=None,
            samples=SAMPLES,
            batch_size=4,
            tally=RegressionTally(weights=weights),
        ).sums

    loss, data, whole = losses.almost_fair_crps(), examples(), RegressionTally(weights=weights)
    whole.add(posterior_of(loss).predict(data.x, samples=SAMPLES), None, data.y)
    assert whole.sums[0] == EXAMPLES * (weights > 0).sum()
    for sums in on_ranks(4, work):
        assert same(sums, whole.sums)


@pytest.mark.parametrize(("examples_each", "calls"), [(1, 3), (5, 1)])
def test_every_rank_may_be_interrupted_equally_often(examples_each: int, calls: int) -> None:
    """At the same places, though two data ranks have 3 and 2 of the 5 examples."""

    def work(all_ranks: Group) -> int:
        grid, loss = Grid(2, 2, all_ranks.rank), losses.almost_fair_crps()
        sample = all_ranks.split(grid.data_rank, grid.sample_rank)
        rounds: list[list[int]] = []

        def interrupt() -> None:
            rounds.append(all_ranks.gather(len(rounds), name="interrupt"))

        score(
            posterior_of(loss),
            loss,
            examples(),
            World(grid, CPU, all_ranks, sample),
            task="regression",
            output_shape=FIELD,
            scale=None,
            samples=SAMPLES,
            batch_size=2 * examples_each,
            interrupt=interrupt,
        )
        assert all(len(set(met)) == 1 for met in rounds)
        return len(rounds)

    assert on_ranks(4, work) == [calls] * 4


@pytest.mark.parametrize(("data_ranks", "expected"), [(1, [4, 1]), (2, [2]), (4, [1])])
def test_examples_scored_together_are_a_part_of_the_batch(
    data_ranks: int, expected: list[int]
) -> None:
    world = World(Grid(1, data_ranks, 0), CPU)
    sizes = scored("members", world, batch_size=4)[2]
    assert sizes == expected


def test_how_many_examples_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MEMBER_BYTES", 1000)
    assert examples_at_once(300, 8) == 3
    assert examples_at_once(300, 2) == 2
    assert examples_at_once(1001, 8) == 1
    assert examples_at_once(1, 0) == 1


@pytest.mark.parametrize(("points", "ranks"), [(12, 4), (13, 4), (3, 4), (5, 4), (1, 1), (9, 2)])
def test_parts_and_slices_hold_every_point_once(
    points: int, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dealing, "SLICE_BYTES", 64)
    axis = CountingAxis(ranks)
    cut = slices(torch.empty(2, points, 4 // ranks), axis)  # two points a rank and slice
    assert [p for s in cut for p in range(points)[s]] == list(range(points))
    assert all(s.stop - s.start <= 2 * ranks for s in cut)
    seen = []
    for s in cut:
        number = s.stop - s.start
        for rank in range(ranks):
            axis.rank = rank
            seen += list(range(points)[s][own_part(number, axis)])
    assert seen == list(range(points))
    large = torch.empty(2, points, 1000)
    assert slices(large, axis)[0] == slice(0, min(points, ranks)), "at least one point"
