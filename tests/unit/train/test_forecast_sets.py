"""Forecasts from many starts: the bytes of single ones, on any number of ranks, and after a stop or
an error in the midst of it; files of other settings are refused.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
from test_forecast_on_threads import FLOAT32, ONE_AT_A_TIME, PREDICTED
from thread_group import on_ranks, outcomes
from toy_weather import ALONE_WORLD, data_world, toy_source, toy_trained, write_small_toy

from hpc_bnn.data import Source
from hpc_bnn.fields.forecast_file import partial_path
from hpc_bnn.fields.forecast_plan import OtherForecastError
from hpc_bnn.fields.forecast_set import file_name
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.stop import Stop
from hpc_bnn.train.score.forecast import UnfinishedForecast, forecast, plan_forecast
from hpc_bnn.train.score.rollout import Rollout
from hpc_bnn.train.score.starts import parse_starts
from hpc_bnn.train.score.trained import Trained

STARTS = parse_starts("2001-03-02/2001-03-06T12:00/12h")  # 10
STEPS, MEMBERS = 2, 3
CASES = {"members": FLOAT32, "observation noise and history": PREDICTED}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return toy_source(folder, **FLOAT32)


def make(world: World, path: Path, trained: Trained, **changes: Any) -> None:
    stop, layout = changes.pop("stop", None), changes.pop("layout", "cf")
    starts = changes.pop("starts", STARTS)
    asked = {"steps": STEPS, "members": MEMBERS, "is_set": len(starts) > 1} | changes
    plan = plan_forecast(trained, starts, layout=layout, **asked)
    forecast(trained, world, path, plan, stop=stop)


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file or of all files of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name.replace(path.name, ""): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", ["set", "set.nc", "weatherbench"])
def test_any_number_of_ranks_writes_the_same_bytes(
    tmp_path: Path, folder: Path, name: str, target: str
) -> None:
    case, layout = CASES[name], "weatherbench" if target == "weatherbench" else "cf"
    source = toy_source(folder, **case)
    alone = tmp_path / "alone" / target
    alone.parent.mkdir()
    make(ALONE_WORLD, alone, toy_trained(folder, source, **case), layout=layout)
    for size in {"set": (2, 4), "set.nc": (3,), "weatherbench": (4,)}[target]:
        path = tmp_path / str(size) / target
        path.parent.mkdir()

        def work(all_ranks: Group, path: Path = path) -> None:
            with ONE_AT_A_TIME:
                trained = toy_trained(folder, source, **case)
            make(data_world(all_ranks), path, trained, layout=layout)

        on_ranks(size, work)
        assert contents(path) == contents(alone)


@pytest.mark.parametrize("name", CASES)
def test_each_start_is_what_it_is_alone(tmp_path: Path, folder: Path, name: str) -> None:
    """In a file of its own byte for byte, in one of all and for WeatherBench value for value."""
    case = CASES[name]
    trained = toy_trained(folder, toy_source(folder, **case), **case)
    make(ALONE_WORLD, tmp_path / "set", trained)
    make(ALONE_WORLD, tmp_path / "set.nc", trained)
    make(ALONE_WORLD, tmp_path / "wb.nc", trained, layout="weatherbench")
    assert len(list((tmp_path / "set").iterdir())) == len(STARTS)
    with (
        xarray.open_dataset(tmp_path / "set.nc") as every,
        xarray.open_dataset(tmp_path / "wb.nc") as bench,
    ):
        assert every["t2m"].dims == ("time", "member", "lead_time", "latitude", "longitude")
        assert bench["geopotential"].dims == (
            "time", "number", "prediction_timedelta", "level", "latitude", "longitude",
        )  # fmt: skip
        for at in (0, 4, 9):
            path = tmp_path / "one.nc"
            make(ALONE_WORLD, path, trained, starts=STARTS[at : at + 1])
            assert path.read_bytes() == (tmp_path / "set" / file_name(STARTS[at])).read_bytes()
            with xarray.open_dataset(path) as one:
                time = one["forecast_reference_time"].values
                chosen = every.sel(time=time)
                for variable in ("t2m", "z500"):
                    np.testing.assert_array_equal(chosen[variable], one[variable])
                np.testing.assert_array_equal(chosen["valid_time"], one["valid_time"])
                values = bench["geopotential"].sel(time=time, level=500)
                values = values.sel(latitude=one["latitude"])
                np.testing.assert_array_equal(values, one["z500"])


class Broken(Exception):
    """What breaks a forecast off in the midst of it."""


def breaking(number: int, then: Callable[..., Any]) -> Callable[..., Any]:
    calls = [0]

    def act(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] > number:
            raise Broken
        return then(*arguments, **options)

    return act


@pytest.mark.parametrize("target", ["set", "set.nc"])
def test_what_was_broken_off_goes_on_to_the_same_bytes(
    tmp_path: Path, folder: Path, source: Source, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished starts are not computed again; on another number of ranks."""
    monkeypatch.setattr("hpc_bnn.train.score.dealt_starts.AT_ONCE", 2)
    trained = toy_trained(folder, source, **FLOAT32)
    (tmp_path / "whole").mkdir()
    make(ALONE_WORLD, tmp_path / "whole" / target, trained)
    path, advance = tmp_path / target, Rollout.advance
    with monkeypatch.context() as patch:
        # Trial: a start, another, both. Then five batches of two starts; the third breaks.
        patch.setattr(Rollout, "advance", breaking(3 + 2 * STEPS * MEMBERS + 3, advance))
        with pytest.raises(Broken):
            make(ALONE_WORLD, path, trained)
    assert (tmp_path / "set.nc.partial").exists() == (target == "set.nc")
    done = {p.name for p in path.iterdir() if p.suffix == ".nc"} if target == "set" else set()
    assert len(done) == (4 if target == "set" else 0)
    before = {name: (path / name).stat().st_mtime_ns for name in done}
    computed: list[float] = []

    def noted(self: Rollout, history: Any, starts: torch.Tensor, *rest: Any) -> Any:
        computed.extend(starts.tolist())
        return advance(self, history, starts, *rest)

    monkeypatch.setattr(Rollout, "advance", noted)

    def work(all_ranks: Group) -> None:
        with ONE_AT_A_TIME:
            own = toy_trained(folder, source, **FLOAT32)
        make(data_world(all_ranks), path, own)

    on_ranks(3, work)
    assert set(computed) == set(STARTS[4:])
    assert contents(path) == contents(tmp_path / "whole" / target)
    assert {name: (path / name).stat().st_mtime_ns for name in done} == before
    computed.clear()
    make(ALONE_WORLD, path, trained)
    assert computed == [] and not partial_path(path).exists()


class Asked(Stop):
    """A stop that a signal to another rank asked for, after so many questions."""

    def __init__(self, all_ranks: Group, after: int) -> None:
        super().__init__(all_ranks)
        self.left = after

    def due(self) -> str:
        self.left -= 1
        self._asked = (
            15 if self.left < 0 and self._all_ranks.rank == self._all_ranks.size - 1 else 0
        )
        return super().due()


@pytest.mark.parametrize("target", ["set", "set.nc"])
def test_a_stop_leaves_what_goes_on(
    tmp_path: Path, folder: Path, source: Source, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpc_bnn.train.score.dealt_starts.AT_ONCE", 8)  # two batches of five
    trained = toy_trained(folder, source, **FLOAT32)
    (tmp_path / "whole").mkdir()
    make(ALONE_WORLD, tmp_path / "whole" / target, trained)
    path = tmp_path / target

    def work(all_ranks: Group) -> None:
        with ONE_AT_A_TIME:
            own = toy_trained(folder, source, **FLOAT32)
        make(data_world(all_ranks), path, own, stop=Asked(all_ranks, after=2))

    for error in outcomes(2, work):
        assert isinstance(error, UnfinishedForecast)
        assert str(error).startswith("signal SIGTERM: stopped with 5 of 10 starts finished; run")
    make(ALONE_WORLD, path, trained, stop=Asked(ALONE, after=100))
    assert contents(path) == contents(tmp_path / "whole" / target)


@pytest.mark.parametrize("state", ["finished", "half"])
@pytest.mark.parametrize("target", ["set", "set.nc"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"members": 4}, "member: 3 there, 4 asked"),
        ({"steps": 1}, "lead_time: 2 there, 1 asked"),
        ({"layout": "weatherbench"}, "prediction_timedelta"),
        ({"settings": {"seed": 6}}, "config: 'seed: 5' there, 'seed: 6' asked"),
        ({"weights": 1.5}, "checkpoint: 'step 0, sha256 "),
    ],
)
def test_files_of_other_settings_are_refused(
    made: dict[str, Path], tmp_path: Path, folder: Path, source: Source, target: str, state: str,
    changes: dict[str, Any], expected: str,
) -> None:  # fmt: skip
    path = tmp_path / target
    (shutil.copytree if made[target].is_dir() else shutil.copy)(made[target], path)
    if state == "half":
        for each in sorted(path.iterdir()) if path.is_dir() else [path]:
            each.rename(partial_path(each))
    before = contents(tmp_path) if target == "set.nc" else contents(path)
    trained = toy_trained(folder, source, **FLOAT32)
    settings = trained.settings.model_copy(update=changes.get("settings", {}))
    trained = replace(trained, settings=settings)
    if "weights" in changes:
        with torch.no_grad():
            next(trained.posterior.parameters()).mul_(changes["weights"])
    asked = {key: value for key, value in changes.items() if key not in ("settings", "weights")}
    with pytest.raises(OtherForecastError) as caught:
        make(ALONE_WORLD, path, trained, starts=STARTS[:2], **asked)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "ask for the same again, give another output, or remove it" in str(caught.value)
    assert (contents(tmp_path) if target == "set.nc" else contents(path)) == before


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, folder: Path, source: Source) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("made")
    trained = toy_trained(folder, source, **FLOAT32)
    for target in ("set", "set.nc"):
        make(ALONE_WORLD, path / target, trained, starts=STARTS[:2])
    return {target: path / target for target in ("set", "set.nc")}


def test_other_starts_belong_to_a_folder_and_not_to_a_file(
    made: dict[str, Path], tmp_path: Path, folder: Path, source: Source
) -> None:
    trained = toy_trained(folder, source, **FLOAT32)
    shutil.copytree(made["set"], tmp_path / "set")
    shutil.copy(made["set.nc"], tmp_path / "set.nc")
    make(ALONE_WORLD, tmp_path / "set", trained, starts=STARTS[1:4])
    names = sorted(path.name for path in (tmp_path / "set").iterdir())
    assert names == [file_name(start) for start in STARTS[:4]]
    with pytest.raises(OtherForecastError, match=r"time: 2 there, 3 asked"):
        make(ALONE_WORLD, tmp_path / "set.nc", trained, starts=STARTS[:3])
    with pytest.raises(OtherForecastError, match=r"time: other values than asked"):
        make(ALONE_WORLD, tmp_path / "set.nc", trained, starts=STARTS[1:3])


@pytest.mark.parametrize("target", ["set", "set.nc"])
def test_nothing_is_left_where_there_is_no_space(
    tmp_path: Path, folder: Path, source: Source, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=20_000)
    monkeypatch.setattr("hpc_bnn.fields.forecast_set.shutil.disk_usage", lambda _: usage)
    trained = toy_trained(folder, source, **FLOAT32)
    text = r"10 forecasts take 0\.000\d+ GB, 2e-05 GB are free there: free space, or give another"
    with pytest.raises(OSError, match=text):
        make(ALONE_WORLD, tmp_path / target, trained)
    assert list(tmp_path.iterdir()) == []


def test_one_start_does_not_replace_many(
    made: dict[str, Path], tmp_path: Path, folder: Path, source: Source
) -> None:
    path = shutil.copy(made["set.nc"], tmp_path / "set.nc")
    before = path.read_bytes()
    trained = toy_trained(folder, source, **FLOAT32)
    with pytest.raises(OtherForecastError, match=r"set.nc: holds forecasts from 2 starts"):
        make(ALONE_WORLD, path, trained, starts=STARTS[:1])
    assert path.read_bytes() == before
    make(ALONE_WORLD, tmp_path / "one.nc", trained, starts=STARTS[:1])
    make(ALONE_WORLD, tmp_path / "one.nc", trained, starts=STARTS[1:2])


def test_a_file_that_was_cut_is_refused(
    made: dict[str, Path], tmp_path: Path, folder: Path, source: Source
) -> None:
    shutil.copytree(made["set"], tmp_path / "set")
    cut = tmp_path / "set" / file_name(STARTS[1])
    cut.write_bytes(cut.read_bytes()[:-8])
    with pytest.raises(OtherForecastError, match=r"it is damaged; remove it and run"):
        trained = toy_trained(folder, source, **FLOAT32)
        make(ALONE_WORLD, tmp_path / "set", trained, starts=STARTS[:2])
