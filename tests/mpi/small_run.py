"""A small training run as a function of a recipe and a grid: what these tests repeat everywhere.

The examples of a step are a function of the step, the same on every rank; a rank trains on its
part. Initial weights are drawn differently on every rank: world rank 0's must win.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.data.augment import Jitter
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.engine import Compression, GradientReduction
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.settings import Views
from hpc_bnn.train.step.step import Step

SAMPLES = 12
BATCH = 12
INPUTS, OUTPUTS = 5, 3  # three points do not divide by two or four ranks: the transposed CRPS pads
NUM_EXAMPLES = 100

# An uneven mean over points, as cell areas would give.
WEIGHTS = torch.tensor([1.0, 2.0, 4.0])

LOSSES: dict[str, Callable[[], Loss]] = {
    "categorical expected": losses.categorical_nll,
    "categorical predictive": lambda: losses.categorical_nll(predictive=True),
    **{
        f"gaussian {kind} {variance}": lambda kind=kind, variance=variance: losses.gaussian_nll(
            variance=variance, sigma=0.7, predictive=kind == "predictive"
        )
        for kind in ("expected", "predictive")
        for variance in ("fixed", "learned", "predicted")
    },
    **{
        f"{name} {kind}": lambda loss=loss, kind=kind: loss(
            predictive=kind == "predictive", weights=WEIGHTS
        )
        for name, loss in (
            ("gaussian crps", losses.gaussian_crps),
            ("student t", losses.student_t_nll),
        )
        for kind in ("expected", "predictive")
    },
    "moments fixed": lambda: losses.gaussian_moments(sigma=0.7),
    "moments learned": lambda: losses.gaussian_moments(sigma=0.7, learned=True),
    **{
        f"{name} {layout}": lambda score=score, layout=layout: score(weights=WEIGHTS, layout=layout)
        for name, score in (
            ("crps", losses.crps),
            ("fair crps", losses.fair_crps),
            ("almost fair crps", losses.almost_fair_crps),
            ("energy score", losses.energy_score),
        )
        for layout in ("gather", "transposed")
    },
    **{
        f"{name} spectral {layout}": lambda score=score, layout=layout: score(
            spectral=0.5, layout=layout
        )
        for name, score in (
            ("almost fair crps", losses.almost_fair_crps),
            ("energy score", losses.energy_score),
        )
        for layout in ("gather", "transposed")
    },
    "mae": lambda: losses.mae(weights=WEIGHTS),
    "mse": lambda: losses.mse(weights=WEIGHTS),
}


@dataclass(frozen=True)
class Recipe:
    """What a run does. The names are those of ``Step``."""

    loss: str
    dtype: torch.dtype = torch.float64
    steps: int = 2
    optimizer: str = "adam"
    reduction: GradientReduction = "world"
    compression: Compression = "none"
    samples_per_pass: int = SAMPLES
    keep_graphs: bool = False
    dropout: float = 0.0
    augment: bool = False
    views: Views = "per_sample"
    antithetic: bool = False
    kl_warmup_steps: int = 0
    clip_norm: float | None = None


@dataclass(frozen=True)
class Outcome:
    """Losses of all steps (steps,), last gradients and final parameters, each (parameters,)."""

    losses: Tensor
    gradients: Tensor
    parameters: Tensor


def batch(recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """Return the global batch (x, y) of a step."""
    generator = torch.Generator().manual_seed(1 + step)
    x = torch.randn(BATCH, INPUTS, generator=generator, dtype=torch.float64)
    if recipe.loss.startswith("categorical"):
        return x.to(recipe.dtype), torch.randint(0, OUTPUTS, (BATCH,), generator=generator)
    y = torch.randn(BATCH, OUTPUTS, generator=generator, dtype=torch.float64)
    return x.to(recipe.dtype), y.to(recipe.dtype)


def parts(recipe: Recipe, world: World) -> tuple[Gaussian, Loss]:
    """Return the posterior and the loss of a run."""
    loss = LOSSES[recipe.loss]().to(recipe.dtype)
    torch.manual_seed(world.grid.world_rank)
    network = MLP(
        (INPUTS,), loss.output_shape((OUTPUTS,)), hidden=(16,), dropout=recipe.dropout
    ).to(recipe.dtype)
    posterior = Gaussian(network, initial_sigma=0.1, antithetic=recipe.antithetic, seed=7)
    return posterior, loss


def make_step(
    recipe: Recipe, world: World, posterior: Gaussian, loss: Loss, **options: Any
) -> Step:
    """Return the step of a run."""
    trained = [*posterior.parameters(), *loss.parameters()]
    optimizers = {
        "adam": lambda: torch.optim.Adam(trained, lr=1e-2),
        "sgd": lambda: torch.optim.SGD(trained, lr=1e-2),
    }
    return Step(
        posterior,
        loss,
        optimizers[recipe.optimizer](),
        world,
        samples=SAMPLES,
        num_examples=NUM_EXAMPLES,
        kl_warmup_steps=recipe.kl_warmup_steps,
        samples_per_pass=recipe.samples_per_pass,
        keep_graphs=recipe.keep_graphs,
        augment=Jitter(0.2) if recipe.augment else None,
        views=recipe.views,
        clip_norm=recipe.clip_norm,
        precision="float64" if recipe.dtype == torch.float64 else "float32",
        reduction=recipe.reduction,
        compression=recipe.compression,
        guard_every=1,
        **options,
    )


def run(
    recipe: Recipe, world: World, change: Callable[[Step], None] = lambda step: None
) -> Outcome:
    """Collective over the world: train and return what came out of the step, once changed."""
    posterior, loss = parts(recipe, world)
    step = make_step(recipe, world, posterior, loss)
    change(step)
    own = world.grid.own_examples(BATCH)
    values = []
    for i in range(recipe.steps):
        x, y = batch(recipe, i)
        values.append(step(x[own.start : own.stop], y[own.start : own.stop]))
    trained = [*posterior.parameters(), *loss.parameters()]
    return Outcome(
        torch.stack(values),
        torch.cat([p.grad.flatten() for p in trained if p.grad is not None]),
        torch.cat([p.detach().flatten() for p in trained]),
    )


@cache
def reference(recipe: Recipe) -> Outcome:
    """Return the outcome on one rank, without reductions, wire and layouts of the CRPS."""
    return _on_one_rank(
        replace(
            recipe,
            loss=recipe.loss.replace("transposed", "gather"),
            reduction="world",
            compression="none",
        )
    )


@cache
def _on_one_rank(recipe: Recipe) -> Outcome:
    return run(recipe, World(Grid(1, 1, 0), torch.device("cpu")))


def deviation(got: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected number."""
    return float((got - expected).abs().max() / expected.abs().max())
