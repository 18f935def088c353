"""``forecast`` and ``predict`` of fields without times: the latest state, lead times and members of
the run, and maps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from tiny_run import hpc_bnn, written
from toy_weather import toy_settings

TOY: tuple[object, ...] = (
    "--years", 1, "--rows", 7, "--columns", 16, "--step-hours", 12, "--levels", "500",
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "train": {"precision": "float32", "steps": 4},
    "data": {"variables": ["t2m", "u10"], "history": 2},
    "posterior": {"predict_samples": 3},
    "evaluation": {"starts": 2, "steps": 3},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("forecast")
    assert hpc_bnn("data", "toy", made / "toy", *TOY) == 0
    config = written(made / "toy.yaml", toy_settings(made / "toy", **SETTINGS))
    assert hpc_bnn("train", config, "--run", made / "run") == 0
    return made / "run"


def test_the_latest_state_with_steps_and_members_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn("forecast", run, "--plot", "-o", tmp_path / "latest.nc") == 0
    assert "3 members, 3 steps from 2001-12-31T12:00" in capsys.readouterr().out
    given = ("--start", "2001-12-31T12:00", "--steps", 3, "--members", 3)
    assert hpc_bnn("forecast", run, *given, "-o", tmp_path / "given.nc") == 0
    assert hpc_bnn("predict", run, "-o", tmp_path / "predicted.nc") == 0
    files = [xarray.open_dataset(tmp_path / f"{n}.nc") for n in ("latest", "given", "predicted")]
    for other in files[1:]:
        for name in ("t2m", "u10"):
            np.testing.assert_array_equal(files[0][name].values, other[name].values)
    for file in files:
        file.close()
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == [f"{n}-{c}.png" for n in ("latest", "predicted") for c in ("t2m", "u10")]


def test_into_a_folder_with_the_pictures(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "latest"
    assert hpc_bnn("predict", run, "-o", folder) == 0
    pictures = [f"2001-12-31T1200-{name}.png" for name in ("t2m", "u10")]
    assert sorted(path.name for path in folder.iterdir()) == [*pictures, "2001-12-31T1200.nc"]
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]
    assert hpc_bnn("predict", run, "-o", folder) == 0  # the pictures are those of forecasts


def test_what_is_drawn_is_the_mean_and_spread_of_the_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpc_bnn.verify import forecast_maps

    seen: dict[str, dict[str, Any]] = {}

    def note(mean: torch.Tensor, spread: torch.Tensor, *others: Any, **facts: Any) -> Path:
        seen[facts["name"]] = {"mean": mean, "spread": spread, **facts}
        return Path(others[2])

    monkeypatch.setattr(forecast_maps, "plot_forecast_maps", note)
    assert hpc_bnn("forecast", run, "--steps", 6, "--plot", "-o", tmp_path / "a.nc") == 0
    with xarray.open_dataset(tmp_path / "a.nc") as file:
        values = file["u10"].values.astype(np.float64)
        members, leads = file["u10"].dims.index("member"), [0, 2, 3, 5]
        assert seen["u10"]["lead_hours"] == [12 * (lead + 1) for lead in leads]
        lead_axis = 1 - members
        chosen = np.take(values, leads, axis=lead_axis)
        for what, expected in (
            ("mean", chosen.mean(members)), ("spread", chosen.std(members, ddof=1)),
        ):  # fmt: skip
            np.testing.assert_allclose(seen["u10"][what].squeeze(), expected.squeeze(), atol=1e-4)


def test_other_options_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn("predict", run, "--calibrated", "-o", tmp_path / "a.nc") == 2
    assert "--calibrated is for series" in capsys.readouterr().err
    assert hpc_bnn("forecast", run, "--start", "soon", "-o", tmp_path / "a.nc") == 2
    assert not list(tmp_path.iterdir())


def test_files_of_other_times_by_the_normalisation_of_the_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last states alone, in other files, forecast what they do among all of them."""
    (tmp_path / "new").mkdir()
    for path in (run.parent / "toy").glob("*.nc"):
        with xarray.open_dataset(path) as file:
            times = [name for name in ("time", "valid_time") if name in file.sizes]
            late = file.isel({times[0]: slice(-40, None)}) if times else file
            late.to_netcdf(tmp_path / "new" / path.name)
    away = (f"data.path={tmp_path / 'new'}", "data.test=['2001-12-15','2001-12-31']")
    command = ("forecast", run, "--steps", 2)
    assert hpc_bnn(*command, "-o", tmp_path / "own.nc") == 0
    assert hpc_bnn(*command, *away, "-o", tmp_path / "away.nc") == 0
    with (
        xarray.open_dataset(tmp_path / "own.nc") as own,
        xarray.open_dataset(tmp_path / "away.nc") as other,
    ):
        for name in ("t2m", "u10"):
            np.testing.assert_array_equal(own[name].values, other[name].values)
    assert hpc_bnn("evaluate", run, *away) == 0
    assert (run / "evaluation-new" / "evaluation.json").is_file()
    capsys.readouterr()
    wrong = ("data.variables=['t2m','v10']", *away)
    assert hpc_bnn("forecast", run, *wrong, "-o", tmp_path / "wrong.nc") == 2
    assert "expected those of the training, t2m, u10" in capsys.readouterr().err
