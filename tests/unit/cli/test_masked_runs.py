"""A field that has values on a part of the globe, by the command line: validation, refusal."""

from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
from tiny_run import hpc_bnn, read_json, written
from toy_weather import toy_settings, write_small_toy

from hpc_bnn.config import Settings
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.trained import load_trained


def blanked(folder: Path) -> Path:
    """Write the toy; t2m has no value at 12 of 16 longitudes."""
    write_small_toy(folder, format="new")
    with netCDF4.Dataset(folder / "single_levels_2001.nc", "a") as file:
        values = np.ma.filled(file["t2m"][:], np.nan)
        values[:, :, :12] = np.nan
        file["t2m"][:] = values
    return folder


def test_a_run_validates_where_there_are_values(tmp_path: Path) -> None:
    """``summary.json`` against the trained network and the windows, by hand."""
    data = {"variables": ["t2m", "u10"], "missing": "mean"}
    settings = toy_settings(blanked(tmp_path / "toy"), data=data)
    run = tmp_path / "run"
    config = written(tmp_path / "toy.yaml", settings)
    assert hpc_bnn("train", config, "--run", run, "train.checkpoint_every=3") == 0
    validation = read_json(run / "summary.json")["validation"]
    trained = load_trained(World(Grid(1, 1, 0), torch.device("cpu")), RunFolder(run))
    source, fields = trained.parts.source, trained.parts.source.fields
    assert fields is not None
    x, y = source.validation.batch(torch.arange(len(source.validation)))
    samples = Settings.model_validate(settings).posterior.samples
    mean = trained.parts.posterior.predict(x.double(), samples=samples).mean(0)
    weights = cell_area(fields.latitude)[:, None] * torch.ones(2, 7, 16, dtype=torch.float64)
    weights[0, :, :12] = 0
    square = ((mean - y).square() * weights).sum() / weights.sum() / len(y)
    assert validation["points"] == len(y) * 7 * (4 + 16)
    assert validation["rmse"] == pytest.approx(float(square.sqrt()), rel=1e-9)


def test_missing_values_that_were_not_announced_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path / "toy.yaml", toy_settings(blanked(tmp_path / "toy")))
    assert hpc_bnn("train", config, "--run", tmp_path / "run") == 2
    assert "'t2m' at 2001-01" in (said := capsys.readouterr().err)
    assert "84 of 112 values are missing" in said
