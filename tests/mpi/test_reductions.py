"""Gradients are summed over the sample axis and averaged over the data axis."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_run import BATCH, NUM_EXAMPLES, SAMPLES, Recipe, batch, deviation, make_step, parts, run
from torch import nn

from hpc_bnn.parallel.engine import Compression, GradientReduction
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

pytestmark = pytest.mark.both_engines

REDUCTIONS = ("world", "two_stage")


def on(world: World, rank: int) -> Grid:
    return Grid(world.grid.sample_ranks, world.grid.data_ranks, rank)


def contribution(rank: int, backward_pass: int) -> float:
    """A number that no other rank and pass adds: a wrong sum is a wrong decimal."""
    return 10.0**rank * (1 + backward_pass)


def expected_reduction(world: World, passes: int) -> float:
    total = sum(contribution(r, i) for r in range(world.grid.world_size) for i in range(passes))
    return total / world.grid.data_ranks


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sum_over_samples_mean_over_data(
    world: World, reduction: GradientReduction, passes: int
) -> None:
    """Horovod's default would give this over S."""
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    reducer = world.reducer([("weight", weight)], reduction=reduction)
    for _ in range(2):  # the second step starts from a clean state
        weight.grad = None
        reducer.begin()
        for i in range(passes):
            if i == passes - 1:
                reducer.at_last_pass()
            share = weight * contribution(world.grid.world_rank, i)
            share.sum().backward()
        reducer.wait()
        assert weight.grad is not None
        assert torch.allclose(
            weight.grad, torch.full((3,), expected_reduction(world, passes)).double(), rtol=1e-14
        )


def test_engines_exchange_along_each_axis(world: World) -> None:
    """As tensors on GPUs are, which MPI does not move."""
    if world.engine is None:
        pytest.skip("one rank exchanges nothing")
    engine, grid = world.engine, world.grid
    engine.prepare(("samples", "data"))
    axes = {"world": range(grid.world_size), "samples": grid.sample_axis, "data": grid.data_axis}
    for axis, ranks in axes.items():
        if len(ranks) > 1:
            mine = torch.tensor([[1.0 + grid.world_rank, 2.0]])
            where: Any = {"axis": axis, "name": axis}
            total, most = (engine.all_reduce(mine, reduction=r, **where) for r in ("sum", "max"))
            assert total.tolist() == [[sum(ranks) + len(ranks), 2.0 * len(ranks)]]
            assert most.tolist() == [[1.0 + max(ranks), 2.0]]
            everyone = [[1.0 + rank, 2.0] for rank in ranks]
            assert engine.all_gather(mine, **where).tolist() == everyone
            blocks = torch.arange(float(len(ranks)))[:, None] + 10.0 * grid.world_rank
            place = list(ranks).index(grid.world_rank)
            got = engine.all_to_all(blocks, **where)
            assert got.tolist() == [[place + 10.0 * rank] for rank in ranks]
            engine.broadcast(mine, **where)
            assert mine.tolist() == everyone[:1]


def test_rows_are_averaged_along_the_data_axis_only(world: World) -> None:
    rank = world.grid.world_rank
    named = {name: nn.Parameter(torch.zeros(2, dtype=torch.float64)) for name in ("all", "own")}
    reducer = world.reducer(named.items(), reduction="two_stage", per_sample=["own"])
    for _ in range(3):
        for parameter in named.values():
            parameter.grad = None
        reducer.begin()
        reducer.at_last_pass()
        (sum(p.sum() for p in named.values()) * contribution(rank, 0)).backward()
        reducer.wait()
        column = sum(contribution(other, 0) for other in world.grid.data_axis)
        for name, total in (("all", expected_reduction(world, 1)), ("own", column)):
            share = total if name == "all" else total / world.grid.data_ranks
            gradient = named[name].grad
            assert gradient is not None
            assert gradient.tolist() == pytest.approx([share] * 2, rel=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_parameters_that_some_rank_or_pass_does_not_use(
    world: World, reduction: GradientReduction
) -> None:
    """One used by rank 0 alone, one in the first pass only, as a loss's own parameters are."""
    names = ("always", "rank 0 only", "first pass only")
    named = {name: nn.Parameter(torch.zeros(2, dtype=torch.float64)) for name in names}
    reducer = world.reducer(named.items(), reduction=reduction)
    reducer.begin()
    rank = world.grid.world_rank
    for i in range(2):
        used = ["always"]
        used += ["rank 0 only"] if rank == 0 else []
        used += ["first pass only"] if i == 0 else []
        if i == 1:
            reducer.at_last_pass()
        share = sum(named[name].sum() for name in used) * contribution(rank, i)
        share.backward()
    reducer.wait()
    size, data_ranks = world.grid.world_size, world.grid.data_ranks
    expected = {
        "always": expected_reduction(world, 2),
        "rank 0 only": (contribution(0, 0) + contribution(0, 1)) / data_ranks,
        "first pass only": sum(contribution(r, 0) for r in range(size)) / data_ranks,
    }
    for name, parameter in named.items():
        assert parameter.grad is not None, name
        assert parameter.grad.tolist() == pytest.approx([expected[name]] * 2, rel=1e-14), name


def test_parameters_that_no_rank_uses_stay_without_a_gradient(world: World) -> None:
    named = {name: nn.Parameter(torch.zeros(2)) for name in ("used", "unused")}
    reducer = world.reducer(named.items())
    reducer.begin()
    reducer.at_last_pass()
    named["used"].sum().backward()
    reducer.wait({"unused"})
    assert named["used"].grad is not None
    assert named["used"].grad.tolist() == [world.grid.sample_ranks] * 2
    assert named["unused"].grad is None


def test_a_gradient_that_comes_after_its_reduction_began(world: World) -> None:
    """It would be added while the ranks sum, or be lost; the step after starts anew."""
    if world.grid.world_size == 1:
        pytest.skip("nothing is reduced on one rank")
    weight = nn.Parameter(torch.zeros(2))
    reducer = world.reducer([("late", weight)])
    reducer.begin()
    weight.sum().backward()
    reducer.at_last_pass()
    weight.sum().backward()
    with pytest.raises(RuntimeError, match=r"late: got more than one gradient.*use_reentrant"):
        weight.sum().backward()
    weight.grad = None
    reducer.begin()
    reducer.at_last_pass()
    weight.sum().backward()
    reducer.wait()
    assert weight.grad.tolist() == [world.grid.sample_ranks] * 2


def test_a_closed_reducer_leaves_the_parameters_alone(world: World) -> None:
    weight = nn.Parameter(torch.zeros(2))
    reducer = world.reducer([("closed", weight)])
    reducer.begin()
    reducer.at_last_pass()
    reducer.close()
    (weight.sum() * (1.0 + world.grid.world_rank)).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0 + world.grid.world_rank] * 2


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_of_a_step_is_that_of_the_objective(
    world: World, reduction: GradientReduction
) -> None:
    """An oracle in plain autograd: all samples in one graph, no Step, no loss class, no ranks."""
    recipe = Recipe("gaussian expected fixed", optimizer="sgd", steps=1, reduction=reduction)
    posterior, loss = parts(recipe, world)
    step = make_step(recipe, world, posterior, loss)  # every rank now has the same parameters
    x, y = batch(recipe, 0)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    data_terms = []
    for s in range(SAMPLES):
        mean = posterior(x, posterior.key(0, [s]))[0]
        normal = torch.distributions.Normal(mean, sigma)
        data_terms.append(-normal.log_prob(y).sum(1).mean())
    weights = [
        (p, posterior.log_sigma[name.replace(".", "/")])
        for name, p in posterior.module.named_parameters()
    ]
    complexity = sum(
        torch.distributions.kl_divergence(
            torch.distributions.Normal(mu, log_sigma.exp()), torch.distributions.Normal(0.0, 1.0)
        ).sum()
        for mu, log_sigma in weights
    )
    objective = torch.stack(data_terms).mean() + complexity / NUM_EXAMPLES
    parameters = list(posterior.parameters())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters)])

    own = world.grid.own_examples(BATCH)
    value = step(x[own.start : own.stop], y[own.start : own.stop])
    got = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    assert deviation(value, objective.detach()) <= 1e-6  # the fixed sigma is rounded to float32
    assert deviation(got, expected) <= 1e-6
    if world.grid.sample_ranks > 1:
        assert deviation(got / world.grid.sample_ranks, expected) > 0.1


def test_world_equals_two_stage(world: World) -> None:
    """With stochastic gradient descent, which does not hide a factor as Adam does."""
    once, twice = (
        run(Recipe("almost fair crps gather", optimizer="sgd", steps=3, reduction=r), world)
        for r in REDUCTIONS
    )
    assert deviation(once.losses, twice.losses) <= 1e-12
    assert deviation(once.gradients, twice.gradients) <= 1e-12
    assert deviation(once.parameters, twice.parameters) <= 1e-12


@pytest.mark.parametrize(
    ("compression", "bits", "reduction"),
    [("fp16", 11, "world"), ("fp16", 11, "two_stage"), ("bf16", 8, "two_stage")],
)
def test_half_precision_on_the_wire_is_close(
    world: World, compression: Compression, bits: int, reduction: GradientReduction
) -> None:
    """Every rank rounds its gradient to 11 or 8 bits and every addition rounds again.

    With n ranks that is at most (n + 1) * 2**-bits of the sum of the magnitudes that are added,
    taken as the largest gradient: cancelling contributions of single elements stay below it.
    """
    recipe = Recipe("gaussian expected fixed", dtype=torch.float32, optimizer="sgd", steps=1)
    packed = replace(recipe, reduction=reduction, compression=compression)
    if world.engine is not None and compression not in world.engine.compressions:
        with pytest.raises(ValueError, match=r"compression = bf16: Horovod cannot sum"):
            run(packed, world)
        return
    deviating = deviation(run(packed, world).gradients, run(recipe, world).gradients)
    assert deviating <= (world.grid.world_size + 1) * 2.0**-bits
    # It does compress, where there is a wire.
    assert (deviating > 1e-6) == (world.grid.world_size > 1)


def test_buckets_start_in_one_order(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks get their gradients in different orders, and one has none of what another has."""
    monkeypatch.setattr("hpc_bnn.parallel.bucket.LEAST_BYTES", 32)
    monkeypatch.setattr("hpc_bnn.parallel.bucket.MOST_BYTES", 64)
    rank, size = world.grid.world_rank, world.grid.world_size
    named = {f"p{i}": nn.Parameter(torch.zeros(5)) for i in range(12)}
    reducer = world.reducer(named.items(), reduction="two_stage")
    for step in range(3):
        for parameter in named.values():
            parameter.grad = None
        reducer.begin()
        reducer.at_last_pass()
        for i in torch.randperm(12, generator=torch.Generator().manual_seed(100 * step + rank)):
            if (int(i) + step) % 3 or rank == 0:
                (named[f"p{i}"].sum() * contribution(rank, int(i))).backward()
        reducer.wait()
        for i in range(12 if size > 1 else 0):
            ranks = range(size if (i + step) % 3 else 1)
            total = sum(contribution(other, i) for other in ranks) / world.grid.data_ranks
            gradient = named[f"p{i}"].grad
            assert gradient is not None
            assert gradient.tolist() == pytest.approx([total] * 5, rel=1e-6)
