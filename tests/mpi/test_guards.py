"""Every guard, broken on purpose on real ranks: every rank raises and names the thing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_run import BATCH, INPUTS, OUTPUTS, SAMPLES, Recipe, batch, make_step, parts
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.group import RankError
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.guards import GuardError
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.step import Step

RECIPE = Recipe("gaussian expected learned", optimizer="sgd")


def several(ranks: int, what: str) -> None:
    if ranks < 2:
        pytest.skip(f"one {what} rank cannot differ from another")


def is_last(world: World) -> bool:
    return world.grid.world_rank == world.grid.world_size - 1


def started(world: World) -> tuple[Gaussian, nn.Module, Step]:
    posterior, loss = parts(RECIPE, world)
    return posterior, loss, make_step(RECIPE, world, posterior, loss)


def own_batch(world: World, step: int = 0) -> tuple[Tensor, Tensor]:
    own = world.grid.own_examples(BATCH)
    x, y = batch(RECIPE, step)
    return x[own.start : own.stop].clone(), y[own.start : own.stop].clone()


# Parameters


def change_mean(posterior: Gaussian, loss: nn.Module) -> str:
    weight = posterior.module.get_parameter("layers.2.weight")
    weight.data[1, 3] = torch.nextafter(weight.data[1, 3], torch.tensor(9.0).double())
    return "module.layers.2.weight"


def change_spread(posterior: Gaussian, loss: nn.Module) -> str:
    posterior.log_sigma["layers/0/bias"].data[-1] += 1e-9
    return "log_sigma.layers/0/bias"


def change_loss(posterior: Gaussian, loss: nn.Module) -> str:
    next(loss.parameters()).data += 0.1
    return "loss.likelihood.log_sigma"


@pytest.mark.parametrize("change", [change_mean, change_spread, change_loss])
def test_a_parameter_changed_on_one_rank(
    world: World, change: Callable[[Gaussian, nn.Module], str]
) -> None:
    """By one unit in the last place of one element, between two steps."""
    several(world.grid.world_size, "world")
    posterior, loss, step = started(world)
    step(*own_batch(world))
    before = [p.detach().clone() for p in posterior.parameters()]
    name = change(posterior, loss)
    if not is_last(world):
        for p, value in zip(posterior.parameters(), before, strict=True):
            p.data.copy_(value)
        if change is change_loss:
            next(loss.parameters()).data -= 0.1
    last = world.grid.world_size - 1
    with pytest.raises(GuardError, match=f"step 1: parameter {name} .*0 and {last}"):
        step(*own_batch(world, 1))


def test_guards_run_when_they_are_due(world: World) -> None:
    """With guard_every = 2 a change before step 1 is found at step 2."""
    several(world.grid.world_size, "world")
    posterior, loss = parts(RECIPE, world)
    trained = [*posterior.parameters(), *loss.parameters()]
    step = Step(
        posterior,
        loss,
        torch.optim.SGD(trained, lr=1e-3),
        world,
        samples=SAMPLES,
        num_examples=50,
        precision="float64",
        guard_every=2,
    )
    step(*own_batch(world, 0))
    if is_last(world):
        change_mean(posterior, loss)
    step(*own_batch(world, 1))
    with pytest.raises(GuardError, match=r"step 2: parameter module\.layers"):
        step(*own_batch(world, 2))


# Batches


def assert_refused(world: World, step: Step, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(GuardError, match=message):
        step(x, y)


@pytest.mark.parametrize("which", ["x", "y"])
def test_batch_that_differs_along_the_sample_axis(world: World, which: str) -> None:
    several(world.grid.sample_ranks, "sample")
    _, _, step = started(world)
    x, y = own_batch(world)
    if is_last(world):
        (x if which == "x" else y)[-1, -1] += 1e-12
    last = world.grid.world_size - 1
    assert_refused(
        world, step, x, y, rf"world ranks \d and {last} hold different batches.*shard by"
    )


def test_batch_sharded_by_world_rank(world: World) -> None:
    """The usual mistake of a script that came from data parallelism."""
    several(world.grid.sample_ranks, "sample")
    _, _, step = started(world)
    x, y = batch(RECIPE, 0)
    here = slice(world.grid.world_rank * 3, world.grid.world_rank * 3 + 3)
    assert_refused(world, step, x[here], y[here], "world ranks 0 and 1 hold different batches")


def test_same_batch_along_the_data_axis(world: World) -> None:
    several(world.grid.data_ranks, "data")
    _, _, step = started(world)
    x, y = batch(RECIPE, 0)
    other = world.grid.sample_ranks
    assert_refused(world, step, x[:3], y[:3], f"world ranks 0 and {other} hold the same batch")


def test_unequal_batch_sizes(world: World) -> None:
    several(world.grid.data_ranks, "data")
    _, _, step = started(world)
    x, y = own_batch(world)
    if world.grid.data_rank == world.grid.data_ranks - 1:
        x, y = x[:-1], y[:-1]
    together = BATCH * world.grid.sample_ranks - world.grid.sample_ranks
    assert_refused(world, step, x, y, f"batches of different sizes.*together {together} on")


# Draws


def test_equal_draws(world: World) -> None:
    """A rank that draws the samples of another adds nothing; the loss would not show it."""
    several(world.grid.sample_ranks, "sample")
    posterior, _, step = started(world)
    key = posterior.key

    def same_everywhere(at: int, samples: range, *rest: Any) -> Any:
        return key(at, range(len(samples)), *rest)

    posterior.key = same_everywhere  # type: ignore[method-assign]
    assert_refused(world, step, *own_batch(world), "world ranks 0 and 1 drew the same weights")


# Settings, before the first step


def make(world: World, **changes: Any) -> Step:
    """Return a step; the changes are what one rank does differently."""
    options = {"seed": 0, "samples": SAMPLES, "num_examples": 50, "hidden": 8, **changes}
    network = MLP((INPUTS,), (OUTPUTS,), hidden=(options.pop("hidden"),))
    loss = options.pop("loss", losses.gaussian_nll)()
    given = {
        k: options.pop(k)
        for k in ("seed", "antithetic", "prior_sigma", "temperature")
        if k in options
    }
    posterior = Gaussian(network, **given)
    optimizer = torch.optim.SGD([*posterior.parameters(), *loss.parameters()], lr=1e-3)
    return Step(posterior, loss, optimizer, world, **options)


@pytest.mark.parametrize(
    ("named", "changes"),
    [
        ("seed is 0 .* and 1", {"seed": 1}),
        ("samples is 12 .* and 24", {"samples": 24}),
        ("num_examples is 50 .* and 51", {"num_examples": 51}),
        ("loss is 'ExpectedNLL' .* and 'CRPS'", {"loss": losses.crps}),
        (r"parameter \S*layers.0.bias is \(\(8,\)", {"hidden": 9}),
        ("kl_weight is 1.0 .* and 0.5", {"kl_weight": 0.5}),
        ("kl_warmup_steps", {"kl_warmup_steps": 7}),
        ("clip_norm", {"clip_norm": 1.0}),
        ("precision", {"precision": "float64"}),
        ("exact", {"exact": False}),
        ("reduction", {"reduction": "two_stage"}),
        ("compression", {"compression": "fp16"}),
        ("guard_every", {"guard_every": 3}),
        ("antithetic", {"antithetic": True}),
        ("prior_sigma", {"prior_sigma": 2.0}),
        ("temperature", {"temperature": 0.5}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_differ_on_one_rank(
    world: World, named: str, changes: dict[str, Any]
) -> None:
    several(world.grid.world_size, "world")
    with pytest.raises(GuardError, match=f"(?s){named}.*world rank {world.grid.world_size - 1}"):
        make(world, **changes if is_last(world) else {})


def test_frozen_parameters_and_buffers_are_those_of_rank_0(world: World) -> None:
    """They are not trained, so no reduction would ever make them equal."""

    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(world.grid.world_rank)
            self.embed = nn.Linear(INPUTS, INPUTS).requires_grad_(False)
            self.register_buffer("shift", torch.randn(INPUTS))
            self.head = nn.Linear(INPUTS, OUTPUTS)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.tanh(self.embed(x + self.shift)))
            return out

    network = Frozen()
    posterior = Gaussian(network, random=["head.*"])
    optimizer = torch.optim.SGD([p for p in posterior.parameters() if p.requires_grad], lr=1e-3)
    Step(posterior, losses.gaussian_nll(), optimizer, world, samples=SAMPLES, num_examples=50)
    for name, value in network.state_dict().items():
        everyone = world.all_ranks.gather(value.tolist(), name="test.state")
        assert everyone == [everyone[0]] * world.grid.world_size, name


# Numbers


class Cliff(torch.autograd.Function):
    """A finite value with a gradient that is not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return torch.full_like(grads[0], torch.inf)


class OnTheEdge(nn.Module):
    """Its last rank meets the cliff at the second step."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, OUTPUTS)
        self.here, self.falls = is_last(world), False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return Cliff.apply(out) if self.here and self.falls else out


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_infinite_gradient_of_one_rank(world: World, clip_norm: float | None) -> None:
    """Every rank stops before the update, names the parameter and keeps its parameters."""
    network = OnTheEdge(world)
    posterior = Gaussian(network)
    optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-3)
    step = Step(
        posterior,
        losses.gaussian_nll(),
        optimizer,
        world,
        samples=SAMPLES,
        num_examples=50,
        clip_norm=clip_norm,
        guard_every=1,
    )
    x, y = (t.float() for t in own_batch(world))
    step(x, y)
    before = [p.detach().clone() for p in posterior.parameters()]
    network.falls = True
    with pytest.raises(FloatingPointError, match=r"step 1: .*module\.layer\.(weight|bias)"):
        step(x, y)
    for p, value in zip(posterior.parameters(), before, strict=True):
        assert torch.equal(p.detach(), value)


def test_loss_that_is_not_finite_on_one_rank(world: World) -> None:
    posterior, _, step = started(world)
    x, y = own_batch(world)
    step(x, y)
    before = [p.detach().clone() for p in posterior.parameters()]
    last, ranks = world.grid.data_rank == world.grid.data_ranks - 1, world.all_ranks
    if last:
        x[0, 0] = torch.nan
    named = r"world rank \d+, " if ranks.size > 1 else ""
    said = f"{named}step 1: x of example 0 of this rank's batch"
    with pytest.raises((ValueError, RankError), match=said) as error:
        step(x, y)
    assert not last or ranks.size == 1 or f"world rank {ranks.rank}, " in str(error.value)
    for p, value in zip(posterior.parameters(), before, strict=True):
        assert torch.equal(p.detach(), value)
    x, y = own_batch(world)
    with torch.no_grad():
        next(iter(posterior.log_sigma.values())).fill_(1e4)  # as after a step that was too long
    with pytest.raises(FloatingPointError, match="step 1: loss = nan"):
        step(x, y)
