"""An ensemble by the command line, alone and on two ranks: trained, evaluated and forecast with, to
the same numbers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import yaml
from launch import Ended, run_commands, run_here
from outcome import read

from hpc_bnn.fields.toy_atmosphere import write_toy

SETTINGS: dict[str, Any] = {
    "seed": 5,
    "posterior": {"name": "ensemble", "samples": 4, "anchored": True, "prior_sigma": "fan_in"},
    "loss": {"name": "almost_fair_crps"},
    "model": {
        "name": "swin",
        "width": 8,
        "depths": [2, 0, 0, 2],
        "heads": [2, 2, 2, 2],
        "window": [2, 2],
    },
    "data": {
        "name": "era5",
        "variables": ["t2m", "z"],
        "levels": [500],
        "static": ["lsm"],
        "step_hours": 12,
        "train": ["2001-01-01", "2001-02-20"],
        "validation": ["2001-02-21", "2001-02-25"],
        "test": ["2001-03-01", "2001-03-12"],
    },
    "train": {"device": "cpu", "steps": 3, "batch_size": 4, "precision": "float64"},
    "evaluation": {"starts": 4, "steps": 2},
}


def words(folder: str, *overrides: str) -> list[list[str]]:
    asked = ["--start", "2001-03-05T12:00", "--steps", "2", "--members"]
    return [
        ["train", "ensemble.yaml", "--run", folder, *overrides],
        ["evaluate", folder],
        ["forecast", folder, *asked, "4", "-o", f"{folder}.nc"],
        ["forecast", folder, *asked, "5", "-o", f"{folder}-more.nc"],
    ]


def assert_refused_at_last(jobs: list[Ended]) -> None:
    *good, refused = jobs
    for ended in good:
        assert ended.status == 0, ended.text
    assert "4 weight samples instead of posterior.predict_samples = 64" in good[1].err
    assert refused.status != 0
    assert "members = 5: this run has 4 weight samples to forecast with" in refused.err


def test_alone_and_on_two_ranks(tmp_path: Path) -> None:
    toy = {"rows": 7, "columns": 16, "step_hours": 12, "levels": [500.0], "format": "legacy"}
    write_toy(tmp_path / "toy", years=1, **toy)
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "path": str(tmp_path / "toy")}}
    (tmp_path / "ensemble.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert_refused_at_last([run_here(*each, cwd=tmp_path) for each in words("alone")])
    spread = words("spread", "grid.sample_ranks=2")
    assert_refused_at_last(run_commands(*spread, ranks=2, cwd=tmp_path))
    alone, two = (read(tmp_path / folder) for folder in ("alone", "spread"))
    assert two.losses == pytest.approx(alone.losses, rel=1e-10)
    scores = [
        json.loads((tmp_path / folder / "evaluation.json").read_text(encoding="utf-8"))
        for folder in ("alone", "spread")
    ]
    for each in scores:
        assert each["members"] == 4
    for name in ("t2m", "z500"):
        assert scores[1]["scores"][name]["crps"] == pytest.approx(
            scores[0]["scores"][name]["crps"], rel=1e-6
        )
    forecasts = [xarray.load_dataset(tmp_path / f"{name}.nc").t2m for name in ("alone", "spread")]
    assert np.allclose(*forecasts, rtol=1e-5)
    assert forecasts[0].std("member").min() > 0
