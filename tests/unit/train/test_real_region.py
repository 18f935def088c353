"""A real regional ERA5 file, from settings alone: training and a forecast of three hours."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray
from toy_weather import ALONE_WORLD, SETTINGS

import hpc_bnn
from hpc_bnn.config import Settings
from hpc_bnn.fields import times
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.forecast import forecast, plan_forecast
from hpc_bnn.train.score.trained import load_trained

FOLDER = Path(
    os.environ.get("HPC_BNN_TEST_DATA")
    or Path(hpc_bnn.__file__).resolve().parents[1] / ".." / "shared" / "data"
)
NAME = "era5_u10v10_25x25x13_20230101.nc"


def test_training_and_forecast(tmp_path: Path) -> None:
    path = FOLDER / NAME
    if not path.is_file():
        pytest.skip(f"{NAME} is not in {FOLDER} (set HPC_BNN_TEST_DATA)")
    settings = Settings.model_validate(
        {
            "posterior": {"samples": 2, "predict_samples": 2},
            "loss": {"name": "almost_fair_crps", "channel_weights": {"u10": 2.0}},
            "model": SETTINGS["model"],
            "data": {
                "name": "era5",
                "path": str(path),
                "variables": ["u10", "v10"],
                "step_hours": 1,
                "train": ["2023-01-01T00:00", "2023-01-01T15:00"],
                "validation": ["2023-01-01T16:00", "2023-01-01T18:00"],
                "test": ["2023-01-01T19:00", "2023-01-02"],
            },
            "train": {"device": "cpu", "steps": 3, "batch_size": 4},
        }
    )
    folder = RunFolder(tmp_path / "run")
    summary = train(settings, ALONE_WORLD, folder)
    assert summary["steps"] == 3
    assert np.isfinite(summary["final_loss"])

    run = load_trained(ALONE_WORLD, folder)
    out, start = tmp_path / "forecast.nc", "2023-01-01T20:00"
    start_s = times.parse(start, end=False)
    forecast(run, ALONE_WORLD, out, plan_forecast(run, [start_s], steps=3, members=2))
    with xarray.open_dataset(out) as made, xarray.open_dataset(path) as real:
        coordinates = [c for c in real.coords if str(c).startswith("lat")]
        np.testing.assert_array_equal(
            made.latitude, np.sort(real[coordinates[0]].values)[::-1].astype(np.float64)
        )
        assert dict(made.sizes) == {"member": 2, "lead_time": 3, "latitude": 25, "longitude": 13}
        for name in ("u10", "v10"):
            assert np.isfinite(made[name].values).all()
            assert float(abs(made[name]).max()) < 60
