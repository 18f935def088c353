"""Which start times are scored: evenly spaced, and with every lead time inside the test split."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpc_bnn.train.score.weather import MAPS, _leads_to_draw, _starts

STEP_S = 21600


def starts(steps: list[int], wanted: int, most: int) -> tuple[list[int], int]:
    """Return the chosen starts in steps, for times at ``steps``."""
    chosen, lead_steps = _starts(torch.tensor(steps) * STEP_S, STEP_S, wanted, most)
    return (chosen // STEP_S).tolist(), lead_steps


def test_every_lead_time_has_its_state() -> None:
    """A time t of a window has a state at t + 1: with 3 steps, 0 to 7 may be the starts of 0..9."""
    assert starts(list(range(10)), 3, 100) == (list(range(8)), 3)
    assert starts(list(range(10)), 10, 100) == ([0], 10)


def test_no_forecast_crosses_a_gap() -> None:
    times = [0, 1, 2, 3, 10, 11, 12, 20]
    assert starts(times, 3, 100) == ([0, 1, 10], 3)
    assert starts(times, 4, 100) == ([0], 4)
    assert starts(times, 1, 100) == (times, 1)


def test_as_far_as_the_split_allows_or_five_days() -> None:
    assert starts([0, 1, 2, 10], 0, 100) == ([0], 3)
    assert starts(list(range(100)), 0, 2)[1] == 20
    assert _starts(torch.tensor([0]), 10 * 86400, 0, 5)[1] == 1  # one step is longer than that


def test_even_spacing_and_no_more_than_asked_for() -> None:
    chosen, _ = starts(list(range(103)), 4, 10)
    assert chosen == list(range(0, 100, 10))
    chosen, _ = starts(list(range(50)), 1, 7)
    gaps = {b - a for a, b in pairwise(chosen)}
    assert len(chosen) == 7
    assert gaps <= {7, 8}


def test_too_many_steps() -> None:
    message = r"evaluation\.steps = 5: the longest stretch of the test split holds 4 steps"
    with pytest.raises(ValueError, match=message):
        starts([0, 1, 2, 3, 10, 11], 5, 10)


@settings(max_examples=80, deadline=None)
@given(
    times=st.sets(st.integers(0, 40), min_size=1).map(sorted),
    wanted=st.integers(0, 6),
    most=st.integers(1, 20),
)
def test_any_split(times: list[int], wanted: int, most: int) -> None:
    states = set(times) | {t + 1 for t in times}
    try:
        chosen, lead_steps = starts(times, wanted, most)
    except ValueError:
        runs = [k for t in times for k in range(1, 42) if {*range(t, t + k)} <= set(times)]
        assert wanted > max(runs)
        return
    assert 1 <= len(chosen) <= most
    assert chosen == sorted(set(chosen))
    assert wanted in (0, lead_steps)
    for start in chosen:
        assert start in times
        assert {start + 1 + lead for lead in range(lead_steps)} <= states


@given(st.integers(1, 200), st.integers(1, 24))
def test_maps_are_drawn_at_a_day_and_the_last_lead_time_and_evenly_between(
    steps: int, day: int
) -> None:
    day = min(day, steps)
    drawn = _leads_to_draw(steps, day=day)
    assert {day - 1, steps - 1} <= drawn <= set(range(steps))
    assert len(drawn) == min(MAPS, steps)
    gaps = [b - a for a, b in pairwise(sorted(drawn))]
    assert max(gaps, default=0) <= 2 * -(-steps // MAPS)
