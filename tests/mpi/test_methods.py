"""One run, one answer, for every method: on every grid what it is on one rank, also where another
grid goes on with it half way.

Tolerance: 1e-10 in float64, relative to the largest number of a kind: rows, moments, momenta,
snapshots, averages, losses, gradients, predictions. Members start bit for bit as on one rank.
"""

import copy
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from method_table import (
    CASES,
    MEMBERS,
    METHODS,
    STEPS,
    Course,
    K,
    begin,
    by_kind,
    course,
    go_on,
    mlp,
)
from settings_run import alone
from small_run import BATCH, deviation
from torch import Tensor

import hpc_bnn as hb
from hpc_bnn.bayes.members import Members
from hpc_bnn.losses import gaussian_nll
from hpc_bnn.parallel.guards import GuardError
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import Checkpoint

# Half of each case, as the grid before this one left it.
HALVES: dict[str, Checkpoint] = {}
OF_MEMBERS = [name for name, method in METHODS.items() if "rows" in method.saved]
TRAINED = "separable, several a pass"


@cache
def references(method: str) -> dict[str, Course]:
    """Collective: return what becomes of the cases of a method on one rank."""
    return alone([case for case in CASES if case.split(", ")[0] == method], course)


def reference(case: str) -> Course:
    """Collective: return what becomes of a case on one rank."""
    return references(case.split(", ")[0])[case]


def assert_same_tensors(
    got: Mapping[str, Tensor], expected: Mapping[str, Tensor], rows: range
) -> None:
    """Compare tensors of one kind; where a rank holds only ``rows`` of one, these."""
    assert got.keys() == expected.keys()
    scale = max(float(tensor.abs().max()) for tensor in expected.values())
    for name, tensor in expected.items():
        part = tensor if got[name].shape == tensor.shape else tensor[rows.start : rows.stop]
        assert got[name].shape == part.shape, name
        assert torch.allclose(got[name], part, rtol=0, atol=1e-10 * scale), name


def assert_same_states(got: Checkpoint, expected: Checkpoint, rows: range) -> None:
    """Compare all that two checkpoints hold."""
    found, whole = by_kind(got), by_kind(expected)
    assert found.keys() == whole.keys()
    for kind, tensors in whole.items():
        assert_same_tensors(found[kind], tensors, rows)
    assert (got.step, got.per_sample) == (expected.step, expected.per_sample)
    assert got.ema.get("steps") == expected.ema.get("steps")


@pytest.mark.parametrize("case", CASES)
def test_every_grid_gives_the_same(world: World, case: str) -> None:
    expected, got = reference(case), course(case, world)
    own, examples = world.grid.own_samples(K), world.grid.own_examples(BATCH)
    for name, tensor in expected.start.posterior.items():
        held = tensor[own.start : own.stop] if name in expected.start.per_sample else tensor
        assert torch.equal(got.start.posterior[name], held), name
    assert_same_states(got.half, expected.half, range(K))
    assert_same_states(got.end, expected.end, own)
    assert_same_tensors(got.gradients, expected.gradients, own)
    assert deviation(got.reports, expected.reports) <= 1e-10
    part = slice(own.start, own.stop), slice(examples.start, examples.stop)
    assert deviation(got.predictions, expected.predictions[:, *part]) <= 1e-10
    half, HALVES[case] = HALVES.get(case, expected.half), got.half
    assert_same_states(go_on(case, world, half), expected.end, own)


@pytest.mark.parametrize("method", METHODS)
def test_the_comparison_sees_all_that_a_method_is(method: str) -> None:
    """Nothing that is compared is missing, constant, or the same with other options."""
    cases = list(references(method).values())
    for one in cases:
        kinds = by_kind(one.end).keys() - {"settings", "ema"}
        assert kinds | {"loss"} == {*METHODS[method].saved.split(), "loss"}
        weights = {**one.end.posterior, **{f"loss.{k}": v for k, v in one.end.loss.items()}}
        for name, average in one.end.ema.get("weights", {}).items():
            assert not torch.equal(weights[name], average), name
        assert len(one.predictions) == 1 or not torch.equal(*one.predictions)
        assert float(one.predictions.std(1).min()) > 0
        for name in one.end.per_sample:
            assert len(one.end.posterior[name]) == K
    ends = [torch.cat([t.flatten().double() for t in one.end.posterior.values()]) for one in cases]
    for i, end in enumerate(ends):
        assert all(deviation(end, other) > 1e-4 for other in ends[:i])


@pytest.mark.both_engines
@pytest.mark.parametrize("method", OF_MEMBERS)
def test_members_are_gathered_to_predict(world: World, method: str) -> None:
    case, own = f"{method}, {TRAINED}", world.grid.own_samples(K)
    expected, run = reference(case).predictions, begin(case, world)
    assert run.posterior.own_samples == own
    run.train(STEPS)
    if len(own) < K:
        with pytest.raises(ValueError, match=rf"this process holds the members {own.start} to"):
            run.predictions(range(K))
    run.posterior.gather(world.sample_axis)
    examples = world.grid.own_examples(BATCH)
    part = expected[:, :, examples.start : examples.stop]
    assert deviation(run.predictions(range(K)), part) <= 1e-9


@pytest.mark.parametrize("method", ["low rank", "low rank antithetic", "rank1", "members"])
def test_a_parameter_that_differs_on_one_rank_is_named(world: World, method: str) -> None:
    """Of members where they should be equal, along the data axis."""
    last, ranks = world.grid.world_size - 1, world.grid.sample_ranks
    rows = method in OF_MEMBERS
    first = last % ranks if rows else 0
    if first == last:
        pytest.skip("no other rank holds the same")
    run = begin(f"{method}, {TRAINED}", world, check=False)
    run.train(1)
    named = dict(run.posterior.named_parameters())
    name = "rows.layers/0/bias" if rows else list(named)[-1]
    if world.grid.world_rank == last:
        named[name].data.flatten()[-1] += 1e-12
    with pytest.raises(GuardError, match=rf"step 1: parameter {name} .*ranks {first} and {last}"):
        run.train(2)


def test_members_of_one_rank_are_broadcast_along_the_data_axis(world: World) -> None:
    torch.manual_seed(0)
    network = mlp().double()
    moved, first = (Members(copy.deepcopy(network), **MEMBERS) for _ in range(2))
    moved.initialise()
    first.initialise()
    with torch.no_grad():
        for rows in moved.rows.values():
            rows += world.grid.data_rank
    optimizer = torch.optim.SGD(moved.rows.parameters(), lr=0.1)
    hb.Step(moved, gaussian_nll(), optimizer, world, samples=K, num_examples=9)
    own = world.grid.own_samples(K)
    for name, rows in first.rows.items():
        assert torch.equal(moved.rows[name], rows[own.start : own.stop]), name


def test_equal_members_of_two_ranks_are_refused(world: World) -> None:
    if world.grid.sample_ranks < 2:
        pytest.skip("one sample rank cannot equal another")
    run = begin(f"members, {TRAINED}", world, check=False)
    for rows in run.posterior.get_submodule("rows").parameters():
        rows.data.zero_()
    with pytest.raises(GuardError, match="step 0: world ranks 0 and 1 hold equal members"):
        run.train(1)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (f"members, {TRAINED}", "step 1: .* diverged: member 11"),
        ("members, joint, several a pass", "step 1: loss = "),
        (f"sghmc, {TRAINED}", "step 1: .* diverged: member 11; the parameters"),
    ],
)
def test_a_member_that_diverges_is_named_on_every_rank(
    world: World, case: str, message: str
) -> None:
    run = begin(case, world, check=False)
    run.train(1)
    if world.grid.sample_rank == world.grid.sample_ranks - 1:
        run.posterior.get_parameter("rows.layers/0/bias").data[-1] = torch.inf
    with pytest.raises(FloatingPointError, match=message):
        run.train(2)


def test_members_may_begin_with_weights_that_all_have_in_common(world: World) -> None:
    """A norm of ones, or a token of zeros, is no sign that ranks draw the same."""
    torch.manual_seed(4)
    network = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.Linear(3, 2)).double()
    posterior = hb.Ensemble(network, samples=K)
    optimizer = torch.optim.SGD(posterior.parameters(), lr=0.01)
    options = {"samples": K, "num_examples": BATCH, "guard_every": 1}
    step = hb.Step(posterior, gaussian_nll(sigma=0.5).double(), optimizer, world, **options)
    own = world.grid.own_examples(BATCH)
    x = torch.randn(BATCH, 3, dtype=torch.float64)[own.start : own.stop]
    step(x, x[:, :2])
    assert step.step == 1
