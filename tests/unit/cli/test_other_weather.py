"""A trained run of forecasts scored otherwise: on other states, with noise on initial states."""

import json
from pathlib import Path
from typing import Any

import pytest
import xarray
from tiny_run import hpc_bnn, read_json, written
from toy_weather import toy_settings, write_small_toy

SETTINGS: dict[str, dict[str, Any]] = {
    "train": {"precision": "float32", "steps": 2},
    "data": {"variables": ["t2m"], "static": []},
    "posterior": {"predict_samples": 2},
    "evaluation": {"starts": 2, "steps": 2},
}
RESULTS = ("evaluation.json", "evaluation_starts.nc", "evaluation_spectra.nc")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("weather")
    write_small_toy(made / "toy")
    config = written(made / "toy.yaml", toy_settings(made / "toy", **SETTINGS))
    assert hpc_bnn("train", config, "--run", made / "run") == 0
    return made / "run"


def results(folder: Path) -> dict[str, bytes]:
    """Return what the files of an evaluation hold, its pictures among them."""
    files = [folder / name for name in RESULTS] + sorted((folder / "plots").iterdir())
    return {path.name: path.read_bytes() for path in files}


def test_scores_on_other_data_leave_those_of_the_run_alone(run: Path, tmp_path: Path) -> None:
    assert hpc_bnn("evaluate", run) == 0
    own = results(run)
    assert read_json(run / RESULTS[0])["perturb"] is None
    other = write_small_toy(tmp_path / "other")
    command = ("evaluate", run, f"data.path={other}", "data.test=['2001-06-01','2001-06-12']")
    assert hpc_bnn(*command) == 0
    assert results(run) == own
    away = results(run / "evaluation-other")
    assert all(away[name] != own[name] for name in RESULTS)
    assert set(away) == set(own)
    assert read_json(run / "evaluation-other" / RESULTS[0])["first_start"] == "2001-06-01T00:00"


def test_an_evaluation_tells_the_noise_on_its_initial_states(run: Path) -> None:
    """In each of its files, so that two evaluations of a run can be told apart."""
    chosen = {"name": "gaussian", "scale": {"t2m": 0.5}, "unit": "state"}
    expected = {**chosen, "at": "forecasts", "redraw": "never"}
    override = "perturb={name: gaussian, scale: {t2m: 0.5}, unit: state}"
    assert hpc_bnn("evaluate", run, override) == 0
    assert read_json(run / RESULTS[0])["perturb"] == expected
    for name in RESULTS[1:]:
        with xarray.open_dataset(run / name, decode_timedelta=False) as file:
            assert json.loads(file.attrs["perturb"]) == expected
