"""Every method, as a row of one table, and a small training run of it on any grid.

The examples of a step are a function of the step, the same on every rank; a rank trains on its
part. Networks are drawn differently on every rank: world rank 0's must win.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from small_run import BATCH, INPUTS, LOSSES, NUM_EXAMPLES, OUTPUTS, SAMPLES, Recipe, batch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.bayes.members import Members
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.base import Loss
from hpc_bnn.losses.each_member import MemberTargets
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import Checkpoint
from hpc_bnn.train.run.state import (
    gather_ema,
    gather_optimizer,
    gather_posterior,
    outline,
    restore,
    restore_ema,
)
from hpc_bnn.train.step import passes

STEPS, HALF, SEED = 5, 3, 5
K = SAMPLES
MEMBERS: dict[str, Any] = {"samples": K, "seed": SEED}
CHAINS: dict[str, Any] = {"burn_in": 2, "collect_every": 1, "snapshots": 2, **MEMBERS}
Optimize = Callable[[Posterior, Loss], torch.optim.Optimizer]


class Encoder(nn.Module):
    """Attention over the inputs of an example, once with the tokens first, and dropout in all its
    places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.2, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x[..., None]).transpose(0, 1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        result: Tensor = self.head(self.layer(tokens.transpose(0, 1)).mean(1))
        return result


def mlp() -> nn.Module:
    return MLP((INPUTS,), (OUTPUTS,), hidden=(6,))


def parameters(posterior: Posterior, loss: Loss) -> list[nn.Parameter]:
    return [p for p in (*posterior.parameters(), *loss.parameters()) if p.requires_grad]


def adam(posterior: Posterior, loss: Loss) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters(posterior, loss), lr=1e-2)


def momentum(posterior: Posterior, loss: Loss) -> torch.optim.Optimizer:
    """Not Adam, which makes steps of rounding: the gradient of the bias of keys is 0."""
    return torch.optim.SGD(parameters(posterior, loss), lr=0.1, momentum=0.5)


def sampler(posterior: Posterior, loss: Loss) -> torch.optim.Optimizer:
    optimizer = posterior.optimizer(lr=1e-2)
    assert optimizer is not None
    return optimizer


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes
    ----------
    posterior
        Of a network.
    saved
        The kinds of tensors of a checkpoint: first names of those of the posterior, what the
        optimizer keeps, ``loss`` for parameters of the loss.
    separable
        The separable loss; the joint one is the same for all.
    clip_norm
        Small enough to do something.
    crossed
        Whether each loss runs with each of the kinds of passes, or with one of them.
    """

    posterior: Callable[[nn.Module], Posterior]
    saved: str
    network: Callable[[], nn.Module] = mlp
    optimizer: Optimize = adam
    separable: Callable[[], Loss] = LOSSES["gaussian expected fixed"]
    clip_norm: float = 0.05
    several: int = 5
    crossed: bool = True


LEARNED = LOSSES["gaussian expected learned"]
METHODS: dict[str, Method] = {
    "gaussian": Method(
        lambda net: hb.Gaussian(net, initial_sigma=0.1, seed=SEED),
        "log_sigma module loss exp_avg exp_avg_sq step",
        separable=LEARNED,
    ),
    "ivon": Method(
        lambda net: hb.Gaussian(net, initial_sigma=0.1, seed=SEED),
        "log_sigma module loss momentum hessian",
        optimizer=lambda posterior, loss: hb.IVON(posterior, loss, lr=0.05, beta2=0.9),
        separable=LEARNED,
    ),
    "low rank": Method(
        lambda net: hb.LowRank(net, rank=3, initial_sigma=0.1, seed=SEED),
        "log_sigma columns unit module exp_avg exp_avg_sq step",
    ),
    "low rank antithetic": Method(
        lambda net: hb.LowRank(net, rank=2, prior_sigma="fan_in", antithetic=True, seed=SEED),
        "log_sigma columns unit module exp_avg exp_avg_sq step",
    ),
    "rank1": Method(
        lambda net: hb.Rank1(net, initial_sigma=0.1, antithetic=True, seed=SEED),
        "factors module exp_avg exp_avg_sq step",
    ),
    **{
        f"dropout by {masks}": Method(
            lambda net, masks=masks: hb.Dropout(net, masks=masks, prior_sigma=0.5, seed=SEED),
            "module momentum_buffer",
            network=Encoder,
            optimizer=momentum,
            several=1,
            crossed=False,
        )
        for masks in ("example", "sample")
    },
    "members": Method(
        lambda net: Members(net, **MEMBERS), "rows module exp_avg exp_avg_sq step", clip_norm=0.5
    ),
    "anchored ensemble": Method(
        lambda net: hb.Ensemble(net, prior_sigma="fan_in", anchored=True, **MEMBERS),
        "rows module exp_avg exp_avg_sq step",
        separable=lambda: hb.losses.member_targets(hb.losses.gaussian_nll(sigma=0.5)),
        clip_norm=0.5,
        crossed=False,
    ),
    "sgld": Method(
        lambda net: hb.SGLD(net, **CHAINS),
        "rows snapshots module",
        optimizer=sampler,
        crossed=False,
    ),
    "sghmc": Method(
        lambda net: hb.SGHMC(net, **CHAINS), "rows snapshots module momentum", optimizer=sampler
    ),
    "cyclical sghmc": Method(
        lambda net: hb.SGHMC(net, cycle=2, exploration=0.5, preconditioning=True, **CHAINS),
        "rows snapshots module momentum squares",
        optimizer=sampler,
        crossed=False,
    ),
    "swag": Method(
        lambda net: hb.SWAG(net, rank=3, start=1, collect_every=1, **MEMBERS),
        "rows means variances deviations collected module exp_avg exp_avg_sq step",
        crossed=False,
    ),
}
LAYOUTS = [f"{loss}, {p} a pass" for loss in ("separable", "joint") for p in ("several", "one")]
CASES = [
    f"{name}, {layout}"
    for name, method in METHODS.items()
    for layout in (LAYOUTS if method.crossed else LAYOUTS[::3])
]


@dataclass
class Run:
    """A run that has begun, and what its steps reported: loss, KL and norm of the gradient."""

    posterior: Posterior
    loss: Loss
    optimizer: torch.optim.Optimizer
    step: hb.Step
    world: World
    reports: list[list[float]] = field(default_factory=list)

    def train(self, until: int) -> None:
        """Collective: make the steps until there are so many."""
        own = self.world.grid.own_examples(BATCH)
        for i in range(self.step.step, until):
            x, y = batch(Recipe("gaussian"), i)
            x, y = x[own.start : own.stop], y[own.start : own.stop]
            if isinstance(self.loss, MemberTargets):
                options = {"sigma": 0.5, "samples": K, "seed": SEED}
                y = hb.perturbed_targets(y, first_example=i * BATCH + own.start, **options)
            self.step(x, y)
            report = self.step.report
            assert report is not None
            self.reports.append([report.loss, report.kl, report.gradient_norm])

    def state(self, sample_axis: Group = ALONE) -> Checkpoint:
        """Collective over the sample axis: return what a checkpoint would hold, with all rows;
        without an axis those of this rank.
        """
        posterior = gather_posterior(self.posterior, sample_axis)
        moments = gather_optimizer(self.optimizer, self.posterior, sample_axis)
        ema = gather_ema(self.step.ema, self.posterior, sample_axis)
        parts = (posterior, self.loss.state_dict(), moments)
        per_sample = list(self.posterior.per_sample())
        state = Checkpoint(self.step.step, {}, *parts, "", {}, per_sample, ema)
        return copy.deepcopy(sample_axis.broadcast(state, name="all rows"))

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the last step, rows those of this rank."""
        named = self.posterior.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}

    def predictions(self, samples: range) -> Tensor:
        """Return outputs (2, S, B, ...) of the weight samples ``samples``, and, where there are so
        many, of those K later, for the own examples of a batch.
        """
        own = self.world.grid.own_examples(BATCH)
        x = batch(Recipe("gaussian"), STEPS)[0][own.start : own.stop]
        firsts = [samples.start]
        if self.posterior.prediction_samples(2 * K) == 2 * K:
            firsts.append(K + samples.start)
        options = {"samples": len(samples), "positions": own}
        return torch.stack([self.posterior.predict(x, first=i, **options) for i in firsts])


def begin(case: str, world: World, *, check: bool = True) -> Run:
    """Collective: return a run of a case that has made no step yet."""
    name, kind, options = case.split(", ")
    method = METHODS[name]
    torch.manual_seed(world.grid.world_rank)
    posterior = method.posterior(method.network().double())
    loss = method.separable() if kind == "separable" else LOSSES["almost fair crps transposed"]()
    optimizer = method.optimizer(posterior, loss.double())
    ema = 0.0 if posterior.predicts_collected else 0.7
    chosen: dict[str, Any] = {"samples_per_pass": method.several, "ema": ema, "guard_every": 1}
    if options == "one a pass":
        chosen = {"keep_graphs": True, "reduction": "two_stage", "kl_warmup_steps": 5}
        chosen |= {"clip_norm": method.clip_norm}
    sizes: dict[str, Any] = {"samples": K, "num_examples": NUM_EXAMPLES}
    chosen |= {"precision": "float64", "check": check}
    with mock.patch.object(passes, "LARGEST", largest_draw(world.grid)):
        step = hb.Step(posterior, loss, optimizer, world, **sizes, **chosen)
    return Run(posterior, loss, optimizer, step, world)


def largest_draw(grid: Grid) -> int:
    """Return how many bytes of weights are drawn at once: on one rank and along the data axis those
    of all passes, along the sample axis those of one, on both those of a few.
    """
    if grid.sample_ranks == 1:
        return passes.LARGEST
    return 0 if grid.data_ranks == 1 else 2048


@dataclass(frozen=True)
class Course:
    """What becomes of a case on one grid, rows those of this rank; all rows half way."""

    start: Checkpoint
    half: Checkpoint
    end: Checkpoint
    reports: Tensor
    gradients: dict[str, Tensor]
    predictions: Tensor


def course(case: str, world: World) -> Course:
    """Collective: train on this rank's part."""
    run = begin(case, world)
    start = run.state()
    run.train(HALF)
    half = run.state(world.sample_axis)
    run.train(STEPS)
    reports = torch.tensor(run.reports, dtype=torch.float64)
    outputs = run.predictions(world.grid.own_samples(K))
    return Course(start, half, run.state(), reports, run.gradients(), outputs)


def go_on(case: str, world: World, half: Checkpoint) -> Checkpoint:
    """Collective: return the state at the end of a run that goes on from ``half``, which only rank
    0 reads.
    """
    run = begin(case, world, check=False)
    run.step.step = half.step
    half = half if world.is_first else outline(half)
    parts = (Path("half"), half, run.posterior, run.loss)
    restore(*parts, run.optimizer, world.all_ranks)
    if run.step.ema is not None:
        restore_ema(*parts, run.step.ema, world.all_ranks)
    run.train(STEPS)
    return run.state()


def by_kind(state: Checkpoint) -> Mapping[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint by kind and name; of kinds that hold some."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in state.posterior.items():
        found[name.split(".")[0]][name] = tensor
    for number, kept in state.optimizer["state"].items():
        for key, value in kept.items():
            found[key][f"{number}.{key}"] = torch.as_tensor(value)
    for group in state.optimizer["param_groups"]:
        numbers = {k: torch.tensor(float(v)) for k, v in group.items() if type(v) in (int, float)}
        found["settings"].update(numbers)
    for part, tensors in (("loss", state.loss), ("ema", state.ema.get("weights", {}))):
        if tensors:
            found[part].update(tensors)
    return found
