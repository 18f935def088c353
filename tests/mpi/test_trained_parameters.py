"""What is trained, and what has a gradient, is one decision of all ranks: as on one rank."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from small_run import deviation
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.group import Group
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.guards import GuardError
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.step import Step

SAMPLES, BATCH, STEPS = 12, 12, 4


class Branches(nn.Module):
    """Two norms, of which ``choose`` takes one a forward pass; a bool buffer and a sparse one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norms = nn.ModuleList([nn.LayerNorm(8), nn.LayerNorm(8)])
        self.last = nn.Linear(8, 3)
        self.register_buffer("mask", torch.arange(4) != 2)
        self.register_buffer("mixing", torch.eye(8).to_sparse())
        self.choose: Callable[[Tensor], int] = lambda first: 0

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x * self.mask))
        h = torch.sparse.mm(self.mixing, h.t()).t()
        out: Tensor = self.last([*self.norms][self.choose(self.first.weight)](h))
        return out


class Run:
    """A network, its posterior and the step over it, in float64."""

    def __init__(self, world: World, *, predictive: bool = False, **options: Any) -> None:
        torch.manual_seed(world.grid.world_rank)  # rank 0's must win
        self.network = Branches().double()
        self.posterior = Gaussian(self.network, initial_sigma=0.3, seed=3)
        if options.pop("frozen", False):
            self.network.norms[0].requires_grad_(False)
        trained = [p for p in self.posterior.parameters() if p.requires_grad]
        # Decay and momentum move what has a gradient of zero, and not what has none.
        self.optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        self.world = world
        self.step = self.step_of(predictive=predictive, **options)
        self.steps = self.step, self.step

    def step_of(self, *, predictive: bool, **options: Any) -> Step:
        return Step(
            self.posterior,
            losses.categorical_nll(predictive=predictive),
            self.optimizer,
            self.world,
            **{"samples": SAMPLES, "num_examples": 50, "guard_every": 2, **options},
        )

    def train(self, before: Callable[["Run", int], None]) -> Tensor:
        """Return the losses, then all parameters, having called ``before`` each step."""
        values = []
        for i in range(STEPS):
            before(self, i)
            values.append(self.one(i))
        parameters = [p.detach().flatten() for p in self.posterior.parameters()]
        return torch.cat([torch.stack(values), *parameters])

    def one(self, i: int) -> Tensor:
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 3, (BATCH,), generator=generator)
        own = self.world.grid.own_examples(BATCH)
        return self.step(x[own.start : own.stop], y[own.start : own.stop])


@cache
def on_one_rank(before: Callable[[Run, int], None], **options: Any) -> Tensor:
    return Run(World(Grid(1, 1, 0), torch.device("cpu")), **options).train(before)


def assert_as_on_one_rank(
    world: World, before: Callable[[Run, int], None], *, reduction: str = "world", **options: Any
) -> Run:
    run = Run(world, reduction=reduction, **options)
    assert deviation(run.train(before), on_one_rank(before, **options)) <= 1e-10
    return run


def several(ranks: int) -> None:
    if ranks < 2:
        pytest.skip("one rank cannot differ from another")


def is_last(world: World) -> bool:
    return world.grid.world_rank == world.grid.world_size - 1


# Parameters without a gradient


def by_turns(run: Run, i: int) -> None:
    run.network.choose = lambda first: i % 2


def by_sample(run: Run, i: int) -> None:
    """Some weight samples take one norm, some the other; at step 2 all take the first."""
    run.network.choose = lambda first: int(i != 2 and bool(first[0, 0] > 0))


def never(run: Run, i: int) -> None:
    run.network.choose = lambda first: 0


@pytest.mark.parametrize(
    ("before", "reduction"),
    [(by_turns, "world"), (by_turns, "two_stage"), (by_sample, "two_stage"), (never, "world")],
)
def test_what_no_rank_uses_is_not_moved(
    world: World, before: Callable[[Run, int], None], reduction: str
) -> None:
    run = assert_as_on_one_rank(world, before, reduction=reduction)
    if before is never:
        assert run.network.norms[1].weight.tolist() == [1.0] * 8


@pytest.mark.parametrize(("before", "keep_graphs"), [(by_sample, False), (by_turns, True)])
def test_what_no_rank_uses_under_a_joint_loss(
    world: World, before: Callable[[Run, int], None], keep_graphs: bool
) -> None:
    assert_as_on_one_rank(world, before, predictive=True, keep_graphs=keep_graphs, clip_norm=0.5)


def test_ranks_meet_once_more_only_where_they_differ(world: World) -> None:
    """The decision rides on the exchange before the reduction, the loss on that after it."""
    run = Run(world, guard_every=0)
    calls: list[str] = []
    kind = type(world.all_ranks)
    all_reduce = kind.all_reduce

    def counted(group: Group, x: Tensor, *, reduction: Any, name: str) -> Tensor:
        if group is world.all_ranks:
            calls.append(name)
        return all_reduce(group, x, reduction=reduction, name=name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "all_reduce", counted)
        for i in range(3):
            by_turns(run, i)
            run.one(i)
        several = world.grid.world_size > 1
        once = ["guards"] * several + ["check of the network"]  # at the first step
        assert calls == once + ["batch sizes and gradients", "loss"] * 3 * several
        if several:
            run.network.choose = lambda first: int(is_last(world))
            run.one(3)
            assert calls[8:] == ["batch sizes and gradients", "gradients", "loss"]


# Parameters that are frozen, thawed, added and replaced


def freeze(run: Run, i: int) -> None:
    run.network.norms[0].requires_grad_(not 1 <= i < 3)


def thaw(run: Run, i: int) -> None:
    if i == 2:
        norm = run.network.norms[0].requires_grad_(True)
        run.optimizer.add_param_group({"params": list(norm.parameters()), "lr": 0.1})


def replace(run: Run, i: int) -> None:
    """A norm by one of another name, and later by one of the first name in new parameters."""
    if i not in (1, 3):
        return
    norm = nn.LayerNorm(8).double()
    run.network.norms[0] = nn.Sequential(norm) if i == 1 else norm
    still = {id(p) for p in run.posterior.parameters()}
    for group in run.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) in still]
    run.optimizer.add_param_group({"params": list(norm.parameters())})


@pytest.mark.parametrize(
    ("before", "frozen", "reduction"),
    [(freeze, False, "two_stage"), (thaw, True, "world"), (replace, False, "world")],
)
def test_what_changes_in_mid_run(
    world: World, before: Callable[[Run, int], None], frozen: bool, reduction: str
) -> None:
    assert_as_on_one_rank(world, before, frozen=frozen, reduction=reduction, clip_norm=0.5)


def test_a_frozen_layer_stays(world: World) -> None:
    run = Run(world)
    run.one(0)
    run.network.norms[0].requires_grad_(False)
    before = run.network.norms[0].weight.detach().clone()
    run.one(1)
    assert torch.equal(run.network.norms[0].weight, before)


def test_what_is_thawed_is_guarded(world: World) -> None:
    several(world.grid.world_size)
    run = Run(world, frozen=True, guard_every=1)
    thaw(run, 2)
    run.one(0)
    if is_last(world):
        run.network.norms[0].weight.data[3] += 1e-9
    with pytest.raises(GuardError, match=r"step 1: parameter module\.norms\.0\.weight differs"):
        run.one(1)


def test_what_is_thawed_must_be_in_the_optimizer(world: World) -> None:
    run = Run(world, frozen=True)
    run.one(0)
    run.network.norms[0].requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"does not hold module\.norms\.0\.weight \(2 of .*add_param_group"
    ):
        run.one(1)
    thaw(run, 2)
    run.one(1)


@pytest.mark.parametrize("predictive", [False, True], ids=["separable", "joint"])
def test_what_changes_on_one_rank_only(world: World, predictive: bool) -> None:
    """Every rank raises: at the exchange of the loss, which all of them reach."""
    several(world.grid.world_size)
    last = world.grid.world_size - 1
    run = Run(world, predictive=predictive, guard_every=0)
    # Under a name of its own: until it is stopped, Horovod waits for the gradient of the last rank.
    norm, name = nn.LayerNorm(8).double(), f"{world.grid.sample_ranks} {predictive}"
    run.network.norms.add_module(name, norm)
    run.network.choose = lambda first: 2
    run.optimizer.add_param_group({"params": norm.parameters()})
    run.one(0)
    norm.requires_grad_(not is_last(world))
    missing = rf"{name}\.bias is \(\(8,\), 'torch.float64'\) .* and 'missing' on world rank {last}"
    with pytest.raises(GuardError, match=rf"step 1: trained parameters: .*{missing}; freeze, thaw"):
        run.one(1)


def test_what_is_refused_on_one_rank_only(world: World) -> None:
    several(world.grid.world_size)
    last = world.grid.world_size - 1
    run = Run(world, frozen=True, guard_every=0)
    run.one(0)
    run.network.norms[0].requires_grad_(is_last(world))
    refused = rf"'missing' on world rank 0 and 'the optimizer does not hold .* on world rank {last}"
    with pytest.raises(GuardError, match=rf"trained parameters: refused is {refused}"):
        run.one(1)
    run.network.norms[0].requires_grad_(False)
    run.one(1)


def test_what_is_added_must_have_the_same_values(world: World) -> None:
    several(world.grid.world_size)
    run = Run(world, guard_every=0)
    run.one(0)
    torch.manual_seed(world.grid.world_rank)
    run.network.last.extra = nn.Linear(2, 2).double()
    run.optimizer.add_param_group({"params": list(run.network.last.extra.parameters())})
    with pytest.raises(GuardError, match=r"values of module\.last\.extra\.bias is .*same values"):
        run.one(1)


def test_what_is_not_trained_is_guarded(world: World) -> None:
    """It is part of the outputs, and no reduction makes it equal."""
    several(world.grid.world_size)
    last = world.grid.world_size - 1
    for name in ("buffer module.mask", "buffer module.mixing.values", "parameter module.norms.0"):
        run = Run(world, frozen=True, guard_every=1)
        run.one(0)
        if is_last(world):
            run.network.mask[0] ^= "mask" in name
            run.network.mixing.values()[2] += "mixing" in name
            run.network.norms[0].bias.data[0] += "norms" in name
        with pytest.raises(GuardError, match=rf"step 1: {name}\S* differs .* 0 and {last}"):
            run.one(1)


def alternate(run: Run, i: int) -> None:
    """Take another step over the same posterior and optimizer, with a joint loss, and go back."""
    if i == 0:
        run.steps = run.step, run.step_of(predictive=True)
    run.step = run.steps[i % 2]


def test_two_steps_over_one_posterior(world: World) -> None:
    """Only the step that runs reduces."""
    assert_as_on_one_rank(world, alternate)
