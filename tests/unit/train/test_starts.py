"""Start times of forecasts: FIRST/LAST/STEP, one by one, and what the files must hold of them."""

import pytest
from field_source import START_S, STEP_S, field_source

from hpc_bnn.fields import times
from hpc_bnn.train.score.starts import LATEST, parse_starts, require_states, start_times


def test_the_starts_of_weatherbench_2() -> None:
    """Its year 2020, 00 and 12 UTC: 732, the evening of the last day among them."""
    starts = parse_starts("2020-01-01/2020-12-31/12h")
    assert len(starts) == 732
    assert [times.text(starts[at]) for at in (0, 1, -1)] == [
        "2020-01-01T00:00", "2020-01-01T12:00", "2020-12-31T12:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("2001-01-01T06:00/2001-01-01T06:00/1d", [6]),
        ("2001-01-01/2001-01-03T00:00/1d", [0, 24, 48]),
        ("2001-01-01/2001-01-01T02:00/90min", [0, 1.5]),
        ("2001-01-01/2001-01-02T01:00/6 h", [0, 6, 12, 18, 24]),
    ],
)
def test_starts_up_to_the_last(text: str, hours: list[float]) -> None:
    assert [(start - START_S) / 3600 for start in parse_starts(text)] == hours


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2001-01-01/2001-01-02", r"expected FIRST/LAST/STEP such as 2020-01-01/2020-12-31/12h"),
        ("2001-01-01/2001-01-02/0h", r"STEP = 0h: expected more than 0"),
        ("2001-01-01/2001-01-02/-12h", r"STEP = -12h: expected more than 0"),
        ("0001-01-01/9999-12-31/1min", r"5258964960 starts: expected at most 1000000"),
        ("2001-01-01/2001-01-02/12", r"STEP = '12': expected a whole number of minutes"),
        ("2001-01-01/2002-01-01/1mo", r"STEP = '1mo': expected a whole number"),
        ("2001-01-03/2001-01-01/1d", r"FIRST = 2001-01-03T00:00 lies behind LAST = 2001-01-01T23"),
        ("2001-02-30/2001-03-30/1d", r"'2001-02-30': expected a date .*leap years"),  # 360_day
        ("soon/2001-03-30/1d", r"'soon': expected a date"),
    ],
)
def test_what_has_no_starts_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        parse_starts(text)
    assert str(caught.value).startswith(f"--starts {text}: ")


def test_single_starts_are_put_in_order() -> None:
    fields = field_source(history=2).fields
    assert fields is not None
    asked = ["2001-01-02", LATEST, "2001-01-01T12:00"]
    assert [(s - START_S) // STEP_S for s in start_times(fields, asked)] == [2, 4, 11]
    with pytest.raises(ValueError, match=r"--start 2001-01-02T00:00: is given twice"):
        start_times(fields, ["2001-01-02", "2001-01-02T00:00"])


def test_the_history_of_each_start_is_asked_for() -> None:
    fields = field_source(history=2, steps=[0, 1, 2, 4, 5]).fields
    assert fields is not None
    require_states(fields, [START_S + STEP_S * at for at in (1, 2, 5)])
    missing = [START_S + STEP_S * at for at in (1, 3, 5, 9)]
    expected = r"2 of 4 starts cannot be: no state at 2001-01-01T18:00; the files have 2001-01-01"
    with pytest.raises(ValueError, match=expected):
        require_states(fields, missing)
    with pytest.raises(ValueError, match=r"^no state at 2000-12-31T18:00.*history of the start 20"):
        require_states(fields, [START_S])
    with pytest.raises(
        ValueError, match=r"1 of 2 .*no state at 2001-01-01T18:00.*start 2001-01-02T"
    ):
        require_states(fields, [START_S + STEP_S, START_S + STEP_S * 4])
