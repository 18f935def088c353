"""One run, one answer, for the bundled settings of images and of time series, on every grid.

The networks are made small; everything else is as the files say. Tolerance: 1e-10 in float64,
relative to the largest loss, gradient or parameter: the order of sums.
"""

from functools import cache

import pytest
from settings_run import alone, run_settings
from small_run import SAMPLES, Outcome, deviation

from hpc_bnn.config import CONFIGS, load_settings
from hpc_bnn.config.settings import Settings
from hpc_bnn.data import Source, data_set
from hpc_bnn.parallel.world import World

TOLERANCE = 1e-10
SMALL = (
    f"posterior.samples={SAMPLES}",
    "posterior.initial_sigma=0.05",
    "posterior.keep_noise=false",
    "train.steps=2",
    "train.epochs=0",
    "train.batch_size=12",
    "train.precision=float64",
)
DIGITS = (
    "data={name: digits, transform: {name: shift, pixels: 1}}",
    "model={name: vit, patch: 2, width: 24, depth: 2, heads: 3}",
)
WORKLOADS = {
    "vit_cifar10.yaml": DIGITS,
    "vit_cifar10.yaml predictive": (*DIGITS, "loss={name: categorical_nll, predictive: true}"),
    "mlp_series.yaml": ("data.length=600", "model={name: mlp, hidden: [16]}"),
    "mlp_series.yaml crps": (
        "data.length=600",
        "model={name: mlp, hidden: [16]}",
        "loss={name: almost_fair_crps}",
    ),
    **{
        f"mlp_series.yaml {model} {normalize}": (
            *("data.length=600", "data.channels=2", f"data.normalize={normalize}"),
            f"model={{name: {model}{options}}}",
        )
        for model, options, normalize in (
            ("linear", "", "window_last"),
            ("dlinear", ", trend: 5", "window"),
            ("residual_mlp", ", width: 6", "window"),
            ("patch_transformer", ", width: 8, depth: 1, heads: 2", "window"),
        )
    },
}


@cache
def chosen(workload: str) -> Settings:
    return load_settings(CONFIGS / workload.split()[0], [*SMALL, *WORKLOADS[workload]])


@cache
def source(workload: str) -> Source:
    data = chosen(workload).data
    return data_set(data.name)(**data.options)


def run(workload: str, world: World) -> Outcome:
    return run_settings(chosen(workload), source(workload), world)


@pytest.fixture(scope="session")
def references() -> dict[str, Outcome]:
    """What comes out of each workload on one rank."""
    return alone(WORKLOADS, run)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_grid_gives_the_answer_of_one_rank(
    world: World, references: dict[str, Outcome], workload: str
) -> None:
    got, expected = run(workload, world), references[workload]
    assert got.gradients.shape == expected.gradients.shape
    assert deviation(got.losses, expected.losses) <= TOLERANCE
    assert deviation(got.gradients, expected.gradients) <= TOLERANCE
    assert deviation(got.parameters, expected.parameters) <= TOLERANCE
