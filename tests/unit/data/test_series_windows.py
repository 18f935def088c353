"""Windows: contents, laziness, and the proof that nothing leaks between the parts."""

# Tensor.unique is not annotated.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpc_bnn.data.series.split import rows_needed
from hpc_bnn.data.series.windows import RegularSeries, Windows, windowed_source
from hpc_bnn.data.source import Source

HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1)


def ramp(
    length: int, channels: int = 1, *, start: datetime = START, name: str = ""
) -> RegularSeries:
    values = torch.arange(length * channels, dtype=torch.float64).reshape(length, channels)
    return RegularSeries(name=name, start=start, step=HOUR, values=values)


def cut(*many: RegularSeries, **changes: object) -> Source:
    default: dict[str, object] = {
        "channels": [f"c{c}" for c in range(many[0].values.shape[1])],
        "units": "MW",
        "history": 4,
        "horizon": 2,
        "stride": 1,
        "fractions": (0.6, 0.2, 0.2),
    }
    return windowed_source("test", many, **{**default, **changes})  # type: ignore[arg-type]


def windows(source: Source) -> tuple[Windows, Windows, Windows]:
    parts = (source.train, source.validation, source.test)
    assert all(isinstance(part, Windows) for part in parts)
    return parts  # type: ignore[return-value]


def test_a_window_is_history_then_targets() -> None:
    source = cut(ramp(50, channels=2))
    x, y = source.train.batch(torch.tensor([3, 0]))
    assert x.shape == (2, 4, 2)
    assert y.shape == (2, 2, 2)
    assert x.dtype == y.dtype == torch.float32
    assert source.input_shape == (4, 2)
    assert source.output_shape == (2, 2)
    assert source.scale is not None
    # Tolerance: float32 of values around 1 with a scale of 17.
    rows = source.scale.physical(torch.cat([x, y], dim=1))[..., 0] / 2
    expected = torch.tensor([[3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5]], dtype=torch.float64)
    assert torch.allclose(rows, expected, atol=1e-4)


def test_normalised_by_the_training_rows_only() -> None:
    one = ramp(100)
    one.values[60:] = 1e6
    source = cut(one)
    assert source.scale is not None
    assert source.scale.mean.tolist() == pytest.approx([29.5], abs=1e-12)
    assert source.scale.std.tolist() == pytest.approx([((60**2 - 1) / 12) ** 0.5], abs=1e-12)
    assert source.scale.units == "MW"


def test_parts_share_the_rows_and_hold_no_windows() -> None:
    train, validation, test = windows(cut(ramp(1000), history=100, horizon=50))
    assert train.values.data_ptr() == validation.values.data_ptr() == test.values.data_ptr()
    assert train.values.numel() == 1000
    assert train.starts.numel() <= 1000


def test_target_times() -> None:
    train, validation, _ = windows(cut(ramp(50)))
    assert train.target_times(0) == [START + 4 * HOUR, START + 5 * HOUR]
    assert validation.target_times(0)[0] == START + 30 * HOUR


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(20, 90), min_size=1, max_size=3),
    offsets=st.lists(st.integers(0, 25), min_size=3, max_size=3),
    history=st.integers(1, 6),
    horizon=st.integers(1, 4),
    stride=st.integers(1, 5),
    shares=st.tuples(st.integers(3, 6), st.integers(2, 3), st.integers(2, 3)),
)
def test_no_leakage(
    lengths: list[int],
    offsets: list[int],
    history: int,
    horizon: int,
    stride: int,
    shares: tuple[int, int, int],
) -> None:
    """No row or time of an earlier part is a target of a later one; no window crosses a series."""
    many = [
        ramp(length, start=START + offset * HOUR, name=str(i))
        for i, (length, offset) in enumerate(zip(lengths, offsets, strict=False))
    ]
    fractions = tuple(share / sum(shares) for share in shares)
    try:
        parts = windows(
            cut(*many, history=history, horizon=horizon, stride=stride, fractions=fractions)
        )
    except ValueError as error:
        assert "rows" in str(error)
        assume(False)  # No windows to look at; hypothesis fails if this is the rule.
    series_of_row = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    read: list[set[int]] = []
    targets: list[set[int]] = []
    for part in parts:
        rows = part.starts.unsqueeze(1) + torch.arange(history + horizon)
        assert int(rows.min()) >= 0
        assert int(rows.max()) < sum(lengths)
        of_window = series_of_row[rows]
        assert bool((of_window == of_window[:, :1]).all())
        read.append(set(part.times[rows].flatten().tolist()))
        targets.append(set(part.times[rows[:, history:]].flatten().tolist()))
        assert len(part.starts.unique()) == len(part)
    for earlier in range(3):
        for later in range(earlier + 1, 3):
            assert max(read[earlier]) < min(targets[later])
            assert not read[earlier] & targets[later]


def test_every_row_behind_the_first_cut_is_a_target() -> None:
    _, validation, test = windows(cut(ramp(50)))
    rows = [
        (part.starts.unsqueeze(1) + torch.arange(4, 6)).unique().tolist()
        for part in (validation, test)
    ]
    assert rows == [list(range(30, 40)), list(range(40, 50))]


def test_stride() -> None:
    train, _, _ = windows(cut(ramp(100), stride=7))
    assert train.starts.tolist() == list(range(0, 60 - 6 + 1, 7))


def test_cuts_are_common_times_of_all_series() -> None:
    """The later series starts behind the second cut: all of it is test, none of it training."""
    train, _, test = windows(cut(ramp(400), ramp(40, start=START + 400 * HOUR, name="late")))
    assert int(train.starts.max()) < 400
    assert int(test.starts.max()) >= 400


@settings(max_examples=60, deadline=None)
@given(
    history=st.integers(1, 30),
    horizon=st.integers(1, 20),
    shares=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
)
def test_rows_needed_and_all_beyond_are_enough_and_one_less_is_not(
    history: int, horizon: int, shares: tuple[int, int, int]
) -> None:
    fractions = (shares[0] / sum(shares), shares[1] / sum(shares), shares[2] / sum(shares))
    rows = rows_needed(history, horizon, fractions)
    changes = {"history": history, "horizon": horizon, "fractions": fractions}
    for more in range(12):
        source = cut(ramp(rows + more), **changes)
        assert min(len(source.train), len(source.validation), len(source.test)) >= 1
    with pytest.raises(ValueError, match=f"{rows}[; ]"):
        cut(ramp(rows - 1), **changes)


def test_constant_channel_is_centred_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    one = ramp(50, channels=2)
    one.values[:, 1] = 0.1
    with caplog.at_level(logging.WARNING):
        source = cut(one)
    assert "'c1' is constant" in caplog.text
    x, _ = source.train.batch(torch.tensor([0]))
    assert x[..., 1].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"history": 0}, "history = 0: expected"),
        ({"horizon": -1}, "horizon = -1: expected"),
        ({"stride": 0}, "stride = 0: expected"),
        ({"fractions": (0.7, 0.3, 0.0)}, r"fractions = \(0.7, 0.3, 0.0\): expected three positive"),
        ({"fractions": (0.7, 0.2, 0.2)}, "with sum 1"),
        ({"fractions": (0.5, 0.5)}, "expected three"),
    ],
)
def test_settings_out_of_range(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cut(ramp(50), **changes)


def test_short_group_is_named() -> None:
    with pytest.raises(ValueError, match=r"group 'b' has 5 rows: one window needs .* = 6 rows"):
        cut(ramp(50, name="a"), ramp(5, name="b"))
