"""Calendar features: closed forms, clock changes, any step; and what a window's input holds."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_bnn.data.calendar import calendar_features, local_times
from hpc_bnn.data.series.synthetic import synthetic_series
from hpc_bnn.data.series.windows import RegularSeries, Windows, windowed_source
from hpc_bnn.data.source import Source

BERLIN = ZoneInfo("Europe/Berlin")
ALL = ("hour_of_day", "day_of_week", "day_of_year")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ticks(*times: datetime) -> torch.Tensor:
    """Microseconds since 1970 of times in UTC."""
    return torch.tensor(
        [(t.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) for t in times]
    )


def circle(position: float) -> list[float]:
    return [math.sin(2 * math.pi * position), math.cos(2 * math.pi * position)]


def directly(local: datetime) -> list[float]:
    """The features of a time on the clock, by datetime alone."""
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    year_days = 366 if local.year % 4 == 0 and (local.year % 100 or local.year % 400 == 0) else 365
    return [
        *circle((local.replace(tzinfo=None) - midnight) / timedelta(days=1)),
        *circle(local.weekday() / 7),
        *circle((local.timetuple().tm_yday - 1) / year_days),
    ]


@settings(max_examples=80, deadline=None)
@given(
    start=st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)),
    step=st.sampled_from([1, 15, 60, 360, 1440, 7 * 1440, 43200]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns"]),
)
def test_features_of_any_time_step_and_zone(start: datetime, step: int, zone: str) -> None:
    times = [start + i * timedelta(minutes=step) for i in range(20)]
    got = calendar_features(ticks(*times), ALL, zone=ZoneInfo(zone))
    local = [time.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) for time in times]
    expected = torch.tensor([directly(time) for time in local])
    assert got.dtype == torch.float32
    assert got.shape == (20, 6)
    assert torch.allclose(got, expected, atol=1e-6)


def test_names_choose_and_order_the_pairs() -> None:
    monday_noon = ticks(datetime(2024, 1, 1, 12))
    got = calendar_features(monday_noon, ["day_of_week", "hour_of_day"])
    assert torch.allclose(got, torch.tensor([[0.0, 1.0, 0.0, -1.0]]), atol=1e-6)
    assert calendar_features(monday_noon, []).shape == (1, 0)


@pytest.mark.parametrize("names", [["hour"], ["hour_of_day", "hour_of_day"]])
def test_unknown_and_repeated_names(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"calendar = .*expected different names out of hour_of"):
        calendar_features(ticks(EPOCH), names)  # type: ignore[arg-type]


def test_the_clock_of_a_zone_over_both_changes() -> None:
    spring = [datetime(2020, 3, 29, 0) + timedelta(minutes=30 * i) for i in range(4)]
    autumn = [datetime(2020, 10, 25, 0) + timedelta(minutes=30 * i) for i in range(4)]
    shown = local_times(ticks(*spring, *autumn), BERLIN)
    hours = [(EPOCH + timedelta(microseconds=t)).strftime("%H:%M") for t in shown.tolist()]
    assert hours == ["01:00", "01:30", "03:00", "03:30", "02:00", "02:30", "02:00", "02:30"]


def load(
    length: int, *, start: datetime, name: str = "", zone: ZoneInfo | None = BERLIN
) -> RegularSeries:
    values = torch.arange(length * 2, dtype=torch.float64).reshape(length, 2)
    return RegularSeries(name, start, timedelta(hours=1), values, zone)


def cut(*many: RegularSeries, calendar: tuple[str, ...] = ALL) -> Source:
    return windowed_source(
        "test",
        many,
        channels=["a", "b"],
        units="MW",
        history=5,
        horizon=3,
        stride=1,
        fractions=(0.6, 0.2, 0.2),
        calendar=calendar,  # type: ignore[arg-type]
    )


def test_an_input_is_the_history_and_the_calendar_of_every_target() -> None:
    # The clock goes back within the rows: the local hour repeats.
    one = load(48, start=datetime(2020, 10, 24, 12))
    source, plain = cut(one), cut(one, calendar=())
    assert source.input_shape == (5 * 2 + 3 * 6,)
    assert plain.input_shape == (5, 2)
    assert source.output_shape == plain.output_shape == (3, 2)
    for part, same in ((source.train, plain.train), (source.test, plain.test)):
        assert isinstance(part, Windows)
        x, y = part.batch(torch.arange(len(part)))
        history, targets = same.batch(torch.arange(len(same)))
        assert torch.equal(y, targets)
        assert torch.equal(part.histories(x), history)
        assert torch.equal(x[:, :10].reshape(-1, 5, 2), history)
        for i in range(len(part)):
            local = [time.replace(tzinfo=UTC).astimezone(BERLIN) for time in part.target_times(i)]
            assert part.clock_times(i) == local
            expected = torch.tensor([directly(time) for time in local])
            assert torch.allclose(x[i, 10:].reshape(3, 6), expected, atol=1e-6)


def test_several_series_have_each_their_own_times_and_zones() -> None:
    first = load(60, start=datetime(2020, 1, 1), name="berlin")
    second = load(60, start=datetime(2020, 1, 1, 7), name="plain", zone=None)
    train = cut(first, second).train
    assert isinstance(train, Windows)
    x, _ = train.batch(torch.arange(len(train)))
    assert train.zone is None
    for i in range(len(train)):
        (time, *_) = train.target_times(i)
        assert train.clock_times(i)[0] == time
        if int(train.starts[i]) < 60:
            time = time.replace(tzinfo=UTC).astimezone(BERLIN)
        assert x[i, 10:16].tolist() == pytest.approx(directly(time), abs=1e-6)


def test_plain_windows_hold_no_calendar_and_give_their_history_back() -> None:
    train = cut(load(60, start=datetime(2020, 1, 1)), calendar=()).train
    assert isinstance(train, Windows)
    x, _ = train.batch(torch.tensor([4]))
    assert torch.equal(train.histories(x), x)
    assert train.step == timedelta(hours=1)


def test_the_synthetic_series_has_a_calendar_too() -> None:
    source = synthetic_series(length=400, history=24, horizon=6, calendar=["hour_of_day"])
    assert source.input_shape == (24 + 6 * 2,)
    assert isinstance(source.test, Windows)
    x, _ = source.test.batch(torch.tensor([0]))
    (time, *_) = source.test.target_times(0)
    assert x[0, 24:26].tolist() == pytest.approx(circle(time.hour / 24), abs=1e-6)
