"""From which times forecasts start: one, the latest, some, or FIRST/LAST/STEP.

The history of each start must be in the files: asked of all of them before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from hpc_bnn.data.source import Fields
from hpc_bnn.fields import times
from hpc_bnn.train.score.noise_times import HOUR_S
from hpc_bnn.train.score.rollout import time_text

LATEST = "latest"
STEP_S = {"min": 60, "h": HOUR_S, "d": 24 * HOUR_S}
MOST_STARTS = 1_000_000


def parse_starts(text: str) -> list[int]:
    """Return the starts of FIRST/LAST/STEP, seconds since 1970, increasing; STEP: such as 12h, 1d
    or 30min. LAST belongs to them where a step hits it; a date alone is its whole day.

    Raises
    ------
    ValueError
        If it is not of this form, has no start, or a time is none of the calendar.
    """
    where, parts = f"--starts {text}", text.split("/")
    if len(parts) != 3:
        raise ValueError(
            f"{where}: expected FIRST/LAST/STEP such as 2020-01-01/2020-12-31/12h, dates and times "
            "in UTC"
        )
    try:
        first, last = times.parse(parts[0], end=False), times.parse(parts[1], end=True)
    except ValueError as error:
        raise ValueError(
            f"{where}: {error}, of the calendar that has leap years (proleptic Gregorian)"
        ) from None
    found = re.fullmatch(r"(-?\d+)\s*(min|h|d)", parts[2].strip())
    if found is None:
        raise ValueError(
            f"{where}: STEP = {parts[2]!r}: expected a whole number of minutes, hours or days, "
            "such as 30min, 12h or 1d"
        )
    step = int(found[1]) * STEP_S[found[2]]
    if step <= 0:
        raise ValueError(f"{where}: STEP = {parts[2]}: expected more than 0, such as 12h")
    if last < first:
        raise ValueError(
            f"{where}: FIRST = {times.text(first)} lies behind LAST = {times.text(last)}: exchange "
            "them"
        )
    starts = range(first, last + 1, step)
    if len(starts) > MOST_STARTS:  # a list of them would fill the memory
        raise ValueError(
            f"{where}: {len(starts)} starts: expected at most {MOST_STARTS}; give a longer "
            "STEP, or ask for FIRST to LAST in parts"
        )
    return list(starts)


def start_times(fields: Fields, asked: Sequence[str]) -> list[int]:
    """Return the starts that are given one by one, seconds since 1970, increasing: times, or
    ``LATEST``, the latest whose history the files hold.

    Raises
    ------
    ValueError
        If a text is no time, one is given twice, or no state has a history.
    """
    starts = [_latest(fields) if text == LATEST else times.parse(text, end=False) for text in asked]
    twice = [start for start in starts if starts.count(start) > 1]
    if twice:
        raise ValueError(f"--start {times.text(twice[0])}: is given twice; leave one out")
    return sorted(starts)


def _latest(fields: Fields) -> int:
    known = fields.record.times.tolist()
    held, step_s = set(known), fields.step_hours * HOUR_S
    back = range(fields.history)
    found = (t for t in reversed(known) if all(t - k * step_s in held for k in back))
    start = next(found, None)
    if start is None:
        raise ValueError(
            f"--start {LATEST}: no {fields.history} states of the files (data.history) are "
            f"{fields.step_hours} h apart"
        )
    return int(start)


def require_states(fields: Fields, starts: Sequence[int]) -> None:
    """Raise ValueError unless the files hold each start and its history; nothing is read."""
    known, step_s = fields.record.times, fields.step_hours * HOUR_S
    asked = torch.tensor(starts)
    # The start first: if it is missing, the message is about it.
    for k in range(fields.history):
        seconds = asked - k * step_s
        at = torch.searchsorted(known, seconds).clamp(max=len(known) - 1)
        absent = seconds[known[at] != seconds]
        if not len(absent):
            continue
        near = known[(known - absent[0]).abs().argmin()]
        text = (
            f"no state at {time_text(absent[0])}; the files have {time_text(known[0])} to "
            f"{time_text(known[-1])}, near it {time_text(near)}"
        )
        if k:
            start = time_text(absent[0] + k * step_s)
            text += (
                f"; it is history of the start {start}: the network needs {fields.history} states "
                f"{fields.step_hours} h apart (data.history)"
            )
        if len(starts) > 1:
            text = f"{len(absent)} of {len(starts)} starts cannot be: {text}; ask for others"
        raise ValueError(text)
