"""Points that never have a value: found once, the mean in inputs, the same at every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from era5_files import HOUR, START, hours, write_new
from numpy.typing import NDArray
from packs import packed

from hpc_bnn.data import Source
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.gaps import Gaps
from hpc_bnn.fields.pack.reader import PackReader
from hpc_bnn.files import bytes_read

RANGES: dict[str, Any] = {
    "train": ("2017-01-02", "2017-01-04"),
    "validation": ("2017-01-05", "2017-01-06"),
    "test": ("2017-01-07", "2017-01-10"),
}
FIRST = 4  # position of 2017-01-02T00:00, the first training state
LAND = np.zeros((7, 12), bool)
LAND[2, :6] = LAND[4:, 3] = True

Change = Callable[[NDArray[np.float32]], None]


def nothing(values: NDArray[np.float32]) -> None:
    pass


def write(folder: Path, change: Change = nothing) -> Path:
    """Write t2m, and sst without a value over land; `change` edits sst (T, H, W)."""

    def edit(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if name == "sst":
            values[:, LAND] = np.nan
            change(values)
        return values

    folder.mkdir(exist_ok=True)
    write_new(folder / "a.nc", hours(40), ["t2m", "sst"], change=edit)
    return folder


def source(folder: Path, missing: str = "mean", **options: Any) -> Source:
    chosen: dict[str, Any] = {"variables": ["t2m", "sst"], "step_hours": 6}
    return era5(folder, missing=missing, **(chosen | RANGES | options))  # type: ignore[arg-type]


def test_the_points_that_have_values_are_told(tmp_path: Path) -> None:
    fields = source(write(tmp_path / "files")).fields
    assert fields is not None
    assert fields.present is not None
    assert fields.present.dtype == torch.bool
    assert bool(fields.present[0].all())
    assert torch.equal(fields.present[1], torch.from_numpy(~LAND))


@pytest.mark.parametrize("rollout", [1, 2])
def test_they_hold_the_mean_and_do_not_change(tmp_path: Path, rollout: int) -> None:
    made = source(write(tmp_path / "files"), history=2, rollout=rollout)
    x, y = made.train.batch(torch.tensor([0, 3]), *([2] if rollout == 2 else []))
    land = torch.from_numpy(LAND)
    assert x.isfinite().all()
    assert y.isfinite().all()
    assert (x[:, [1, 3]][..., land] == 0).all()
    assert (x[:, :4][:, [0, 2]] != 0).all()
    assert (x[:, [1, 3]][..., ~land] != 0).all()
    assert (y[..., 1, :, :][..., land] == 0).all()
    sea = ~land
    sea[[0, -1]] = False  # nothing changes at the poles
    assert (y[..., 1, :, :][..., sea] != 0).all()
    fields = made.fields
    assert fields is not None
    states = fields.record.states(torch.tensor([7, 20]))
    assert (states[:, 1, land] == 0).all()
    physical = fields.physical(states)
    assert bool(physical[:, 1, land].isnan().all())
    assert bool(physical[:, 1, ~land].isfinite().all())
    assert bool(physical[:, 0].isfinite().all())


def test_other_channels_are_the_same_bits(tmp_path: Path) -> None:
    masked = source(write(tmp_path / "files"), history=2)
    plain = source(write(tmp_path / "same"), "error", variables=["t2m"], history=2)
    (x, y), (a, b) = (made.train.batch(torch.arange(5)) for made in (masked, plain))
    assert torch.equal(x[:, [0, 2]], a[:, :2])
    assert torch.equal(y[:, 0], b[:, 0])


def test_without_missing_values_nothing_is_masked(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(40), ["t2m", "sst"])
    mean, error = source(tmp_path), source(tmp_path, "error")
    assert mean.fields is not None
    assert error.fields is not None
    assert mean.fields.present is None
    assert error.fields.present is None
    for a, b in zip(
        mean.train.batch(torch.arange(9)), error.train.batch(torch.arange(9)), strict=True
    ):
        assert torch.equal(a, b)
    states = mean.fields.record.states(torch.tensor([1]))
    assert torch.equal(mean.fields.physical(states), error.fields.physical(states))


def one_more(values: NDArray[np.float32]) -> None:
    values[7, 0, :2] = np.nan


def one_less(values: NDArray[np.float32]) -> None:
    values[7, 2, 1] = 290


def all_there(values: NDArray[np.float32]) -> None:
    values[7] = 290


def shifted(values: NDArray[np.float32]) -> None:
    values[7, 2, 1] = 290
    values[7, 3, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_more, "2 points have no value that have one, 0 have one"),
        (one_less, "0 points have no value that have one, 1 have one"),
        (all_there, "0 points have no value that have one, 9 have one"),
        (shifted, "1 points have no value that have one, 1 have one"),
    ],
)
def test_a_state_that_misses_other_points_is_refused(
    tmp_path: Path, change: Change, said: str
) -> None:
    made = source(write(tmp_path / "files", change), step_hours=6)
    whole = (
        rf"files\.pack/2017\.f32: 'sst' at 2017-01-02T18:00: {said} that have none, in the first "
        r"training state \(2017-01-02T00:00\).*missing = 'mean'.*leave the variable out"
    )
    assert made.fields is not None
    assert bool(made.fields.record.states(torch.tensor([6])).isfinite().all())
    with pytest.raises(ValueError, match=whole):
        made.fields.record.states(torch.tensor([7]))
    for window in (2, 3):  # whose target, whose input it is
        with pytest.raises(ValueError, match=whole):
            made.train.batch(torch.tensor([window]))
    made.train.batch(torch.tensor([0, 1, 4]))


def test_a_field_with_gaps_after_a_whole_one_is_refused(tmp_path: Path) -> None:
    def broken(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if name == "sst":
            values[7, 1, 1] = np.nan
        return values

    write_new(tmp_path / "a.nc", hours(40), ["t2m", "sst"], change=broken)
    made = source(tmp_path)
    with pytest.raises(ValueError, match=r"'sst' at .*: 1 points have no value"):
        made.train.batch(torch.tensor([2]))


def test_a_channel_without_any_value_is_refused(tmp_path: Path) -> None:
    def none(values: NDArray[np.float32]) -> None:
        values[FIRST] = np.nan

    with pytest.raises(
        ValueError, match=r"2017\.f32: 'sst' at 2017-01-02T00:00: no point has a value"
    ):
        source(write(tmp_path / "files", none))


def test_masked_steps_are_read_once(tmp_path: Path) -> None:
    made = packed(write(tmp_path / "files"))
    taken = []
    for names, gaps in ((["t2m"], None), (["sst"], Gaps(LAND[None], ""))):
        reader = PackReader(made.select(names), gaps=gaps)
        before = bytes_read()
        reader.read(9, np.empty((1, 7, 12), np.float32))
        taken.append(bytes_read() - before)
    assert taken[0] == taken[1] > 0


def test_log_tells_how_many_points(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source(write(tmp_path / "files"))
    assert "'sst' has no value at 9 of 84 points" in caplog.text
    assert START + FIRST * 6 * HOUR == 1483315200
