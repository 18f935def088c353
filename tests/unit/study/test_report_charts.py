"""Axes and curves of the charts of a report: ticks, places, gaps, long curves."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_bnn.study.report.axis import Axis, make_axis, tick_step, tick_text
from hpc_bnn.study.report.blocks import number_text, size_text, unit_text
from hpc_bnn.study.report.chart import Curve, histogram, line_chart, running_mean, stacked_bars
from hpc_bnn.verify.ranking import best
from hpc_bnn.verify.vocabulary import SCORES


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.004, 0.0215, ["0.005", "0.010", "0.015", "0.020"]),
        (850_000, 1_049_000, ["850,000", "900,000", "950,000", "1,000,000"]),
        (0, 4e7, ["0", "1e7", "2e7", "3e7", "4e7"]),
        (-1.2, 1, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
    ],
)
def test_ticks_are_round_and_told_apart(low: float, high: float, texts: list[str]) -> None:
    ticks = Axis(low, high, 0, 100).ticks(5)
    assert [tick_text(tick, ticks) for tick in ticks] == texts


def test_hours_have_ticks_at_days() -> None:
    assert Axis(22, 242, 0, 1, is_hours=True).ticks(6) == [48, 96, 144, 192, 240]
    assert Axis(0, 25, 0, 1, is_hours=True).ticks(6) == [0, 6, 12, 18, 24]


def test_a_logarithmic_axis_has_decades() -> None:
    axis = make_axis([0.02, 300.0], 0, 100, is_log=True)
    assert axis.ticks(5) == pytest.approx([0.1, 1, 10, 100])
    assert axis.place(0.02) == pytest.approx(0)
    assert axis.place(300) == pytest.approx(100)


@given(st.floats(1e-6, 1e9), st.integers(1, 9))
def test_no_more_ticks_than_asked_for(span: float, most: int) -> None:
    step = tick_step(span, most)
    assert span / step <= most * (1 + 1e-6)
    assert tick_step(span, most) >= span / most * (1 - 1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.booleans())
def test_an_axis_holds_its_values(values: list[float], has_zero: bool) -> None:
    axis = make_axis(values, 0, 100, has_zero=has_zero, margin=0.05)
    places = [axis.place(value) for value in values]
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    assert not has_zero or -1e-6 <= axis.place(0) <= 100 + 1e-6


def test_values_that_are_the_same_lie_in_the_middle() -> None:
    for value in (6e-5, 144695.0, -3.0, 0.0):
        axis = make_axis([value, value * (1 + 1e-12)], 0, 100, margin=0.05)
        assert axis.place(value) == pytest.approx(50, abs=0.01)
        assert 2 <= len(axis.ticks(5)) <= 6


def polylines(chart: str, look: str) -> list[list[tuple[float, float]]]:
    found = re.findall(rf'<polyline class="{look}" points="([^"]*)"', chart)
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in found]  # type: ignore[misc]


def test_a_curve_lies_where_its_values_are_and_has_gaps() -> None:
    curve = Curve("run", "c0 line", [0, 1, 2, 3, 4], [0.0, 1.0, None, 1.0, 0.0])
    chart = line_chart("loss", [curve], x_label="step", has_zero=True)
    left, right = polylines(chart, "c0 line")
    (x0, low), (x1, high) = left
    assert low > high, "pixels count downwards"
    assert low == pytest.approx(212)
    assert right == [(pytest.approx(3 * (x1 - x0) + x0, abs=0.11), high), (pytest.approx(
        4 * (x1 - x0) + x0, abs=0.11), low)]  # fmt: skip


def test_a_long_curve_keeps_its_extremes() -> None:
    values: list[float | None] = [float(i % 7) for i in range(10_000)]
    values[5000], values[5001] = 50.0, -50.0
    chart = line_chart("loss", [Curve("a", "c0 line", list(range(10_000)), values)], x_label="step")
    (line,) = polylines(chart, "c0 line")
    assert len(line) <= 402
    heights = [y for _, y in line]
    assert max(heights) - min(heights) == pytest.approx(182 / 1.12, abs=0.2)
    assert all(a <= b for (a, _), (b, _) in pairwise(line))


def test_names_are_escaped() -> None:
    trap = "<b>&"
    curve = Curve(trap, "c0 line", [0, 1], [0.0, 1.0])
    charts = [
        line_chart(trap, [curve], x_label=trap),
        histogram(trap, [curve, curve], x_label=trap),
        stacked_bars(trap, [trap], [[("c0", 1.0)]], unit=trap),
    ]
    for chart in charts:
        assert trap not in chart
        assert "&lt;b&gt;&amp;" in chart


@pytest.mark.parametrize("values", [[], [1.0], [None, None], [0.0, 0.0], [5.0, 5.0]])
def test_curves_of_nothing_or_of_one_value_are_no_error(values: list[float | None]) -> None:
    curve = Curve("a", "c0 line", list(range(len(values))), values)
    assert "nan" not in line_chart("a", [curve], x_label="step", may_be_log=True)


def test_a_running_mean_stays_on_a_slope() -> None:
    slope: list[float | None] = [float(i) for i in range(200)]
    assert running_mean(slope) == pytest.approx(slope)
    assert running_mean([1.0, None, 3.0]) == [1.0, None, 3.0]
    holes: list[float | None] = [2.0 if i % 2 else None for i in range(400)]
    assert running_mean(holes)[10:-10] == [2.0] * 380


@pytest.mark.parametrize(
    ("key", "values", "marks"),
    [
        ("crps", [1.0, 0.5, None], [False, True, False]),
        ("accuracy", [0.9, 0.8, 0.9], [True, False, True]),
        ("coverage_90", [0.97, 0.85, 1.0], [False, True, False]),
        ("spread", [1.0, 2.0], [False, False]),
        ("rmse", [1.0, 1.0], [False, False]),
        ("rmse", [1.0, None], [False, False]),
    ],
)
def test_the_best_of_a_row(key: str, values: list[float | None], marks: list[bool]) -> None:
    assert best(SCORES[key], values) == marks


def test_numbers_and_units_as_text() -> None:
    numbers = (0.5, 12345.6, 3, 2.0, None, True, "x", float("nan"), 1e-7)
    assert [number_text(n) for n in numbers] == [
        "0.5000", "12346", "3", "2.000", "-", "-", "-", "-", "1.000e-07"
    ]  # fmt: skip
    assert unit_text("m2 s-2") == "m\u00b2 s\u207b\u00b2"
    assert unit_text("MW") == "MW"
    assert size_text(3 * 2**20) == "3.0 MiB"
    assert size_text(3 * 2**30) == "3.00 GiB"
