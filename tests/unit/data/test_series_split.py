"""Splits by numbers of rows: exact ends, and what lies behind them is not used."""

from datetime import datetime, timedelta

import pytest
import torch

from hpc_bnn.data.series.windows import RegularSeries, Windows, windowed_source
from hpc_bnn.data.source import Source, WindowLayout

START = datetime(2016, 7, 1)


def hourly(length: int) -> RegularSeries:
    values = torch.arange(length, dtype=torch.float64)[:, None]
    return RegularSeries("", START, timedelta(hours=1), values)


def cut(*many: RegularSeries, history: int = 96, horizon: int = 96, **changes: object) -> Source:
    return windowed_source(
        "test",
        many,
        channels=["c"],
        units="",
        history=history,
        horizon=horizon,
        stride=1,
        fractions=(0.7, 0.1, 0.2),
        **changes,  # type: ignore[arg-type]
    )


def test_the_customary_split_of_an_ett_file() -> None:
    """12, 4 and 4 months of 30 days of 24 hours, of 17420 rows; counts as others publish them."""
    source = cut(hourly(17420), rows=(8640, 2880, 2880))
    parts = (source.train, source.validation, source.test)
    assert [len(part) for part in parts] == [8449, 2785, 2785]
    ends = []
    for part in parts:
        assert isinstance(part, Windows)
        ends.append((int(part.starts[0]) + 96, int(part.starts[-1]) + 192))
    # First target and behind the last one; histories of the later parts reach back over the cut.
    assert ends == [(96, 8640), (8640, 11520), (11520, 14400)]
    assert source.scale is not None
    assert source.scale.mean.tolist() == [4319.5]
    assert source.scale.std.tolist() == pytest.approx([((8640**2 - 1) / 12) ** 0.5], rel=1e-12)


def test_rows_that_are_all_there_are_equals_fractions() -> None:
    by_rows = cut(hourly(100), history=4, horizon=2, rows=(70, 10, 20))
    by_shares = cut(hourly(100), history=4, horizon=2)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(by_rows, part).starts, getattr(by_shares, part).starts)


def test_rows_of_several_series_count_together() -> None:
    source = cut(hourly(50), hourly(50), history=4, horizon=2, rows=(40, 20, 20))
    assert isinstance(source.train, Windows)
    # The first 20 hours of both.
    assert source.train.starts.tolist() == [*range(15), *range(50, 65)]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ((80, 20, 1), r"rows = \(80, 20, 1\): 101 rows in all, but there are 100; give fewer"),
        ((80, 20, 0), "expected three numbers of rows"),
        ((60, 40), "expected three numbers of rows"),
        ((5, 40, 40), "training part of 100 rows, split rows = .* 6 rows for training and 2 for"),
    ],
)
def test_refused(rows: tuple[int, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cut(hourly(100), history=4, horizon=2, rows=rows)


def test_a_source_describes_its_windows() -> None:
    assert cut(hourly(1000)).window == WindowLayout(96, 1, "training", 3600.0, False)
    source = cut(hourly(1000), normalize="window_last", calendar=["hour_of_day"])
    assert source.window == WindowLayout(96, 1, "window_last", 3600.0, False)
    # Examples are the same: what the network is given is its own business.
    plain = cut(hourly(1000), calendar=["hour_of_day"])
    for one, other in zip(
        source.train.batch(torch.arange(3)), plain.train.batch(torch.arange(3)), strict=True
    ):
        assert torch.equal(one, other)
