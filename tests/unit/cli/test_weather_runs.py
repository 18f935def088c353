"""A toy atmosphere from its files to scores and a forecast file, all by the command line."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from tiny_run import SERIES, hpc_bnn, read_json, written
from toy_weather import toy_settings, write_small_toy

SETTINGS: dict[str, dict[str, Any]] = {
    "train": {"precision": "float32", "steps": 5, "lr": 0.003},
    "data": {"variables": ["t2m", "z"]},
    "evaluation": {"starts": 4, "steps": 2},
}
TOY: tuple[object, ...] = (
    "--years", 1, "--rows", 7, "--columns", 16, "--step-hours", 12, "--levels", "500",
)  # fmt: skip
WINDOW: tuple[object, ...] = ("--start", "2001-01-01", "--end", "2001-02-20", "--step-hours", 12)
NAMES = ["t2m", "z500"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("new") / "toy"
    assert hpc_bnn("data", "toy", made, *TOY, "--format", "new") == 0
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    config = written(folder.parent / "toy.yaml", toy_settings(folder, **SETTINGS))
    assert hpc_bnn("train", config, "--run", folder.parent / "run") == 0
    return folder.parent / "run"


def test_check_tells_what_the_files_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert hpc_bnn("data", "check", folder) == 0
    out = capsys.readouterr().out
    for word in ("t2m, u10", "z at 500 hPa", "lsm", "2001-01-01T00:00", "7 x 16"):
        assert word in out
    assert "0 of them make files unusable" in out
    assert hpc_bnn("data", "check", folder, "--variables", "z,t", "--levels", "500") == 0
    out = capsys.readouterr().out
    assert "channels  2: z at 500 hPa, t at 500 hPa" in out
    assert "t2m" not in out


def test_statistics_are_those_that_a_run_computes(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    path = tmp_path / "statistics.nc"
    assert hpc_bnn("data", "statistics", folder, *WINDOW, "-o", path) == 0
    out = capsys.readouterr().out
    assert f"{path}: 2001-01-01T00:00 to 2001-02-20T12:00, tendencies over 12 h" in out
    with xarray.open_dataset(path) as made:
        means = {str(n): float(m) for n, m in zip(made.channel.values, made["mean"], strict=True)}
    assert set(NAMES) <= set(means)
    assert f"t2m        mean {means['t2m']:12.6g}" in out

    settings = toy_settings(folder, **SETTINGS)
    settings["data"]["statistics"] = str(path)
    config = written(tmp_path / "given.yaml", settings)
    assert hpc_bnn("train", config, "--run", tmp_path / "given") == 0
    given, computed = (read_json(p / "summary.json") for p in (tmp_path / "given", run))
    assert given["parameter_checksum"] == computed["parameter_checksum"]


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert hpc_bnn("evaluate", run) == 0
    out = capsys.readouterr().out
    result = read_json(run / "evaluation.json")
    assert result["lead_hours"] == [12, 24]
    assert (result["starts"], result["members"], result["step"]) == (4, 3, 5)
    assert result["first_start"] >= "2001-03-01T00:00"
    assert result["last_start"] <= "2001-03-11T12:00"
    assert list(result["scores"]) == NAMES
    assert result["units"]["t2m"] == "K"
    memory = read_json(run / "memory.json")
    assert (memory["sample_ranks"], memory["data_ranks"]) == (1, 1)
    assert memory["bytes"] > 50 * 2**20
    for name in NAMES:
        scores = result["scores"][name]
        assert set(scores) >= {
            "rmse", "acc", "crps", "fair_crps", "spread", "spread_skill_ratio", "coverage_50",
            "coverage_90", "rank_histogram", "persistence", "climatology", "skill",
        }  # fmt: skip
        for key in ("rmse", "crps", "spread", "spread_skill_ratio", "acc"):
            assert len(scores[key]) == 2
            assert all(isinstance(value, float) for value in scores[key]), (name, key)
        assert scores["starts"] == [4, 4]
        assert len(scores["persistence"]["rmse"]) == len(scores["climatology"]["crps"]) == 2
        assert f"{name:8s}   24 h" in out
    pictures = {path.name for path in (run / "plots").iterdir()}
    assert pictures == {
        "loss.png", "scores.png", "spread_skill.png", "ranks.png", "events.png", "map_t2m_12h.png",
        "map_t2m_24h.png", "map_z500_12h.png", "map_z500_24h.png", "spectra.png",
    }  # fmt: skip
    for path in (run / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
    with xarray.open_dataset(run / "evaluation_spectra.nc", decode_timedelta=False) as spectra:
        assert spectra.variable.values.tolist() == list(NAMES)
        assert spectra.truth.shape == (len(NAMES), 2, 9)  # 16 longitudes
        assert bool((spectra.ensemble_mean.sum("wavenumber") > 0).all())
        # The mean of members has at most the power of a member on average (Jensen).
        assert bool((spectra.ensemble_mean <= spectra.members * (1 + 1e-9)).all())


def test_forecast(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    path = tmp_path / "forecast.nc"
    asked = ("--start", "2001-03-05T12:00", "--steps", 3, "--members", 2)
    assert hpc_bnn("forecast", run, *asked, "-o", path) == 0
    assert f"{path}: 2 members, 3 steps from 2001-03-05T12:00" in capsys.readouterr().out
    with xarray.open_dataset(path, decode_timedelta=True) as file:
        for name in NAMES:
            assert file[name].dims == ("member", "lead_time", "latitude", "longitude")
            assert file[name].shape == (2, 3, 7, 16)
            assert np.isfinite(file[name].values).all()
            assert file[name].dtype == np.float32
        hours = file.lead_time.values / np.timedelta64(1, "h")
        assert hours.tolist() == [12, 24, 36]
        text = str({n: v.values for n, v in file.coords.items() if v.dtype.kind == "M"})
        assert "2001-03-05T12:00" in text
        assert 180 < float(file.t2m.mean()) < 330
        assert "seed: 5" in file.config
    assert [p.name for p in tmp_path.iterdir()] == ["forecast.nc"]


def test_forecast_for_weatherbench(run: Path, tmp_path: Path) -> None:
    """The same values under other names, over an older file of the other layout."""
    asked = ("--start", "2001-03-05T12:00", "--steps", 2, "--members", 2)
    cf, path = tmp_path / "cf.nc", tmp_path / "wb.nc"
    for out, layout in ((cf, "cf"), (path, "cf"), (path, "weatherbench"), (path, "weatherbench")):
        assert hpc_bnn("forecast", run, *asked, "--layout", layout, "-o", out) == 0
    with xarray.open_dataset(cf) as want, xarray.open_dataset(path) as got:
        values = (
            got["geopotential"]
            .sel(time="2001-03-05T12:00", level=500)
            .transpose("number", "prediction_timedelta", "latitude", "longitude")
        )
        np.testing.assert_array_equal(values.sel(latitude=want.latitude), want["z500"])
        values = got["2m_temperature"].isel(time=0).sel(latitude=want.latitude)
        np.testing.assert_array_equal(values, want["t2m"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cf.nc", "wb.nc"]


# Input that cannot be used: status 2 and one message that names it.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("trained")
    write_small_toy(made / "toy")
    one = {"data": {"variables": ["t2m"]}, "posterior": {"predict_samples": 1}}
    config = written(made / "toy.yaml", toy_settings(made / "toy", **{**SETTINGS, **one}))
    assert hpc_bnn("train", config, "train.steps=1", "--run", made / "run") == 0
    return made / "run"


def test_one_member_is_scored_without_a_spread(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn("evaluate", trained) == 0
    told = capsys.readouterr().out
    assert "nan" not in told
    assert re.search(r"t2m .* 24 h .* - +- +[-0-9.]+  \[K\]", told)
    scores = read_json(trained / "evaluation.json")["scores"]["t2m"]
    assert not {"spread", "spread_skill_ratio", "coverage_90"} & set(scores)
    assert scores["crps"][0] > 0
    assert not (trained / "plots" / "spread_skill.png").exists()


def test_pictures_are_those_of_the_last_evaluation(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "plots").mkdir(exist_ok=True)
    (run / "plots" / "mine.png").write_bytes(b"a picture of somebody")
    assert hpc_bnn("evaluate", run, "posterior.predict_samples=2") == 0
    before = {path.name for path in (run / "plots").iterdir()}
    assert {"map_t2m_24h.png", "spread_skill.png"} <= before
    assert hpc_bnn("evaluate", run, "evaluation.steps=1") == 0
    after = {path.name for path in (run / "plots").iterdir()}
    assert after == before - {"map_t2m_24h.png", "spread_skill.png"}


ONE: tuple[object, ...] = ("--steps", 1, "--members", 1)
START: tuple[object, ...] = ("--start", "2001-03-05")


def test_only_fields_can_be_forecast(tmp_path: Path, told: Any) -> None:
    config = written(tmp_path / "series.yaml", SERIES)
    assert hpc_bnn("train", config, "train.steps=1", "--run", tmp_path / "run") == 0
    message = told("forecast", tmp_path / "run", *START, *ONE, "-o", tmp_path / "out.nc")
    assert "forecasts are rolled out on data sets of fields only" in message
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("2003-01-01", "no state at 2003-01-01T00:00; the files have 2001-01-01T00:00 to 2001-12-"),
        ("2001-03-05T03:00", "no state at 2001-03-05T03:00; "),
        ("tomorrow", "'tomorrow'"),
    ],
)
def test_a_start_that_cannot_be(
    trained: Path, tmp_path: Path, told: Any, start: str, expected: str
) -> None:
    message = told("forecast", trained, "--start", start, *ONE, "-o", tmp_path / "out.nc")
    assert expected in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_the_forecast_that_is_not_there(
    trained: Path, tmp_path: Path, told: Any
) -> None:
    path = tmp_path / "none" / "out.nc"
    message = told("forecast", trained, *START, *ONE, "-o", path)
    assert str(path.parent) in message
    assert not path.parent.exists()


def test_a_folder_that_cannot_be_written_to(
    trained: Path, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hpc_bnn.cli.forecast_command.hold", denied)
    message = told("forecast", trained, *START, *ONE, "-o", tmp_path / "f.nc")
    assert f"{tmp_path / 'f.nc'}: nothing can be written into {tmp_path}: Permission" in message
    assert message.rstrip().endswith("make it writable, or give another path")


def test_a_partial_file_in_the_way(trained: Path, tmp_path: Path, told: Any) -> None:
    (tmp_path / "out.nc.partial").write_bytes(b"something")
    message = told("forecast", trained, *START, *ONE, "-o", tmp_path / "out.nc")
    assert message.startswith(f"{tmp_path / 'out.nc.partial'}: holds another forecast than")
    assert (tmp_path / "out.nc.partial").read_bytes() == b"something"


def test_more_steps_than_the_test_split_holds(tmp_path: Path, told: Any) -> None:
    write_small_toy(tmp_path / "toy")
    long = toy_settings(tmp_path / "toy", train={"steps": 1}, evaluation={"steps": 30})
    config = written(tmp_path / "long.yaml", long)
    assert hpc_bnn("train", config, "--run", tmp_path / "run") == 0
    message = told("evaluate", tmp_path / "run")
    assert message.startswith("evaluation.steps = 30: the longest stretch of the test split holds")
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_data_that_is_gone_when_a_run_is_used(trained: Path, tmp_path: Path, told: Any) -> None:
    text = (trained / "config.yaml").read_text(encoding="utf-8")
    moved = tmp_path / "run"
    (moved / "checkpoints").mkdir(parents=True)
    for path in (trained / "checkpoints").iterdir():
        (moved / "checkpoints" / path.name).write_bytes(path.read_bytes())
    gone = text.replace(str(trained.parent / "toy"), str(tmp_path / "gone"))
    (moved / "config.yaml").write_text(gone, encoding="utf-8")
    assert str(tmp_path / "gone") in told("evaluate", moved)
    assert str(tmp_path / "gone") in told("forecast", moved, *START, *ONE, "-o", "out.nc")


def test_check_of_a_truncated_file(
    tmp_path: Path, told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside good files: a list that ends with status 1; alone: nothing is left to tell of."""
    write_small_toy(tmp_path / "toy")
    bad = tmp_path / "toy" / "pressure_levels_2001.nc"
    bad.write_bytes(bad.read_bytes()[:-1000])
    capsys.readouterr()
    assert hpc_bnn("data", "check", tmp_path / "toy") == 1
    out = capsys.readouterr().out
    assert "1000 bytes are missing" in out
    assert str(bad) in out
    assert "1 of them make files unusable" in out
    assert "1000 bytes are missing" in told("data check", bad)
    message = told("data statistics", tmp_path / "toy", *WINDOW, "-o", tmp_path / "s.nc")
    assert "1000 bytes are missing" in message
    assert not (tmp_path / "s.nc").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--variables", "rain"], "'rain'"),
        (["--variables", "z", "--levels", "850"], "850"),
        (["--start", "2009-01-01", "--end", "2009-02-01"], "in the range"),
        (["--step-hours", "7"], "7 h apart"),
    ],
)
def test_statistics_that_cannot_be(
    trained: Path, tmp_path: Path, told: Any, arguments: list[str], expected: str
) -> None:
    toy = trained.parent / "toy"
    message = told("data statistics", toy, *WINDOW, "-o", tmp_path / "s.nc", *arguments)
    assert expected in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data", "chek"], "invalid choice: 'chek'"),
        (["data", "check"], "required: path"),
        (["data", "check", "x", "y"], "unrecognized arguments: y"),
        (["data", "check", "x", "a=1"], "unrecognized arguments: a=1"),
        (["data", "statistics", "x"], "required: --start, --end, --step-hours, -o/--output"),
        (["data", "toy", "x", "--rows", "0"], "expected a whole number of at least 1"),
        (["data", "toy", "x", "--rows", "many"], "'many': expected a whole number of at least 1"),
        (["forecast", "x", "--start", "2001-01-01"], "required: -o/--output"),
        (["forecast", "x", "--steps", "0"], "expected a whole number of at least 1"),
    ],
)
def test_usage_of_weather_commands(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        hpc_bnn(*arguments)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err
