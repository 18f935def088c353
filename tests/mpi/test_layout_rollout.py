"""One run, one answer, for rollouts: an epoch of single steps, then forecasts of three, on every
grid; also of a field that has values on a part of the globe.

Tolerance: 1e-10 in float64, relative to the largest loss, gradient or parameter: the order of sums.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from settings_run import alone, run_settings
from small_run import SAMPLES, Outcome, deviation

from hpc_bnn.config import Settings
from hpc_bnn.data import Source
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.auto_grid import start_auto
from hpc_bnn.train.run.build import read_source
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train

BATCH = 12
TOLERANCE = 1e-10
SWIN = {
    "name": "swin",
    "width": 8,
    "depths": [2, 0, 0, 0],
    "heads": [2, 2, 2, 2],
    "window": [2, 2],
}
DROPPING = {"name": "mlp", "hidden": [6], "dropout": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "crps": {"loss": {"name": "almost_fair_crps", "layout": "transposed"}},
    "crps, several a pass": {
        "loss": {"name": "crps", "layout": "gather", "channel_weights": {"t2m": 2.0}},
        "samples_per_pass": 3,
    },
    "nll": {"loss": {"name": "gaussian_nll", "variance": "predicted"}},
    "nll, predictive, graphs kept": {
        "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
        "keep_graphs": True,
    },
    "nll, dropout": {
        "loss": {"name": "gaussian_nll", "variance": "predicted"},
        "model": DROPPING,
    },
    "crps, dropout": {"loss": {"name": "crps"}, "model": DROPPING},
    "nll, dropout of examples": {
        "loss": {"name": "gaussian_nll", "variance": "predicted"},
        "model": DROPPING,
        "name": "dropout",
    },
    "crps, dropout of samples": {
        "loss": {"name": "almost_fair_crps", "layout": "transposed"},
        "model": {**SWIN, "dropout": 0.2, "recompute": True},
        "name": "dropout",
        "masks": "sample",
    },
    "crps, masked": {
        "loss": {"name": "almost_fair_crps", "layout": "transposed"},
        "missing": "mean",
    },
    "crps, perturbed": {
        "loss": {"name": "almost_fair_crps", "layout": "transposed"},
        "perturb": {"name": "gaussian", "scale": {"t2m": 0.5, "u10": 0.2}, "at": "training"},
    },
    "nll, perturbed on the sphere, several a pass": {
        "loss": {"name": "gaussian_nll", "variance": "predicted"},
        "perturb": {"name": "spherical", "scale": 0.5, "length_km": 6000.0, "at": "both"},
        "samples_per_pass": 3,
    },
    "crps, each step perturbed": {
        "loss": {"name": "almost_fair_crps", "layout": "transposed"},
        "perturb": {"name": "gaussian", "scale": 0.5, "at": "training", "redraw": "each_step"},
    },
    "nll, each step perturbed on the sphere and drawn anew, several a pass": {
        "loss": {"name": "gaussian_nll", "variance": "predicted"},
        "perturb": {
            "name": "spherical",
            "scale": 0.5,
            "length_km": 6000.0,
            "at": "both",
            "redraw": "each_step",
        },
        "samples_per_pass": 3,
        "redraw": "each_step",
    },
    "crps, drawn anew": {
        "loss": {"name": "almost_fair_crps", "layout": "transposed"},
        "redraw": "each_step",
    },
    "crps, drawn anew, graphs kept": {
        "loss": {"name": "crps", "layout": "gather"},
        "keep_graphs": True,
        "antithetic": True,
        "redraw": "each_step",
    },
    "nll, drawn anew, several a pass": {
        "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
        "samples_per_pass": 3,
        "redraw": "each_step",
    },
    "nll, dropout of samples drawn anew": {
        "loss": {"name": "gaussian_nll", "variance": "predicted"},
        "model": {**SWIN, "dropout": 0.2, "recompute": True},
        "name": "dropout",
        "masks": "sample",
        "redraw": "each_step",
    },
    "crps, low rank drawn anew": {
        "loss": {"name": "almost_fair_crps", "layout": "transposed"},
        "name": "low_rank",
        "rank": 2,
        "redraw": "each_step",
    },
    "nll, masked": {
        "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
        "missing": "mean",
    },
}


def settings(folder: Path, case: str, **train: Any) -> Settings:
    chosen = dict(CASES[case])
    missing, perturb = chosen.pop("missing", "error"), chosen.pop("perturb", None)
    train = {"redraw": chosen.pop("redraw", "never"), **train}
    posterior = {} if "name" in chosen else {"initial_sigma": 0.1}
    return Settings.model_validate(
        {
            "seed": 3,
            "perturb": perturb,
            "loss": chosen.pop("loss"),
            "model": chosen.pop("model", SWIN),
            "posterior": {"samples": SAMPLES, **posterior, **chosen},
            "data": {
                "name": "era5",
                "path": str(folder.parent / "masked" if missing == "mean" else folder),
                "missing": missing,
                "variables": ["t2m", "u10", "v10"],
                "static": ["lsm"],
                "step_hours": 24,
                "history": 2,
                # 30 states, 26 windows of two and three: two batches an epoch
                "train": ["2001-01-01", "2001-01-30"],
                "validation": ["2001-07-01", "2001-07-10"],
                "test": ["2001-07-11", "2001-07-20"],
            },
            "train": {
                "steps": 3,
                "batch_size": BATCH,
                "precision": "float64",
                "rollout": {0: 1, 1: 3},
                "device": "cpu",
                **train,
            },
        }
    )


def run(folder: Path, case: str, world: World, ranks: Group, **train: Any) -> Outcome:
    chosen = settings(folder, case, **train)
    source: Source = read_source(chosen, ranks)
    assert len(source.train) // BATCH == 2
    assert source.fields is not None
    assert (source.fields.present is None) == ("masked" not in case)
    return run_settings(chosen, source, world)


@pytest.fixture(scope="session")
def references(toy_folder: Path) -> dict[str, Outcome]:
    """What comes out of each case on one rank."""
    for case in ("nll", "nll, masked"):  # packed by all ranks: two that read alone exclude another
        read_source(settings(toy_folder, case), connect())
    return alone(CASES, lambda case, solo: run(toy_folder, case, solo, ALONE))


@pytest.mark.parametrize("case", CASES)
def test_every_grid_trains_the_same(
    world: World, toy_folder: Path, references: dict[str, Outcome], case: str
) -> None:
    got = run(toy_folder, case, world, world.all_ranks)
    expected = references[case]
    assert got.gradients.shape == expected.gradients.shape
    assert deviation(got.losses, expected.losses) <= TOLERANCE
    assert deviation(got.gradients, expected.gradients) <= TOLERANCE
    assert deviation(got.parameters, expected.parameters) <= TOLERANCE


def test_the_third_step_is_of_three(
    solo: World, toy_folder: Path, references: dict[str, Outcome]
) -> None:
    """Else the test above would prove nothing about rollouts."""
    plain = run(toy_folder, "nll", solo, ALONE, rollout={0: 1, 2: 3})
    rolled = references["nll"]
    assert torch.equal(plain.losses[:2], rolled.losses[:2])
    assert abs(float(plain.losses[2] - rolled.losses[2])) > 1e-3


def test_draws_of_each_lead_time_are_others(references: dict[str, Outcome]) -> None:
    drawn, kept = references["crps, drawn anew"], references["crps"]
    assert torch.equal(drawn.losses[:2], kept.losses[:2])
    assert abs(float(drawn.losses[2] - kept.losses[2])) > 1e-3


@pytest.mark.parametrize("case", ["crps", "nll"])
def test_the_grid_is_measured_with_the_first_rollout(
    all_ranks: Group, solo: World, toy_folder: Path, tmp_path: Path, case: str
) -> None:
    """And batches change their shape with the rollout."""
    own = Path(all_ranks.broadcast(str(tmp_path), name="folder"))
    options: dict[str, Any] = {"rollout": {0: 3, 1: 1}, "schedule": "constant"}
    content = settings(toy_folder, case, **options).model_dump()
    chosen = Settings.model_validate({**content, "grid": {"mode": "auto"}})
    world, auto = start_auto(chosen, all_ranks, RunFolder(own), resume=False)
    try:
        summary = train(chosen, world, RunFolder(own), auto=auto)
    finally:
        world.stop()
    assert summary["steps"] == 3
    expected = run(toy_folder, case, solo, ALONE, **options)
    final = float(expected.losses[-1])
    assert summary["final_loss"] == pytest.approx(final, rel=TOLERANCE)
