"""A forecast file: the same bytes from any number of ranks, and a rollout by hand in it."""

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from thread_group import on_ranks, outcomes
from toy_weather import (
    ALONE_WORLD,
    data_world,
    forecast_by_hand,
    toy_source,
    toy_trained,
    write_small_toy,
)

from hpc_bnn.data import Source
from hpc_bnn.fields import times
from hpc_bnn.fields.forecast_file import partial_path
from hpc_bnn.fields.forecast_plan import OtherForecastError
from hpc_bnn.group import Group, RankError
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.forecast import forecast, plan_forecast

START_S = times.parse("2001-03-05T12:00", end=False)
STEPS = 3
FLOAT32: dict[str, Any] = {"train": {"precision": "float32"}}
PREDICTED: dict[str, Any] = {
    **FLOAT32,
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "data": {"history": 2},
}
ANEW: dict[str, Any] = {**FLOAT32, "forecast": {"redraw": "each_step"}}
PERTURBED: dict[str, Any] = {
    **FLOAT32,
    "data": {"history": 2},
    "perturb": {"name": "gaussian", "scale": 0.2, "unit": "state"},
}
STEPS_PERTURBED: dict[str, Any] = {
    **PERTURBED,
    "perturb": {**PERTURBED["perturb"], "redraw": "each_step"},
}
CASES = {
    "members": FLOAT32,
    "observation noise and history": PREDICTED,
    "drawn anew": ANEW,
    "perturbed starts": PERTURBED,
    "perturbed steps": STEPS_PERTURBED,
}
ONE_AT_A_TIME = Lock()  # initial weights come from torch's generator, which threads share


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, folder: Path) -> tuple[dict[str, Any], Source]:
    changes = CASES[request.param]
    return changes, toy_source(folder, **changes)


def make(
    world: World, path: Path, folder: Path, case: tuple[dict[str, Any], Source], members: int
) -> None:
    with ONE_AT_A_TIME:
        trained = toy_trained(folder, case[1], **case[0])
    plan = plan_forecast(trained, [START_S], steps=STEPS, members=members)
    forecast(trained, world, path, plan)


@pytest.mark.parametrize("members", [1, 3, 5])
def test_any_number_of_ranks_writes_the_same_bytes(
    tmp_path: Path, folder: Path, case: tuple[dict[str, Any], Source], members: int
) -> None:
    """Also ranks that have no member."""
    alone = tmp_path / "alone.nc"
    make(ALONE_WORLD, alone, folder, case, members)
    for size in (2, 3, 4):
        path = tmp_path / f"{size}.nc"

        def work(all_ranks: Group, path: Path = path) -> None:
            make(data_world(all_ranks), path, folder, case, members)

        on_ranks(size, work)
        assert path.read_bytes() == alone.read_bytes()
        assert not partial_path(path).exists()


def test_values_equal_a_rollout_by_hand(
    tmp_path: Path, folder: Path, case: tuple[dict[str, Any], Source]
) -> None:
    path = tmp_path / "forecast.nc"
    make(ALONE_WORLD, path, folder, case, 2)
    changes, source = case
    fields = source.fields
    assert fields is not None
    trained = toy_trained(folder, source, **changes)
    members = forecast_by_hand(trained, torch.tensor([START_S]), STEPS, members=2)[:, :, 0]
    with xarray.open_dataset(path) as file:
        assert file.title == "Ensemble forecast of a Bayesian neural network"
        assert "forecast, torch" in file.history
        assert dict(file.sizes) == {
            "member": 2,
            "lead_time": STEPS,
            "latitude": 7,
            "longitude": 16,
        }
        np.testing.assert_array_equal(file.latitude, fields.latitude)
        np.testing.assert_array_equal(file.longitude, fields.longitude)
        for c, name in enumerate(fields.names):
            error = np.abs(file[name].values - members[:, :, c].numpy()).max()
            assert error < 1e-5 * float(fields.state_std[c]) + 1e-6 * np.abs(file[name]).max()
        assert float(abs(file["t2m"][0, -1] - file["t2m"][1, -1]).max()) > 1e-3


def test_a_start_that_is_not_there_is_an_error_on_every_rank(
    folder: Path, case: tuple[dict[str, Any], Source]
) -> None:
    def work(all_ranks: Group) -> None:
        with ONE_AT_A_TIME:
            trained = toy_trained(folder, case[1], **case[0])
        plan_forecast(trained, [START_S, START_S + 3600], steps=1, members=2)

    for error in outcomes(3, work):
        assert isinstance(error, ValueError)
        assert "1 of 2 starts cannot be: no state at 2001-03-05T13:00" in str(error)


def test_a_member_that_blows_up_ends_every_rank_and_names_itself(
    tmp_path: Path, folder: Path, case: tuple[dict[str, Any], Source]
) -> None:
    path = tmp_path / "forecast.nc"

    def work(all_ranks: Group) -> None:
        with ONE_AT_A_TIME:
            trained = toy_trained(folder, case[1], **case[0])
        if all_ranks.rank == 1:
            with torch.no_grad():
                for parameter in trained.parts.posterior.module.parameters():
                    parameter.mul_(1e30)
        plan = plan_forecast(trained, [START_S], steps=STEPS, members=4)
        forecast(trained, data_world(all_ranks), path, plan)

    ended = outcomes(2, work)
    assert isinstance(ended[1], ValueError)
    assert "member 1 at lead time 12 h" in str(ended[1])
    assert "not finite" in str(ended[1])
    assert isinstance(ended[0], RankError)
    assert "rank 1 failed" in str(ended[0])
    assert not path.exists()
    assert partial_path(path).exists()


def test_a_partial_file_of_others_is_in_the_way_of_every_rank(
    tmp_path: Path, folder: Path, case: tuple[dict[str, Any], Source]
) -> None:
    path = tmp_path / "forecast.nc"
    partial_path(path).write_bytes(b"")
    ended = outcomes(3, lambda all_ranks: make(data_world(all_ranks), path, folder, case, 2))
    assert isinstance(ended[0], OtherForecastError)
    for error in ended:
        assert str(partial_path(path)) in str(error)
    assert not path.exists()
