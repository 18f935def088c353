"""Windows of rollouts: where they exist, what they hold, and that nothing else is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from era5_files import HOUR, START, field, hours, write_new

from hpc_bnn.data import Source
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.windows import ForecastWindows
from hpc_bnn.files import bytes_read

STEP_S = 12 * HOUR
NAMES = ("u10", "z", "t2m")
RANGES: dict[str, Any] = {
    "train": ("2017-01-01", "2017-01-05"),
    "validation": ("2017-01-06", "2017-01-07"),
    "test": ("2017-01-08", "2017-01-10"),
}
GONE = START + 9 * 6 * HOUR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_new(tmp_path / "a.nc", np.delete(hours(40), [9]), ["t2m", "u10"])
    write_new(tmp_path / "b.nc", hours(40), ["z"], levels=[850, 500])
    return tmp_path


def source(folder: Path, **options: Any) -> Source:
    chosen: dict[str, Any] = {"variables": ["u10", "z", "t2m"], "levels": [500], "step_hours": 12}
    return era5(folder, **(chosen | RANGES | options))


def windows(made: Source) -> ForecastWindows:
    assert isinstance(made.train, ForecastWindows)
    return made.train


@pytest.mark.parametrize("rollout", [1, 2, 4])
@pytest.mark.parametrize("history", [1, 2])
def test_windows_where_all_steps_are_present(folder: Path, history: int, rollout: int) -> None:
    made = source(folder, history=history, rollout=rollout)
    last = START + 5 * 24 * HOUR - 6 * HOUR  # of the training range
    needed = range(1 - history, rollout + 1)
    expected = {
        t
        for t in range(START, last + 1, 6 * HOUR)
        if all(START <= t + k * STEP_S <= last and t + k * STEP_S != GONE for k in needed)
    }
    assert set(windows(made).times.tolist()) == expected
    assert windows(made).steps.shape == (len(expected), history + rollout)


def test_only_training_windows_are_longer(folder: Path) -> None:
    one, four = source(folder), source(folder, rollout=4)
    for a, b in ((one.validation, four.validation), (one.test, four.test)):
        assert isinstance(a, ForecastWindows)
        assert isinstance(b, ForecastWindows)
        assert torch.equal(a.steps, b.steps)
    assert len(one.train) > len(four.train)
    assert one.fields is not None
    assert four.fields is not None
    # What the climatology is fitted to does not depend on the rollout, nor what a network sees.
    assert torch.equal(one.fields.train_times, four.fields.train_times)
    assert torch.equal(one.fields.train_times, windows(one).times)
    assert torch.equal(one.fields.tendency_std, four.fields.tendency_std)
    assert one.input_shape == four.input_shape


@pytest.mark.parametrize("history", [1, 2])
def test_targets_are_the_changes_since_the_start(folder: Path, history: int) -> None:
    made = source(folder, history=history, rollout=3)
    fields, train = made.fields, windows(made)
    assert fields is not None
    x, y = train.batch(torch.arange(len(train)), 3)
    assert (x.dtype, y.dtype) == (torch.float32, torch.float32)
    assert y.shape == (len(train), 3, 3, 7, 12)
    std = fields.tendency_std[:, None, None]
    for row, now in enumerate(train.times.tolist()):
        start = np.stack([field(n, now) for n in NAMES]).astype(np.float64)
        for lead in range(3):
            ahead = np.stack([field(n, now + (lead + 1) * STEP_S) for n in NAMES])
            # float32 of z in the file, some 55000: 4e-3
            np.testing.assert_allclose(std * y[row, lead], ahead - start, atol=8e-3)
    states = fields.record.states(train.steps.flatten()).double().unflatten(0, train.steps.shape)
    changes = states[:, history:] - states[:, history - 1, None]
    exact = changes * (fields.state_std / fields.tendency_std)[:, None, None]
    torch.testing.assert_close(y.double(), exact, rtol=2.5e-7, atol=0)  # four roundings


@pytest.mark.parametrize("rollout", [2, 3])
def test_inputs_are_those_of_one_step_and_later_forcing(folder: Path, rollout: int) -> None:
    made = source(folder, history=2, rollout=3)
    train, chosen = windows(made), torch.tensor([4, 0, 2])
    x, y = train.batch(chosen, rollout)
    first_x, first_y = train.batch(chosen)
    assert x.shape[1] == 2 * 3 + 4 * rollout
    assert torch.equal(x[:, :10], first_x)
    assert torch.equal(y[:, 0], first_y)
    assert made.fields is not None
    for step in range(rollout):
        wanted = made.fields.record.forcing(train.times[chosen] + step * STEP_S)
        assert torch.equal(x[:, 6 + 4 * step : 10 + 4 * step], wanted)


def test_without_forcing_an_empty_channel_tells_the_steps(folder: Path) -> None:
    train = windows(source(folder, calendar=False, rollout=3))
    x, _ = train.batch(torch.tensor([1]), 3)
    assert x.shape[1] == 3 + 2
    assert torch.equal(x[:, :3], train.batch(torch.tensor([1]))[0])
    assert bool((x[:, 3:] == 0).all())


@pytest.mark.parametrize(("history", "rollout"), [(1, 1), (1, 2), (2, 2), (2, 3)])
def test_only_the_states_of_the_rollout_are_read(folder: Path, history: int, rollout: int) -> None:
    train = windows(source(folder, history=history, rollout=4))
    for window in (0, 3):
        before = bytes_read()
        train.batch(torch.tensor([window]), rollout)
        assert bytes_read() - before == (history + rollout) * 4 * 3 * 7 * 12


def test_ranges_without_room_for_the_rollout(folder: Path) -> None:
    short = {"train": ("2017-01-01", "2017-01-02T06:00")}
    assert len(source(folder, **short, rollout=2).train) == 2
    message = (
        r"no window for data.train: 6 times lie in its range, and none is followed by 3 complete "
        r"steps 12 h apart \(train.rollout\) with a history of 1"
    )
    with pytest.raises(ValueError, match=message):
        source(folder, **short, rollout=3)
    with pytest.raises(ValueError, match="rollout = 0: expected at least 1"):
        source(folder, rollout=0)
