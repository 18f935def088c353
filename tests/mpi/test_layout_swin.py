"""One run, one answer, for weather: a SWIN, the almost fair CRPS with weights of area and channels,
toy-atmosphere batches that all ranks read together.

Tolerance: 1e-10 in float64, relative to the largest loss, gradient or parameter: the order of sums.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from settings_run import run_settings
from small_run import SAMPLES, Outcome, deviation

from hpc_bnn.config import Settings
from hpc_bnn.data import Source
from hpc_bnn.fields.era5 import era5
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

BATCH, STEPS = 12, 2
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Weather:
    """What a run does; the names are those of the settings."""

    layout: str = "gather"
    keep_graphs: bool = False
    samples_per_pass: int = 1
    reduction: str = "world"


CASES = {
    "transposed": Weather("transposed"),
    "transposed, graphs kept": Weather("transposed", keep_graphs=True),
    "gather, several a pass, two-stage": Weather(samples_per_pass=3, reduction="two_stage"),
}


def read(folder: Path, ranks: Group) -> Source:
    return era5(
        folder,
        variables=["t2m", "u10", "v10", "msl"],
        static=["lsm"],
        step_hours=24,
        train=("2001-01-01", "2001-06-30"),
        validation=("2001-07-01", "2001-07-10"),
        test=("2001-07-11", "2001-07-20"),
        ranks=ranks,
    )


def settings(weather: Weather) -> Settings:
    return Settings.model_validate(
        {
            "seed": 3,
            "posterior": {
                "samples": SAMPLES,
                "initial_sigma": 0.1,
                "keep_graphs": weather.keep_graphs,
                "samples_per_pass": weather.samples_per_pass,
            },
            "loss": {
                "name": "almost_fair_crps",
                "layout": weather.layout,
                "channel_weights": {"t2m": 2.0, "msl": 0.5},
            },
            "model": {
                "name": "swin",
                "width": 8,
                "depths": [2, 0, 0, 0],
                "heads": [2, 2, 2, 2],
                "window": [2, 2],
            },
            "data": {"name": "era5"},
            "train": {
                "steps": STEPS,
                "batch_size": BATCH,
                "precision": "float64",
                "reduction": weather.reduction,
            },
        }
    )


@cache
def reference(folder: Path) -> Outcome:
    """Return the outcome on one rank, with the gathered CRPS."""
    alone = World(Grid(1, 1, 0), torch.device("cpu"))
    return run_settings(settings(Weather(keep_graphs=True)), read(folder, ALONE), alone)


@pytest.mark.parametrize("case", CASES)
def test_every_grid_trains_the_same_swin(world: World, toy_folder: Path, case: str) -> None:
    weather = CASES[case]
    source = read(toy_folder, world.all_ranks)
    got, expected = run_settings(settings(weather), source, world), reference(toy_folder)
    assert got.gradients.shape == expected.gradients.shape
    assert deviation(got.losses, expected.losses) <= TOLERANCE
    assert deviation(got.gradients, expected.gradients) <= TOLERANCE
    assert deviation(got.parameters, expected.parameters) <= TOLERANCE


def test_ranks_read_the_same_statistics_as_one_alone(all_ranks: Group, toy_folder: Path) -> None:
    """Bit for bit: 181 times are two blocks, so two ranks count and the others wait."""
    together, alone = read(toy_folder, all_ranks), read(toy_folder, ALONE)
    assert together.fields is not None
    assert alone.fields is not None
    for name in ("state_mean", "state_std", "tendency_std"):
        assert torch.equal(getattr(together.fields, name), getattr(alone.fields, name)), name


def test_files_that_cannot_be_read_end_every_rank(all_ranks: Group, toy_folder: Path) -> None:
    with pytest.raises((FileNotFoundError, RuntimeError), match="nowhere"):
        read(toy_folder / "nowhere", all_ranks)
