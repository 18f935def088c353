"""A field that has values on a part of the globe, from files to scores, forecasts and pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import torch
from torch import Tensor
from toy_weather import ALONE_WORLD, STEP_HOURS, toy_source, toy_trained, write_small_toy

from hpc_bnn.data import Source
from hpc_bnn.fields import times
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.train.plan.traced import step_bytes
from hpc_bnn.train.run.validation import field_tally
from hpc_bnn.train.score.forecast import forecast, plan_forecast
from hpc_bnn.train.score.rollout import Rollout
from hpc_bnn.train.score.scoring import score
from hpc_bnn.train.score.trained import Trained
from hpc_bnn.train.score.weather import WeatherScores, score_weather
from hpc_bnn.verify.tally import RegressionTally

STEP_S = STEP_HOURS * 3600
MEAN: dict[str, Any] = {"data": {"missing": "mean"}}
START = times.parse("2001-03-04", end=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, whose t2m has no value at 12 of 16 longitudes."""
    made = write_small_toy(tmp_path_factory.mktemp("toy"), format="new")
    (single,) = made.glob("single_levels*.nc")
    with netCDF4.Dataset(single, "a") as file:
        values = np.ma.filled(file["t2m"][:], np.nan)
        values[:, :, :12] = np.nan
        file["t2m"][:] = values
    return made


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return toy_source(folder, **MEAN)


@pytest.fixture(scope="module")
def trained(folder: Path, source: Source) -> Trained:
    return toy_trained(folder, source, **MEAN)


@pytest.fixture(scope="module")
def scored(trained: Trained) -> WeatherScores:
    return score_weather(trained, ALONE_WORLD)


def there() -> Tensor:
    made = torch.ones(4, 7, 16, dtype=torch.bool)
    made[0, :, :12] = False
    return made


def test_the_mask_is_that_of_the_files(source: Source) -> None:
    assert source.fields is not None
    assert source.fields.present is not None
    assert torch.equal(source.fields.present, there())


def raw(folder: Path, at: list[int]) -> Tensor:
    (single,) = folder.glob("single_levels*.nc")
    with netCDF4.Dataset(single) as file:
        seconds = np.asarray(file["valid_time"][:]).tolist()
        rows = [seconds.index(time) for time in at]
        return torch.from_numpy(np.ma.filled(file["t2m"][rows], np.nan).astype(np.float64))


def test_persistence_is_scored_where_there_are_values(
    folder: Path, source: Source, scored: WeatherScores
) -> None:
    """From the numbers in the files: root of the mean square change over the four longitudes."""
    assert source.fields is not None
    area = cell_area(source.fields.latitude)[:, None]
    got = scored.by_channel["t2m"]["persistence"]
    starts = scored.starts.tolist()
    for lead in range(3):
        change = raw(folder, [t + (lead + 1) * STEP_S for t in starts]) - raw(folder, starts)
        square = (change[:, :, 12:].square() * area).mean()
        assert got["rmse"][lead] == pytest.approx(float(square.sqrt()), rel=1e-5)
        mean = (change[:, :, 12:].abs() * area).mean()
        assert got["crps"][lead] == pytest.approx(float(mean), rel=1e-5)


def test_the_model_is_scored_where_there_are_values(
    trained: Trained, scored: WeatherScores
) -> None:
    """Steps by hand: the network sees 0 where there is no value, and what it says is dropped."""
    fields, posterior = trained.parts.source.fields, trained.parts.posterior
    assert fields is not None
    rollout, starts = Rollout(trained.parts, torch.device("cpu")), scored.starts
    ratio = (fields.tendency_std / fields.state_std)[:, None, None]
    members = []
    for member in range(3):
        state = rollout.states(starts)
        for lead in range(3):
            x = torch.cat([state, fields.record.forcing(starts + lead * STEP_S).double()], 1)
            state = state + ratio * posterior.predict(x, samples=1, first=member)[0]
            assert bool((state[:, 0, :, :12] != 0).any())
            state[:, 0, :, :12] = 0
        members.append(state)
    truth = rollout.states(starts + 3 * STEP_S)
    error = (torch.stack(members).mean(0) - truth) * fields.state_std[:, None, None]
    area = cell_area(fields.latitude)[:, None]
    result = scored.by_channel
    square = (error[:, 0, :, 12:].square() * area).mean()
    assert result["t2m"]["rmse"][2] == pytest.approx(float(square.sqrt()), rel=1e-10)
    square = (error[:, 1].square() * area).mean()
    assert result["u10"]["rmse"][2] == pytest.approx(float(square.sqrt()), rel=1e-10)
    for scores in result.values():
        assert sum(scores["rank_histogram"][0]) == pytest.approx(
            5 * 7 * (4 if scores is result["t2m"] else 16)
        )


def test_pictures_are_blank_where_there_are_no_values(scored: WeatherScores) -> None:
    assert [picture.lead for picture in scored.pictures] == [0, 1, 2]
    for picture in scored.pictures:
        assert torch.equal(picture.truth.isfinite(), there())
        assert torch.equal(picture.mean.isfinite(), there())
        assert torch.equal(picture.spread.isfinite(), there())


def test_forecast_files_are_missing_where_there_are_no_values(
    trained: Trained, tmp_path: Path
) -> None:
    path = tmp_path / "forecast.nc"
    forecast(trained, ALONE_WORLD, path, plan_forecast(trained, [START], steps=2, members=2))
    with netCDF4.Dataset(path) as file:
        for at, name in enumerate(("t2m", "u10", "v10", "z500")):
            values = file[name][:]
            missing = np.broadcast_to(~there()[at].numpy(), values.shape)
            assert np.array_equal(np.ma.getmaskarray(np.ma.masked_invalid(values)), missing)
        file.set_auto_mask(False)
        assert np.isnan(file["t2m"]._FillValue)


def validated(trained: Trained, source: Source) -> tuple[dict[str, float], Tensor, Tensor]:
    """Return the scores, and members (S, B, C, H, W) and targets as the network sees them."""
    parts = trained.parts
    tally = score(
        parts.posterior,
        parts.loss,
        source.validation,
        ALONE_WORLD,
        task="regression",
        output_shape=source.output_shape,
        scale=None,
        samples=2,
        batch_size=3,
        tally=field_tally(source),
    )
    x, y = source.validation.batch(torch.arange(len(source.validation)))
    return tally.result(), parts.posterior.predict(x.double(), samples=2), y.double()


def test_validation_counts_points_with_values_by_area(trained: Trained, source: Source) -> None:
    assert source.fields is not None
    result, members, y = validated(trained, source)
    weights = cell_area(source.fields.latitude)[:, None] * there()
    square = (members.mean(0) - y).square()
    expected = (square * weights).sum() / weights.sum() / len(y)
    assert result["rmse"] == pytest.approx(float(expected.sqrt()), rel=1e-10)
    assert result["points"] == len(y) * (3 * 16 + 4) * 7


def test_validation_of_whole_fields_counts_by_area_too(tmp_path: Path) -> None:
    folder = write_small_toy(tmp_path)
    source = toy_source(folder)
    trained = toy_trained(folder, source)
    assert source.fields is not None
    result, members, y = validated(trained, source)
    square = (members.mean(0) - y).square()
    mean = (square * cell_area(source.fields.latitude)[:, None]).mean()
    assert result["rmse"] == pytest.approx(float(mean.sqrt()), rel=1e-10)
    plain = RegressionTally()
    plain.add(members, None, y)
    assert abs(plain.result()["rmse"] / result["rmse"] - 1) > 1e-3


def test_other_data_have_no_tally_of_fields(source: Source) -> None:
    assert field_tally(replace(source, fields=None)) is None


def test_memory_of_a_masked_rollout_is_told(folder: Path) -> None:
    changes: dict[str, Any] = {**MEAN, "train": {"rollout": {0: 3}}}
    trained = toy_trained(folder, toy_source(folder, **changes), **changes)
    assert step_bytes(trained.parts, trained.settings, ALONE_WORLD.grid) > 0
