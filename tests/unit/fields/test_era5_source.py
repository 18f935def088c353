"""The data set: windows, ranges, forcing, normalisation."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from era5_files import HOUR, LATITUDE, LONGITUDE, START, field, hours, write_new
from packs import fingerprint_of, packed

from hpc_bnn.data import Source
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.statistics import statistics
from hpc_bnn.fields.statistics_file import write_statistics
from hpc_bnn.fields.windows import ForecastWindows, calendar
from hpc_bnn.files import bytes_read

RANGES: dict[str, Any] = {
    "train": ("2017-01-01", "2017-01-04"),
    "validation": ("2017-01-05", "2017-01-06"),
    "test": ("2017-01-07", "2017-01-10"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_new(tmp_path / "a.nc", np.delete(hours(40), [5]), ["t2m", "u10"])
    write_new(tmp_path / "b.nc", hours(40), ["z"], levels=[850, 500])
    return tmp_path


def source(folder: Path, **options: Any) -> Source:
    chosen: dict[str, Any] = {"variables": ["u10", "z", "t2m"], "levels": [500], "step_hours": 12}
    return era5(folder, **(chosen | RANGES | options))


def test_windows_hold_normalised_states_and_tendencies(folder: Path) -> None:
    made = source(folder, history=2)
    fields = made.fields
    assert fields is not None
    assert made.scale is None
    assert fields.names == ("u10", "z500", "t2m")
    assert tuple(c.units for c in fields.channels) == ("m s-1", "m2 s-2", "K")
    assert fields.periodic
    assert [c.vector for c in fields.channels] == [True, False, False]
    assert fields.vector_inputs == (0, 3)
    assert made.input_shape == (10, 7, 12)
    assert made.output_shape == (3, 7, 12)
    torch.testing.assert_close(fields.latitude, torch.from_numpy(LATITUDE))
    torch.testing.assert_close(fields.longitude, torch.from_numpy(LONGITUDE))
    train = made.train
    assert isinstance(train, ForecastWindows)
    x, y = train.batch(torch.arange(len(train)))
    assert (x.dtype, y.dtype) == (torch.float32, torch.float32)
    mean, std = (v[:, None, None] for v in (fields.state_mean, fields.state_std))
    for row, now in enumerate(train.times.tolist()):
        for k, when in enumerate((now - 12 * HOUR, now)):
            state = mean + std * x[row, 3 * k : 3 * k + 3]
            want = np.stack([field(n, when) for n in ("u10", "z", "t2m")])
            np.testing.assert_allclose(state, want, rtol=2e-7, atol=2e-4)
        change = fields.tendency_std[:, None, None] * y[row]
        ahead = np.stack([field(n, now + 12 * HOUR) - field(n, now) for n in ("u10", "z", "t2m")])
        np.testing.assert_allclose(change, ahead, atol=8e-3)  # float32 of z in the file: 4e-3
        torch.testing.assert_close(
            x[row, 6:],
            torch.from_numpy(calendar(np.array([now])))[0, :, None, None].expand(4, 7, 12),
        )


def test_a_batch_reads_each_time_once(folder: Path) -> None:
    train = source(folder, history=2).train
    assert isinstance(train, ForecastWindows)
    alone = [train.batch(torch.tensor([k])) for k in range(len(train))]
    chosen, before = torch.tensor([2, 0, 1, 2, 3]), bytes_read()
    x, y = train.batch(chosen)
    times = set(train.steps[chosen].flatten().tolist())
    assert bytes_read() - before == len(times) * 4 * 3 * 7 * 12
    for k, index in enumerate(chosen.tolist()):
        assert torch.equal(x[k], alone[index][0][0])
        assert torch.equal(y[k], alone[index][1][0])


def test_windows_never_cross_a_gap_or_a_range(folder: Path) -> None:
    made = source(folder)
    gone = START + 5 * 6 * HOUR
    for part, (first, last) in (
        (made.train, (START, START + 4 * 24 * HOUR)),
        (made.validation, (START + 4 * 24 * HOUR, START + 6 * 24 * HOUR)),
        (made.test, (START + 6 * 24 * HOUR, START + 10 * 24 * HOUR)),
    ):
        assert isinstance(part, ForecastWindows)
        now = set(part.times.tolist())
        possible = range(first, last - 12 * HOUR, 6 * HOUR)
        assert now == {t for t in possible if gone not in (t, t + 12 * HOUR)}
    longer = source(folder, history=3).train
    assert isinstance(longer, ForecastWindows)
    for row in longer.steps.tolist():
        when = [int(longer.atmosphere.times[i]) for i in row]
        assert np.diff(when).tolist() == [12 * HOUR] * 3
        assert gone not in when


def test_statistics_of_a_file(folder: Path, tmp_path: Path) -> None:
    every = packed(folder)
    path = tmp_path / "statistics.netcdf4"
    made = statistics(every, start="2017-01-01", end="2017-01-04", step_hours=12)
    write_statistics(path, made)
    a, b = source(folder).fields, source(folder, statistics=path).fields
    assert a is not None
    assert b is not None
    at = [made.channels.index(name) for name in a.names]
    for fields in (a, b):
        np.testing.assert_array_equal(fields.state_mean, made.mean[at])
        np.testing.assert_array_equal(fields.state_std, made.std[at])
        np.testing.assert_array_equal(fields.tendency_std, made.tendency_std[at])
    with pytest.raises(ValueError, match="tendencies over 12 h, the data set's step_hours = 6"):
        source(folder, statistics=path, step_hours=6)


def test_statistics_of_the_same_files_are_known_as_such(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Made of a pack with more channels, by its own name or that of its files."""
    given = tmp_path / "statistics.netcdf4"
    every = packed(folder)
    write_statistics(given, statistics(every, start="2017-01-01", end="2017-01-04", step_hours=12))
    with caplog.at_level(logging.INFO):
        for path in (folder, every.folder):
            source(path, statistics=given)
        source(folder, statistics=given, pack=tmp_path.with_name(f"{tmp_path.name}.other"))
    assert "made of other files" not in caplog.text
    assert every.fingerprint() == fingerprint_of(catalogue(folder))


def test_statistics_of_other_files_are_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = tmp_path / "statistics.netcdf4"
    made = statistics(packed(folder), start="2017-01-01", end="2017-01-04", step_hours=12)
    write_statistics(given, made)
    write_new(folder / "c.nc", hours(2, start=START + 400 * 86400), ["t2m", "u10"])
    packed(folder)
    with caplog.at_level(logging.WARNING):
        source(folder, statistics=given)
    assert "made of other files or times (2017-01-01T00:00 to 2017-01-04T18:00)" in caplog.text


def test_static_fields_are_standardised(folder: Path) -> None:
    write_new(
        folder / "static.nc",
        hours(1, start=0),
        ["sst"],
        rename={"sst": "lsm"},
        change=lambda _, a: (a > 290).astype(np.float32),
        attributes={"units": "(0 - 1)"},
    )
    made = source(folder, static=["land_sea_mask"], calendar=False)
    assert made.fields is not None
    assert made.fields.forcing == ("lsm",)
    assert made.input_shape == (4, 7, 12)
    x, _ = made.train.batch(torch.tensor([0, 1]))
    assert abs(x[:, 3].mean()) < 1e-6
    assert abs(x[:, 3].std(correction=0) - 1) < 1e-6
    forcing = made.fields.record.forcing(torch.tensor([START]))
    torch.testing.assert_close(forcing[0], x[0, 3:])
    assert len(made.fields.record.times) == 40


def test_the_record_gives_states_for_a_rollout(folder: Path) -> None:
    made = source(folder)
    assert made.fields is not None
    train, record = made.train, made.fields.record
    assert isinstance(train, ForecastWindows)
    x, y = train.batch(torch.tensor([2]))
    at = int(torch.searchsorted(record.times, train.times[2]))
    states = record.states(torch.tensor([at, at + 2]))
    torch.testing.assert_close(states[:1], x[:, :3])
    ratio = (made.fields.state_std / made.fields.tendency_std)[:, None, None]
    torch.testing.assert_close(
        ((states[1] - states[0]) * ratio).float(), y[0], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(record.forcing(train.times[2:3]), x[:, 3:])


def test_calendar_closes_the_circle() -> None:
    at = np.array(
        ["2020-01-01T00", "2020-07-02T00", "2021-01-01T00", "2020-01-01T06"], "datetime64[s]"
    )
    got = calendar(at.astype(np.int64))
    np.testing.assert_allclose(got[0], [0, 1, 0, 1], atol=1e-7)
    np.testing.assert_allclose(got[1, 2:], [0, -1], atol=1e-6)  # day 183 of 366
    np.testing.assert_allclose(got[2], got[0], atol=1e-7)
    np.testing.assert_allclose(got[3, :2], [1, 0], atol=1e-7)


def test_a_constant_channel_is_centred(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_new(tmp_path / "a.nc", hours(40), change=lambda _, a: np.full_like(a, 280))
    made = era5(tmp_path, variables=["t2m"], step_hours=6, calendar=False, **RANGES)
    x, y = made.train.batch(torch.tensor([0]))
    assert (x == 0).all()
    assert (y == 0).all()
    assert "'t2m' is constant" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"validation": ("2017-01-04T18:00", "2017-01-06")},
            "data.train .* and data.validation .*overlap",
        ),
        ({"test": ("2017-01-10", "2017-01-07")}, "the first time lies behind the last"),
        ({"test": ("soon", "2017-01-07")}, "data.test: 'soon': expected a date"),
        ({"test": ("2017-02-01", "2017-02-03")}, "no window for data.test: 0 times"),
        ({"step_hours": 5}, "no window for data.train.*6 h apart"),
        ({"step_hours": 0}, "step_hours = 0"),
        ({"variables": ["q"]}, "no channel 'q'"),
        ({"static": ["lsm"]}, "no channel 'lsm'"),
        ({"missing": "drop"}, "missing = 'drop'"),
    ],
)
def test_settings_that_cannot_be(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        source(folder, **options)
