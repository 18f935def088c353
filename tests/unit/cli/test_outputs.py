"""No command overwrites a file that it did not make: sources above all."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run import SERIES, hpc_bnn, written
from toy_weather import toy_settings, write_small_toy

from hpc_bnn.config import dump_settings, load_settings
from hpc_bnn.fields.assemble import catalogue

RANGE = ("--variables", "t2m", "--start", "2001-01-01", "--end", "2001-01-20", "--step-hours", 12)
Command = Callable[[Path], int]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    write_small_toy(folder / "toy")
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """A folder with data, settings and the beginning of a run."""
    shutil.copytree(made / "toy", tmp_path / "toy")
    config = written(tmp_path / "toy.yaml", toy_settings(tmp_path / "toy"))
    (tmp_path / "run").mkdir()
    text = dump_settings(load_settings(config))
    (tmp_path / "run" / "config.yaml").write_text(text, encoding="utf-8")
    return tmp_path


COMMANDS: dict[str, Callable[[Path, Path], tuple[object, ...]]] = {
    "data statistics": lambda work, path: ("data", "statistics", work / "toy", *RANGE, "-o", path),
    "forecast": lambda work, path: (
        "forecast", work / "run", "--start", "2001-02-01", "--steps", 1, "--members", 1, "-o", path
    ),
    "data request": lambda work, path: (
        "data", "request", work / "toy.yaml", "--degrees", 1.5, "-o", path
    ),
    "data ingest": lambda work, path: ("data", "ingest", work / "toy", "-o", path),
    "data toy": lambda work, path: ("data", "toy", path, "--years", 1),
    "train": lambda work, path: ("train", work / "toy.yaml", "--run", path),
}  # fmt: skip
STUDY = {
    "config": "tiny.yaml", "kinds": ["fixed_samples"], "modes": ["data"], "ranks": [1, 2],
    "repeats": 2, "steps": 8, "warmup_steps": 2,
}  # fmt: skip
FILES = ("data statistics", "forecast", "data request")


def source(work: Path) -> Path:
    return work / "toy" / "single_levels_2001.nc"


def somebodys(work: Path) -> Path:
    (work / "notes.txt").write_text("important", encoding="utf-8")
    return work / "notes.txt"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("target", [source, somebodys])
def test_a_file_of_others_is_not_overwritten(
    work: Path, command: str, target: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = target(work)
    before = {p: p.read_bytes() for p in work.rglob("*") if p.is_file()}
    assert hpc_bnn(*COMMANDS[command](work, path)) == 2
    err = capsys.readouterr().err
    assert f"hpc-bnn {command}: {path}" in err
    assert "Traceback" not in err
    assert {p: p.read_bytes() for p in before} == before


def test_a_folder_of_data_is_no_output_of_forecasts(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted((work / "toy").iterdir())
    assert hpc_bnn(*COMMANDS["forecast"](work, work / "toy")) == 2
    text = f"{work / 'toy'}: is a folder that holds {before[0].name}"
    assert text in capsys.readouterr().err
    assert sorted((work / "toy").iterdir()) == before


def test_the_folder_of_the_moment_is_no_output_of_forecasts(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    assert hpc_bnn(*COMMANDS["forecast"](work, Path())) == 2
    err = capsys.readouterr().err
    assert "-o .: is a folder that holds run, toy, toy.yaml, no forecasts" in err
    assert "give the path of a new folder, such as forecasts, or of a file, such as" in err


@pytest.mark.parametrize("name", ["x.zarr", "x.grib2", "x.h5"])
def test_forecasts_are_netcdf(work: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpc_bnn(*COMMANDS["forecast"](work, work / name)) == 2
    assert f"{work / name}: forecasts are written as netCDF: expected" in capsys.readouterr().err
    assert not (work / name).exists()


@pytest.mark.parametrize("command", [name for name in FILES if name != "forecast"])
def test_a_folder_is_no_output(
    work: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn(*COMMANDS[command](work, work / "toy")) == 2
    assert f"{work / 'toy'}: is a folder" in capsys.readouterr().err


def test_statistics_may_lie_with_the_data_and_be_made_again(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work / "toy")
    before = catalogue(work / "toy").files()
    for _ in range(2):
        assert hpc_bnn(*COMMANDS["data statistics"](work, Path("statistics.nc"))) == 0
    assert catalogue(work / "toy").files() == before
    assert hpc_bnn("data", "check", work / "toy") == 0


def test_statistics_are_not_computed_for_nothing(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("hpc_bnn.cli.data_commands.statistics", never)
    assert hpc_bnn(*COMMANDS["data statistics"](work, source(work))) == 2


def test_a_script_is_made_again(work: Path) -> None:
    for _ in range(2):
        assert hpc_bnn(*COMMANDS["data request"](work, work / "request.py")) == 0


@pytest.mark.parametrize("name", ["data.nc4", "2001/era5.nc"])
def test_a_toy_is_not_mixed_with_data(
    work: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "mine" / name).parent.mkdir(parents=True)
    shutil.copy(source(work), work / "mine" / name)
    assert hpc_bnn("data", "toy", work / "mine", "--years", 1) == 2
    assert f"{work / 'mine'}: has {name} already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "evaluation.json"])
def test_a_run_begins_in_no_folder_of_others(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path / "tiny.yaml", SERIES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("{}", encoding="utf-8")
    assert hpc_bnn("train", config, "--run", tmp_path / "mine") == 2
    assert f"holds {name} but no config.yaml" in capsys.readouterr().err
    assert (tmp_path / "mine" / name).read_text(encoding="utf-8") == "{}"


@pytest.fixture
def plan(tmp_path: Path) -> tuple[object, ...]:
    """The command that writes a plan to ``runs``."""
    written(tmp_path / "tiny.yaml", SERIES)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return ("scaling", "plan", tmp_path / "study.yaml", "--runs", tmp_path / "runs")


def test_a_plan_is_written_to_no_folder_of_others(
    tmp_path: Path, plan: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("settings.yaml", "points.tsv", "scaling.csv", "study.png"):
        (runs / name).write_text("mine", encoding="utf-8")
        assert hpc_bnn(*plan) == 2
        assert f"holds {name} but no plan.json" in capsys.readouterr().err
        assert (runs / name).read_text(encoding="utf-8") == "mine"
        (runs / name).unlink()
    assert hpc_bnn(*plan) == 0
    (runs / "plan.json").unlink()  # broken off before its last file
    assert hpc_bnn(*plan) == 0
    (runs / "plan.json").write_bytes(b"\xff\xfemine")
    assert hpc_bnn(*plan) == 2
    assert f"{runs / 'plan.json'}: is no JSON" in capsys.readouterr().err
    assert (runs / "plan.json").read_bytes() == b"\xff\xfemine"


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_a_plan_is_written_over_files_only(
    tmp_path: Path, plan: tuple[object, ...], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn(*plan) == 0
    (tmp_path / "runs" / "plan.json").unlink()
    points, other = tmp_path / "runs" / "points.tsv", tmp_path / "other.tsv"
    points.rename(other)  # even where the texts are equal
    if kind == "dangling link":
        other.unlink()
    if kind == "folder":
        points.mkdir()
    else:
        points.symlink_to(other)
    assert hpc_bnn(*plan) == 2
    assert "holds points.tsv but no plan.json" in capsys.readouterr().err
    assert other.exists() == (kind != "dangling link")
