"""One run, one answer: the same losses and parameters on every grid of this job as on one rank.

Tolerances: 1e-10 in float64 and 1e-5 in float32, relative to the largest loss or parameter. They
cover the order of sums; a wrong factor, sample or example is off by 1e-3 and more.
"""

import pytest
import torch
from small_run import LOSSES, SAMPLES, Recipe, deviation, reference, run

from hpc_bnn.config import DataSettings
from hpc_bnn.parallel.world import World

OPTIONS = {
    "one sample a pass": {"samples_per_pass": 1},
    "several samples a pass": {"samples_per_pass": 5},  # leaves a shorter last pass
    "graphs kept": {"samples_per_pass": 1, "keep_graphs": True},
    "per_sample views": {"augment": True},
    "shared views": {"augment": True, "views": "shared"},
    "dropout": {"dropout": 0.3, "samples_per_pass": 1},
    "antithetic": {"antithetic": True},
    "kl warm-up": {"kl_warmup_steps": 5},
    "clipping": {"clip_norm": 0.05},
}
# One separable loss and one joint loss with an exchange in backward.
SEPARABLE, JOINT = "gaussian expected learned", "almost fair crps transposed"


def assert_same(recipe: Recipe, world: World) -> None:
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5}[recipe.dtype]
    got, expected = run(recipe, world), reference(recipe)
    assert deviation(got.losses, expected.losses) <= tolerance
    assert deviation(got.gradients, expected.gradients) <= tolerance
    assert deviation(got.parameters, expected.parameters) <= tolerance


@pytest.mark.parametrize(
    ("dtype", "reduction"),
    [(torch.float64, "world"), (torch.float32, "two_stage")],
    ids=["float64-world", "float32-two_stage"],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(world: World, loss: str, dtype: torch.dtype, reduction: str) -> None:
    assert_same(Recipe(loss, dtype=dtype, reduction=reduction), world)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("loss", [SEPARABLE, JOINT])
def test_every_option(world: World, loss: str, option: str) -> None:
    assert_same(Recipe(loss, **OPTIONS[option]), world)


@pytest.mark.both_engines
@pytest.mark.parametrize(
    ("loss", "reduction"),
    [("categorical predictive", "world"), ("moments learned", "two_stage")],
)
def test_options_together(world: World, loss: str, reduction: str) -> None:
    recipe = Recipe(
        loss,
        steps=3,
        reduction=reduction,
        samples_per_pass=1,
        augment=True,
        dropout=0.3,
        antithetic=True,
        kl_warmup_steps=5,
        clip_norm=0.5,
    )
    assert_same(recipe, world)


@pytest.mark.parametrize("loss", [SEPARABLE, JOINT])
def test_options_do_something(loss: str) -> None:
    """Otherwise their equality on all grids would say nothing."""
    plain = reference(Recipe(loss, steps=2)).parameters
    for name, option in OPTIONS.items():
        changed = deviation(reference(Recipe(loss, **option)).parameters, plain)
        only_order = set(option) <= {"samples_per_pass", "keep_graphs"}
        assert changed <= 1e-10 if only_order else changed > 1e-4, name


def test_per_rank_views_depend_on_the_grid_and_say_so(world: World) -> None:
    """As published, a rank sees one view: S views a step, whatever K is."""
    description = DataSettings.model_fields["augmentation"].description or ""
    assert "grid" in description
    recipe = Recipe(SEPARABLE, augment=True, views="per_rank")
    same = deviation(run(recipe, world).losses, reference(recipe).losses) <= 1e-10
    assert same == (world.grid.sample_ranks == 1)


def test_samples_are_those_of_the_contract() -> None:
    """K = 12 divides by 1, 2, 3 and 4 ranks, so every grid of these jobs runs every test."""
    assert all(SAMPLES % ranks == 0 for ranks in (1, 2, 3, 4))
