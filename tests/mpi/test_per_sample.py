"""Parameters with a row for each weight sample: one answer on every grid, and each member takes the
steps that it would take alone.

Tolerance: 1e-10 in float64, relative to the largest loss or parameter.
"""

from functools import cache

import pytest
import torch
from small_run import BATCH, INPUTS, OUTPUTS, Recipe, batch, deviation
from torch import Tensor

from hpc_bnn.bayes.members import Members
from hpc_bnn.losses import almost_fair_crps, gaussian_nll
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.guards import GuardError
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.step import Step

K, STEPS, SEED = 12, 3, 5
ALONE = World(Grid(1, 1, 0), torch.device("cpu"))
LOSSES = {
    "separable": lambda: gaussian_nll(sigma=0.7),
    "joint": lambda: almost_fair_crps(layout="transposed"),
}
OPTIONS = {
    "adam": {},
    "two stages": {"reduction": "two_stage"},
    "several a pass": {"samples_per_pass": 5},
    "clipping": {"clip_norm": 0.5},
    "warm-up": {"kl_warmup_steps": 5},
}


def posterior(samples: int = K, network_seed: int = 0) -> Members:
    torch.manual_seed(network_seed)
    network = MLP((INPUTS,), (OUTPUTS,), hidden=(6,)).double()
    return Members(network, samples=samples, seed=SEED)


def started(world: World, members: Members, loss: Loss, **options: object) -> Step:
    optimizer = torch.optim.Adam([p for p in members.parameters() if p.requires_grad], lr=1e-2)
    chosen = {"num_examples": 100, "precision": "float64", "guard_every": 1, **options}
    return Step(members, loss, optimizer, world, samples=members.members, **chosen)


def trained(world: World, step: Step, steps: int = STEPS) -> Tensor:
    """Collective: train; return the losses, complexity terms and norms of all steps."""
    own = world.grid.own_examples(BATCH)
    rows = []
    for i in range(steps):
        x, y = batch(Recipe("gaussian"), i)
        step(x[own.start : own.stop], y[own.start : own.stop])
        report = step.report
        assert report is not None
        rows.append([report.loss, report.kl, report.gradient_norm])
    return torch.tensor(rows, dtype=torch.float64)


def flat(members: Members) -> Tensor:
    members.initialise()
    return torch.cat([rows.detach().flatten(1) for rows in members.rows.values()], 1)


@cache
def on_one_rank(loss: str, option: str) -> tuple[Tensor, Tensor]:
    members = posterior()
    return trained(ALONE, started(ALONE, members, LOSSES[loss](), **OPTIONS[option])), flat(members)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_grid_gives_the_same(world: World, loss: str, option: str) -> None:
    # Members start from the network of rank 0, whatever the other ranks were given.
    members = posterior(network_seed=world.grid.world_rank)
    step = started(world, members, LOSSES[loss](), **OPTIONS[option])
    figures = trained(world, step)
    expected, rows = on_one_rank(loss, option)
    own = world.grid.own_samples(K)
    assert members.own_samples == own
    assert flat(members).shape == (len(own), rows.shape[1])
    assert deviation(figures, expected) <= 1e-10
    assert deviation(flat(members), rows[own.start : own.stop]) <= 1e-10


@pytest.mark.parametrize("option", sorted(set(OPTIONS) - {"several a pass"}))
def test_each_member_is_the_one_that_is_trained_alone(option: str) -> None:
    """Loss, prior, learning rate and clipping are those of a run of one."""
    _, together = on_one_rank("separable", option)
    start = flat(posterior())
    for member in range(0, K, 5):
        alone = posterior()
        alone.initialise()
        alone.members, alone.own_samples = 1, range(1)
        for rows in alone.rows.values():
            rows.data = rows.data[member : member + 1]
        trained(ALONE, started(ALONE, alone, LOSSES["separable"](), **OPTIONS[option]))
        assert deviation(flat(alone)[0], together[member]) <= 1e-10
        assert deviation(flat(alone)[0], start[member]) > 1e-3


def test_options_do_something() -> None:
    plain = on_one_rank("separable", "adam")[1]
    for option in ("clipping", "warm-up"):
        assert deviation(on_one_rank("separable", option)[1], plain) > 1e-4


def test_members_of_one_rank_are_broadcast_along_the_data_axis(world: World) -> None:
    members = posterior()
    members.initialise()
    with torch.no_grad():
        for rows in members.rows.values():
            rows += world.grid.data_rank
    started(world, members, LOSSES["separable"]())
    own = world.grid.own_samples(K)
    assert torch.equal(flat(members), flat(posterior())[own.start : own.stop])


def test_a_member_changed_on_one_data_rank_is_named(world: World) -> None:
    if world.grid.data_ranks < 2:
        pytest.skip("one data rank cannot differ from another")
    members = posterior()
    step = started(world, members, LOSSES["separable"]())
    trained(world, step, 1)
    last = world.grid.world_size - 1
    if world.grid.world_rank == last:
        members.rows["layers/0/bias"].data[-1] += 1e-12
    first = last % world.grid.sample_ranks
    with pytest.raises(
        GuardError,
        match=rf"step 1: parameter rows\.layers/0/bias .*ranks {first} and {last}, which",
    ):
        trained(world, step, 1)


def test_equal_members_of_two_ranks_are_refused(world: World) -> None:
    if world.grid.sample_ranks < 2:
        pytest.skip("one sample rank cannot equal another")
    members = posterior()
    step = started(world, members, LOSSES["separable"]())
    for rows in members.rows.values():
        rows.data.zero_()
    with pytest.raises(GuardError, match="step 0: world ranks 0 and 1 hold equal members"):
        trained(world, step, 1)


def test_a_member_that_diverges_ends_every_rank(world: World) -> None:
    members = posterior()
    step = started(world, members, LOSSES["separable"](), guard_every=0)
    trained(world, step, 1)
    if world.grid.sample_rank == world.grid.sample_ranks - 1:
        members.rows["layers/0/bias"].data[-1] = torch.inf
    with pytest.raises(FloatingPointError, match="step 1: loss = "):
        trained(world, step, 1)


def test_another_number_of_samples_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"posterior\.samples = 24: this posterior has 12 members"):
        Step(
            posterior(),
            LOSSES["separable"](),
            torch.optim.SGD([torch.zeros(1)]),
            world,
            samples=24,
            num_examples=9,
        )
