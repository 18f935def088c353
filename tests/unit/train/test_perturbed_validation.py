"""Validation scores single steps from states with the noise that forecasts start with.

Letters: K weight samples, B examples, C channels, H latitude, W longitude.
"""

from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
from thread_group import on_ranks
from toy_weather import ALONE_WORLD, toy_settings, toy_source, write_small_toy

from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.config import Settings
from hpc_bnn.data import Source
from hpc_bnn.group import Group
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import Parts, build
from hpc_bnn.train.run.validation import validate

SCALE = 0.3
ONE_AT_A_TIME = Lock()  # initial weights come from torch's generator, which threads share


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return toy_source(folder)


def settings_of(folder: Path, **perturb: Any) -> Settings:
    chosen = {"name": "gaussian", "scale": SCALE, "unit": "state", **perturb}
    return Settings.model_validate(toy_settings(folder, perturb=chosen))


def scores(settings: Settings, world: World, parts: Parts) -> dict[str, float]:
    return validate(settings, world, parts, interrupt=lambda: None)


@pytest.mark.parametrize("redraw", ["never", "each_step"])
@pytest.mark.parametrize("at", ["forecasts", "both"])
def test_the_error_is_that_of_steps_from_wrong_states(
    folder: Path, source: Source, at: str, redraw: str
) -> None:
    settings = settings_of(folder, at=at, redraw=redraw)
    parts = build(settings, source)
    posterior, fields, held = parts.posterior, source.fields, source.validation
    assert fields is not None
    channels, per_change = len(fields.channels), fields.state_std / fields.tendency_std
    x, y = held.batch(torch.arange(len(held)))
    members = []
    for sample in range(settings.posterior.samples):
        stream = Stream(posterior.seed, Purpose.PERTURBED_VALIDATION, 0, sample)
        noise = SCALE * normals(stream, (len(x), *y.shape[1:])).double()
        wrong = x.double()
        wrong[:, :channels] += noise
        change = posterior.predict(wrong, samples=1, first=sample)[0]
        members.append(change + noise * per_change[:, None, None])
    area = cell_area(fields.latitude)[:, None]
    error = (torch.stack(members).mean(0) - y).square()
    expected = ((error * area).mean() / area.mean()).sqrt()
    got = scores(settings, ALONE_WORLD, parts)
    assert got["rmse"] == pytest.approx(float(expected), rel=1e-9)


def test_noise_of_training_alone_is_not_in_it(folder: Path, source: Source) -> None:
    plain = Settings.model_validate(toy_settings(folder))
    of_training = settings_of(folder, at="training")
    expected = scores(plain, ALONE_WORLD, build(plain, source))
    assert scores(of_training, ALONE_WORLD, build(of_training, source)) == expected


@pytest.mark.parametrize("sample_ranks", [1, 2])
def test_any_grid_gives_the_same(folder: Path, source: Source, sample_ranks: int) -> None:
    settings = settings_of(folder, at="both", redraw="each_step")
    expected = scores(settings, ALONE_WORLD, build(settings, source))

    def work(ranks: Group) -> dict[str, float]:
        grid = Grid(sample_ranks, 2 // sample_ranks, ranks.rank)
        axes = {"sample_axis": ranks} if sample_ranks == 2 else {"data_axis": ranks}
        with ONE_AT_A_TIME:
            parts = build(settings, source)
        return scores(settings, World(grid, torch.device("cpu"), ranks, **axes), parts)

    for got in on_ranks(2, work):
        assert got == pytest.approx(expected, rel=1e-10)
