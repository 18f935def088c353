"""The axis of a chart: which values have ticks, how they are written, and where they lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
STEPS_OF_HOURS = (0.25, 0.5, 1, 2, 3, 6, 12, 24, 48, 120, 240)  # parts and multiples of a day
DECADES_WITHOUT_FIVES = 3
SAME = 1e-9  # relative difference of values that are the same but for rounding


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high``, which are drawn from pixel ``start`` to ``end``.

    is_hours: its ticks are parts or multiples of a day.
    """

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False
    is_hours: bool = False

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, at = self.low, self.high, value
        if self.is_log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Return at most so many round values in the range, a few more on a logarithmic axis."""
        if self.is_log:
            return _log_ticks(self.low, self.high)
        step = tick_step(self.high - self.low, most, STEPS_OF_HOURS if self.is_hours else ())
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def make_axis(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    is_log: bool = False,
    has_zero: bool = False,
    margin: float = 0.0,
) -> Axis:
    """Return an axis that holds all values; those of a logarithmic one are positive.

    margin: of the range, left free at both ends. has_zero: the range begins (or ends) at 0.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if is_log:
        room = (high / low) ** margin if high > low else 2.0
        return Axis(low / room, high * room, start, end, is_log=True)
    if has_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = margin * (high - low)
    if high - low <= SAME * max(abs(low), abs(high)):
        room = abs(high) / 2 or 0.5
    low = low if has_zero and low == 0 else low - room
    high = high if has_zero and high == 0 and low < 0 else high + room
    return Axis(low, high, start, end)


def tick_step(span: float, most: int, steps: Sequence[float] = ()) -> float:
    """Return a distance of which at most so many fit the span: the first of ``steps`` that is long
    enough, else a round one.
    """
    rough = span / max(1, most)
    if any(step >= rough for step in steps):
        return next(step for step in steps if step >= rough)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in STEPS if step * power >= rough * (1 - 1e-9))


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """Write the value of a tick with the digits that tell it from its neighbours."""
    if value == 0:
        return "0"
    largest = max(map(abs, ticks))
    if largest > 1e6 or largest < 1e-3:
        return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    least = min((b - a for a, b in pairwise(ticks)), default=largest)
    digits = 0
    while digits < 6 and any(abs(tick - round(tick, digits)) > 1e-3 * least for tick in ticks):
        digits += 1
    return f"{value:,.{digits}f}"


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1,) if last - first > DECADES_WITHOUT_FIVES else (1, 2, 5)
    values = [part * 10.0**power for power in range(first, last + 1) for part in parts]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
